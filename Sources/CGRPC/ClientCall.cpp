#include <map>

#include "Channel.hpp"

using cgrpc::Answers;
using cgrpc::Receiving;
using cgrpc::Sending;
using cgrpc::Waiting;
using Guard = std::lock_guard<std::mutex>;

/// A streaming call of a client.
///
/// gRPC tells the status only when all messages have been read and the one `hold` is given up. So a read
/// that finds the end gives up the hold, and OnDone, which follows, answers whoever waits.
///
/// Invariants, all under `mutex`:
/// - While `isHeld`, reads and sends may be started (one of each at a time); afterwards nothing is.
/// - Whoever learns that the call has broken (a failed send, a cancellation) makes sure that a read is
///   under way: it finds the end, even if nobody receives. At most one message is kept thereby.
/// - Each queued operation is answered once.
struct cgrpc_client_call final : grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>, cgrpc::Call {
public:
    explicit cgrpc_client_call(std::shared_ptr<cgrpc::Channel> channel) : channel(std::move(channel)) {}

    void start(const cgrpc_call_options &options);

    void send(Sending sending);
    void receive(Receiving receiving);
    void awaitMetadata(Waiting waiting);
    void visitInitial(void *visitContext, cgrpc_visit visit);
    void visitTrailing(void *visitContext, cgrpc_visit visit);
    bool getStatus(cgrpc_status *result);
    void cancel() override;

private:
    void OnReadInitialMetadataDone(bool ok) override;
    void OnReadDone(bool ok) override;
    void OnWriteDone(bool ok) override { sent(ok); }
    void OnWritesDoneDone(bool ok) override { sent(ok); }
    void OnDone(const grpc::Status &status) override;

    void sent(bool ok);
    void startSending();
    void startReading();
    void seekEnd(Answers &answers);
    void answerStuck(Answers &answers);
    static void visitAll(
        const std::multimap<grpc::string_ref, grpc::string_ref> &metadata, void *context, cgrpc_visit visit);

    const std::shared_ptr<cgrpc::Channel> channel;
    grpc::ClientContext context;

    std::mutex mutex;
    std::deque<Sending> sendings;
    std::deque<Receiving> receivings;
    std::deque<Waiting> metadataWaits;
    /// Failed sends (and waits for metadata) that will be answered when the end is found.
    std::deque<Waiting> stuck;
    grpc::ByteBuffer incoming;
    cgrpc_message *kept = nullptr;
    bool isStarted = false;
    bool isHeld = true;
    bool isSending = false;
    bool isReceiving = false;
    bool sendingIsOver = false;
    bool endIsQueued = false;
    bool isCancelled = false;
    bool metadataIsKnown = false;
    bool metadataFailed = false;
    bool hasEnded = false;
    grpc::Status status;
    std::string statusMessage;

    ~cgrpc_client_call() override {
        if (kept != nullptr) { cgrpc_message_discard(kept); }
    }
};

void cgrpc_client_call::start(const cgrpc_call_options &options) {
    Guard guard(mutex);
    cgrpc::prepare(context, options);
    channel->stub.PrepareBidiStreamingCall(&context, cgrpc::string(options.method), {}, this);
    AddHold();
    StartCall();
    isStarted = true;
    // Closing the channel may have cancelled the call before it started.
    if (isCancelled) { startReading(); }
}

void cgrpc_client_call::send(Sending sending) {
    Answers answers;
    Guard guard(mutex);
    if (hasEnded || endIsQueued) {
        answers.add(sending, false);
        return;
    }
    endIsQueued = sending.kind == Sending::Kind::end;
    if (sendingIsOver || !isHeld) {
        stuck.push_back({sending.context, sending.done});
        seekEnd(answers);
        return;
    }
    sendings.push_back(std::move(sending));
    if (!isSending) { startSending(); }
}

void cgrpc_client_call::startSending() {
    isSending = true;
    if (sendings.front().kind == Sending::Kind::end) {
        StartWritesDone();
    } else {
        StartWrite(&sendings.front().bytes);
    }
}

void cgrpc_client_call::sent(bool ok) {
    Answers answers;
    Guard guard(mutex);
    isSending = false;
    if (ok) {
        answers.add(sendings.front(), true);
        sendings.pop_front();
        if (!sendings.empty() && isHeld) {
            startSending();
            return;
        }
        if (sendings.empty()) { return; }
    }
    sendingIsOver = true;
    for (const auto &sending : sendings) { stuck.push_back({sending.context, sending.done}); }
    sendings.clear();
    seekEnd(answers);
}

void cgrpc_client_call::startReading() {
    isReceiving = true;
    StartRead(&incoming);
}

/// Finds out how the call ended. What was sent by the server before must be received first: then those
/// who are stuck are told that the call is over without being told how.
void cgrpc_client_call::seekEnd(Answers &answers) {
    if (kept != nullptr) {
        answerStuck(answers);
    } else if (isHeld && !isReceiving) {
        startReading();
    }
}

void cgrpc_client_call::answerStuck(Answers &answers) {
    for (const auto &waiting : stuck) { answers.add(waiting, false); }
    stuck.clear();
}

void cgrpc_client_call::receive(Receiving receiving) {
    Answers answers;
    Guard guard(mutex);
    if (hasEnded) {
        answers.add(receiving, nullptr, true);
    } else if (kept != nullptr) {
        answers.add(receiving, kept, false);
        kept = nullptr;
    } else {
        receivings.push_back(receiving);
        if (isHeld && !isReceiving) { startReading(); }
    }
}

void cgrpc_client_call::OnReadDone(bool ok) {
    Answers answers;
    Guard guard(mutex);
    isReceiving = false;
    cgrpc_message *message = ok && !isCancelled ? cgrpc::message(incoming) : nullptr;
    if (message != nullptr) {
        if (receivings.empty()) {
            kept = message;
        } else {
            answers.add(receivings.front(), message, false);
            receivings.pop_front();
        }
        answerStuck(answers);
        if (!receivings.empty()) { startReading(); }
    } else if (ok) {
        // Cancelled (or unreadable, which cancels): the end is what counts now.
        incoming.Clear();
        if (!isCancelled) {
            isCancelled = true;
            context.TryCancel();
        }
        startReading();
    } else if (isHeld) {
        isHeld = false;
        RemoveHold();
    }
}

void cgrpc_client_call::awaitMetadata(Waiting waiting) {
    Answers answers;
    Guard guard(mutex);
    if (metadataIsKnown || hasEnded) {
        answers.add(waiting, metadataIsKnown);
    } else if (metadataFailed) {
        stuck.push_back(waiting);
        seekEnd(answers);
    } else {
        metadataWaits.push_back(waiting);
    }
}

void cgrpc_client_call::OnReadInitialMetadataDone(bool ok) {
    Answers answers;
    Guard guard(mutex);
    if (ok) {
        metadataIsKnown = true;
        for (const auto &waiting : metadataWaits) { answers.add(waiting, true); }
        metadataWaits.clear();
        return;
    }
    metadataFailed = true;
    if (metadataWaits.empty()) { return; }
    stuck.insert(stuck.end(), metadataWaits.begin(), metadataWaits.end());
    metadataWaits.clear();
    seekEnd(answers);
}

void cgrpc_client_call::cancel() {
    Answers answers;
    Guard guard(mutex);
    if (hasEnded || isCancelled) { return; }
    isCancelled = true;
    context.TryCancel();
    if (!isStarted) { return; }
    if (kept != nullptr) {
        cgrpc_message_discard(kept);
        kept = nullptr;
    }
    seekEnd(answers);
}

void cgrpc_client_call::OnDone(const grpc::Status &final) {
    {
        Answers answers;
        Guard guard(mutex);
        hasEnded = true;
        status = final;
        statusMessage = final.error_message();
        for (const auto &receiving : receivings) { answers.add(receiving, nullptr, true); }
        receivings.clear();
        for (const auto &sending : sendings) { answers.add(sending, false); }
        sendings.clear();
        for (const auto &waiting : metadataWaits) { answers.add(waiting, false); }
        metadataWaits.clear();
        answerStuck(answers);
    }
    channel->remove(this);
    release();
}

bool cgrpc_client_call::getStatus(cgrpc_status *result) {
    Guard guard(mutex);
    if (!hasEnded) { return false; }
    *result = {status.error_code(), cgrpc::text(statusMessage)};
    return true;
}

void cgrpc_client_call::visitInitial(void *visitContext, cgrpc_visit visit) {
    bool isKnown;
    {
        Guard guard(mutex);
        isKnown = metadataIsKnown;
    }
    // Written by gRPC before it said so, and not changed afterwards.
    if (isKnown) { visitAll(context.GetServerInitialMetadata(), visitContext, visit); }
}

void cgrpc_client_call::visitTrailing(void *visitContext, cgrpc_visit visit) {
    bool isKnown;
    {
        Guard guard(mutex);
        isKnown = hasEnded;
    }
    if (isKnown) { visitAll(context.GetServerTrailingMetadata(), visitContext, visit); }
}

void cgrpc_client_call::visitAll(
    const std::multimap<grpc::string_ref, grpc::string_ref> &metadata, void *context, cgrpc_visit visit) {
    for (const auto &entry : metadata) { visit(context, {cgrpc::text(entry.first), cgrpc::text(entry.second)}); }
}

extern "C" {

cgrpc_client_call *cgrpc_channel_open(cgrpc_channel *channel, const cgrpc_call_options *options) {
    auto *call = new cgrpc_client_call(channel->shared);
    if (!channel->shared->add(call)) {
        call->release();
        call->release();
        return nullptr;
    }
    call->start(*options);
    return call;
}

void cgrpc_client_call_send(cgrpc_client_call *call, cgrpc_bytes bytes, void *context, cgrpc_done done) {
    call->send({Sending::Kind::message, cgrpc::buffer(bytes), context, done});
}

void cgrpc_client_call_finish_sending(cgrpc_client_call *call, void *context, cgrpc_done done) {
    call->send({Sending::Kind::end, {}, context, done});
}

void cgrpc_client_call_receive(cgrpc_client_call *call, void *context, cgrpc_received received) {
    call->receive({context, received});
}

void cgrpc_client_call_await_metadata(cgrpc_client_call *call, void *context, cgrpc_done done) {
    call->awaitMetadata({context, done});
}

void cgrpc_client_call_initial_metadata(cgrpc_client_call *call, void *context, cgrpc_visit visit) {
    call->visitInitial(context, visit);
}

void cgrpc_client_call_trailing_metadata(cgrpc_client_call *call, void *context, cgrpc_visit visit) {
    call->visitTrailing(context, visit);
}

bool cgrpc_client_call_status(cgrpc_client_call *call, cgrpc_status *status) { return call->getStatus(status); }

void cgrpc_client_call_cancel(cgrpc_client_call *call) { call->cancel(); }

void cgrpc_client_call_release(cgrpc_client_call *call) {
    call->cancel();
    call->release();
}

}  // extern "C"
