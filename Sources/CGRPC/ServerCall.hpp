#ifndef CGRPC_SERVER_CALL_HPP
#define CGRPC_SERVER_CALL_HPP

#include <grpcpp/generic/async_generic_service.h>

#include "Support.hpp"

/// A call on the server.
///
/// Invariants, all under `mutex`:
/// - `Finish` is started exactly once, when nothing is being sent, and nothing is started after it.
///   gRPC's objects (`grpcContext`, the stream) live until OnDone, which comes after `Finish`: so while
///   `finished` is false they may be used, and afterwards not.
/// - Each queued operation is answered once: by its completion, or when the call broke or was finished.
/// - References: the owner's, and gRPC's until OnDone.
struct cgrpc_server_call final : grpc::ServerGenericBidiReactor {
public:
    cgrpc_server_call(grpc::GenericCallbackServerContext *context, size_t maximumMessageCount)
        : maximumMessageCount(maximumMessageCount), grpcContext(context), authContext(context->auth_context()) {}

    void attach(void *context, void (*cancelled)(void *), void (*over)(void *));
    void receive(cgrpc::Receiving receiving);
    void send(cgrpc::Sending sending);
    bool sendMetadata(const cgrpc_pair *metadata, size_t count, cgrpc::Waiting waiting);
    void finish(grpc::Status status, const cgrpc_pair *trailing, size_t count, const cgrpc_bytes *last);
    void cancel();
    bool hasRefused() const { return messageIsRefused.load(); }
    void visitCertificate(void *context, cgrpc_visit visit) const;
    void release() {
        if (references.fetch_sub(1) == 1) { delete this; }
    }

private:
    void OnSendInitialMetadataDone(bool ok) override { sent(ok); }
    void OnWriteDone(bool ok) override { sent(ok); }
    void OnReadDone(bool ok) override;
    void OnCancel() override;
    void OnDone() override;

    void sent(bool ok);
    void advance(cgrpc::Answers &answers);
    void refuseMessage(cgrpc::Answers &answers);
    void tellCancelled() {
        if (!cancelledIsTold.exchange(true)) { onCancelled(handler); }
    }

    std::atomic<int> references{2};
    std::atomic<bool> cancelledIsTold{false};
    std::atomic<bool> messageIsRefused{false};
    const size_t maximumMessageCount;
    grpc::GenericCallbackServerContext *const grpcContext;
    const std::shared_ptr<const grpc::AuthContext> authContext;
    void *handler = nullptr;
    void (*onCancelled)(void *) = nullptr;
    void (*onOver)(void *) = nullptr;

    std::mutex mutex;
    std::deque<cgrpc::Sending> sendings;
    std::deque<cgrpc::Receiving> receivings;
    grpc::ByteBuffer incoming;
    /// The first of `sendings` is with gRPC.
    bool isSending = false;
    /// The first of `receivings` is with gRPC.
    bool isReceiving = false;
    bool metadataIsSent = false;
    bool readsAreOver = false;
    bool readsAreComplete = false;
    bool isBroken = false;
    bool finishIsWanted = false;
    bool finished = false;
    grpc::Status status;
    bool hasLast = false;
    grpc::ByteBuffer last;
};

#endif
