//! What becomes of disks and memory.

use std::process::Command;
use std::time::{Duration, Instant};

use bridge::{
    GuestRequest, MappedVirtualDisk, PmemDevice, PmemMapping, Resource, ScsiDevice, VerityInfo,
};
use serde_json::{Value, json};
use uvm::{ScsiSlot, Vm as _};

use crate::images::Images;
use crate::machine::{Machine, disk};

/// The base layer, on which containers run.
const BASE: ScsiSlot = ScsiSlot { controller: 0, lun: 0 };
pub(crate) const ROOT: &str = "/run/base-root";

fn slot(controller: u8, lun: u8) -> ScsiSlot {
    ScsiSlot { controller, lun }
}

fn layer(slot: ScsiSlot, path: &str) -> MappedVirtualDisk {
    MappedVirtualDisk { read_only: true, ..disk(slot, path) }
}

pub(crate) fn in_vm(path: &str) -> Value {
    json!({"destination": "/mnt", "type": "bind", "source": format!("uvm://{path}"), "options": ["rbind", "rw"]})
}

fn added(disk: MappedVirtualDisk) -> GuestRequest {
    GuestRequest::add(Resource::MappedVirtualDisk(disk))
}

pub(crate) fn layers_of_all_formats_and_a_container(machine: &Machine, images: &Images) {
    let (partitioned, ext4, scratch) = (slot(1, 0), slot(2, 63), slot(3, 7));
    machine.attach(images, "base.erofs", BASE, true);
    machine.attach(images, "partitioned", partitioned, true);
    machine.attach(images, "layer.ext4", ext4, true);
    machine.attach(images, "scratch", scratch, false);
    machine.mount(layer(BASE, "/run/layers/base")).unwrap();
    machine
        .mount(MappedVirtualDisk { partition: 1, ..layer(partitioned, "/run/layers/part") })
        .unwrap();
    machine.mount(layer(ext4, "/run/layers/ext4")).unwrap();
    machine
        .mount(MappedVirtualDisk { ensure_filesystem: true, ..disk(scratch, "/run/scratch") })
        .unwrap();
    machine.combine(ROOT, &["/run/layers/base"], "").unwrap();
    let root = "/run/gcs/c/full/rootfs";
    machine.combine(root, &["/run/layers/part", "/run/layers/base"], "/run/scratch/c").unwrap();
    let (code, said) = machine.run(root, &[], "cat /name; echo kept >/new; exit 7");
    assert_eq!((code, said.as_str()), (7, "top\n"));
    // Of a layer in use the disk cannot be taken.
    let device = ScsiDevice { controller: 1, lun: 0 };
    let refusal = machine.refusal(GuestRequest::remove(Resource::ScsiDevice(device)));
    assert!(refusal.contains("still in use at /run/layers/part"), "{refusal}");
    let script = "cat /mnt/layers/ext4/name /mnt/scratch/c/upper/new; touch /mnt/layers/ext4/x || echo read-only";
    let (_, said) = machine.run(ROOT, &[in_vm("/run")], script);
    assert_eq!(said, "top\nkept\nread-only\n");
    machine.separate(root).unwrap();
    for path in ["/run/layers/part", "/run/layers/ext4", "/run/scratch"] {
        machine.unmount(path).unwrap();
        machine.unmount(path).unwrap();
    }
    // The scratch keeps what was written when it comes again.
    machine
        .mount(MappedVirtualDisk { ensure_filesystem: true, ..disk(scratch, "/run/again") })
        .unwrap();
    let (_, said) = machine.run(ROOT, &[in_vm("/run")], "cat /mnt/again/c/upper/new");
    assert_eq!(said, "kept\n");
    machine.unmount("/run/again").unwrap();
    for slot in [partitioned, ext4, scratch] {
        machine.detach(slot);
    }
    // Unplugging what is gone is fine.
    let device = ScsiDevice { controller: 1, lun: 0 };
    machine.modify(GuestRequest::remove(Resource::ScsiDevice(device))).unwrap();
}

pub(crate) fn what_is_not_there_or_not_a_file_system(machine: &Machine, images: &Images) {
    let started = Instant::now();
    std::thread::scope(|scope| {
        let absent = scope.spawn(|| machine.refusal(added(layer(slot(3, 60), "/run/absent"))));
        let partition = MappedVirtualDisk { partition: 9, ..layer(BASE, "/run/absent2") };
        let partition = scope.spawn(|| machine.refusal(added(partition)));
        // Others are served meanwhile.
        machine.unmount("/run/nothing").unwrap();
        assert!(started.elapsed() < Duration::from_secs(4), "a wait for a device holds nobody up");
        for refusal in [absent, partition] {
            let refusal = refusal.join().unwrap();
            assert!(refusal.contains("did not appear within 5 s"), "{refusal}");
        }
    });
    assert!(started.elapsed() < Duration::from_secs(20));
    let blank = slot(1, 1);
    machine.attach(images, "raw", blank, false);
    let refusal = machine.refusal(added(disk(blank, "/run/blank")));
    assert!(refusal.contains("no file system that is known"), "{refusal}");
    // The same path again, this time right.
    machine.mount(MappedVirtualDisk { block_dev: true, ..disk(blank, "/run/blank") }).unwrap();
    let refusal = machine.refusal(added(layer(BASE, "/run/blank")));
    assert!(refusal.contains("something is there already"), "{refusal}");
    machine.unmount("/run/blank").unwrap();
    let verity = VerityInfo { root_digest: "x".to_owned(), ..Default::default() };
    for bad in [
        disk(slot(4, 0), "/run/bad"),
        disk(slot(0, 64), "/run/bad"),
        disk(BASE, "relative"),
        disk(BASE, "/run/../etc"),
        MappedVirtualDisk { encrypted: true, ..layer(BASE, "/run/bad") },
        MappedVirtualDisk { verity_info: Some(verity.clone()), ..layer(BASE, "/run/bad") },
        MappedVirtualDisk { filesystem: "nonesuch".to_owned(), ..layer(BASE, "/run/bad") },
        MappedVirtualDisk { options: vec!["nonesuch=1".to_owned()], ..layer(BASE, "/run/bad") },
        MappedVirtualDisk {
            ensure_filesystem: true,
            filesystem: "ntfs".to_owned(),
            ..disk(blank, "/run/bad")
        },
    ] {
        machine.refusal(added(bad));
    }
    machine.detach(blank);
}

pub(crate) fn scratches_are_made_kept_and_not_overwritten(machine: &Machine, images: &Images) {
    let at = slot(2, 2);
    machine.attach(images, "xfs", at, false);
    let xfs = MappedVirtualDisk {
        ensure_filesystem: true,
        filesystem: "xfs".to_owned(),
        ..disk(at, "/run/xfs")
    };
    machine.mount(xfs.clone()).unwrap();
    let (code, _) = machine.run(ROOT, &[in_vm("/run")], "echo mine >/mnt/xfs/file");
    assert_eq!(code, 0);
    machine.unmount("/run/xfs").unwrap();
    let refusal =
        machine.refusal(added(MappedVirtualDisk { filesystem: "ext4".to_owned(), ..xfs.clone() }));
    assert!(refusal.contains("holds xfs and not ext4; it is not overwritten"), "{refusal}");
    let options = ["noexec", "nodev", "rshared"].map(str::to_owned).into();
    machine.mount(MappedVirtualDisk { options, read_only: true, ..xfs }).unwrap();
    let script = "cat /mnt/xfs/file; grep ' /mnt/xfs ' /proc/mounts";
    let (_, said) = machine.run(ROOT, &[in_vm("/run")], script);
    assert!(said.starts_with("mine\n") && said.contains("xfs ro,nodev,noexec"), "{said}");
    machine.unmount("/run/xfs").unwrap();
    machine.detach(at);
}

pub(crate) fn an_encrypted_scratch_is_closed_again(machine: &Machine, images: &Images) {
    let at = slot(1, 5);
    machine.attach(images, "secret", at, false);
    let secret = || MappedVirtualDisk { encrypted: true, ..disk(at, "/run/secret") };
    machine.mount(secret()).unwrap();
    let script = "echo PLYWOOD-SECRET-WORDS >/mnt/secret/file; grep ' /mnt/secret ' /proc/mounts";
    let (_, said) = machine.run(ROOT, &[in_vm("/run")], script);
    assert!(said.contains(" xfs rw"), "{said}");
    machine.unmount("/run/secret").unwrap();
    // The key is gone, and the disk is free: it can be made anew, which needs the device.
    let refusal = machine.refusal(added(disk(at, "/run/secret")));
    assert!(refusal.contains("no file system that is known"), "{refusal}");
    machine.mount(MappedVirtualDisk { filesystem: "ext4".to_owned(), ..secret() }).unwrap();
    let (_, said) = machine.run(ROOT, &[in_vm("/run")], "ls /mnt/secret");
    assert_eq!(said, "lost+found\n");
    machine.unmount("/run/secret").unwrap();
    machine.detach(at);
    let found = Command::new("grep")
        .args(["--text", "--quiet", "PLYWOOD-SECRET-WORDS"])
        .arg(images.path("secret"))
        .status()
        .unwrap();
    assert_eq!(found.code(), Some(1), "the disk holds what was written in the clear");
}

pub(crate) fn a_hash_tree_proves_a_layer(machine: &Machine, images: &Images) {
    let (good, bad) = (slot(0, 9), slot(0, 10));
    let (size, root_digest) = images.verity("good", false);
    images.verity("bad", true);
    machine.attach(images, "good", good, true);
    machine.attach(images, "bad", bad, true);
    let verity = VerityInfo {
        ext4_size_in_bytes: size.cast_signed(),
        version: 1,
        algorithm: "sha256".to_owned(),
        root_digest,
        block_size: 4096,
        ..Default::default()
    };
    let proved =
        |at, path: &str| MappedVirtualDisk { verity_info: Some(verity.clone()), ..layer(at, path) };
    machine.mount(proved(good, "/run/good")).unwrap();
    let (_, said) = machine.run(ROOT, &[in_vm("/run")], "cat /mnt/good/name");
    assert_eq!(said, "top\n");
    machine.unmount("/run/good").unwrap();
    // What was changed is noticed when it is mounted or when it is read.
    match machine.mount(proved(bad, "/run/bad")) {
        Err(error) => assert!(error.to_string().contains("Input/output error"), "{error}"),
        Ok(()) => {
            let (_, said) =
                machine.run(ROOT, &[in_vm("/run")], "cat /mnt/bad/name || echo refused");
            assert_eq!(said, "refused\n");
            machine.unmount("/run/bad").unwrap();
        }
    }
    machine.detach(good);
    machine.detach(bad);
    let (data, tree) = (slot(0, 11), slot(3, 63));
    let (size, root_digest, salt) = images.tree("tree");
    machine.attach(images, "top.erofs", data, true);
    machine.attach(images, "tree", tree, true);
    let hash_device = ScsiDevice { controller: tree.controller, lun: tree.lun };
    let verity = VerityInfo {
        ext4_size_in_bytes: size.cast_signed(),
        super_block: true,
        root_digest,
        salt,
        hash_device: Some(hash_device),
        ..verity
    };
    let proved = |verity: VerityInfo| MappedVirtualDisk {
        verity_info: Some(verity),
        ..layer(data, "/run/proved")
    };
    let absent = ScsiDevice { controller: 4, lun: 0 };
    machine.refusal(added(proved(VerityInfo { hash_device: Some(absent), ..verity.clone() })));
    machine.mount(proved(verity.clone())).unwrap();
    let (_, said) = machine.run(ROOT, &[in_vm("/run")], "cat /mnt/proved/name");
    assert_eq!(said, "top\n");
    let refusal = machine.refusal(GuestRequest::remove(Resource::ScsiDevice(hash_device)));
    assert!(refusal.contains("still in use at /run/proved"), "{refusal}");
    machine.unmount("/run/proved").unwrap();
    // Of another layer's root hash nothing can be read, not even to mount it.
    let other = VerityInfo { root_digest: "5".repeat(64), ..verity };
    let refusal = machine.refusal(added(proved(other)));
    assert!(refusal.contains("Input/output error"), "{refusal}");
    machine.detach(data);
    machine.detach(tree);
}

pub(crate) fn a_block_device_reaches_a_container(machine: &Machine, images: &Images) {
    let at = slot(2, 1);
    machine.attach(images, "raw", at, false);
    machine
        .mount(MappedVirtualDisk { block_dev: true, ..disk(at, "/run/mounts/scsi/b0") })
        .unwrap();
    let mount = |options: Value| json!({"destination": "blockdev:///dev/data", "type": "bind", "source": "/run/mounts/scsi/b0", "options": options});
    let script = "echo words | dd of=/dev/data bs=512 conv=sync,fsync 2>/dev/null; dd if=/dev/data bs=6 count=1 2>/dev/null";
    let (code, said) = machine.run(ROOT, &[mount(json!([]))], script);
    assert_eq!((code, said.as_str()), (0, "words\n"));
    let script = "dd if=/dev/data bs=6 count=1 2>/dev/null; echo no >/dev/data || echo refused";
    let (_, said) = machine.run(ROOT, &[mount(json!(["ro"]))], script);
    assert_eq!(said, "words\nrefused\n");
    machine.unmount("/run/mounts/scsi/b0").unwrap();
    machine.detach(at);
}

pub(crate) fn persistent_memory_whole_and_in_parts(machine: &Machine, images: &Images) {
    machine.vm.add_pmem(0, None, &images.path("pmem"), true).unwrap();
    let whole = PmemDevice { mount_path: "/run/layers/p0".to_owned(), ..Default::default() };
    let add = |device: &PmemDevice| GuestRequest::add(Resource::VPMemDevice(device.clone()));
    let remove = |device: &PmemDevice| GuestRequest::remove(Resource::VPMemDevice(device.clone()));
    let part = |offset: u64, size: u64| PmemDevice {
        mount_path: format!("/run/layers/p0-{offset}-{size}"),
        mapping_info: Some(PmemMapping {
            device_offset_in_bytes: offset,
            device_size_in_bytes: size,
        }),
        ..Default::default()
    };
    machine.modify(add(&whole)).unwrap();
    let (_, said) = machine.run(ROOT, &[in_vm("/run/layers")], "cat /mnt/p0/name");
    assert_eq!(said, "top\n");
    // A part of what is mounted whole: an error at once, and not for ever.
    let (first, second) = (part(0, 1 << 20), part(1 << 20, 4 << 20));
    let started = Instant::now();
    let refusal = machine.refusal(add(&first));
    assert!(refusal.contains("busy"), "{refusal}");
    assert!(started.elapsed() < Duration::from_secs(4));
    machine.modify(remove(&whole)).unwrap();
    machine.modify(add(&first)).unwrap();
    machine.modify(add(&second)).unwrap();
    let script = "cat /mnt/p0-0-1048576/name /mnt/p0-1048576-4194304/name";
    let (_, said) = machine.run(ROOT, &[in_vm("/run/layers")], script);
    assert_eq!(said, "top\ntop\n");
    // The first part goes before the second, which stays.
    machine.modify(remove(&first)).unwrap();
    machine.modify(remove(&first)).unwrap();
    machine.modify(remove(&second)).unwrap();
    for (offset, size) in [(1, 512), (0, 1 << 30), (u64::MAX - 511, 512), (0, 0)] {
        machine.refusal(add(&part(offset, size)));
    }
    machine.modify(add(&whole)).unwrap();
    machine.modify(remove(&whole)).unwrap();
}

pub(crate) fn huge_pages_reach_a_container(machine: &Machine, _: &Images) {
    let mount = json!({"destination": "/mnt", "type": "bind", "source": "hugepages://2M/pool", "options": ["rw"]});
    let tmp = json!({"destination": "/tmp", "type": "bind", "source": "sandbox-tmp:///shared", "options": ["rw"]});
    let script = "grep ' /mnt ' /proc/mounts; touch /tmp/x && grep ' /tmp ' /proc/mounts";
    let (_, said) = machine.run(ROOT, &[mount, tmp], script);
    assert!(said.contains("hugetlbfs") && said.contains("pagesize=2M"), "{said}");
    assert!(said.contains(" /tmp tmpfs"), "{said}");
}

/// A loopback in the container's network or the machine's, and random numbers of the host.
pub(crate) fn a_machine_has_a_loopback_and_randomness(machine: &Machine, _: &Images) {
    let sys = in_vm("/sys/class/misc/hw_random");
    for namespaces in [&["pid", "mount", "network"][..], &["pid", "mount"]] {
        let script = "cat /mnt/rng_current /proc/net/fib_trie";
        let (_, said) = machine.run_in(namespaces, ROOT, std::slice::from_ref(&sys), script);
        assert!(said.contains("127.0.0.1"), "{namespaces:?}: {said}");
        assert!(said.starts_with("virtio_rng"), "{said}");
    }
}
