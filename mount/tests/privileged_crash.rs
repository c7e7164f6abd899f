//! Killed at every failpoint, then reconciled: nothing is leaked, nothing in use is unmounted.
//!
//! The killed process is this test binary again, running only [`privileged_child`].
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "test code")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mount::{ActivateOptions, Backing, Holder, HolderKind, Mount, MountOptions, Registry};
use store::{Chain, ScratchPaths};
use support::{Bench, chain, container, eventually, loops_below, names_in, user};

/// What the child does, in the order in which it does it.
const WORK: &str = "PLYWOOD_TEST_WORK";
const HOME: &str = "PLYWOOD_TEST_HOME";

/// Every failpoint that the activating child passes besides.
const ACTIVATION_POINTS: [&str; 13] = [
    "activation-intended",
    "activation-directory",
    "volumes-intended",
    "volume-attached",
    "scratch-formatted",
    "activation-mounted",
    "activation-linked",
    "activated",
    "activation-unmounted",
    "activation-cleared",
    "deactivated",
    "volume-undone",
    "held",
];
/// Every failpoint that the child's work passes.
const WORK_POINTS: [&str; 14] = [
    "volumes-intended",
    "scratch-formatted",
    "volume-directory",
    "volume-prepared",
    "volume-attached",
    "target-prepared",
    "target-intended",
    "target-attached",
    "target-done",
    "held",
    "released",
    "target-unmounted",
    "volume-unmounted",
    "volume-undone",
];
/// Those that reconciling passes after a kill.
const RECONCILE_POINTS: [&str; 4] =
    ["reconcile-target", "reconcile-holder", "reconcile-volume", "volume-unmounted"];

/// One process's mounts: a chain with a scratch image, an image file, a hold, and all of it undone.
fn work(home: &Path) {
    let bench = Home(home);
    let registry = bench.registry();
    let me = sys::process::Process::current().unwrap();
    let holder = container("worker").with_process(me);
    let chain = bench.chain();
    let rootfs = home.join("rootfs");
    let looped = bench.registry().with_backing(Backing::Loop);
    looped.mount_chain(&chain, &rootfs, &holder, &MountOptions::default()).unwrap();
    fs::write(rootfs.join("written"), "x").unwrap();
    registry.hold(&chain.layers, &holder).unwrap();
    let files = home.join("files");
    registry.mount_image_file(&chain.layers[0].path, &[], &files, &holder).unwrap();
    assert!(registry.unmount(&rootfs).unwrap());
    assert!(registry.unmount(&files).unwrap());
    registry.release(&holder).unwrap();
}

/// An activation of everything, and layers with other owners, made and undone.
fn activating(home: &Path) {
    let bench = Home(home);
    let registry = bench.registry();
    let me = sys::process::Process::current().unwrap();
    let holder = container("worker").with_process(me);
    let layers = bench.chain().layers;
    let layer_of = |path: &Path| layers[..2].iter().find(|layer| layer.path == path).cloned();
    let roots = [home.to_owned()];
    let options = ActivateOptions {
        roots: &roots,
        layer_of: &layer_of,
        temporary: true,
        ..ActivateOptions::default()
    };
    let mount = |r#type: &str, source: &Path, options: &[&str]| Mount {
        r#type: r#type.to_owned(),
        source: source.to_owned(),
        target: PathBuf::new(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    };
    let disk = home.join("scratch/disk.img");
    let mounts = [
        mount("mkfs/ext4", &disk, &["X-containerd.mkfs.size=4m", "rw", "loop"]),
        mount("erofs", &layers[0].path, &["ro", "loop"]),
        mount("erofs", &layers[1].path, &["ro", "loop"]),
        mount("erofs", &layers[2].path, &["ro", "loop"]),
        mount("loop", &layers[2].path, &["ro"]),
        mount(
            "format/mkdir/overlay",
            Path::new("overlay"),
            &[
                "X-containerd.mkdir.path={{ mount 0 }}/upper:0755",
                "X-containerd.mkdir.path={{ mount 0 }}/work:0755",
                "upperdir={{ mount 0 }}/upper",
                "workdir={{ mount 0 }}/work",
                "lowerdir={{ overlay 1 3 }}",
            ],
        ),
    ];
    let activation = registry.activate("default/worker", &mounts, &options).unwrap();
    let rootfs = &activation.system[0].source;
    assert_eq!(fs::read(rootfs.join("top")).unwrap(), b"shared");
    fs::write(rootfs.join("written"), "x").unwrap();
    registry.deactivate("default/worker").unwrap();
    let range = "0:100000:65536".to_owned();
    let labels = store::Labels::from([
        (mount::UIDS.to_owned(), range.clone()),
        (mount::GIDS.to_owned(), range),
    ]);
    let mapping = mount::IdMapping::from_labels(&labels).unwrap().unwrap();
    registry.hold_mapped(&layers, &mapping, &holder).unwrap();
    registry.release(&holder).unwrap();
}

struct Home<'a>(&'a Path);

impl Home<'_> {
    fn registry(&self) -> Registry {
        Registry::open(&self.0.join("run"), std::time::Duration::from_secs(20)).unwrap()
    }

    /// The shared layer and two that only the worker uses, over a scratch image.
    fn chain(&self) -> Chain {
        let images = self.0.join("images");
        let layers = ["shared", "l1", "l2"].map(|name| {
            let own = format!("in-{name}");
            support::layer_at(&images.join(name), name, &[(&own, b"x"), ("top", name.as_bytes())])
        });
        let path = self.0.join("scratch/scratch.img");
        let scratch = ScratchPaths::Image { path, size: 4 << 20 };
        chain("work", Some(scratch), layers.to_vec())
    }
}

/// Not a test by itself: what the tests below start and kill.
#[test]
#[ignore = "only as a child of the tests of this file"]
fn privileged_child() {
    let home = PathBuf::from(std::env::var_os(HOME).expect("started by hand"));
    match std::env::var(WORK).unwrap().as_str() {
        "work" => work(&home),
        "activating" => activating(&home),
        "reconcile" => {
            Home(&home).registry().reconcile(&alive).unwrap();
        }
        other => panic!("no such work: {other}"),
    }
}

/// Here an activation lives as long as nobody was killed.
fn alive(holder: &Holder) -> bool {
    holder.kind != HolderKind::Activation && holder.is_alive().unwrap()
}

/// Runs the child; `true` if it was killed at the failpoint, `false` if it came to its end.
fn run_child(home: &Path, work: &str, failpoint: &str) -> bool {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["privileged_child", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(WORK, work)
        .env(HOME, home)
        .env("PLYWOOD_FAILPOINT", failpoint)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let killed = output.status.signal() == Some(libc::SIGABRT);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(killed || output.status.success(), "{work} at {failpoint}: {errors}");
    killed
}

/// All that the kernel and the run directory show of us.
#[derive(Debug, PartialEq)]
struct Picture {
    mounts: Vec<(u64, PathBuf)>,
    directories: BTreeMap<&'static str, Vec<String>>,
}

fn picture(home: &Path) -> Picture {
    let table = sys::MountTable::read().unwrap();
    let mounts = table.entries().iter().map(|entry| (entry.id, entry.mount_point.clone()));
    let list = |name: &'static str| (name, names_in(&home.join(name)));
    // A half-made scratch belongs to the store's snapshot and goes with it.
    let directories = ["run/v", "run/s", "run/m", "run/t", "rootfs", "files"].map(list);
    Picture { mounts: mounts.collect(), directories: BTreeMap::from(directories) }
}

/// Somebody who lives, with a volume that is mounted and a target that is in use.
struct Bystander {
    bench: Bench,
    before: Picture,
    open: Option<fs::File>,
}

impl Bystander {
    fn new() -> Self {
        let bench = Bench::new();
        for name in ["images", "scratch", "rootfs", "files", "bystander"] {
            bench.directory(name);
        }
        let home = Home(bench.path());
        let registry = home.registry();
        let shared = home.chain().layers.remove(0);
        registry.hold(std::slice::from_ref(&shared), &user("bystander")).unwrap();
        let view = chain("bystander", None, vec![shared]);
        let target = bench.path().join("bystander");
        let options = MountOptions::default();
        registry.mount_chain(&view, &target, &user("bystander"), &options).unwrap();
        let open = Some(fs::File::open(target.join("top")).unwrap());
        let before = picture(bench.path());
        Self { bench, before, open }
    }

    /// Everything as before the worker came.
    fn check(&self, after: &str) {
        let home = self.bench.path();
        assert_eq!(picture(home), self.before, "after {after}");
        eventually("loop devices free themselves", || loops_below(home).is_empty());
        assert_eq!(fs::read(home.join("bystander/top")).unwrap(), b"shared", "after {after}");
        assert!(self.open.as_ref().unwrap().metadata().is_ok());
        let registry = Home(home).registry();
        assert_eq!(registry.volumes().unwrap().len(), 1, "after {after}");
        assert_eq!(registry.mounts().unwrap().len(), 1, "after {after}");
        assert!(registry.reconcile(&alive).unwrap().is_clean(), "after {after}");
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        // The directory can be removed only when nothing is mounted in it.
        self.open = None;
        let registry = Home(self.bench.path()).registry();
        let _ = registry.unmount(&self.bench.path().join("bystander"));
        let _ = registry.release(&user("bystander"));
    }
}

privileged! {
    fn privileged_a_kill_anywhere_leaves_nothing_after_reconcile() {
        let bystander = Bystander::new();
        let home = bystander.bench.path();
        assert!(!run_child(home, "work", "none"));
        bystander.check("a run that was not killed");
        let mut kills = 0;
        for point in WORK_POINTS {
            for count in 1.. {
                // The scratch's own file system is made anew each time, to pass its failpoint.
                let _ = fs::remove_file(home.join("scratch/scratch.img"));
                let failpoint = format!("{point}:{count}");
                if !run_child(home, "work", &failpoint) {
                    assert!(count > 1, "{point} was never passed");
                    bystander.check(&format!("{failpoint}, never reached"));
                    break;
                }
                kills += 1;
                let report = Home(home).registry().reconcile(&alive).unwrap();
                assert_eq!(report.kept_busy, Vec::<String>::new(), "{failpoint}");
                bystander.check(&failpoint);
            }
        }
        println!("{kills} kills");
        // And it works after all that.
        assert!(!run_child(home, "work", "none"));
        bystander.check("the last run");
    }

    fn privileged_a_killed_activation_leaves_nothing_after_reconcile() {
        let bystander = Bystander::new();
        let home = bystander.bench.path();
        let fresh = || {
            let _ = fs::remove_file(home.join("scratch/disk.img"));
        };
        assert!(!run_child(home, "activating", "none"));
        bystander.check("a run that was not killed");
        let mut kills = 0;
        for point in ACTIVATION_POINTS {
            for count in 1.. {
                fresh();
                let failpoint = format!("{point}:{count}");
                if !run_child(home, "activating", &failpoint) {
                    assert!(count > 1, "{point} was never passed");
                    break;
                }
                kills += 1;
                // The same again, without a reconcile: what is half done is done anew.
                fresh();
                if count == 1 {
                    let done = ["activated", "activation-unmounted", "activation-cleared"];
                    if done.contains(&point) {
                        // It is complete, so the name is taken.
                        Home(home).registry().deactivate("default/worker").unwrap();
                    }
                    assert!(!run_child(home, "activating", "none"), "after {failpoint}");
                }
                let report = Home(home).registry().reconcile(&alive).unwrap();
                assert_eq!(report.kept_busy, Vec::<String>::new(), "{failpoint}");
                bystander.check(&failpoint);
            }
        }
        println!("{kills} kills");
        // A reconcile that is killed is finished by the next.
        for point in ["reconcile-activation", "activation-unmounted", "activation-cleared", "deactivated"] {
            fresh();
            assert!(run_child(home, "activating", "activated:1"));
            assert!(run_child(home, "reconcile", point), "{point} was never passed");
            let report = Home(home).registry().reconcile(&alive).unwrap();
            assert_eq!(report.kept_busy, Vec::<String>::new(), "{point}");
            bystander.check(point);
        }
    }

    fn privileged_a_kill_without_reconcile_does_not_disturb_the_next_user() {
        let bystander = Bystander::new();
        let home = bystander.bench.path();
        for point in WORK_POINTS {
            let _ = fs::remove_file(home.join("scratch/scratch.img"));
            assert!(run_child(home, "work", &format!("{point}:1")), "{point} was never passed");
            let registry = Home(home).registry();
            let chain = Home(home).chain();
            let target = home.join("rootfs");
            // The dead one's mount may still be there: that is an error, and reconcile resolves it.
            let options = MountOptions::default();
            if registry.mount_chain(&chain, &target, &user("next"), &options).is_err() {
                registry.reconcile(&alive).unwrap();
                registry.mount_chain(&chain, &target, &user("next"), &options).unwrap();
            }
            assert_eq!(fs::read(target.join("top")).unwrap(), b"shared", "after {point}");
            fs::write(target.join("new"), "x").unwrap();
            assert!(registry.unmount(&target).unwrap());
            registry.reconcile(&alive).unwrap();
            bystander.check(point);
        }
    }

    fn privileged_a_killed_reconcile_is_finished_by_the_next() {
        let bystander = Bystander::new();
        let home = bystander.bench.path();
        for point in RECONCILE_POINTS {
            for count in 1.. {
                let _ = fs::remove_file(home.join("scratch/scratch.img"));
                // Dead with a target, a hold and volumes.
                assert!(run_child(home, "work", "held:1"));
                let failpoint = format!("{point}:{count}");
                let killed = run_child(home, "reconcile", &failpoint);
                let report = Home(home).registry().reconcile(&alive).unwrap();
                assert_eq!(report.kept_busy, Vec::<String>::new(), "{failpoint}");
                bystander.check(&failpoint);
                if !killed {
                    assert!(count > 1, "{point} was never passed");
                    break;
                }
            }
        }
    }
}
