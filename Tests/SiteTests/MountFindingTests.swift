import Testing
import VolumeModel

@testable import HostMounts
@testable import Site

/// What a member makes of its host's mount table.
@Suite struct MountFindingTests {
    private static let own = "godwit:n1.london/"
    private static let place = "/var/lib/kubelet/pods/1/volumes/kubernetes.io~csi/pvc-1/mount"
    private static let staging = "/var/lib/kubelet/plugins/kubernetes.io/csi/csi.godwit.dev/1/globalmount"

    private static func entry(_ path: String, _ device: String, source: String = own + "1") -> MountEntry {
        MountEntry(path: path, type: "fuse.godwit", source: source, isReadOnly: false, device: device)
    }

    private static let served = VolumeMounts(
        name: "pvc-1", source: own + "1", devices: ["0:50"], paths: [staging])

    private static func find(
        _ table: [MountEntry], _ volumes: [VolumeMounts] = [served], published: Set<String> = [place],
        there: Set<String> = []
    ) -> [String] {
        MountFinding.all(in: table, of: own, volumes, published: published) { there.contains($0) }
            .map { "\($0.kind.rawValue) \($0.text)" }.sorted()
    }

    @Test func aVolumeThatIsMountedAndPublishedIsNoFinding() {
        let table = [Self.entry(Self.staging, "0:50"), Self.entry(Self.place, "0:50")]
        #expect(Self.find(table).isEmpty)
        // Kubelet's mounts of parts of it, and what people bind elsewhere.
        let more = [
            Self.entry("/var/lib/kubelet/pods/1/volume-subpaths/pvc-1/main/0", "0:50"),
            Self.entry("/mnt/here", "0:50"),
        ]
        #expect(Self.find(table + more).isEmpty)
    }

    @Test func whatNobodyServesIsNamedWithItsVolume() {
        let table = [
            Self.entry(Self.staging, "0:50"), Self.entry(Self.place, "0:49"),
            Self.entry("/mnt/lost", "0:51", source: Self.own + "2"),
        ]
        #expect(Self.find(table) == ["DeadMount 2 at /mnt/lost", "DeadMount pvc-1 at \(Self.place)"])
        // Another member's, and other file systems, are nobody's business here.
        let foreign = [
            Self.entry("/mnt/lost", "0:51", source: "godwit:n2.london/1"),
            MountEntry(
                path: "/mnt/other", type: "ext4", source: Self.own + "1", isReadOnly: false, device: "8:1"),
        ]
        #expect(Self.find(foreign, published: []).isEmpty)
    }

    @Test func aMountInAPodsPlaceThatWasNotPublishedIsNamed() {
        let table = [Self.entry(Self.staging, "0:50"), Self.entry(Self.place, "0:50")]
        #expect(Self.find(table, published: []) == ["UnknownMount pvc-1 at \(Self.place)"])
        // An ephemeral volume is mounted there itself.
        var ephemeral = Self.served
        ephemeral.paths = [Self.place]
        #expect(Self.find([table[1]], [ephemeral], published: []).isEmpty)
    }

    @Test func aPublicationWithoutMountIsNamedWhileThePodsDirectoryIsThere() {
        let table = [Self.entry(Self.staging, "0:50")]
        #expect(Self.find(table, there: [Self.place]) == ["LostMount \(Self.place)"])
        #expect(Self.find(table).isEmpty)
    }

    @Test func aMountOfAReignThatIsOverIsNamed() {
        var old = Self.served
        old.overruled = [Self.staging]
        let table = [Self.entry(Self.staging, "0:50"), Self.entry(Self.place, "0:50")]
        #expect(Self.find(table, [old]) == ["OverruledMount pvc-1 at \(Self.staging)"])
    }

    @Test func aTableThatCannotBeReadIsNotOneWithoutTrouble() throws {
        let told = try #require(
            MountFinding.troubles([MountFinding(kind: .lostMount, text: "/mnt")], unregistered: ["/x", "/y"]))
        #expect(told == [.init(.lostMount, ["/mnt"]), .init(.unregisteredData, ["/x", "/y"])])
        #expect(MountFinding.troubles([], unregistered: []) == [])
        #expect(MountFinding.troubles(nil, unregistered: ["/x"]) == nil)
    }
}
