internal import NIOCore

/// One of two connections whose bytes are passed on to each other; both are of one event loop.
///
/// - What one side cannot take is not read from the other: each way holds one read and what NIO buffers for a socket.
/// - One side's end is passed on once all its bytes were; the other way goes on.
/// - Where a connection is lost, what was read of it is still written, then the other one is closed.
final class Relay: ChannelDuplexHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private var partner: Relay?
    private var context: ChannelHandlerContext?
    private var isReadHeldBack = false

    /// A pair that knows each other.
    static func pair() -> (Relay, Relay) {
        let (one, two) = (Relay(), Relay())
        one.partner = two
        two.partner = one
        return (one, two)
    }

    func handlerAdded(context: ChannelHandlerContext) { self.context = context }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.context = nil
        partner = nil
    }

    // MARK: what comes in here goes out there

    /// What was kept until the other side was there comes without the end of a read, so that each piece is sent at once.
    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        partner?.context?.writeAndFlush(data, promise: nil)
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        switch event {
        case ChannelEvent.inputClosed: partner?.finish(.output)
        case is IdleStateHandler.IdleStateEvent: context.close(promise: nil)
        default: context.fireUserInboundEventTriggered(event)
        }
    }

    func channelInactive(context: ChannelHandlerContext) {
        partner?.finish(.all)
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

    /// After everything that was written.
    private func finish(_ mode: CloseMode) {
        guard let context else { return }
        let channel = context.channel
        // Closing at once would drop what is not written yet if the other direction has ended before.
        context.writeAndFlush(wrapOutboundOut(channel.allocator.buffer(capacity: 0))).whenComplete { _ in
            channel.close(mode: mode, promise: nil)
        }
    }

    // MARK: pace

    func read(context: ChannelHandlerContext) {
        guard let other = partner?.context else { return }
        if other.channel.isWritable {
            context.read()
        } else {
            isReadHeldBack = true
        }
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        if context.channel.isWritable { partner?.resume() }
        context.fireChannelWritabilityChanged()
    }

    private func resume() {
        guard isReadHeldBack, let context else { return }
        isReadHeldBack = false
        context.read()
    }
}
