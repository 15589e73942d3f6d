#ifndef CGRPC_CHANNEL_HPP
#define CGRPC_CHANNEL_HPP

#include <unordered_set>

#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>

#include "Support.hpp"

namespace cgrpc {

/// A call of either kind: counted references, and something that `close` can cancel.
class Call {
public:
    void retain() { references.fetch_add(1); }
    void release() {
        if (references.fetch_sub(1) == 1) { delete this; }
    }
    virtual void cancel() = 0;

protected:
    virtual ~Call() = default;
    /// The owner's, and gRPC's until the call has ended.
    std::atomic<int> references{2};
};

/// The calls that have not ended. Shared by the channel's owner and its calls.
class Channel {
public:
    explicit Channel(std::shared_ptr<grpc::Channel> channel) : stub(std::move(channel)) {}

    /// False if the channel is closed.
    bool add(Call *call);
    void remove(Call *call);
    void close();

    grpc::GenericStub stub;

private:
    std::mutex mutex;
    std::unordered_set<Call *> calls;
    bool isClosed = false;
};

void prepare(grpc::ClientContext &context, const cgrpc_call_options &options);

}  // namespace cgrpc

struct cgrpc_channel {
    std::shared_ptr<cgrpc::Channel> shared;
};

#endif
