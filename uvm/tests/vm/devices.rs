//! Every kind of device, added to and removed from a running guest.

use std::process::Command;
use std::time::{Duration, Instant};

use uvm::{CombineRequest, ErrorKind, LUNS, ScsiDisk, ScsiMount, ShareRequest};

use crate::bench::{disk, erofs, layer, shared, soon};

#[test]
fn vm_layers_come_and_go_and_cannot_be_written() {
    let (own, _turn) = shared();
    let directory = tempfile::tempdir().unwrap();
    let image = erofs(directory.path(), "a");
    let before = std::fs::read(&image).unwrap();
    let guard = own.machine.attach_scsi(&disk(&image), Some(&layer()), &soon()).unwrap();
    let path = guard.guest_path().unwrap().to_owned();
    assert_eq!(own.shell(&format!("cat {path}/a")), "a");
    let (said, code) = own.try_shell(&format!("echo x > {path}/b"));
    assert!(code != 0 && said.contains("Read-only"), "{said}");
    // Not even past the file system.
    let node = format!("/dev/$(ls /sys/bus/scsi/devices/*:0:0:{}/block)", guard.slot().lun);
    let (said, code) =
        own.try_shell(&format!("dd if=/dev/zero of={node} bs=512 count=1 conv=fsync"));
    assert!(code != 0, "{said}");
    assert_eq!(std::fs::read(&image).unwrap(), before);
    let slot = guard.slot();
    guard.release().unwrap();
    let listed = own.shell("ls /sys/bus/scsi/devices");
    assert!(!listed.contains(&format!(":0:0:{}\n", slot.lun)), "{listed}");
    assert_eq!(own.machine.disk_at(slot).unwrap_err().kind(), ErrorKind::NotAttached);
}

#[test]
fn vm_disks_of_every_format_keep_what_is_written() {
    let (own, _turn) = shared();
    let directory = tempfile::tempdir().unwrap();
    for (name, format) in
        [("raw.img", "raw"), ("a.vhd", "vpc"), ("b.vhdx", "vhdx"), ("fixed.vhd", "vpc")]
    {
        let path = directory.path().join(name);
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q", "-f", format]).arg(&path).arg("64M");
        if name == "fixed.vhd" {
            create.args(["-o", "subformat=fixed"]);
        }
        let output = create.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let disk = ScsiDisk { read_only: false, ..disk(&path) };
        let mount = ScsiMount {
            ensure_filesystem: true,
            filesystem: Some("ext4".into()),
            ..ScsiMount::default()
        };
        for round in ["first", "second"] {
            let guard = own.machine.attach_scsi(&disk, Some(&mount), &soon()).unwrap();
            let file = format!("{}/file", guard.guest_path().unwrap());
            if round == "first" {
                own.shell(&format!("echo {name} > {file}"));
            }
            assert_eq!(own.shell(&format!("cat {file}")), format!("{name}\n"));
            // A disk that is written to cannot be attached a second time by another name.
            let twin = ScsiDisk { read_only: true, ..disk.clone() };
            assert_eq!(
                own.machine.attach_scsi(&twin, None, &soon()).unwrap_err().kind(),
                ErrorKind::Busy
            );
            guard.release().unwrap();
        }
    }
}

#[test]
fn vm_what_is_no_layer_is_refused_and_detached() {
    let (own, _turn) = shared();
    let directory = tempfile::tempdir().unwrap();
    let rubbish = directory.path().join("rubbish");
    std::fs::write(&rubbish, vec![0x5a; 1 << 20]).unwrap();
    let before = own.machine.inventory();
    let error = own.machine.attach_scsi(&disk(&rubbish), Some(&layer()), &soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Guest, "{error:?}");
    assert!(error.guest_result().is_some_and(|result| result < 0));
    let partition = ScsiMount { partition: 3, ..layer() };
    let image = erofs(directory.path(), "a");
    let error = own.machine.attach_scsi(&disk(&image), Some(&partition), &soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Guest, "{error:?}");
    let gone =
        own.machine.attach_scsi(&disk(directory.path().join("gone")), None, &soon()).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    assert_eq!(own.machine.inventory(), before);
}

#[test]
fn vm_all_slots_are_used_and_130_layers_make_a_root() {
    let (own, _turn) = shared();
    let directory = tempfile::tempdir().unwrap();
    let images: Vec<_> =
        (0..130).map(|index| erofs(directory.path(), &format!("f{index}"))).collect();
    let start = Instant::now();
    let mut layers = Vec::new();
    let mut paths = Vec::new();
    for image in &images {
        let guard = own.machine.attach_scsi(&disk(image), Some(&layer()), &soon()).unwrap();
        paths.push(guard.guest_path().unwrap().to_owned());
        layers.push(guard);
    }
    eprintln!("130 layers attached and mounted in {:?}", start.elapsed());
    let request = CombineRequest {
        container_id: "many".into(),
        root: "/run/gcs/c/many/rootfs".into(),
        layers: paths,
        scratch: None,
    };
    let root = own.machine.combine(&request, &soon()).unwrap();
    let script = format!("cd {}; ls | wc -l; cat f0 f64 f129", root.guest_path());
    let said = own.shell(&script);
    assert!(said.starts_with("130\n") && said.ends_with("f0f64f129"), "{said}");
    // The rest of the slots only attached; the first is the tools'.
    let start = Instant::now();
    let others: Vec<_> = (131..256)
        .map(|index| {
            let path = directory.path().join(format!("empty{index}"));
            std::fs::write(&path, [0; 4096]).unwrap();
            own.machine.attach_scsi(&disk(&path), None, &soon()).unwrap()
        })
        .collect();
    eprintln!("125 more attached in {:?}", start.elapsed());
    let last = others.last().unwrap().slot();
    assert_eq!((last.controller, last.lun), (3, LUNS - 1));
    let error = own.machine.attach_scsi(&disk(&images[0]), None, &soon()).map(|guard| guard.slot());
    assert_eq!(error.unwrap(), layers[0].slot(), "an equal one is shared though all are taken");
    std::fs::write(directory.path().join("one more"), [0; 4096]).unwrap();
    let full = own
        .machine
        .attach_scsi(&disk(directory.path().join("one more")), None, &soon())
        .unwrap_err();
    assert_eq!(full.kind(), ErrorKind::NoAvailableLocation);
    // Hot-plug events may still be on their way.
    let until = Instant::now() + Duration::from_secs(30);
    while own.shell("ls /sys/bus/scsi/devices | grep -c :0:0:").trim() != "256" {
        assert!(Instant::now() < until, "not all disks have come");
    }
    let start = Instant::now();
    root.release().unwrap();
    // Each waits for the guest's kernel; together they take a third of the time.
    let mut guards: Vec<_> = layers.into_iter().chain(others).collect();
    std::thread::scope(|scope| {
        while !guards.is_empty() {
            let some = guards.split_off(guards.len().saturating_sub(32));
            scope.spawn(|| some.into_iter().for_each(|guard| guard.release().unwrap()));
        }
    });
    eprintln!("255 detached in {:?}", start.elapsed());
    assert_eq!(own.shell("ls /sys/bus/scsi/devices | grep -c :0:0:").trim(), "1");
    assert_eq!(own.machine.inventory().disks.len(), 1);
}

#[test]
fn vm_shares_are_read_and_written_as_far_as_they_allow() {
    let (own, _turn) = shared();
    let host = tempfile::tempdir().unwrap();
    for name in ["one", "two"] {
        std::fs::write(host.path().join(name), name).unwrap();
    }
    let share = |path: &str, read_only: bool, allowed: Option<&str>| {
        let request = ShareRequest {
            host: host.path().to_owned(),
            guest_path: path.into(),
            read_only,
            allowed: allowed.map(|name| [name.into()].into()),
        };
        own.machine.share(&request, &soon()).unwrap()
    };
    let all = share("/run/mounts/all", false, None);
    let one = share("/run/mounts/one", true, Some("one"));
    assert_eq!(own.shell("cat /run/mounts/all/two; echo three > /run/mounts/all/three"), "two");
    assert_eq!(std::fs::read_to_string(host.path().join("three")).unwrap(), "three\n");
    assert_eq!(own.shell("ls /run/mounts/one"), "one\n");
    let (said, code) = own.try_shell("echo x > /run/mounts/one/one");
    assert!(code != 0 && said.contains("Read-only"), "{said}");
    all.release().unwrap();
    one.release().unwrap();
    let (said, code) = own.try_shell("cat /run/mounts/all/two");
    assert!(code != 0, "{said}");
    assert!(own.machine.inventory().shares.is_empty());
}

#[test]
fn vm_pmem_holds_a_layer_and_is_found_again() {
    let (own, _turn) = shared();
    let directory = tempfile::tempdir().unwrap();
    let image = erofs(directory.path(), "p");
    std::fs::File::options().write(true).open(&image).unwrap().set_len(4 << 20).unwrap();
    for _ in 0..2 {
        let guard = own.machine.attach_pmem(&image, &soon()).unwrap();
        assert_eq!(guard.guest_path(), "/run/layers/p0");
        assert_eq!(own.shell("cat /run/layers/p0/p"), "p");
        guard.release().unwrap();
    }
    let (said, code) = own.try_shell("dd if=/dev/zero of=/dev/pmem0 bs=4096 count=1 conv=fsync");
    assert!(code != 0, "{said}");
}
