package import Foundation

/// Writes Events, so that a person who describes an object reads what happened and what to do.
///
/// The same words about the same object are one Event that is counted up, also after a restart.
package struct EventRecorder: Sendable {
    private static let messageLimit = 1000

    private let client: KubernetesClient
    private let component: String

    package init(_ client: KubernetesClient, component: String) {
        self.client = client
        self.component = component
    }

    /// - Parameter isWarning: whether somebody should look at it.
    package func record<Item: KubernetesResource>(
        _ reason: String, _ message: String, about item: Item, isWarning: Bool = false
    ) async throws(KubernetesError) {
        let object = ObjectReference(item)
        // Events of objects without a namespace live in `default`, where kubectl looks for them.
        let namespace = object.namespace ?? "default"
        let text = String(message.prefix(Self.messageLimit))
        let now = Timestamps.seconds(Date())
        let name = Self.name(object, reason, text, isWarning)
        if let known = try await client.find(Event.self, name, in: namespace) {
            let count = min(known.count ?? 1, .max - 1) + 1
            _ = try await client.patch(
                Event.self, name, in: namespace,
                ["count": .integer(Int64(count)), "lastTimestamp": .string(now)])
            return
        }
        let event = Event(
            metadata: ObjectMeta(name: name, namespace: namespace), involvedObject: object,
            type: isWarning ? "Warning" : "Normal", reason: reason, message: text,
            source: .init(component: component), firstTimestamp: now, lastTimestamp: now, count: 1)
        do {
            _ = try await client.create(event)
        } catch .alreadyExists {
            return
        }
    }

    private static func name(
        _ object: ObjectReference, _ reason: String, _ message: String, _ isWarning: Bool
    ) -> String {
        // FNV-1a: the same in every process, which Hasher is not.
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for byte in "\(object.uid ?? "")\u{0}\(reason)\u{0}\(message)\u{0}\(isWarning)".utf8 {
            hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3
        }
        let digits = String(hash, radix: 16)
        return object.name.prefix(200) + "." + String(repeating: "0", count: 16 - digits.count) + digits
    }
}

/// Times as the API writes them, always in UTC.
package enum Timestamps {
    /// To the second, for conditions and Events.
    package static func seconds(_ date: Date) -> String { formatted(date) + "Z" }

    /// To the microsecond, for Leases.
    package static func microseconds(_ date: Date) -> String {
        let interval = date.timeIntervalSince1970
        let fraction = interval - interval.rounded(.down)
        let digits = String(Int(fraction * 1_000_000))
        return formatted(date) + "." + String(repeating: "0", count: max(0, 6 - digits.count)) + digits + "Z"
    }

    private static func formatted(_ date: Date) -> String {
        let formatter = DateFormatter()
        formatter.locale = Locale(identifier: "en_US_POSIX")
        formatter.timeZone = TimeZone(secondsFromGMT: 0)
        formatter.dateFormat = "yyyy-MM-dd'T'HH:mm:ss"
        return formatter.string(from: date)
    }
}
