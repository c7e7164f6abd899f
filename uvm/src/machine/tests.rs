use std::collections::BTreeSet;
#[cfg(target_os = "linux")]
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bridge::{RequestType, Resource};
use proptest::prelude::*;

use crate::recording::{Call, Recording};
use crate::{
    Cancel, Capabilities, CombineRequest, Deadline, Error, ErrorKind, Machine, Result, ScsiDisk,
    ScsiKind, ScsiMount, ScsiSlot, ShareRequest, Vm,
};

const LONG: Duration = Duration::from_secs(60);

struct Bench {
    vm: Arc<Recording>,
    machine: Machine,
    run: tempfile::TempDir,
}

fn bench(vm: Recording) -> Bench {
    let vm = Arc::new(vm);
    let run = tempfile::tempdir().unwrap();
    let (machine, errors) = Machine::open(vm.clone(), run.path()).unwrap();
    assert!(errors.is_empty());
    Bench { vm, machine, run }
}

impl Bench {
    /// Nothing is attached, nothing impossible was asked for, and the journal knows of nothing.
    fn check_empty(&self) {
        assert!(self.vm.held().is_empty(), "{:#?}", self.vm.held());
        assert_eq!(self.vm.violations(), Vec::<String>::new());
        assert!(
            self.machine.inventory() == crate::Inventory::default(),
            "{:?}",
            self.machine.inventory()
        );
        let journal =
            <crate::journal::Journal>::open(&self.run.path().join(super::JOURNAL)).unwrap();
        assert!(journal.live().is_empty(), "{:?}", journal.live());
    }
}

fn soon() -> Deadline {
    Deadline::after(LONG)
}

fn disk(name: &str) -> ScsiDisk {
    let path = std::path::absolute("/images").unwrap().join(name);
    ScsiDisk { path, read_only: true, kind: ScsiKind::VirtualDisk }
}

fn read_only() -> ScsiMount {
    ScsiMount { read_only: true, ..ScsiMount::default() }
}

fn at(path: &str) -> ScsiMount {
    ScsiMount { path: Some(path.to_owned()), ..read_only() }
}

fn combination(root: &str) -> CombineRequest {
    CombineRequest {
        container_id: "c".into(),
        root: root.into(),
        layers: vec!["/run/mounts/scsi/m0".into()],
        scratch: None,
    }
}

/// What the calls were, in short.
fn words(vm: &Recording) -> Vec<String> {
    let word = |call: &Call| match call {
        Call::AddScsi(slot, _) => format!("add {slot}"),
        Call::RemoveScsi(slot) => format!("remove {slot}"),
        Call::AddPmem(device, range, _) => {
            format!("add pmem {device} {:?}", range.map(|range| range.offset))
        }
        Call::RemovePmem(device, range) => {
            format!("remove pmem {device} {:?}", range.map(|range| range.offset))
        }
        Call::AddShare(share) => format!("add share {}", share.name),
        Call::RemoveShare(name) => format!("remove share {name}"),
        Call::Guest(request) => {
            let what = if request.request_type == RequestType::Add { "mount" } else { "unmount" };
            match &request.resource {
                Resource::MappedVirtualDisk(disk) => format!("{what} {}", disk.mount_path),
                Resource::VPMemDevice(pmem) => format!("{what} {}", pmem.mount_path),
                Resource::MappedDirectory(share) => format!("{what} {}", share.mount_path),
                Resource::CombinedLayers(layers) => {
                    format!("{what} {}", layers.container_root_path)
                }
                Resource::ScsiDevice(device) => {
                    format!("unplug {}:{}", device.controller, device.lun)
                }
                other => format!("{what} {}", other.name()),
            }
        }
    };
    vm.calls().iter().map(word).collect()
}

#[test]
fn the_host_adds_first_and_the_guest_removes_first() {
    let bench = bench(Recording::default());
    let guard = bench.machine.attach_scsi(&disk("a"), Some(&read_only()), &soon()).unwrap();
    assert_eq!(guard.guest_path(), Some("/run/mounts/scsi/m0"));
    guard.release().unwrap();
    let m0 = "/run/mounts/scsi/m0";
    assert_eq!(
        words(&bench.vm),
        [
            "add 0:0".into(),
            format!("mount {m0}"),
            format!("unmount {m0}"),
            "unplug 0:0".into(),
            "remove 0:0".into()
        ]
    );
    bench.check_empty();
}

#[test]
fn equal_disks_and_mounts_are_shared_and_others_are_not() {
    let bench = bench(Recording::default());
    let attach = |disk: &ScsiDisk, mount: Option<&ScsiMount>| {
        bench.machine.attach_scsi(disk, mount, &soon())
    };
    let a = attach(&disk("a"), Some(&at("/a"))).unwrap();
    let options = ScsiMount { options: vec!["x".into(), "b".into()], ..read_only() };
    let same = attach(&disk("a"), Some(&at("/elsewhere"))).unwrap();
    assert_eq!((same.slot(), same.guest_path()), (a.slot(), Some("/a")));
    let other_mount = attach(&disk("a"), Some(&options)).unwrap();
    assert_eq!(
        other_mount.guest_path(),
        Some("/run/mounts/scsi/m1"),
        "one index is the explicit path's"
    );
    let sorted = ScsiMount { options: vec!["b".into(), "x".into()], ..read_only() };
    let same_options = attach(&disk("a"), Some(&sorted)).unwrap();
    assert_eq!(same_options.guest_path(), other_mount.guest_path());
    let only = attach(&disk("a"), None).unwrap();
    assert_eq!((only.slot(), only.guest_path()), (a.slot(), None));
    let writable = ScsiDisk { read_only: false, ..disk("a") };
    let other_disk = attach(&writable, None).unwrap();
    assert_ne!(other_disk.slot(), a.slot());
    let taken = attach(&disk("b"), Some(&at("/a"))).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
    let clash = bench.machine.combine(&combination("/a"), &soon()).unwrap_err();
    assert_eq!(clash.kind(), ErrorKind::AlreadyExists);
    assert_eq!(bench.machine.disk_on("/a").unwrap().slot, a.slot());
    assert_eq!(bench.machine.disk_on("/b").unwrap_err().kind(), ErrorKind::NotAttached);
    let nobody = ScsiSlot { controller: 3, lun: 63 };
    assert_eq!(bench.machine.disk_at(nobody).unwrap_err().kind(), ErrorKind::NotAttached);
    for guard in [a, other_mount, only, same, other_disk] {
        guard.release().unwrap();
    }
    assert_eq!(bench.vm.held().disks.len(), 1);
    drop(same_options);
    bench.check_empty();
}

#[test]
fn slots_are_given_out_in_order_but_for_reserved_ones_until_all_are_taken() {
    let reserved = ScsiSlot { controller: 0, lun: 0 };
    let can = Recording::default().capabilities();
    let bench = bench(Recording::new(Capabilities { reserved_slots: vec![reserved], ..can }));
    let all: Vec<ScsiSlot> = (0..4)
        .flat_map(|controller| (0..64).map(move |lun| ScsiSlot { controller, lun }))
        .skip(1)
        .collect();
    let attach = |index: usize| {
        bench.machine.attach_scsi(&disk(&index.to_string()), Some(&read_only()), &soon())
    };
    let mut guards: Vec<_> = (0..255).map(|index| attach(index).unwrap()).collect();
    assert_eq!(guards.iter().map(super::ScsiGuard::slot).collect::<Vec<_>>(), all);
    assert_eq!(guards[254].guest_path(), Some("/run/mounts/scsi/m254"));
    let error = attach(255).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoAvailableLocation);
    assert!(error.to_string().contains("no available location"), "{error}");
    drop(guards.remove(100));
    assert_eq!(attach(255).unwrap().slot(), all[100]);
    drop(guards);
    bench.check_empty();
}

/// Everything there is, one after the other; what was attached is let go of on failure.
fn everything(machine: &Machine, host: &Path) -> Result<()> {
    let image = host.join("image");
    let scratch = ScsiDisk { read_only: false, ..disk("scratch") };
    let encrypted = ScsiMount { encrypted: true, ..ScsiMount::default() };
    let share = ShareRequest {
        host: host.to_owned(),
        guest_path: "/run/gcs/c/c/mounts/m0".into(),
        read_only: false,
        allowed: Some(BTreeSet::from(["x".into()])),
    };
    let pmem = machine.attach_pmem(&image, &soon())?;
    let layer = machine.attach_scsi(&disk("layer"), Some(&read_only()), &soon())?;
    let scratch = machine.attach_scsi(&scratch, Some(&encrypted), &soon())?;
    let combined = machine.combine(&combination("/run/gcs/c/c/rootfs"), &soon())?;
    let share = machine.share(&share, &soon())?;
    share.release()?;
    combined.release()?;
    scratch.release()?;
    layer.release()?;
    pmem.release()
}

fn host() -> tempfile::TempDir {
    let host = tempfile::tempdir().unwrap();
    std::fs::write(host.path().join("image"), [1; 4096]).unwrap();
    host
}

fn call_count() -> usize {
    let bench = bench(Recording::default());
    everything(&bench.machine, host().path()).unwrap();
    bench.check_empty();
    bench.vm.calls().len()
}

#[test]
fn a_fault_at_any_call_leaves_nothing_that_cannot_be_settled() {
    let host = host();
    for kind in [ErrorKind::Guest, ErrorKind::Deadline, ErrorKind::Io] {
        for number in 0..call_count() {
            let bench = bench(Recording::default());
            bench.vm.fail_at(number, Error::new(kind, "a fault"));
            let error = everything(&bench.machine, host.path()).unwrap_err();
            assert_eq!(error.kind(), kind, "call {number}");
            bench.machine.settle().unwrap();
            bench.check_empty();
        }
    }
}

#[test]
fn a_fault_while_attaching_is_undone_at_once() {
    let host = host();
    let adds = |word: &String| word.starts_with("add") || word.starts_with("mount");
    let calls = {
        let bench = bench(Recording::default());
        everything(&bench.machine, host.path()).unwrap();
        words(&bench.vm)
    };
    for (number, _) in calls.iter().enumerate().filter(|(_, word)| adds(word)) {
        let bench = bench(Recording::default());
        bench.vm.fail_at(number, Error::guest("x", -2_147_467_259, "EINVAL"));
        let error = everything(&bench.machine, host.path()).unwrap_err();
        assert_eq!(error.guest_result(), Some(-2_147_467_259), "{error:?}");
        bench.check_empty();
    }
}

#[test]
fn a_machine_that_dies_at_any_call_is_an_error_and_nothing_is_held() {
    let host = host();
    for number in 0..call_count() {
        let bench = bench(Recording::default());
        bench.vm.die_at(number);
        let result = everything(&bench.machine, host.path());
        if let Err(error) = result {
            assert_eq!(error.kind(), ErrorKind::Dead, "call {number}");
        }
        assert!(bench.machine.attach_scsi(&disk("later"), None, &soon()).is_err());
        bench.check_empty();
    }
}

#[test]
fn an_unmount_that_fails_keeps_the_disk_and_its_slot() {
    let bench = bench(Recording::default());
    let guard = bench.machine.attach_scsi(&disk("a"), Some(&at("/a")), &soon()).unwrap();
    bench.vm.fail_at(2, Error::guest("unmount", -2_147_467_259, "EBUSY"));
    let error = guard.release().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Guest);
    assert_eq!(bench.vm.held().disks.len(), 1, "a mounted disk is not pulled out");
    assert!(bench.machine.disk_on("/a").unwrap().mounts[0].stuck);
    let other = bench.machine.attach_scsi(&disk("b"), None, &soon()).unwrap();
    assert_eq!(other.slot(), ScsiSlot { controller: 0, lun: 1 });
    // The next equal request finishes what was begun, and then begins anew.
    let again = bench.machine.attach_scsi(&disk("a"), Some(&read_only()), &soon()).unwrap();
    drop((again, other));
    bench.check_empty();
}

#[test]
fn a_waiter_that_gives_up_gives_back_its_count() {
    let bench = bench(Recording::default().with_delay(Duration::from_millis(150)));
    let machine = bench.machine.clone();
    let first = thread::spawn(move || machine.attach_scsi(&disk("a"), None, &soon()).unwrap());
    thread::sleep(Duration::from_millis(50));
    let hurried = Deadline::after(Duration::from_millis(20));
    let error = bench.machine.attach_scsi(&disk("a"), None, &hurried).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline);
    let cancel = Cancel::new();
    cancel.cancel();
    let cancelled = Deadline::never().with_cancel(cancel);
    let error = bench.machine.attach_scsi(&disk("a"), None, &cancelled).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let first = first.join().unwrap();
    assert_eq!(bench.machine.disk_at(first.slot()).unwrap().users, 1);
    first.release().unwrap();
    bench.check_empty();
}

#[test]
fn those_who_wait_share_a_refusal_but_not_somebody_else_s_impatience() {
    for (kind, shared) in [(ErrorKind::Io, true), (ErrorKind::Cancelled, false)] {
        let bench = bench(Recording::default().with_delay(Duration::from_millis(100)));
        bench.vm.fail_at(0, Error::new(kind, "a fault"));
        let attach = || {
            let machine = bench.machine.clone();
            let thread = thread::spawn(move || machine.attach_scsi(&disk("a"), None, &soon()));
            thread::sleep(Duration::from_millis(30));
            thread
        };
        let (first, second) = (attach(), attach());
        assert_eq!(first.join().unwrap().unwrap_err().kind(), kind);
        assert_eq!(second.join().unwrap().is_err(), shared);
        assert_eq!(bench.vm.calls().len(), if shared { 1 } else { 4 }, "{:?}", words(&bench.vm));
        bench.check_empty();
    }
}

#[test]
fn different_things_do_not_wait_for_each_other() {
    let bench = bench(Recording::default().with_delay(Duration::from_millis(50)));
    let start = Instant::now();
    thread::scope(|scope| {
        for index in 0..40 {
            let machine = &bench.machine;
            scope.spawn(move || {
                let guard = machine
                    .attach_scsi(&disk(&index.to_string()), Some(&read_only()), &soon())
                    .unwrap();
                guard.release().unwrap();
            });
        }
    });
    // Each takes 5 calls of 50 ms; one after the other that would be 10 s.
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    bench.check_empty();
}

#[test]
fn pmem_that_cannot_be_removed_is_found_again() {
    let can = Recording::default().capabilities();
    let bench =
        bench(Recording::new(Capabilities { pmem_removable: false, pmem_devices: 1, ..can }));
    let host = host();
    let image = host.path().join("image");
    for _ in 0..2 {
        let guard = bench.machine.attach_pmem(&image, &soon()).unwrap();
        assert_eq!((guard.guest_path(), guard.device()), ("/run/layers/p0", 0));
        guard.release().unwrap();
    }
    let p0 = "/run/layers/p0";
    let expected = [
        "add pmem 0 None".to_owned(),
        format!("mount {p0}"),
        format!("unmount {p0}"),
        format!("mount {p0}"),
        format!("unmount {p0}"),
    ];
    assert_eq!(words(&bench.vm), expected);
    let other = host.path().join("other");
    std::fs::write(&other, b"x").unwrap();
    let error = bench.machine.attach_pmem(&other, &soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoAvailableLocation);
    assert_eq!(bench.machine.inventory().pmem[0].users, 0);
}

#[test]
fn packed_pmem_lies_side_by_side() {
    let can = Recording::default().capabilities();
    let bench = bench(Recording::new(Capabilities {
        pmem_packed: true,
        pmem_devices: 2,
        pmem_max: 16 << 20,
        ..can
    }));
    let host = host();
    let sized = |name: &str, size: u64| {
        let path = host.path().join(name);
        std::fs::File::create(&path).unwrap().set_len(size).unwrap();
        path
    };
    let attach = |path: &Path| bench.machine.attach_pmem(path, &soon());
    let first = attach(&sized("a", 5000)).unwrap();
    assert_eq!(first.guest_path(), "/run/layers/p0-0-8192");
    let second = attach(&sized("b", 1 << 20)).unwrap();
    assert_eq!(second.guest_path(), "/run/layers/p0-1048576-1048576");
    let third = attach(&sized("c", 16 << 20)).unwrap();
    assert_eq!(third.guest_path(), "/run/layers/p1-0-16777216");
    assert_eq!(attach(&sized("d", 16 << 20)).unwrap_err().kind(), ErrorKind::NoAvailableLocation);
    assert_eq!(attach(&sized("e", (16 << 20) + 1)).unwrap_err().kind(), ErrorKind::TooLarge);
    first.release().unwrap();
    let again = attach(&sized("f", 1)).unwrap();
    assert_eq!(again.guest_path(), "/run/layers/p0-0-4096");
    drop((second, third, again));
    bench.check_empty();
}

#[test]
fn what_cannot_be_is_refused_before_anything_happens() {
    let can = Recording::default().capabilities();
    let bench = bench(Recording::new(Capabilities {
        pass_through: false,
        extensible: false,
        writable_shares: false,
        ..can
    }));
    let host = host();
    let attach = |disk: &ScsiDisk, mount: &ScsiMount| {
        bench.machine.attach_scsi(disk, Some(mount), &soon()).unwrap_err().kind()
    };
    let of_kind = |kind: ScsiKind| ScsiDisk { kind, ..disk("a") };
    assert_eq!(attach(&of_kind(ScsiKind::PassThrough), &read_only()), ErrorKind::Unsupported);
    assert_eq!(
        attach(&of_kind(ScsiKind::Extensible("x".into())), &read_only()),
        ErrorKind::Unsupported
    );
    for path in ["", "/", "a", "/a/", "/a//b", "/a/../b", "/a/.", "/a\0"] {
        assert_eq!(attach(&disk("a"), &at(path)), ErrorKind::Invalid, "{path:?}");
    }
    let relative = ScsiDisk { path: "a".into(), ..disk("a") };
    assert_eq!(attach(&relative, &read_only()), ErrorKind::Invalid);
    let share = |path: PathBuf, read_only: bool| {
        let request =
            ShareRequest { host: path, guest_path: "/m".into(), read_only, allowed: None };
        bench.machine.share(&request, &soon()).unwrap_err().kind()
    };
    assert_eq!(share(host.path().to_owned(), false), ErrorKind::Unsupported);
    assert_eq!(share(host.path().join("image"), true), ErrorKind::Invalid);
    assert_eq!(share(host.path().join("none"), true), ErrorKind::NotFound);
    let pmem = |path: &Path| bench.machine.attach_pmem(path, &soon()).unwrap_err().kind();
    assert_eq!(pmem(&host.path().join("none")), ErrorKind::NotFound);
    assert_eq!(pmem(host.path()), ErrorKind::Invalid);
    let none = CombineRequest { layers: Vec::new(), ..combination("/r") };
    assert_eq!(bench.machine.combine(&none, &soon()).unwrap_err().kind(), ErrorKind::Invalid);
    assert!(bench.vm.calls().is_empty());
    bench.check_empty();
}

/// Run in a process of its own by the test below, which kills it.
#[test]
#[ignore = "a part of another test, which starts it"]
fn part_of_the_killed_owner() {
    let directory = PathBuf::from(std::env::var_os("UVM_TEST_DIRECTORY").unwrap());
    let vm = Arc::new(Recording::default().kept_in(&directory.join("held")).unwrap());
    let (machine, _) = Machine::open(vm, &directory).unwrap();
    everything(&machine, &directory.join("host")).unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn an_owner_killed_at_any_journaled_step_leaves_nothing_that_the_next_does_not_detach() {
    let mut kills = 0;
    for point in
        ["uvm-intended", "uvm-done", "uvm-recorded", "uvm-undoing", "uvm-undone", "uvm-gone"]
    {
        for count in 1.. {
            let directory = tempfile::tempdir().unwrap();
            let host = directory.path().join("host");
            std::fs::create_dir(&host).unwrap();
            std::fs::write(host.join("image"), [1; 4096]).unwrap();
            let output = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "--ignored", "machine::tests::part_of_the_killed_owner"])
                .env("UVM_TEST_DIRECTORY", directory.path())
                .env("PLYWOOD_FAILPOINT", format!("{point}:{count}"))
                .output()
                .unwrap();
            let killed = output.status.signal().is_some();
            assert!(killed || output.status.success(), "{output:?}");
            let vm =
                Arc::new(Recording::default().kept_in(&directory.path().join("held")).unwrap());
            let held = vm.held();
            let (machine, errors) = Machine::open(vm.clone(), directory.path()).unwrap();
            assert!(errors.is_empty(), "{point}:{count}: {errors:?}");
            let bench = Bench { vm, machine, run: directory };
            bench.check_empty();
            // It can be used again, and share names are not given out twice.
            drop(bench.machine.attach_scsi(&disk("layer"), Some(&read_only()), &soon()).unwrap());
            bench.check_empty();
            if !killed {
                assert!(held.is_empty());
                break;
            }
            kills += 1;
        }
    }
    // 9 steps are taken and 9 are undone, at three points each.
    assert_eq!(kills, 54);
}

#[test]
fn what_resists_the_next_owner_keeps_its_place_until_it_can_be_undone() {
    let bench = bench(Recording::default());
    let guard = bench.machine.attach_scsi(&disk("a"), Some(&at("/a")), &soon()).unwrap();
    // An owner that dies does not release.
    std::mem::forget(guard);
    let calls = bench.vm.calls().len();
    bench.vm.fail_at(calls, Error::guest("unmount", -1, "EBUSY"));
    let (machine, errors) = Machine::open(bench.vm.clone(), bench.run.path()).unwrap();
    // The mount resisted, and so its disk did.
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert_eq!(machine.inventory().leftover, 2);
    let other = machine.attach_scsi(&disk("b"), None, &soon()).unwrap();
    assert_eq!(other.slot().lun, 1);
    let taken = machine.attach_scsi(&disk("b"), Some(&at("/a")), &soon()).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
    drop(other);
    machine.settle().unwrap();
    assert!(bench.vm.held().is_empty());
    assert_eq!(machine.inventory(), crate::Inventory::default());
}

#[derive(Debug, Clone)]
enum Act {
    Attach {
        disk: u8,
        mount: Option<u8>,
    },
    Share(u8),
    Combine(u8),
    Pmem(u8),
    /// Lets go of the n-th of what the thread holds.
    Release(prop::sample::Index),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0_u8..4, proptest::option::of(0_u8..3)).prop_map(|(disk, mount)| Act::Attach { disk, mount }),
        1 => (0_u8..2).prop_map(Act::Share),
        1 => (0_u8..2).prop_map(Act::Combine),
        1 => (0_u8..3).prop_map(Act::Pmem),
        5 => any::<prop::sample::Index>().prop_map(Act::Release),
    ]
}

/// Whatever a guard is for.
type Held = Box<dyn FnOnce() -> Result<()>>;

fn perform(machine: &Machine, host: &Path, act: &Act) -> Result<Option<Held>> {
    macro_rules! held {
        ($guard:expr) => {{
            let guard = $guard;
            Some(Box::new(move || guard.release()) as Held)
        }};
    }
    Ok(match act {
        Act::Attach { disk: number, mount } => {
            let mount =
                mount.map(|number| ScsiMount { partition: u64::from(number), ..read_only() });
            held!(machine.attach_scsi(&disk(&number.to_string()), mount.as_ref(), &soon())?)
        }
        Act::Share(number) => {
            let guest_path = format!("/share/{number}");
            let request =
                ShareRequest { host: host.to_owned(), guest_path, read_only: true, allowed: None };
            held!(machine.share(&request, &soon())?)
        }
        Act::Combine(number) => {
            held!(machine.combine(&combination(&format!("/root/{number}")), &soon())?)
        }
        Act::Pmem(number) => held!(machine.attach_pmem(&host.join(number.to_string()), &soon())?),
        Act::Release(_) => None,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn threads_that_attach_release_and_fail_leave_nothing(
        threads in proptest::collection::vec(proptest::collection::vec(act(), 1..25), 1..5),
        faults in proptest::collection::btree_set(0_usize..120, 0..12),
        packed in any::<bool>(),
    ) {
        let can = Recording::default().capabilities();
        let bench = bench(
            Recording::new(Capabilities { pmem_packed: packed, pmem_devices: 2, ..can }).with_delay(Duration::from_micros(50)),
        );
        for number in faults {
            let kind = [ErrorKind::Guest, ErrorKind::Deadline, ErrorKind::Cancelled][number % 3];
            bench.vm.fail_at(number, Error::new(kind, "a fault"));
        }
        let host = tempfile::tempdir().unwrap();
        for number in 0..3 {
            std::fs::write(host.path().join(number.to_string()), [0; 10]).unwrap();
        }
        let expected = [ErrorKind::Guest, ErrorKind::Deadline, ErrorKind::Cancelled, ErrorKind::AlreadyExists,
            ErrorKind::NoAvailableLocation];
        thread::scope(|scope| {
            for acts in &threads {
                let (machine, host) = (&bench.machine, host.path());
                scope.spawn(move || {
                    let mut held: Vec<Held> = Vec::new();
                    for act in acts {
                        if let Act::Release(which) = act
                            && !held.is_empty()
                        {
                            let _ = held.swap_remove(which.index(held.len()))();
                        }
                        match perform(machine, host, act) {
                            Ok(guard) => held.extend(guard),
                            Err(error) => assert!(expected.contains(&error.kind()), "{error:?}"),
                        }
                    }
                    // Those that are left are dropped, not released: a closure that is not called drops its guard.
                });
            }
        });
        bench.vm.heal();
        prop_assert!(bench.machine.settle().is_ok());
        bench.check_empty();
    }

    /// One thread, no faults: after every act the machine holds exactly what the model says.
    #[test]
    fn a_machine_holds_what_its_users_need(acts in proptest::collection::vec(act(), 1..40)) {
        let bench = bench(Recording::default());
        let host = tempfile::tempdir().unwrap();
        for number in 0..3 {
            std::fs::write(host.path().join(number.to_string()), [0; 10]).unwrap();
        }
        let mut held: Vec<(String, Held)> = Vec::new();
        for act in acts {
            if let Act::Release(which) = &act {
                if !held.is_empty() {
                    prop_assert!(held.swap_remove(which.index(held.len())).1().is_ok());
                }
            } else if let Ok(Some(guard)) = perform(&bench.machine, host.path(), &act) {
                held.push((format!("{act:?}"), guard));
            } else {
                let twice = held.iter().any(|(other, _)| *other == format!("{act:?}"));
                prop_assert!(matches!(act, Act::Combine(_)) && twice, "only a second root is refused");
            }
            let distinct: BTreeSet<&str> = held.iter().map(|(what, _)| what.as_str()).collect();
            let count = |start: &str| distinct.iter().filter(|what| what.starts_with(start)).count();
            let disks: BTreeSet<&str> = distinct.iter().filter(|what| what.starts_with("Attach")).map(|what| &what[..17]).collect();
            let now = bench.vm.held();
            prop_assert_eq!(now.disks.len(), disks.len());
            prop_assert_eq!(now.pmem.len(), count("Pmem"));
            prop_assert_eq!(now.shares.len(), count("Share"));
            let attached_only = distinct.iter().filter(|what| what.ends_with("mount: None }")).count();
            prop_assert_eq!(now.mounts.len(), distinct.len() - attached_only);
            prop_assert_eq!(bench.vm.violations(), Vec::<String>::new());
        }
        drop(held);
        bench.check_empty();
    }
}
