#include "Acceptor.hpp"

#include <cerrno>

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

namespace cgrpc {

namespace {

/// How long nothing is accepted when something is short: long enough for something to be closed.
constexpr int pause = 100;

/// Each refused connection does not look through all that are open.
constexpr std::chrono::milliseconds lookInterval{20};

/// 0: there is none.
ino_t inode(int descriptor) {
    struct stat found;
    return fstat(descriptor, &found) == 0 ? found.st_ino : 0;
}

void setNumber(int descriptor, int option, unsigned value) {
    setsockopt(descriptor, IPPROTO_TCP, option, &value, sizeof value);
}

}  // namespace

Acceptor::Acceptor(int descriptor, size_t limit, unsigned silence, std::function<void()> refused)
    : limit(limit), silence(silence), refused(std::move(refused)), listener(descriptor),
      stopper(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

Acceptor::~Acceptor() {
    stop();
    if (stopper >= 0) { close(stopper); }
}

bool Acceptor::start(std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> connections) {
    if (listener < 0 || stopper < 0 || fcntl(listener, F_SETFL, O_NONBLOCK) != 0) { return false; }
    if (listen(listener, SOMAXCONN) != 0) { return false; }
    taker = std::move(connections);
    thread = std::thread([this] { run(); });
    return true;
}

void Acceptor::stop() {
    isStopping.store(true);
    uint64_t one = 1;
    if (stopper >= 0 && write(stopper, &one, sizeof one) < 0) { /* It is readable already. */ }
    if (thread.joinable()) { thread.join(); }
    if (listener >= 0) { close(listener); }
    listener = -1;
}

void Acceptor::run() {
    pollfd waiting[2] = {{stopper, POLLIN, 0}, {listener, POLLIN, 0}};
    while (!isStopping.load()) {
        if (poll(waiting, 2, -1) < 0 && errno != EINTR) { poll(nullptr, 0, pause); }
        // What could not be accepted stays in the kernel's queue.
        if (!isStopping.load() && !acceptAll()) { poll(waiting, 1, pause); }
    }
}

bool Acceptor::acceptAll() {
    while (!isStopping.load()) {
        int descriptor = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (descriptor >= 0) {
            take(descriptor);
            continue;
        }
        switch (errno) {
        case EAGAIN: return true;
        case EMFILE:
        case ENFILE:
        case ENOBUFS:
        case ENOMEM: return false;
        // Of one connection: the next may be sound. accept(2) names these.
        case EINTR:
        case ECONNABORTED:
        case EPERM:
        case EPROTO:
        case ENETDOWN:
        case ENOPROTOOPT:
        case EHOSTDOWN:
        case ENONET:
        case EHOSTUNREACH:
        case EOPNOTSUPP:
        case ENETUNREACH: continue;
        default: return false;
        }
    }
    return true;
}

void Acceptor::take(int descriptor) {
    ino_t number = inode(descriptor);
    if (number == 0 || !hasRoom()) {
        close(descriptor);
        refused();
        return;
    }
    // As gRPC does it for connections that it accepts itself.
    setNumber(descriptor, TCP_NODELAY, 1);
    if (silence > 0) { setNumber(descriptor, TCP_USER_TIMEOUT, silence); }
    taken[descriptor] = number;
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
    connection.listener_fd = listener;
    connection.fd = descriptor;
    taker->HandleNewConnection(&connection);
}

bool Acceptor::hasRoom() {
    if (limit == 0) { taken.clear(); }
    if (limit == 0 || taken.size() < limit) { return true; }
    auto now = std::chrono::steady_clock::now();
    if (now - lastLook < lookInterval) { return false; }
    lastLook = now;
    for (auto entry = taken.begin(); entry != taken.end();) {
        entry = inode(entry->first) == entry->second ? std::next(entry) : taken.erase(entry);
    }
    return taken.size() < limit;
}

}  // namespace cgrpc
