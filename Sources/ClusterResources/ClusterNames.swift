/// Names that Manifests give to what is installed.
package enum ClusterNames {
    package static let driver = "csi.godwit.dev"
    package static let namespace = "godwit"
    package static let controller = "godwit-controller"
    /// The DaemonSet of the site's members, and the Secret with the site's keys.
    package static let site = "godwit-site"
    package static let holder = "godwit-holder"
    package static let gateway = "godwit-gateway"
    /// The key of the site's keys in their Secret.
    package static let authority = "authority.pem"
    /// The Secret with the trust documents of other sites.
    package static let peers = "godwit-peers"
    /// The condition of a `Volume`: False when its site does not serve it, and why.
    package static let served = "Served"
    /// What the controller signs its Events with.
    package static let eventSource = "godwit-controller"
    /// Carries a volume's identifier, to find its `Volume` by.
    package static let volumeLabel = "godwit.dev/volume-id"
}
