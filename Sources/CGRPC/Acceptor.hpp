// Connections of one TCP port: accepted here and handed to gRPC, which by itself takes any number of them, and stops to
// accept for good at the first one for which the process has no descriptor (1.51).

#ifndef CGRPC_ACCEPTOR_HPP
#define CGRPC_ACCEPTOR_HPP

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <thread>
#include <unordered_map>

#include <sys/types.h>

#include <grpcpp/server_builder.h>

namespace cgrpc {

class Acceptor {
public:
    /// - descriptor: a TCP socket that is bound, taken over.
    /// - limit: connections that may be open at a time; further ones are closed at once. 0: any number.
    /// - silence: milliseconds until a connection ends whose other side acknowledges nothing; 0: the kernel's.
    /// - refused: called for each that was closed, on the thread of this.
    Acceptor(int descriptor, size_t limit, unsigned silence, std::function<void()> refused);
    ~Acceptor();
    Acceptor(const Acceptor &) = delete;
    Acceptor &operator=(const Acceptor &) = delete;

    /// Listens, and hands what comes to `taker`. At most once.
    /// - Returns: whether it could.
    bool start(std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> taker);

    /// When it returns nothing more is handed to gRPC, and the port is free. May be repeated, by one thread at a time.
    void stop();

private:
    void run();
    /// - Returns: whether it accepted all there was; false: something is short, as descriptors are.
    bool acceptAll();
    void take(int descriptor);
    bool hasRoom();

    const size_t limit;
    const unsigned silence;
    const std::function<void()> refused;
    int listener;
    /// Readable when it is to stop.
    int stopper;
    std::atomic<bool> isStopping{false};
    std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> taker;
    std::thread thread;

    /// What was handed to gRPC, which closes it when it likes: a descriptor that has another inode by now is another's.
    std::unordered_map<int, ino_t> taken;
    /// When those that are closed were last sorted out.
    std::chrono::steady_clock::time_point lastLook;
};

}  // namespace cgrpc

#endif
