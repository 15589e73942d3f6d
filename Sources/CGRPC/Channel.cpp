#include "Channel.hpp"

#include <grpcpp/create_channel.h>
#include <grpcpp/resource_quota.h>

namespace cgrpc {

bool Channel::add(Call *call) {
    std::lock_guard<std::mutex> guard(mutex);
    if (isClosed) { return false; }
    calls.insert(call);
    return true;
}

void Channel::remove(Call *call) {
    std::lock_guard<std::mutex> guard(mutex);
    calls.erase(call);
}

void Channel::close() {
    std::vector<Call *> running;
    {
        std::lock_guard<std::mutex> guard(mutex);
        isClosed = true;
        // A call is removed before gRPC gives its reference up, so each of these is alive.
        running.assign(calls.begin(), calls.end());
        for (Call *call : running) { call->retain(); }
    }
    for (Call *call : running) {
        call->cancel();
        call->release();
    }
}

void prepare(grpc::ClientContext &context, const cgrpc_call_options &options) {
    for (size_t index = 0; index < options.metadata_count; index++) {
        const cgrpc_pair &pair = options.metadata[index];
        context.AddMetadata(string(pair.key), string(pair.value));
    }
    if (options.timeout >= 0) { context.set_deadline(deadline(options.timeout)); }
    context.set_wait_for_ready(options.wait_for_ready);
}

}  // namespace cgrpc

namespace {

/// A unary call: one batch of gRPC's operations, one completion.
struct Unary final : cgrpc::Call {
    explicit Unary(std::shared_ptr<cgrpc::Channel> channel) : channel(std::move(channel)) {}

    void cancel() override { context.TryCancel(); }

    void ended(const grpc::Status &status, void *answerContext, cgrpc_answered answered) {
        channel->remove(this);
        std::string text = status.error_message();
        int32_t code = status.error_code();
        cgrpc_message *message = nullptr;
        if (status.ok()) {
            message = response.Valid() ? cgrpc::message(response) : nullptr;
            if (message == nullptr) {
                code = grpc::StatusCode::INTERNAL;
                text = "the server ended the call with success but without an answer";
            }
        }
        answered(answerContext, {code, cgrpc::text(text)}, message);
        release();
    }

    const std::shared_ptr<cgrpc::Channel> channel;
    grpc::ClientContext context;
    grpc::ByteBuffer request;
    grpc::ByteBuffer response;
};

}  // namespace

struct cgrpc_unary {};

static Unary *cast(cgrpc_unary *call) { return reinterpret_cast<Unary *>(call); }

extern "C" {

cgrpc_channel *cgrpc_channel_create(
    cgrpc_text target, const cgrpc_tls *tls, const cgrpc_channel_options *options) {
    cgrpc::keepCallbackThreads();
    grpc::ChannelArguments arguments;
    auto set = [&arguments](const char *name, int32_t value) {
        if (value > 0) { arguments.SetInt(name, value); }
    };
    arguments.SetMaxReceiveMessageSize(options->maximum_message_count);
    arguments.SetMaxSendMessageSize(-1);
    // Connections and back-off of its own, not shared with other channels to the same address.
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    arguments.SetInt(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
    // A compressed message may grow without bound when it is unpacked: accept none.
    arguments.SetInt(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1 << GRPC_COMPRESS_NONE);
    // The default of 30 s would hold back a reconnection to a name whose address changed.
    arguments.SetInt(GRPC_ARG_DNS_MIN_TIME_BETWEEN_RESOLUTIONS_MS, 1000);
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, options->keepalive_without_calls ? 1 : 0);
    set(GRPC_ARG_MAX_METADATA_SIZE, options->maximum_metadata_count);
    set(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, options->initial_backoff);
    set(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, options->maximum_backoff);
    set(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, options->connect_timeout);
    set(GRPC_ARG_KEEPALIVE_TIME_MS, options->keepalive_interval);
    set(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, options->keepalive_timeout);
    if (options->memory_quota_count > 0) {
        grpc::ResourceQuota quota("channel");
        quota.Resize(static_cast<size_t>(options->memory_quota_count));
        arguments.SetResourceQuota(quota);
    }
    if (tls != nullptr && tls->expected_name.count > 0) {
        arguments.SetSslTargetNameOverride(cgrpc::string(tls->expected_name));
    }
    auto channel = grpc::CreateCustomChannel(cgrpc::string(target), cgrpc::channelCredentials(tls), arguments);
    return new cgrpc_channel{std::make_shared<cgrpc::Channel>(std::move(channel))};
}

void cgrpc_channel_close(cgrpc_channel *channel) { channel->shared->close(); }

void cgrpc_channel_release(cgrpc_channel *channel) { delete channel; }

cgrpc_unary *cgrpc_channel_unary(
    cgrpc_channel *channel, const cgrpc_call_options *options, cgrpc_bytes request, void *context,
    cgrpc_answered answered) {
    auto *call = new Unary(channel->shared);
    call->request = cgrpc::buffer(request);
    if (!call->channel->add(call)) {
        call->release();
        call->release();
        return nullptr;
    }
    cgrpc::prepare(call->context, *options);
    call->channel->stub.UnaryCall(
        &call->context, cgrpc::string(options->method), {}, &call->request, &call->response,
        [call, context, answered](grpc::Status status) { call->ended(status, context, answered); });
    return reinterpret_cast<cgrpc_unary *>(call);
}

void cgrpc_unary_cancel(cgrpc_unary *call) { cast(call)->cancel(); }

void cgrpc_unary_release(cgrpc_unary *call) { cast(call)->release(); }

}  // extern "C"
