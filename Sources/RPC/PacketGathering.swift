internal import CGRPC

/// Has packets read together that come by the channels that allow it (`RPCChannelOptions.gathersPackets`): many answers under way
/// cost less processor time, and each comes some milliseconds later.
package enum PacketGathering {
    /// Until it is ended as often as it was begun.
    package static func begin() { cgrpc_gathering_begin() }
    package static func end() { cgrpc_gathering_end() }
}
