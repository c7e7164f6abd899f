//! What tests of real mounts share: a private mount namespace for each, and layers to mount.
#![allow(dead_code, unreachable_pub, reason = "every test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "test code")]

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use erofs::{Content, FileData, ImageWriter, Inode, SeekSink, Tree, WriterOptions};
use mount::{Holder, HolderKind, Registry};
use store::{Chain, Kind, Layer, LayerId, LayerRecord, ScratchPaths, Snapshot, Timestamp};

const ISOLATED: &str = "PLYWOOD_TEST_ISOLATED";

/// Runs `body` in a process of its own with a private mount namespace, whatever happens to that process its
/// mounts end with it. `path` is the test's full path: `concat!(module_path!(), "::", "name")`.
///
/// Threads of one test process share a namespace, so the test binary is started again for this test alone.
pub fn isolated(path: &str, body: impl FnOnce()) {
    // libtest leaves the crate's name out.
    let name = path.split_once("::").map_or(path, |(_, name)| name);
    if std::env::var_os(ISOLATED).is_some_and(|running| running == name) {
        return body();
    }
    assert!(rustix::process::geteuid().is_root(), "{name} mounts file systems and needs root");
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--include-ignored", "--test-threads=1"])
        .env(ISOLATED, name)
        .stdin(Stdio::null())
        .output()
        .expect("unshare (Debian package util-linux) is needed");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} failed:\n{text}{errors}");
    assert!(text.contains("1 passed"), "{name} did not run:\n{text}{errors}");
    print!("{text}");
    eprint!("{errors}");
}

/// `#[test]` functions whose bodies run [`isolated`].
#[macro_export]
macro_rules! privileged {
    ($(fn $name:ident() $body:block)*) => {$(
        #[test]
        fn $name() {
            $crate::support::isolated(concat!(module_path!(), "::", stringify!($name)), || $body);
        }
    )*};
}

/// A directory with everything that one test makes.
pub struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Self {
        Self { directory: tempfile::Builder::new().prefix("plywood-mount-").tempdir().unwrap() }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn directory(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    pub fn registry(&self) -> Registry {
        Registry::open(&self.path().join("run"), Duration::from_secs(20)).unwrap()
    }

    /// A layer with these files, below `images`.
    pub fn layer(&self, name: &str, files: &[(&str, &[u8])]) -> Layer {
        let images = self.directory("images");
        layer_at(&images.join(format!("{name}.erofs")), name, files)
    }

    /// Layers `0` (bottom) to `count - 1`, each with a file of its own name and its own version of `top`; the
    /// top one first.
    pub fn layers(&self, count: usize) -> Vec<Layer> {
        let layers = (0..count).rev().map(|index| {
            let text = index.to_string();
            let own = format!("layer-{index}");
            self.layer(&format!("l{index}"), &[(&own, text.as_bytes()), ("top", text.as_bytes())])
        });
        layers.collect()
    }

    /// A scratch directory, as the store makes it.
    pub fn scratch(&self, name: &str) -> ScratchPaths {
        let upper = self.directory(format!("{name}/fs"));
        ScratchPaths::Directory { upper, work: self.directory(format!("{name}/work")) }
    }
}

/// Writes an image with `files` to `path`; its identity follows from `name`.
pub fn layer_at(path: &Path, name: &str, files: &[(&str, &[u8])]) -> Layer {
    let mut writer =
        ImageWriter::new(SeekSink::new(fs::File::create(path).unwrap()), WriterOptions::default())
            .unwrap();
    let mut tree = Tree::new();
    for (name, bytes) in files {
        writer.begin_file(bytes.len() as u64).unwrap();
        writer.write_data(bytes).unwrap();
        let data = writer.end_file().unwrap();
        add(&mut tree, name, data);
    }
    let checksum = layer::Digest::of(name.as_bytes());
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&checksum.as_bytes()[..16]);
    let (_, summary) = writer.finish(&tree, uuid).unwrap();
    Layer {
        id: LayerId::of_diff(&checksum),
        record: LayerRecord {
            diff_id: None,
            image_size: summary.length,
            checksum: layer::Checksum::from_bytes([0; 32]),
            uuid,
            tar_size: 0,
            entries: files.len() as u64 + 1,
            hides_lower: false,
            cim: None,
            verity: None,
            blobs: Vec::new(),
            created: Timestamp::now(),
        },
        path: path.to_owned(),
    }
}

/// Adds a regular file to the root of `tree`.
pub fn add(tree: &mut Tree, name: &str, data: FileData) {
    let mut inode = Inode::directory();
    inode.permissions = 0o644;
    inode.content = Content::Regular(data);
    let id = tree.add(inode);
    let root = &mut tree[Tree::ROOT];
    root.entries_mut().unwrap().insert(name.as_bytes().into(), id);
}

/// A chain over `layers` (top first): active with a scratch, a view without.
pub fn chain(key: &str, scratch: Option<ScratchPaths>, layers: Vec<Layer>) -> Chain {
    let snapshot = Snapshot {
        key: key.as_bytes().to_vec(),
        id: 1,
        kind: if scratch.is_some() { Kind::Active } else { Kind::View },
        parent: None,
        labels: store::Labels::new(),
        created: Timestamp::now(),
        updated: Timestamp::now(),
        layers: Vec::new(),
        deferred: None,
        origin: store::Origin::Local,
        scratch: None,
        imported: false,
        usage: store::Usage::default(),
    };
    Chain { snapshot, scratch, empty: None, layers }
}

pub fn user(name: &str) -> Holder {
    Holder::new(HolderKind::User, name)
}

pub fn container(name: &str) -> Holder {
    Holder::new(HolderKind::Container, name)
}

pub fn everybody_lives(_: &Holder) -> bool {
    true
}

/// Mount points at or below `path`, in order of name.
pub fn mounted_below(path: &Path) -> Vec<PathBuf> {
    let table = sys::MountTable::read().unwrap();
    let mut points: Vec<PathBuf> =
        table.tree(path).iter().map(|entry| entry.mount_point.clone()).collect();
    points.sort();
    points
}

/// Names in a directory, in order; none if it does not exist.
pub fn names_in(path: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Loop devices of files below `path`.
pub fn loops_below(path: &Path) -> Vec<sys::AttachedLoop> {
    let mut loops = sys::attached_loops().unwrap();
    loops.retain(|entry| entry.file.starts_with(path));
    loops
}

/// Waits for what the kernel does in the background.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "still not: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process that sits in a directory, so that the mount there is in use.
pub struct Squatter(std::process::Child);

impl Squatter {
    pub fn in_directory(path: &Path) -> Self {
        let mut command = Command::new("sleep");
        command.arg("600").current_dir(path).process_group(0);
        Self(command.spawn().unwrap())
    }
}

impl Drop for Squatter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
