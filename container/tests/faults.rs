//! A fault at every step of every function, over the recording machine: what is undone, and in which order.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bridge::{Deadline, GuestRequest, RequestType, Resource};
use container::{
    Allocation, ErrorKind, HashTree, LayerOptions, LcowLayer, LcowLayers, LinuxRequest,
    MountedRootfs, Result, allocate_linux_resources, mount_lcow_layers, read_spec,
    release_resources,
};
use oci_spec::runtime::Spec;
use serde_json::json;
use uvm::recording::{Call, Recording};
use uvm::{Capabilities, Machine, Vm as _};

const ROOT: &str = "/run/gcs/c/one";
const MIB: usize = 1 << 20;

/// A machine that records, and files to attach to it.
struct World {
    dir: tempfile::TempDir,
    vm: Arc<Recording>,
    machine: Machine,
}

impl World {
    fn new() -> Self {
        Self::with(Recording::default())
    }

    fn with(vm: Recording) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let vm = Arc::new(vm);
        let run = dir.path().join("run");
        std::fs::create_dir(&run).unwrap();
        let (machine, left) = Machine::open(vm.clone(), &run).unwrap();
        assert!(left.is_empty());
        let world = Self { dir, vm, machine };
        for name in ["top", "base"] {
            std::fs::write(world.path(name), erofs()).unwrap();
        }
        for name in ["scratch", "disk"] {
            std::fs::write(world.path(name), vec![0; MIB]).unwrap();
        }
        std::fs::create_dir(world.path("dir")).unwrap();
        std::fs::write(world.path("file"), "x").unwrap();
        world
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    fn layers(&self) -> LcowLayers {
        let layer = |name: &str| LcowLayer::whole(self.path(name));
        LcowLayers { layers: vec![layer("top"), layer("base")], scratch: self.path("scratch") }
    }

    fn mount(&self) -> Result<MountedRootfs> {
        mount_lcow_layers(&self.machine, "one", &self.layers(), ROOT, &options())
    }

    fn spec(&self) -> Spec {
        let at = |name: &str| self.path(name);
        let spec = json!({
            "ociVersion": "1.0.2",
            "root": { "path": "rootfs", "readonly": true },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/d", "type": "bind", "source": at("dir"), "options": ["rbind"] },
                { "destination": "/f", "type": "bind", "source": at("file"), "options": ["rbind", "RO"] },
                { "destination": "/v", "type": "automanage-virtual-disk", "source": at("disk"), "options": ["rbind"] },
                { "destination": "/s", "type": "bind", "source": "sandbox:///x" },
            ],
        });
        read_spec(spec.to_string().as_bytes()).unwrap()
    }

    fn allocate(&self) -> Result<Allocation> {
        let layers = self.layers();
        self.allocate_for(&self.spec(), Some(&layers))
    }

    fn allocate_for(&self, spec: &Spec, layers: Option<&LcowLayers>) -> Result<Allocation> {
        let request = LinuxRequest {
            id: "one",
            spec,
            layers,
            guest_root: ROOT,
            sandbox: false,
            options: options(),
        };
        allocate_linux_resources(&self.machine, &request)
    }

    /// What was done since the given number of calls, in short words.
    fn words(&self, from: usize) -> Vec<String> {
        self.vm.calls()[from..].iter().map(word).collect()
    }

    fn assert_nothing_is_left(&self) {
        assert!(self.vm.held().is_empty(), "{:?}", self.vm.held());
        assert_eq!(self.vm.violations(), Vec::<String>::new());
    }
}

fn options() -> LayerOptions {
    LayerOptions {
        encrypted_scratch: false,
        physically_backed: false,
        deadline: Deadline::after(Duration::from_secs(30)),
    }
}

/// An EROFS superblock of one block, as far as the check reads it.
fn erofs() -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes[1024..1028].copy_from_slice(&0xE0F5_E1E2_u32.to_le_bytes());
    bytes[1036] = 12;
    bytes[1060] = 1;
    bytes
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

fn word(call: &Call) -> String {
    match call {
        Call::AddScsi(slot, disk) => {
            format!("scsi+ {slot} {}{}", name(&disk.path), if disk.read_only { " ro" } else { "" })
        }
        Call::RemoveScsi(slot) => format!("scsi- {slot}"),
        Call::AddPmem(device, _, path) => format!("pmem+ {device} {}", name(path)),
        Call::RemovePmem(device, _) => format!("pmem- {device}"),
        Call::AddShare(share) => format!(
            "share+ {} {}{}{}",
            share.name,
            name(&share.path),
            if share.read_only { " ro" } else { "" },
            if share.allowed.is_some() { " restricted" } else { "" }
        ),
        Call::RemoveShare(name) => format!("share- {name}"),
        Call::Guest(request) => guest_word(request),
    }
}

fn guest_word(request: &GuestRequest) -> String {
    let verb = if request.request_type == RequestType::Add { "" } else { "un" };
    match &request.resource {
        Resource::MappedVirtualDisk(disk) => format!("{verb}mount {}", disk.mount_path),
        Resource::VPMemDevice(pmem) => format!("{verb}mount {}", pmem.mount_path),
        Resource::MappedDirectory(share) => format!("{verb}mount {}", share.mount_path),
        Resource::CombinedLayers(layers) => format!("{verb}combine {}", layers.container_root_path),
        Resource::ScsiDevice(device) => format!("unplug {}:{}", device.controller, device.lun),
        other => format!("{verb}? {other:?}"),
    }
}

/// One thing that is attached: its steps, and what undoes each of them, last first.
struct Thing {
    steps: Vec<&'static str>,
    undo: Vec<Vec<&'static str>>,
}

fn pmem(steps: [&'static str; 2], undo: [&'static str; 2]) -> Thing {
    Thing { steps: steps.to_vec(), undo: vec![vec![undo[1]], vec![undo[0]]] }
}

fn disk(steps: [&'static str; 2], undo: [&'static str; 3]) -> Thing {
    Thing { steps: steps.to_vec(), undo: vec![vec![undo[1], undo[2]], vec![undo[0]]] }
}

impl Thing {
    /// What undoes its first `done` steps.
    fn undone(&self, done: usize) -> Vec<&'static str> {
        self.undo[..done].iter().rev().flatten().copied().collect()
    }
}

/// Two layers, the scratch, the combination.
fn rootfs() -> Vec<Thing> {
    vec![
        pmem(["pmem+ 0 top", "mount /run/layers/p0"], ["unmount /run/layers/p0", "pmem- 0"]),
        pmem(["pmem+ 1 base", "mount /run/layers/p1"], ["unmount /run/layers/p1", "pmem- 1"]),
        disk(
            ["scsi+ 0:0 scratch", "mount /run/mounts/scsi/m0"],
            ["unmount /run/mounts/scsi/m0", "unplug 0:0", "scsi- 0:0"],
        ),
        Thing {
            steps: vec!["combine /run/gcs/c/one/rootfs"],
            undo: vec![vec!["uncombine /run/gcs/c/one/rootfs"]],
        },
    ]
}

fn mounts() -> Vec<Thing> {
    vec![
        pmem(
            ["share+ 0 dir", "mount /run/gcs/c/one/mounts/m1"],
            ["unmount /run/gcs/c/one/mounts/m1", "share- 0"],
        ),
        pmem(
            ["share+ 1 DIR ro restricted", "mount /run/gcs/c/one/mounts/m2"],
            ["unmount /run/gcs/c/one/mounts/m2", "share- 1"],
        ),
        disk(
            ["scsi+ 0:1 disk", "mount /run/mounts/scsi/m1"],
            ["unmount /run/mounts/scsi/m1", "unplug 0:1", "scsi- 0:1"],
        ),
    ]
}

/// The order of table 1.2: the combination, the scratch, then the layers in the order in which they were added.
const ROOTFS_ORDER: [usize; 4] = [3, 2, 0, 1];
/// Mounts in the reverse of their order, then the root filesystem.
const ALL_ORDER: [usize; 7] = [6, 5, 4, 3, 2, 0, 1];

fn everything() -> Vec<Thing> {
    rootfs().into_iter().chain(mounts()).collect()
}

/// What is to be undone when step `at` of all fails.
fn expected_undo(things: &[Thing], order: &[usize], at: usize) -> Vec<&'static str> {
    let mut left = at;
    let done: Vec<usize> = things
        .iter()
        .map(|thing| {
            let done = thing.steps.len().min(left);
            left -= done;
            done
        })
        .collect();
    let broken = things.iter().zip(&done).position(|(thing, done)| *done < thing.steps.len());
    // What is half made is undone by the table of devices, before the rest.
    let half = broken.map(|index| things[index].undone(done[index])).unwrap_or_default();
    let rest = order
        .iter()
        .filter(|index| Some(**index) != broken)
        .flat_map(|index| things[*index].undone(done[*index]));
    half.into_iter().chain(rest).collect()
}

fn steps(things: &[Thing]) -> Vec<&'static str> {
    things.iter().flat_map(|thing| thing.steps.iter().copied()).collect()
}

fn without_names(world: &World, words: Vec<String>) -> Vec<String> {
    let dir = name(&world.dir.path().canonicalize().unwrap());
    words.into_iter().map(|word| word.replace(&dir, "DIR")).collect()
}

fn refused() -> uvm::Error {
    uvm::Error::guest("do it", -2_147_467_259, "no")
}

#[test]
fn layers_are_mounted_and_released_in_their_order() {
    let world = World::new();
    let mounted = world.mount().unwrap();
    assert_eq!(mounted.rootfs, "/run/gcs/c/one/rootfs");
    assert_eq!(mounted.scratch, "/run/mounts/scsi/m0/scratch/one");
    let things = rootfs();
    assert_eq!(world.words(0), steps(&things));
    let Some(Call::Guest(GuestRequest { resource: Resource::CombinedLayers(layers), .. })) =
        world.vm.calls().pop()
    else {
        panic!("combined last")
    };
    let paths: Vec<&str> = layers.layers.iter().map(|layer| layer.path.as_str()).collect();
    assert_eq!(paths, ["/run/layers/p0", "/run/layers/p1"], "topmost first");
    assert_eq!(layers.scratch_path, mounted.scratch);
    let before = world.vm.calls().len();
    mounted.layers.release().unwrap();
    assert_eq!(world.words(before), expected_undo(&things, &ROOTFS_ORDER, steps(&things).len()));
    world.assert_nothing_is_left();
}

#[test]
fn a_fault_at_every_step_of_mounting_layers() {
    let things = rootfs();
    for at in 0..steps(&things).len() {
        let world = World::new();
        world.vm.fail_at(at, refused());
        let error = world.mount().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Vm, "{at}");
        assert_eq!(world.words(at + 1), expected_undo(&things, &ROOTFS_ORDER, at), "step {at}");
        world.assert_nothing_is_left();
        world.mount().unwrap();
    }
}

#[test]
fn a_fault_at_every_step_of_releasing_layers() {
    let things = rootfs();
    let made = steps(&things).len();
    let undo = expected_undo(&things, &ROOTFS_ORDER, made).len();
    for at in 0..undo {
        let world = World::new();
        let mounted = world.mount().unwrap();
        world.vm.fail_at(made + at, refused());
        let error = mounted.layers.release().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Vm, "{at}");
        // Whatever failed, each of the other things is gone.
        let held = world.vm.held();
        assert!(held.disks.len() + held.pmem.len() <= 1, "step {at}: {held:?}");
        assert!(held.mounts.len() <= 1, "step {at}: {held:?}");
        world.machine.settle().unwrap();
        world.assert_nothing_is_left();
    }
}

#[test]
fn two_faults_are_both_told() {
    let world = World::new();
    // The combination, then the release of the scratch.
    world.vm.fail_at(6, uvm::Error::guest("combine", -1, "first fault"));
    world.vm.fail_at(7, uvm::Error::guest("unmount", -1, "second fault"));
    let error = world.mount().unwrap_err();
    let causes =
        std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
    let told: Vec<String> = causes.map(ToString::to_string).collect();
    let told = told.join(": ");
    assert!(told.contains("first fault") && told.contains("second fault"), "{told}");
    assert!(world.vm.held().pmem.is_empty(), "the layers are released nevertheless");
    assert_eq!(world.vm.held().disks.len(), 1);
    world.machine.settle().unwrap();
    world.assert_nothing_is_left();
}

#[test]
fn where_a_layer_goes() {
    let can = |pmem_devices, pmem_max| Capabilities {
        pmem_devices,
        pmem_max,
        ..Recording::default().capabilities()
    };
    let words = |world: &World, change: &dyn Fn(&mut LcowLayers, &mut LayerOptions)| {
        let (mut layers, mut options) = (world.layers(), options());
        change(&mut layers, &mut options);
        let mounted = mount_lcow_layers(&world.machine, "one", &layers, ROOT, &options);
        let words: Vec<String> =
            world.words(0).into_iter().filter(|word| word.contains('+')).collect();
        mounted.unwrap();
        world.assert_nothing_is_left();
        words
    };
    let world = World::with(Recording::new(can(1, 1 << 30)));
    assert_eq!(
        words(&world, &|_, _| {}),
        ["pmem+ 0 top", "scsi+ 0:0 base ro", "scsi+ 0:1 scratch"]
    );
    let on_scsi = ["scsi+ 0:0 top ro", "scsi+ 0:1 base ro", "scsi+ 0:2 scratch"];
    let world = World::with(Recording::new(can(0, 1 << 30)));
    assert_eq!(words(&world, &|_, _| {}), on_scsi);
    let world = World::with(Recording::new(can(64, 4095)));
    assert_eq!(words(&world, &|_, _| {}), on_scsi, "too large for persistent memory");
    let world = World::new();
    assert_eq!(words(&world, &|_, options| options.physically_backed = true), on_scsi);
    // Partitions are on SCSI, one disk for all of them.
    let world = World::new();
    let mut table = vec![0; MIB];
    table[510..512].copy_from_slice(&[0x55, 0xAA]);
    std::fs::write(world.path("parts"), table).unwrap();
    let parts = words(&world, &|layers, _| {
        for (layer, partition) in layers.layers.iter_mut().zip([2, 1]) {
            *layer = LcowLayer { partition, ..LcowLayer::whole(world.path("parts")) };
        }
    });
    assert_eq!(parts, ["scsi+ 0:0 parts ro", "scsi+ 0:1 scratch"]);
}

/// A layer and its hash tree: the tree comes first and goes last.
fn proved(world: &World) -> LcowLayers {
    std::fs::write(world.path("tree"), vec![0; 8192]).unwrap();
    let tree = HashTree {
        path: world.path("tree"),
        data_size: 4096,
        root_hash: "ab".repeat(32),
        salt: "cd".repeat(32),
    };
    let layer = LcowLayer { verity: Some(tree), ..LcowLayer::whole(world.path("top")) };
    LcowLayers { layers: vec![layer], ..world.layers() }
}

#[test]
fn a_fault_at_every_step_of_a_proved_layer() {
    let things = [
        disk(["scsi+ 0:0 tree ro", ""], ["", "unplug 0:0", "scsi- 0:0"]),
        disk(
            ["scsi+ 0:1 top ro", "mount /run/mounts/scsi/m0"],
            ["unmount /run/mounts/scsi/m0", "unplug 0:1", "scsi- 0:1"],
        ),
    ];
    let made = ["scsi+ 0:0 tree ro", "scsi+ 0:1 top ro", "mount /run/mounts/scsi/m0"];
    let mount =
        |world: &World| mount_lcow_layers(&world.machine, "one", &proved(world), ROOT, &options());
    for at in 0..made.len() {
        let world = World::new();
        world.vm.fail_at(at, refused());
        mount(&world).unwrap_err();
        let mut undo = things[1].undone(at.saturating_sub(1));
        undo.extend(things[0].undone(at.min(1)));
        assert_eq!(world.words(at + 1), undo, "step {at}");
        world.assert_nothing_is_left();
    }
    let world = World::new();
    let mounted = mount(&world).unwrap();
    assert_eq!(world.words(0)[..3], made);
    let Call::Guest(GuestRequest { resource: Resource::MappedVirtualDisk(disk), .. }) =
        &world.vm.calls()[2]
    else {
        panic!("the layer is mounted")
    };
    let verity = disk.verity_info.clone().unwrap();
    assert_eq!((verity.ext4_size_in_bytes, verity.super_block, disk.read_only), (4096, true, true));
    assert_eq!(verity.hash_device, Some(bridge::ScsiDevice { controller: 0, lun: 0 }));
    // The same layer for another container: the same disks and the same mount.
    std::fs::write(world.path("scratch2"), vec![0; MIB]).unwrap();
    let layers = LcowLayers { scratch: world.path("scratch2"), ..proved(&world) };
    let before = world.vm.calls().len();
    let second =
        mount_lcow_layers(&world.machine, "two", &layers, "/run/gcs/c/two", &options()).unwrap();
    assert!(!world.words(before).iter().any(|word| word.contains("top") || word.contains("tree")));
    mounted.layers.release().unwrap();
    second.layers.release().unwrap();
    world.assert_nothing_is_left();
}

#[test]
fn a_layer_without_its_hash_tree_is_not_mounted() {
    let world = World::new();
    for (change, kind) in [
        (
            &(|tree: &mut HashTree| tree.path.set_file_name("absent")) as &dyn Fn(&mut HashTree),
            ErrorKind::NotFound,
        ),
        (&|tree| tree.data_size = 8192, ErrorKind::Corrupt),
    ] {
        let mut layers = proved(&world);
        change(layers.layers[0].verity.as_mut().unwrap());
        let mounted = mount_lcow_layers(&world.machine, "one", &layers, ROOT, &options());
        assert_eq!(mounted.unwrap_err().kind(), kind);
    }
    assert_eq!(world.vm.calls().len(), 0);
}

#[test]
fn another_error_of_persistent_memory_is_no_reason_for_scsi() {
    let world = World::new();
    world.vm.fail_at(0, uvm::Error::new(uvm::ErrorKind::Io, "broken"));
    world.mount().unwrap_err();
    assert_eq!(world.words(0), ["pmem+ 0 top"]);
}

#[test]
fn no_place_is_left() {
    let none = Capabilities {
        scsi_controllers: 1,
        pmem_devices: 64,
        ..Recording::default().capabilities()
    };
    let world = World::with(Recording::new(none));
    let mut layers = world.layers();
    layers.layers.clear();
    for number in 0..300 {
        let path = world.path(&format!("layer-{number}"));
        std::fs::write(&path, erofs()).unwrap();
        layers.layers.push(LcowLayer::whole(path));
    }
    let error = mount_lcow_layers(&world.machine, "one", &layers, ROOT, &options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoLocation);
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("no available location"), "{cause}");
    world.assert_nothing_is_left();
    layers.layers.truncate(127);
    mount_lcow_layers(&world.machine, "one", &layers, ROOT, &options()).unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn a_shared_scratch_is_one_disk() {
    let world = World::new();
    let first = world.mount().unwrap();
    std::os::unix::fs::symlink("scratch", world.path("link")).unwrap();
    let layers = LcowLayers { scratch: world.path("link"), ..world.layers() };
    let before = world.vm.calls().len();
    let second =
        mount_lcow_layers(&world.machine, "two", &layers, "/run/gcs/c/two", &options()).unwrap();
    assert_eq!(world.words(before), ["combine /run/gcs/c/two/rootfs"]);
    assert_eq!(second.scratch, "/run/mounts/scsi/m0/scratch/two");
    first.layers.release().unwrap();
    assert_eq!(world.vm.held().disks.len(), 1, "the second container still has it");
    second.layers.release().unwrap();
    world.assert_nothing_is_left();
}

#[test]
fn bad_files_are_refused_before_anything_is_attached() {
    let world = World::new();
    std::fs::write(world.path("text"), "no layer").unwrap();
    std::fs::write(world.path("small"), "").unwrap();
    let with_layer = |name: &str| LcowLayers {
        layers: vec![world.layers().layers[0].clone(), LcowLayer::whole(world.path(name))],
        ..world.layers()
    };
    let with_scratch = |name: &str| LcowLayers { scratch: world.path(name), ..world.layers() };
    for (layers, kind) in [
        (with_layer("absent"), ErrorKind::NotFound),
        (with_layer("text"), ErrorKind::Corrupt),
        (with_layer("dir"), ErrorKind::Invalid),
        (with_scratch("absent"), ErrorKind::NotFound),
        (with_scratch("small"), ErrorKind::Invalid),
        (with_scratch("top"), ErrorKind::Invalid),
        (LcowLayers { layers: vec![], ..world.layers() }, ErrorKind::Invalid),
    ] {
        let mounted = mount_lcow_layers(&world.machine, "one", &layers, ROOT, &options());
        assert_eq!(mounted.unwrap_err().kind(), kind, "{layers:?}");
    }
    for (id, root) in
        [("", ROOT), ("a/b", ROOT), ("..", ROOT), ("one", "run"), ("one", "/run/../x")]
    {
        let mounted = mount_lcow_layers(&world.machine, id, &world.layers(), root, &options());
        assert_eq!(mounted.unwrap_err().kind(), ErrorKind::Invalid, "{id} {root}");
    }
    assert_eq!(world.vm.calls().len(), 0);
}

#[test]
fn a_specification_is_rewritten() {
    let world = World::new();
    let mut allocation = world.allocate().unwrap();
    assert_eq!(without_names(&world, world.words(0)), steps(&everything()));
    let spec = serde_json::to_value(&allocation.spec).unwrap();
    assert_eq!(
        (&spec["root"], &spec["mounts"]),
        (
            &json!({ "path": "/run/gcs/c/one/rootfs", "readonly": true }),
            &json!([
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/d", "type": "bind", "source": "/run/gcs/c/one/mounts/m1", "options": ["rbind"] },
                { "destination": "/f", "type": "bind", "source": "/run/gcs/c/one/mounts/m2/file", "options": ["rbind", "RO"] },
                { "destination": "/v", "type": "none", "source": "/run/mounts/scsi/m1", "options": ["rbind"] },
                { "destination": "/s", "type": "bind", "source": "sandbox:///x" },
            ])
        )
    );
    assert_eq!(allocation.scratch.as_deref(), Some("/run/mounts/scsi/m0/scratch/one"));
    let made = world.vm.calls().len();
    assert!(world.path("disk").exists());
    release_resources(&mut allocation.resources).unwrap();
    assert_eq!(world.words(made), expected_undo(&everything(), &ALL_ORDER, made));
    assert!(!world.path("disk").exists(), "deleted with its container");
    release_resources(&mut allocation.resources).unwrap();
    world.assert_nothing_is_left();
}

#[test]
fn a_fault_at_every_step_of_allocating() {
    let things = everything();
    for at in 0..steps(&things).len() {
        let world = World::new();
        world.vm.fail_at(at, refused());
        let error = world.allocate().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Vm, "{at}");
        assert_eq!(world.words(at + 1), expected_undo(&things, &ALL_ORDER, at), "step {at}");
        assert!(world.path("disk").exists(), "the container has not run");
        world.assert_nothing_is_left();
    }
}

#[test]
fn a_fault_at_every_step_of_releasing() {
    let things = everything();
    let made = steps(&things).len();
    for at in 0..expected_undo(&things, &ALL_ORDER, made).len() {
        let world = World::new();
        let mut allocation = world.allocate().unwrap();
        world.vm.fail_at(made + at, refused());
        assert_eq!(release_resources(&mut allocation.resources).unwrap_err().kind(), ErrorKind::Vm);
        let held = world.vm.held();
        assert!(held.disks.len() + held.pmem.len() + held.shares.len() <= 1, "step {at}: {held:?}");
        // The layers are released whatever happened to the mounts; a disk that is still attached keeps its file.
        let disk_is_held = held.disks.iter().any(|(_, disk)| disk.path == world.path("disk"));
        assert_eq!(world.path("disk").exists(), disk_is_held, "step {at}");
        world.machine.settle().unwrap();
        world.assert_nothing_is_left();
    }
}

#[test]
fn a_machine_that_dies_on_the_way() {
    for at in 0..14 {
        let world = World::new();
        world.vm.fail_at(at, uvm::Error::new(uvm::ErrorKind::Dead, "it has ended"));
        // What comes after is answered by nobody.
        for later in at + 1..at + 40 {
            world.vm.fail_at(later, uvm::Error::new(uvm::ErrorKind::Dead, "it has ended"));
        }
        let allocated = world.allocate();
        assert_eq!(allocated.is_err(), at < 13, "step {at}");
        if let Ok(mut allocation) = allocated {
            release_resources(&mut allocation.resources).unwrap();
            assert!(!world.path("disk").exists(), "what a machine had is given back by its end");
        } else {
            assert!(world.path("disk").exists(), "step {at}");
        }
    }
}

#[test]
fn where_the_root_comes_from() {
    let world = World::new();
    let spec = |json: serde_json::Value| read_spec(json.to_string().as_bytes()).unwrap();
    let shared =
        spec(json!({ "ociVersion": "1", "root": { "path": world.path("dir"), "readonly": true } }));
    let mut allocation = world.allocate_for(&shared, None).unwrap();
    assert_eq!(world.words(0), ["share+ 0 dir ro", "mount /run/gcs/c/one/rootfs"]);
    assert_eq!(allocation.scratch, None);
    assert_eq!(allocation.spec.root().as_ref().unwrap().path(), Path::new("/run/gcs/c/one/rootfs"));
    release_resources(&mut allocation.resources).unwrap();
    world.assert_nothing_is_left();
    let folders = json!({ "layerFolders": [world.path("dir"), world.path("dir")] });
    let both = spec(json!({ "ociVersion": "1", "windows": folders }));
    let before = world.vm.calls().len();
    for (spec, layers, kind) in [
        (spec(json!({ "ociVersion": "1" })), None, ErrorKind::FailedPrecondition),
        (
            spec(json!({ "ociVersion": "1", "root": { "path": "" } })),
            None,
            ErrorKind::FailedPrecondition,
        ),
        (spec(json!({ "ociVersion": "1", "root": {} })), None, ErrorKind::FailedPrecondition),
        (
            spec(json!({ "ociVersion": "1", "root": { "path": "rootfs" } })),
            None,
            ErrorKind::Invalid,
        ),
        (
            spec(json!({ "ociVersion": "1", "root": { "path": world.path("file") } })),
            None,
            ErrorKind::Invalid,
        ),
        (
            spec(json!({ "ociVersion": "1", "root": { "path": world.path("absent") } })),
            None,
            ErrorKind::NotFound,
        ),
        (
            spec(json!({ "ociVersion": "1", "windows": { "layerFolders": ["/x"] } })),
            None,
            ErrorKind::FailedPrecondition,
        ),
        (both.clone(), Some(world.layers()), ErrorKind::FailedPrecondition),
        (both, None, ErrorKind::NotFound),
    ] {
        let error = world.allocate_for(&spec, layers.as_ref()).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
    assert_eq!(world.vm.calls().len(), before, "nothing was attached");
}

#[test]
fn a_sandbox_keeps_its_layers() {
    let world = World::new();
    let layers = world.layers();
    let spec = world.spec();
    let request = LinuxRequest {
        id: "one",
        spec: &spec,
        layers: Some(&layers),
        guest_root: ROOT,
        sandbox: true,
        options: options(),
    };
    let mut allocation = allocate_linux_resources(&world.machine, &request).unwrap();
    release_resources(&mut allocation.resources).unwrap();
    drop(allocation);
    let held = world.vm.held();
    assert_eq!((held.pmem.len(), held.disks.len(), held.shares.len()), (2, 1, 0));
}
