#include "Support.hpp"

#include <absl/synchronization/mutex.h>
#include <grpc/support/log.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>

namespace cgrpc {

grpc::ByteBuffer buffer(cgrpc_bytes bytes) {
    if (bytes.count == 0) {
        if (bytes.release != nullptr) { bytes.release(bytes.owner); }
        return grpc::ByteBuffer(nullptr, 0);
    }
    if (bytes.release == nullptr) {
        grpc::Slice slice(bytes.start, bytes.count);
        return grpc::ByteBuffer(&slice, 1);
    }
    // gRPC never writes through this pointer; its type for slices is the same in both directions.
    grpc::Slice slice(const_cast<uint8_t *>(bytes.start), bytes.count, bytes.release, bytes.owner);
    return grpc::ByteBuffer(&slice, 1);
}

cgrpc_message *message(grpc::ByteBuffer &buffer) {
    auto *message = new cgrpc_message;
    // An empty message may come as no buffer at all.
    if (buffer.Valid() && !buffer.Dump(&message->slices).ok()) {
        delete message;
        buffer.Clear();
        return nullptr;
    }
    buffer.Clear();
    for (const auto &slice : message->slices) { message->count += slice.size(); }
    return message;
}

void keepCallbackThreads() {
    struct Keeper {
        std::shared_ptr<grpc::Channel> channel;
        grpc::ClientContext context;
        grpc::ByteBuffer request{nullptr, 0};
        grpc::ByteBuffer response;
    };
    // The first call of a channel makes it hold the callback threads. This one is cancelled before it
    // starts, its channel never connects, and both are kept on purpose.
    static Keeper *const keeper = [] {
        auto *keeper = new Keeper;
        grpc::ChannelArguments arguments;
        arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
        keeper->channel =
            grpc::CreateCustomChannel("unix:/dev/null", grpc::InsecureChannelCredentials(), arguments);
        keeper->context.TryCancel();
        grpc::GenericStub(keeper->channel)
            .UnaryCall(&keeper->context, "/none", {}, &keeper->request, &keeper->response, [](grpc::Status) {});
        return keeper;
    }();
    (void)keeper;
}

}  // namespace cgrpc

namespace {

// Debian builds Abseil with its debugging aids: each lock that gRPC takes would be looked up in a graph of all of them.
[[maybe_unused]] const bool locksAreTakenWithoutAGraph = [] {
    absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
    return true;
}();

std::atomic<void (*)(int32_t, cgrpc_text)> logWriter{nullptr};

void forwardLog(gpr_log_func_args *line) {
    auto *write = logWriter.load(std::memory_order_acquire);
    if (write != nullptr) { write(line->severity, {line->message, std::strlen(line->message)}); }
}

}  // namespace

extern "C" {

size_t cgrpc_message_count(const cgrpc_message *message) { return message->count; }

void cgrpc_message_take(cgrpc_message *message, uint8_t *destination) {
    for (const auto &slice : message->slices) {
        if (slice.size() == 0) { continue; }
        std::memcpy(destination, slice.begin(), slice.size());
        destination += slice.size();
    }
    delete message;
}

void cgrpc_message_discard(cgrpc_message *message) { delete message; }

void cgrpc_set_log(void (*write)(int32_t, cgrpc_text), int32_t minimum_severity) {
    logWriter.store(write, std::memory_order_release);
    auto severity = minimum_severity <= 0   ? GPR_LOG_SEVERITY_DEBUG
                    : minimum_severity == 1 ? GPR_LOG_SEVERITY_INFO
                                            : GPR_LOG_SEVERITY_ERROR;
    gpr_set_log_verbosity(severity);
    gpr_set_log_function(forwardLog);
}

}  // extern "C"
