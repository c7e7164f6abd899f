//! What tests of the real host need: programs, mounts, a disk.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

#[track_caller]
pub fn run(program: &str, arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

pub fn require_root() {
    let uid = std::fs::metadata("/proc/self").unwrap().uid();
    assert_eq!(uid, 0, "tests named privileged_ need root: run them as root");
}

/// A mount that goes away with this value, whatever happens in between.
pub struct Mounted(pub tempfile::TempDir);

impl Drop for Mounted {
    fn drop(&mut self) {
        sys::unmount_lazily(self.0.path()).expect("the test's mount goes away");
    }
}

pub fn mount(file_system: &str, settings: &[(&str, &Path)]) -> Mounted {
    let context = sys::FsContext::open(file_system).unwrap();
    for (key, value) in settings {
        context.set_string(key, value).unwrap();
    }
    context.create().unwrap();
    let target = tempfile::tempdir().unwrap();
    context.mount(sys::MountAttributes::default()).unwrap().attach(target.path()).unwrap();
    Mounted(target)
}

/// In the target directory: a temporary file system cannot hold images to be mounted.
pub fn disk() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}
