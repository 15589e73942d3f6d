#include "Acceptor.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

#include <arpa/inet.h>
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

/// An address as IPv6 has it, also of IPv4, and the port.
std::string place(const in6_addr &address, in_port_t port) {
    std::string bytes(reinterpret_cast<const char *>(address.s6_addr), sizeof address.s6_addr);
    bytes.append(reinterpret_cast<const char *>(&port), sizeof port);
    return bytes;
}

in6_addr mapped(const in_addr &address) {
    in6_addr whole{};
    whole.s6_addr[10] = whole.s6_addr[11] = 0xff;
    std::memcpy(whole.s6_addr + 12, &address, sizeof address);
    return whole;
}

/// Empty where it is no TCP address.
std::string place(const sockaddr_storage &from) {
    if (from.ss_family == AF_INET) {
        sockaddr_in known;
        std::memcpy(&known, &from, sizeof known);
        return place(mapped(known.sin_addr), known.sin_port);
    }
    if (from.ss_family != AF_INET6) { return ""; }
    sockaddr_in6 known;
    std::memcpy(&known, &from, sizeof known);
    return place(known.sin6_addr, known.sin6_port);
}

/// The same of "ipv4:127.0.0.1:41234" or "ipv6:[::1]:41234", with brackets as they are or as "%5B" and "%5D".
std::string place(const std::string &peer) {
    size_t begin = peer.find(':'), end = peer.rfind(':');
    if (begin == std::string::npos || end <= begin) { return ""; }
    uint16_t port = 0;
    const char *last = peer.data() + peer.size();
    auto number = std::from_chars(peer.data() + end + 1, last, port);
    if (number.ec != std::errc() || number.ptr != last) { return ""; }
    std::string host = peer.substr(begin + 1, end - begin - 1);
    if (peer.compare(0, begin, "ipv4") == 0) {
        in_addr address;
        return inet_pton(AF_INET, host.c_str(), &address) == 1 ? place(mapped(address), htons(port)) : "";
    }
    if (host.compare(0, 3, "%5B") == 0) { host.erase(0, 3); }
    if (host.compare(0, 1, "[") == 0) { host.erase(0, 1); }
    // What follows is the closing bracket, or the interface of a link-local address.
    host.erase(std::min(host.find_first_of("%]"), host.size()));
    in6_addr address;
    return inet_pton(AF_INET6, host.c_str(), &address) == 1 ? place(address, htons(port)) : "";
}

/// What one host has of addresses: one of IPv4, and of IPv6 all that begin as its own does.
std::string network(const std::string &place) {
    static const std::string ofIPv4("\0\0\0\0\0\0\0\0\0\0\xff\xff", 12);
    return place.substr(0, place.compare(0, ofIPv4.size(), ofIPv4) == 0 ? 16 : 8);
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
        sockaddr_storage from{};
        socklen_t size = sizeof from;
        int descriptor =
            accept4(listener, reinterpret_cast<sockaddr *>(&from), &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (descriptor >= 0) {
            take(descriptor, from);
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

void Acceptor::take(int descriptor, const sockaddr_storage &from) {
    if (!admit(descriptor, from)) {
        close(descriptor);
        refused();
        return;
    }
    // As gRPC does it for connections that it accepts itself.
    setNumber(descriptor, TCP_NODELAY, 1);
    if (silence > 0) { setNumber(descriptor, TCP_USER_TIMEOUT, silence); }
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
    connection.listener_fd = listener;
    connection.fd = descriptor;
    taker->HandleNewConnection(&connection);
}

bool Acceptor::admit(int descriptor, const sockaddr_storage &from) {
    ino_t number = inode(descriptor);
    if (number == 0) { return false; }
    if (limit == 0) { return true; }
    std::string end = place(from), origin = network(end);
    std::lock_guard<std::mutex> guard(lock);
    // What had the descriptor, or its address and port, is closed.
    auto earlier = taken.find(descriptor);
    if (earlier != taken.end()) { forget(earlier); }
    auto twin = strangers.find(end);
    if (twin != strangers.end()) { forget(taken.find(twin->second)); }
    if (isFull(origin)) { sortOut(); }
    if (isFull(origin)) { return false; }
    taken[descriptor] = {number, end, origin};
    if (!origin.empty()) {
        strangers[end] = descriptor;
        counts[origin]++;
    }
    return true;
}

bool Acceptor::isFull(const std::string &network) const {
    auto known = counts.find(network);
    return taken.size() >= limit || (known != counts.end() && known->second >= std::max<size_t>(1, limit / 4));
}

void Acceptor::noteCall(const std::string &peer) {
    if (limit == 0) { return; }
    std::string end = place(peer);
    std::lock_guard<std::mutex> guard(lock);
    auto stranger = strangers.find(end);
    if (stranger != strangers.end()) { forgetStranger(taken.find(stranger->second)->second); }
}

void Acceptor::sortOut() {
    auto now = std::chrono::steady_clock::now();
    if (now - lastLook < lookInterval) { return; }
    lastLook = now;
    for (auto entry = taken.begin(); entry != taken.end();) {
        auto next = std::next(entry);
        if (inode(entry->first) != entry->second.inode) { forget(entry); }
        entry = next;
    }
}

void Acceptor::forget(std::unordered_map<int, Connection>::iterator entry) {
    forgetStranger(entry->second);
    taken.erase(entry);
}

void Acceptor::forgetStranger(Connection &connection) {
    if (connection.network.empty()) { return; }
    strangers.erase(connection.place);
    auto known = counts.find(connection.network);
    if (--known->second == 0) { counts.erase(known); }
    connection.network.clear();
}

}  // namespace cgrpc
