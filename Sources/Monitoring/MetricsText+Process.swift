internal import Glibc

/// When this process was first asked for its figures, near enough to when it started: seconds since 1970.
private let processStart = Double(time(nil))

extension MetricsText {
    /// What every process tells of itself, by the names that all of them use.
    package mutating func addProcess() {
        var usage = rusage()
        if getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage) == 0 {
            let microseconds = Double(usage.ru_utime.tv_usec) + Double(usage.ru_stime.tv_usec)
            let seconds = Double(usage.ru_utime.tv_sec) + Double(usage.ru_stime.tv_sec) + microseconds / 1e6
            add("process_cpu_seconds_total", .counter, "Processor time, user and system.") { $0.add(seconds) }
        }
        if let pages = Self.residentPageCount {
            let size = UInt64(clamping: sysconf(Int32(_SC_PAGESIZE)))
            add("process_resident_memory_bytes", .gauge, "Memory in use.") {
                $0.add(pages.multipliedReportingOverflow(by: size).partialValue)
            }
        }
        if let count = Self.openFileCount {
            add("process_open_fds", .gauge, "Open file descriptors.") { $0.add(count) }
        }
        add("process_start_time_seconds", .gauge, "When the process started, since 1970.") {
            $0.add(processStart)
        }
    }

    /// To be called when the process starts.
    package static func noteProcessStart() { _ = processStart }

    private static var residentPageCount: UInt64? {
        guard let file = fopen("/proc/self/statm", "re") else { return nil }
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 256)
        guard fgets(&line, Int32(line.count), file) != nil else { return nil }
        let text = String(decoding: line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        let words = text.split(separator: " ")
        return words.count > 1 ? UInt64(words[1]) : nil
    }

    private static var openFileCount: UInt64? {
        guard let directory = opendir("/proc/self/fd") else { return nil }
        defer { closedir(directory) }
        var count: UInt64 = 0
        while readdir(directory) != nil { count += 1 }
        // ".", ".." and the directory that is being read.
        return count >= 3 ? count - 3 : nil
    }
}
