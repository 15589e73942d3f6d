// Lets packets of marked connections gather in the kernel, so that gRPC is not woken for each of them.
//
// gRPC reads whatever has come as soon as anything has: two of its threads are woken for each packet, where a link does not
// bring more at a time than it takes to read one. SO_RCVLOWAT (socket(7)) is what the kernel has for this. gRPC 1.51 would set
// it by itself if it knew how much is to come, but with TLS it never does.
//
// While somebody asks for it, a thread looks every five milliseconds how much has come by each marked connection since, and
// has gRPC woken when as much has come again. What is waiting when less came is read at once, as that lowers the mark:
// nothing waits for longer than two looks.

#include "Support.hpp"

#include <chrono>
#include <condition_variable>
#include <system_error>
#include <thread>
#include <unordered_map>
#include <unordered_set>

#include <dirent.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

namespace {

using Clock = std::chrono::steady_clock;

/// Between two looks.
constexpr auto lookInterval = std::chrono::milliseconds(5);
/// Between two searches for connections: they are made anew when a link was broken.
constexpr auto searchInterval = std::chrono::milliseconds(500);
/// How long connections are remembered that nobody asks for.
constexpr auto rest = std::chrono::seconds(1);
/// Bytes since the last look below which every packet is read as it comes.
constexpr uint64_t fewest = 4 << 10;
constexpr uint64_t most = 128 << 10;

/// A connection of gRPC's, by a descriptor of our own: that gRPC closes its own changes nothing here.
class Socket {
public:
    explicit Socket(int descriptor) : descriptor(descriptor) { received = count(); }
    Socket(const Socket &) = delete;
    Socket &operator=(const Socket &) = delete;
    ~Socket() {
        readAtOnce();
        close(descriptor);
    }

    void look() {
        uint64_t now = count();
        uint64_t come = now - received;
        received = now;
        set(come < fewest ? 1 : static_cast<int>(std::min(come, most)));
    }

    /// Also wakes whoever waits for what is there.
    void readAtOnce() { set(1); }

private:
    uint64_t count() const {
        tcp_info info{};
        socklen_t size = sizeof info;
        if (getsockopt(descriptor, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) { return received; }
        return info.tcpi_bytes_received;
    }

    void set(int value) {
        if (value == mark) { return; }
        // Where it fails packets are read as they come.
        if (setsockopt(descriptor, SOL_SOCKET, SO_RCVLOWAT, &value, sizeof value) == 0) { mark = value; }
    }

    const int descriptor;
    uint64_t received = 0;
    int mark = 1;
};

class Gathering {
public:
    void begin() {
        std::lock_guard<std::mutex> guard(mutex);
        askers++;
        if (!runs) {
            try {
                std::thread([this] { run(); }).detach();
                runs = true;
            } catch (const std::system_error &) {
                // No thread to be had: packets are read as they come.
            }
        }
        changed.notify_all();
    }

    void end() {
        std::lock_guard<std::mutex> guard(mutex);
        askers--;
    }

private:
    using Sockets = std::unordered_map<ino_t, std::unique_ptr<Socket>>;

    void run() {
        Sockets sockets;
        while (true) {
            waitForAskers(sockets);
            auto now = Clock::now();
            if (now >= nextSearch) {
                search(sockets);
                nextSearch = now + searchInterval;
            }
            for (auto &entry : sockets) { entry.second->look(); }
            std::this_thread::sleep_for(lookInterval);
        }
    }

    void waitForAskers(Sockets &sockets) {
        std::unique_lock<std::mutex> lock(mutex);
        if (askers > 0) { return; }
        lock.unlock();
        for (auto &entry : sockets) { entry.second->readAtOnce(); }
        lock.lock();
        if (changed.wait_for(lock, rest, [this] { return askers > 0; })) { return; }
        lock.unlock();
        sockets.clear();
        nextSearch = Clock::now();
        lock.lock();
        changed.wait(lock, [this] { return askers > 0; });
    }

    /// Finds the marked connections among all descriptors, and lets go of those that gRPC has closed.
    static void search(Sockets &sockets) {
        DIR *directory = opendir("/proc/self/fd");
        if (directory == nullptr) { return; }
        std::unordered_map<ino_t, int> found;
        std::unordered_set<ino_t> ours;
        while (dirent *entry = readdir(directory)) {
            int descriptor = atoi(entry->d_name);
            int timeout = 0;
            socklen_t size = sizeof timeout;
            struct stat status{};
            if (entry->d_name[0] == '.' || descriptor == dirfd(directory)) { continue; }
            if (getsockopt(descriptor, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, &size) != 0) { continue; }
            if (timeout != cgrpc_gathering_timeout || fstat(descriptor, &status) != 0) { continue; }
            // Twice: once gRPC's, once ours.
            if (!found.emplace(status.st_ino, descriptor).second) { ours.insert(status.st_ino); }
        }
        closedir(directory);
        for (auto entry = sockets.begin(); entry != sockets.end();) {
            entry = ours.count(entry->first) > 0 ? std::next(entry) : sockets.erase(entry);
        }
        for (const auto &entry : found) {
            if (sockets.count(entry.first) > 0) { continue; }
            int copy = fcntl(entry.second, F_DUPFD_CLOEXEC, 0);
            if (copy < 0) { continue; }
            // The number may be another descriptor's by now.
            int timeout = 0;
            socklen_t size = sizeof timeout;
            struct stat status{};
            if (getsockopt(copy, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, &size) != 0
                || timeout != cgrpc_gathering_timeout || fstat(copy, &status) != 0 || status.st_ino != entry.first) {
                close(copy);
                continue;
            }
            sockets.emplace(entry.first, std::make_unique<Socket>(copy));
        }
    }

    std::mutex mutex;
    std::condition_variable changed;
    int64_t askers = 0;
    bool runs = false;
    /// The thread's own.
    Clock::time_point nextSearch = Clock::now();
};

/// Never destroyed: its thread uses it until the process ends.
Gathering &gathering() {
    static auto *gathering = new Gathering;
    return *gathering;
}

}  // namespace

extern "C" {

void cgrpc_gathering_begin(void) { gathering().begin(); }

void cgrpc_gathering_end(void) { gathering().end(); }

}  // extern "C"
