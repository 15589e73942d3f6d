package import Foundation
internal import Glibc

/// How far the clock of this host is ahead of a server's, as one answer showed it.
package struct ClockDifference: Hashable, Sendable {
    /// Negative: behind.
    package let seconds: Double
    /// How wrong that may be: the server tells whole seconds, and the answer took its time.
    package let tolerance: Double

    /// - Parameters:
    ///   - date: the server's, as HTTP has it: `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, 5.6.7).
    ///   - asked: when it was asked, and when the answer was here, both by the clock of this host.
    /// - Returns: nil where there is no such date, or the answer took so long that it tells nothing.
    package init?(date: String, asked: Date, answered: Date) {
        let duration = answered.timeIntervalSince(asked)
        guard duration >= 0, duration < 10, let whole = Self.seconds(date) else { return nil }
        // It was cut to whole seconds: on average half a second later.
        let served = Double(whole) + 0.5
        seconds = asked.timeIntervalSince1970 + duration / 2 - served
        tolerance = duration / 2 + 0.5
    }

    private static let months = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ]

    /// Since 1970. Read by hand: it is read of every answer.
    private static func seconds(_ date: String) -> Int? {
        let words = date.split(separator: " ", omittingEmptySubsequences: false)
        guard words.count == 6, words[5] == "GMT", let day = Int32(words[1]),
            let month = months.firstIndex(where: { $0 == words[2] }), let year = Int32(words[3])
        else { return nil }
        let time = words[4].split(separator: ":", omittingEmptySubsequences: false).map { Int32($0) }
        guard time.count == 3, let hour = time[0], let minute = time[1], let second = time[2],
            (1...31).contains(day), (1970...9999).contains(year), (0...23).contains(hour),
            (0...59).contains(minute), (0...60).contains(second)
        else { return nil }
        var fields = tm()
        (fields.tm_year, fields.tm_mon, fields.tm_mday) = (year - 1900, Int32(month), day)
        (fields.tm_hour, fields.tm_min, fields.tm_sec) = (hour, minute, second)
        return timegm(&fields)
    }

    /// The server's time at a moment that this host's clock tells.
    package func serverTime(at moment: Date) -> Date { moment - seconds }
}
