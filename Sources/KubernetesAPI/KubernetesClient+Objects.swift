internal import Foundation

extension KubernetesClient {
    /// How a patch is to be understood.
    package enum PatchKind: Sendable {
        /// RFC 7386: what is named is set, `null` removes.
        case merge
        /// Server-side apply; fields of other managers are taken over when forced.
        case apply(manager: String, force: Bool)
    }

    package func get<Item: KubernetesResource>(
        _ type: Item.Type, _ name: String, in namespace: String? = nil
    ) async throws(KubernetesError) -> Item {
        let path = Item.resource.path(namespace: namespace, name: name)
        return try Self.decode(Item.self, try await send(Request(method: .get, path: path)))
    }

    /// The same, where missing is an answer. That the server has no such kind is none.
    package func find<Item: KubernetesResource>(
        _ type: Item.Type, _ name: String, in namespace: String? = nil
    ) async throws(KubernetesError) -> Item? {
        do {
            return try await get(type, name, in: namespace)
        } catch .notFound {
            return nil
        }
    }

    /// All objects of a kind, fetched page by page, and the version they are of.
    ///
    /// - Parameter namespace: nil: of every namespace.
    package func list<Item: KubernetesResource>(
        _ type: Item.Type, in namespace: String? = nil, labels: String? = nil, fields: String? = nil,
        pageSize: Int = 500
    ) async throws(KubernetesError) -> (items: [Item], resourceVersion: String) {
        var items: [Item] = []
        var token: String?
        var restarts = 0
        while true {
            var request = Request(method: .get, path: Item.resource.path(namespace: namespace))
            request.query = [("limit", String(pageSize))]
            if let labels { request.query.append(("labelSelector", labels)) }
            if let fields { request.query.append(("fieldSelector", fields)) }
            if let token { request.query.append(("continue", token)) }
            let page: ResourcePage<Item>
            do {
                page = try Self.decode(ResourcePage<Item>.self, try await send(request))
            } catch {
                // The page's token is too old, because listing took minutes: from the start, at once.
                guard case .gone = error, token != nil, restarts < 3 else { throw error }
                restarts += 1
                items = []
                token = nil
                continue
            }
            items += page.items ?? []
            token = page.metadata.continue.flatMap { $0.isEmpty ? nil : $0 }
            if token == nil { return (items, page.metadata.resourceVersion ?? "") }
        }
    }

    /// - Parameter dryRun: the server does everything but keep it.
    package func create<Item: KubernetesResource>(
        _ object: Item, dryRun: Bool = false
    ) async throws(KubernetesError) -> Item {
        var request = Request(
            method: .post, path: Item.resource.path(namespace: object.metadata.namespace))
        request.body = try Self.encode(object: object)
        if dryRun { request.query = [("dryRun", "All")] }
        return try Self.decode(Item.self, try await send(request))
    }

    /// Replaces an object, if it is still of the resource version that the new one carries.
    ///
    /// - Parameter subresource: `status`, or nil for all but that.
    package func update<Item: KubernetesResource>(
        _ object: Item, subresource: String? = nil
    ) async throws(KubernetesError) -> Item {
        guard let name = object.metadata.name, object.metadata.resourceVersion != nil else {
            throw .invalid("an update names the object and the version that it replaces")
        }
        var request = Request(
            method: .put,
            path: Item.resource.path(
                namespace: object.metadata.namespace, name: name, subresource: subresource))
        request.body = try Self.encode(object: object)
        return try Self.decode(Item.self, try await send(request))
    }

    package func patch<Item: KubernetesResource>(
        _ type: Item.Type, _ name: String, in namespace: String? = nil, _ body: JSONValue,
        as kind: PatchKind = .merge, subresource: String? = nil, dryRun: Bool = false
    ) async throws(KubernetesError) -> Item {
        var request = Request(
            method: .patch,
            path: Item.resource.path(namespace: namespace, name: name, subresource: subresource))
        switch kind {
        case .merge:
            request.contentType = "application/merge-patch+json"
            request.body = try Self.encode(body)
        case .apply(let manager, let force):
            request.contentType = "application/apply-patch+yaml"
            request.query = [("fieldManager", manager), ("force", force ? "true" : "false")]
            guard case .object(var members) = body else { throw .invalid("what is applied is an object") }
            members["apiVersion"] = .string(Item.resource.apiVersion)
            members["kind"] = .string(Item.resource.kind)
            var metadata: [String: JSONValue] = [:]
            if case .object(let given)? = members["metadata"] { metadata = given }
            metadata["name"] = .string(name)
            members["metadata"] = .object(metadata)
            request.body = try Self.encode(JSONValue.object(members))
        }
        if dryRun { request.query.append(("dryRun", "All")) }
        return try Self.decode(Item.self, try await send(request))
    }

    /// Deletes an object; one that is gone already is a success.
    ///
    /// - Parameter resourceVersion: delete it only if it is still of this version.
    package func delete<Item: KubernetesResource>(
        _ type: Item.Type, _ name: String, in namespace: String? = nil, uid: String? = nil,
        resourceVersion: String? = nil
    ) async throws(KubernetesError) {
        var request = Request(
            method: .delete, path: Item.resource.path(namespace: namespace, name: name))
        var preconditions: [String: JSONValue] = [:]
        if let uid { preconditions["uid"] = .string(uid) }
        if let resourceVersion { preconditions["resourceVersion"] = .string(resourceVersion) }
        if !preconditions.isEmpty {
            request.body = try Self.encode(
                JSONValue.object([
                    "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": .object(preconditions),
                ]))
        }
        do {
            _ = try await send(request)
        } catch .notFound {
            return
        }
    }
}
