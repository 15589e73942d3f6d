#include <algorithm>
#include <limits>
#include <thread>

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include "Acceptor.hpp"
#include "ServerCall.hpp"
#include "Support.hpp"

/// References: the owner's, and one for the thread that shuts down.
struct cgrpc_server final : grpc::CallbackGenericService {
    struct Listener {
        /// Empty where there is an acceptor.
        std::string address;
        std::unique_ptr<cgrpc::Acceptor> acceptor;
        std::shared_ptr<grpc::ServerCredentials> credentials;
    };

    const cgrpc_server_options options;
    void *const context;
    const cgrpc_accept accept;
    void (*const refused)(void *);
    void (*const releaseContext)(void *);
    std::vector<Listener> listeners;
    std::unique_ptr<grpc::Server> server;
    std::atomic<bool> shuttingDown{false};
    std::atomic<int> references{1};

    cgrpc_server(
        const cgrpc_server_options &options, void *context, cgrpc_accept accept, void (*refused)(void *),
        void (*release)(void *))
        : options(options), context(context), accept(accept), refused(refused), releaseContext(release) {}

    ~cgrpc_server() override {
        stopAccepting();
        server.reset();
        releaseContext(context);
    }

    grpc::ServerGenericBidiReactor *CreateReactor(grpc::GenericCallbackServerContext *callContext) override {
        auto *call = new cgrpc_server_call(callContext, static_cast<size_t>(std::max(0, options.maximum_message_count)));
        std::string peer = callContext->peer();
        for (auto &listener : listeners) {
            if (listener.acceptor) { listener.acceptor->noteCall(peer); }
        }
        std::vector<cgrpc_pair> metadata;
        metadata.reserve(callContext->client_metadata().size());
        for (const auto &entry : callContext->client_metadata()) {
            metadata.push_back({cgrpc::text(entry.first), cgrpc::text(entry.second)});
        }
        cgrpc_arrival arrival{
            cgrpc::text(callContext->method()), cgrpc::text(peer), metadata.data(), metadata.size(),
            timeLeft(callContext->raw_deadline())};
        accept(context, call, &arrival);
        return call;
    }

    void configure(grpc::ServerBuilder &builder) {
        // The limit is our own: see cgrpc_server_call::refuseMessage.
        builder.SetMaxReceiveMessageSize(-1);
        builder.SetMaxSendMessageSize(-1);
        // A compressed message may grow without bound when it is unpacked: accept none.
        builder.AddChannelArgument(
            GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1 << GRPC_COMPRESS_NONE);
        // Keepalive and other side's pings are for us to judge, not for the default of two in five minutes.
        builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
        builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
        set(builder, GRPC_ARG_MAX_METADATA_SIZE, options.maximum_metadata_count);
        set(builder, GRPC_ARG_MAX_CONCURRENT_STREAMS, options.maximum_streams);
        set(builder, GRPC_ARG_KEEPALIVE_TIME_MS, options.keepalive_interval);
        set(builder, GRPC_ARG_KEEPALIVE_TIMEOUT_MS, options.keepalive_timeout);
        set(builder, GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, options.minimum_ping_interval);
        set(builder, GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, options.handshake_timeout);
        set(builder, GRPC_ARG_MAX_CONNECTION_IDLE_MS, options.maximum_idle);
        if (options.memory_quota_count > 0) {
            grpc::ResourceQuota quota("server");
            quota.Resize(static_cast<size_t>(options.memory_quota_count));
            builder.SetResourceQuota(quota);
        }
    }

    void stopAccepting() {
        for (auto &listener : listeners) {
            if (listener.acceptor) { listener.acceptor->stop(); }
        }
    }

    void release() {
        if (references.fetch_sub(1) == 1) { delete this; }
    }

private:
    static void set(grpc::ServerBuilder &builder, const char *name, int32_t value) {
        if (value > 0) { builder.AddChannelArgument(name, value); }
    }

    static int64_t timeLeft(gpr_timespec deadline) {
        if (gpr_time_cmp(deadline, gpr_inf_future(deadline.clock_type)) == 0) { return -1; }
        gpr_timespec left = gpr_time_sub(deadline, gpr_now(deadline.clock_type));
        if (left.tv_sec < 0) { return 0; }
        if (left.tv_sec >= std::numeric_limits<int64_t>::max() / GPR_NS_PER_SEC) {
            return std::numeric_limits<int64_t>::max();
        }
        return left.tv_sec * GPR_NS_PER_SEC + left.tv_nsec;
    }
};

extern "C" {

cgrpc_server *cgrpc_server_create(
    const cgrpc_server_options *options, void *context, cgrpc_accept accept, void (*refused)(void *),
    void (*release)(void *)) {
    cgrpc::keepCallbackThreads();
    return new cgrpc_server(*options, context, accept, refused, release);
}

void cgrpc_server_add(cgrpc_server *server, cgrpc_text address, const cgrpc_tls *tls) {
    server->listeners.push_back({cgrpc::string(address), nullptr, cgrpc::serverCredentials(tls)});
}

void cgrpc_server_add_port(cgrpc_server *server, int32_t descriptor, const cgrpc_tls *tls) {
    const auto &options = server->options;
    auto limit = static_cast<size_t>(std::max(0, options.maximum_connections));
    auto silence = static_cast<unsigned>(std::max(0, options.keepalive_timeout));
    auto acceptor = std::make_unique<cgrpc::Acceptor>(
        descriptor, limit, silence, [server] { server->refused(server->context); });
    server->listeners.push_back({"", std::move(acceptor), cgrpc::serverCredentials(tls)});
}

int32_t cgrpc_server_start(cgrpc_server *server) {
    grpc::ServerBuilder builder;
    server->configure(builder);
    builder.RegisterCallbackGenericService(server);
    auto &listeners = server->listeners;
    std::vector<int> ports(listeners.size(), 0);
    std::vector<std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor>> takers(listeners.size());
    for (size_t index = 0; index < ports.size(); index++) {
        const auto &listener = listeners[index];
        if (listener.acceptor) {
            takers[index] = builder.experimental().AddExternalConnectionAcceptor(
                grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD, listener.credentials);
        } else {
            builder.AddListeningPort(listener.address, listener.credentials, &ports[index]);
        }
    }
    server->server = builder.BuildAndStart();
    if (!server->server) {
        for (size_t index = 0; index < ports.size(); index++) {
            if (ports[index] == 0 && !listeners[index].acceptor) { return static_cast<int32_t>(index); }
        }
        return 0;
    }
    for (size_t index = 0; index < ports.size(); index++) {
        if (!listeners[index].acceptor || listeners[index].acceptor->start(std::move(takers[index]))) { continue; }
        server->stopAccepting();
        server->server->Shutdown(gpr_now(GPR_CLOCK_MONOTONIC));
        server->server.reset();
        return static_cast<int32_t>(index);
    }
    return -1;
}

void cgrpc_server_shutdown(cgrpc_server *server, int64_t grace, void *context, cgrpc_done done) {
    server->shuttingDown.store(true);
    server->references.fetch_add(1);
    gpr_timespec deadline = cgrpc::deadline(grace);
    // A thread of its own, because gRPC's shutdown waits.
    std::thread([server, deadline, context, done] {
        server->stopAccepting();
        server->server->Shutdown(deadline);
        done(context, true);
        server->release();
    }).detach();
}

void cgrpc_server_release(cgrpc_server *server) {
    if (server->server && !server->shuttingDown.exchange(true)) {
        cgrpc_server_shutdown(server, 0, nullptr, [](void *, bool) {});
    }
    server->release();
}

}  // extern "C"
