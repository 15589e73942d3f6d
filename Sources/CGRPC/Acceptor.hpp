// Connections of one TCP port: accepted here and handed to gRPC, which by itself takes any number of them, and stops to
// accept for good at the first one for which the process has no descriptor (1.51).

#ifndef CGRPC_ACCEPTOR_HPP
#define CGRPC_ACCEPTOR_HPP

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>

#include <sys/socket.h>
#include <sys/types.h>

#include <grpcpp/server_builder.h>

namespace cgrpc {

class Acceptor {
public:
    /// - descriptor: a TCP socket that is bound, taken over.
    /// - limit: connections that may be open at a time; further ones are closed at once. 0: any number. Of those over which
    ///   no call has come yet one address has a quarter at most (of IPv6 64 bits of it: a host has as many of the rest as it
    ///   likes), so that whoever is at one address keeps nobody else out.
    /// - silence: milliseconds until a connection ends whose other side acknowledges nothing; 0: the kernel's.
    /// - refused: called for each that was closed, on the thread of this.
    Acceptor(int descriptor, size_t limit, unsigned silence, std::function<void()> refused);
    ~Acceptor();
    Acceptor(const Acceptor &) = delete;
    Acceptor &operator=(const Acceptor &) = delete;

    /// Listens, and hands what comes to `taker`. At most once.
    /// - Returns: whether it could.
    bool start(std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> taker);

    /// A call has come over a connection: with TLS whoever is there has shown a certificate that is trusted.
    /// - peer: as gRPC writes it, "ipv4:127.0.0.1:41234". Any thread.
    void noteCall(const std::string &peer);

    /// When it returns nothing more is handed to gRPC, and the port is free. May be repeated, by one thread at a time.
    void stop();

private:
    void run();
    /// - Returns: whether it accepted all there was; false: something is short, as descriptors are.
    bool acceptAll();
    void take(int descriptor, const sockaddr_storage &from);

    struct Connection {
        ino_t inode;
        /// Its other end.
        std::string place;
        /// By which it is counted; empty: a call has come over it.
        std::string network;
    };
    /// Counts it, if there is room.
    bool admit(int descriptor, const sockaddr_storage &from);
    /// With the lock.
    bool isFull(const std::string &network) const;
    void sortOut();
    void forget(std::unordered_map<int, Connection>::iterator entry);
    void forgetStranger(Connection &connection);

    const size_t limit;
    const unsigned silence;
    const std::function<void()> refused;
    int listener;
    /// Readable when it is to stop.
    int stopper;
    std::atomic<bool> isStopping{false};
    std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> taker;
    std::thread thread;

    /// Of what follows: calls come on other threads.
    std::mutex lock;
    /// What was handed to gRPC, which closes it when it likes: a descriptor that has another inode by now is another's.
    std::unordered_map<int, Connection> taken;
    /// Those among them over which no call has come: by their other ends, and how many of each network.
    std::unordered_map<std::string, int> strangers;
    std::unordered_map<std::string, size_t> counts;
    /// When those that are closed were last sorted out.
    std::chrono::steady_clock::time_point lastLook;
};

}  // namespace cgrpc

#endif
