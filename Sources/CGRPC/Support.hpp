// What the files of the shim share. No exception leaves it: every exported function is noexcept.

#ifndef CGRPC_SUPPORT_HPP
#define CGRPC_SUPPORT_HPP

#include <atomic>
#include <climits>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include <grpc/support/time.h>
#include <grpcpp/channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/status.h>

#include "CGRPC.h"

/// The slices of a message as they came. Dumped at once, so that taking the bytes cannot fail.
struct cgrpc_message {
    std::vector<grpc::Slice> slices;
    size_t count = 0;
};

namespace cgrpc {

inline std::string string(cgrpc_text text) {
    return text.count == 0 ? std::string() : std::string(text.start, text.count);
}

inline cgrpc_text text(const std::string &value) { return {value.data(), value.size()}; }
inline cgrpc_text text(grpc::string_ref value) { return {value.data(), value.size()}; }

/// An absolute time on the monotonic clock, which no one sets.
inline gpr_timespec deadline(int64_t nanoseconds) {
    gpr_timespec now = gpr_now(GPR_CLOCK_MONOTONIC);
    return gpr_time_add(now, gpr_time_from_nanos(nanoseconds < 0 ? 0 : nanoseconds, GPR_TIMESPAN));
}

/// Always a valid buffer (gRPC refuses one without), and takes `bytes` over.
grpc::ByteBuffer buffer(cgrpc_bytes bytes);

/// Empties `buffer` into a message; null if it cannot be read.
cgrpc_message *message(grpc::ByteBuffer &buffer);

std::shared_ptr<grpc::ServerCredentials> serverCredentials(const cgrpc_tls *tls);
std::shared_ptr<grpc::ChannelCredentials> channelCredentials(const cgrpc_tls *tls);

/// Keeps gRPC's callback threads for the life of the process. Without it the last channel or server
/// that is destroyed joins them, and dies if that happens on one of them.
void keepCallbackThreads();

/// Something to send and whom to tell. Without bytes: the end of sending, or initial metadata.
struct Sending {
    enum class Kind { message, metadata, end };
    Kind kind;
    grpc::ByteBuffer bytes;
    void *context;
    cgrpc_done done;

    Sending(Kind kind, grpc::ByteBuffer bytes, void *context, cgrpc_done done)
        : kind(kind), context(context), done(done) {
        this->bytes.Swap(&bytes);
    }
    // A ByteBuffer can be copied but not moved.
    Sending(Sending &&other) noexcept : kind(other.kind), context(other.context), done(other.done) {
        bytes.Swap(&other.bytes);
    }
};

struct Waiting {
    void *context;
    cgrpc_done done;
};

struct Receiving {
    void *context;
    cgrpc_received received;
};

/// Answers collected under a lock and given after it, when this is destroyed.
class Answers {
public:
    Answers() = default;
    Answers(const Answers &) = delete;
    Answers &operator=(const Answers &) = delete;
    ~Answers() {
        for (const auto &entry : done) { entry.first.done(entry.first.context, entry.second); }
        for (const auto &entry : received) {
            entry.to.received(entry.to.context, entry.message, entry.complete);
        }
    }

    void add(const Sending &sending, bool ok) { done.push_back({{sending.context, sending.done}, ok}); }
    void add(Waiting waiting, bool ok) { done.push_back({waiting, ok}); }
    void add(Receiving receiving, cgrpc_message *message, bool complete) {
        received.push_back({receiving, message, complete});
    }

private:
    struct Received {
        Receiving to;
        cgrpc_message *message;
        bool complete;
    };
    std::vector<std::pair<Waiting, bool>> done;
    std::vector<Received> received;
};

}  // namespace cgrpc

#endif
