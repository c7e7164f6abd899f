//! The account of CIM volumes over mounts of this host: the contract that holds on Windows too, by running it.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "test code")]

mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use cimfs::{DirectorySet, Guid, ImageWriter};
use mount::windows::{
    CimDriver, CimReconcileReport, CimVolumes, LinuxCims, Sharing, container_volume,
};
use mount::{ErrorKind, Registry};
use support::{Bench, mounted_below};

const HOME: &str = "PLYWOOD_TEST_HOME";
const POINTS: [&str; 3] = ["cim-intended", "cim-mounted", "cim-dismounted"];

/// An image with one file that says which it is.
fn cim(directory: &Path, name: &str) -> PathBuf {
    fs::create_dir_all(directory).unwrap();
    let set = DirectorySet::new(directory);
    let guid = Guid::for_content(name.as_bytes());
    let mut writer = ImageWriter::create(set, name, guid, Default::default()).unwrap();
    writer.add_directory(&"Files".into(), &Default::default()).unwrap();
    writer.add_file(&"Files/name".into(), &Default::default(), name.as_bytes()).unwrap();
    writer.commit().unwrap();
    directory.join(name)
}

fn volumes(home: &Path, driver: CimDriver, sharing: Sharing) -> CimVolumes<LinuxCims> {
    let wait = Duration::from_secs(20);
    let registry = Registry::open(&home.join("run"), wait).unwrap();
    CimVolumes::open(LinuxCims::new(registry, driver), &home.join("run"), sharing, wait).unwrap()
}

fn shown(volume: &Path) -> String {
    fs::read_to_string(volume.join("Files/name")).unwrap()
}

fn contract(home: &Path, driver: &CimDriver) {
    let open = |sharing| volumes(home, driver.clone(), sharing);
    let images = home.join("images");
    let (one, two) = (cim(&images, "one.cim"), cim(&images, "two.cim"));
    let own = open(Sharing::PerContainer);

    // Each container has its own volume, with the GUID that its id gives.
    let [a, b] = ["a", "b"].map(|id| own.mount_cim_layer(&one, id).unwrap());
    assert_eq!((a.guid, b.guid), (container_volume("a"), container_volume("b")));
    assert_eq!(a.path, home.join("run/c/2793d336-a0e7-5ddd-810b-55c00b05764f"));
    assert_eq!((shown(&a.path), shown(&b.path)), ("one.cim".to_owned(), "one.cim".to_owned()));
    assert_eq!(own.cim_mount_path(&one, "a").unwrap(), a.path);
    let error = own.cim_mount_path(&two, "a").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("two.cim"), "{error}");
    let error = own.mount_cim_layer(&two, "a").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "one volume a container");

    // In use it stays, on record and for real.
    let open_file = fs::File::open(a.path.join("Files/name")).unwrap();
    assert_eq!(own.unmount_cim_layer(&one, "a").unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(shown(&own.cim_mount_path(&one, "a").unwrap()), "one.cim");
    drop(open_file);
    // The kernel lets go of a file served by FUSE a moment after its last user has.
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while let Err(error) = own.unmount_cim_layer(&one, "a") {
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(std::time::Instant::now() < until, "{error}");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!own.unmount_cim_layer(&one, "a").unwrap(), "a second time does nothing");
    assert_eq!(own.cim_mount_path(&one, "a").unwrap_err().kind(), ErrorKind::NotFound);
    assert!(own.unmount_cim_layer(&one, "b").unwrap());
    assert_eq!(mounted_below(home), Vec::<PathBuf>::new());

    // One volume for all, and each hold is counted.
    let shared = open(Sharing::PerImage);
    let [a, b, again] = ["a", "b", "b"].map(|id| shared.mount_cim_layer(&two, id).unwrap());
    assert_eq!((&a.path, &b.path), (&b.path, &again.path));
    assert_eq!(mounted_below(home).len(), 1);
    for container in ["a", "a", "b"] {
        shared.unmount_cim_layer(&two, container).unwrap();
        assert_eq!(shown(&a.path), "two.cim");
    }
    assert_eq!(shared.cleanup_container_mounts("b").unwrap(), [a.guid]);
    assert_eq!(mounted_below(home), Vec::<PathBuf>::new());

    // Nothing but the id: neither ledger nor journal is left.
    own.mount_cim_layer(&one, "a").unwrap();
    for name in ["cim-volumes.ledger", "mounts.journal"] {
        fs::remove_file(home.join("run").join(name)).unwrap();
    }
    let error = own.mount_cim_layer(&one, "a").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    assert_eq!(own.cleanup_container_mounts("a").unwrap(), [container_volume("a")]);
    assert_eq!(mounted_below(home), Vec::<PathBuf>::new());
    assert!(own.cleanup_container_mounts("a").unwrap().is_empty());
    own.mount_cim_layer(&one, "a").unwrap();
    assert_eq!(own.reconcile(&|_| true).unwrap(), CimReconcileReport::default());
    assert_eq!(own.reconcile(&|_| false).unwrap().undone, [container_volume("a")]);

    // What is no CIM, or not there, changes nothing.
    fs::write(images.join("text"), "no CIM").unwrap();
    for (path, kind) in [("text", ErrorKind::Corrupt), ("nothing", ErrorKind::NotFound)] {
        let error = own.mount_cim_layer(&images.join(path), "a").unwrap_err();
        assert_eq!(error.kind(), kind, "{path}: {error:?}");
    }
    assert!(own.volumes().unwrap().is_empty());
    assert_eq!(fs::read_dir(home.join("run/c")).unwrap().count(), 0);
    assert_eq!(mounted_below(home), Vec::<PathBuf>::new());
}

privileged! {
    fn privileged_the_contract_holds_for_volumes_through_views() {
        let bench = Bench::new();
        contract(bench.path(), &CimDriver::View(bench.path().join("views")));
    }

    fn privileged_the_contract_holds_for_volumes_by_fuse() {
        let bench = Bench::new();
        contract(bench.path(), &CimDriver::Fuse);
    }

    fn privileged_a_kill_at_every_step_is_reconciled() {
        if let Some(home) = std::env::var_os(HOME) {
            let volumes = child_volumes(Path::new(&home));
            let cim = Path::new(&home).join("images/one.cim");
            volumes.mount_cim_layer(&cim, "a").unwrap();
            volumes.unmount_cim_layer(&cim, "a").unwrap();
            return;
        }
        for point in POINTS {
            let bench = Bench::new();
            cim(&bench.directory("images"), "one.cim");
            let status = Command::new(std::env::current_exe().unwrap())
                .args(["privileged_a_kill_at_every_step_is_reconciled", "--exact", "--nocapture"])
                .env(HOME, bench.path())
                .env("PLYWOOD_FAILPOINT", point)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .unwrap();
            assert_eq!(status.signal(), Some(6), "{point}");
            let volumes = child_volumes(bench.path());
            let mounted = mounted_below(bench.path()).len();
            assert_eq!(mounted, usize::from(point == "cim-mounted"), "{point}");
            let report = volumes.reconcile(&|_| true).unwrap();
            let own = vec![container_volume("a")];
            let (undone, forgotten) = if mounted == 1 { (own, vec![]) } else { (vec![], own) };
            assert_eq!((report.undone, report.forgotten), (undone, forgotten), "{point}");
            assert_eq!(mounted_below(bench.path()), Vec::<PathBuf>::new());
            assert_eq!(volumes.reconcile(&|_| true).unwrap(), CimReconcileReport::default());
        }
    }
}

fn child_volumes(home: &Path) -> CimVolumes<LinuxCims> {
    volumes(home, CimDriver::View(home.join("views")), Sharing::PerContainer)
}
