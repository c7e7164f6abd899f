//! A store of its own for each test, a tiny image made of busybox, and a look at what a host must not keep.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]
#![allow(clippy::unwrap_used, reason = "this is part of tests")]

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use layer::Digest;
use serde_json::{Value, json};

/// The name of the image that [`World::with_image`] imports.
pub const IMAGE: &str = "tiny:1";

const APPLETS: &str = "sh cat echo id env pwd ls sleep kill touch dd mkdir rm stty tty hostname \
    mount true false head wc sync grep seq stat printf";

/// A store and a run directory that nothing else uses.
pub struct World {
    dir: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        // On the file system of the build, which is no tmpfs: neither EROFS nor overlayfs would take that.
        Self { dir: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap() }
    }

    /// With the tiny image in its store.
    pub fn with_image() -> Self {
        require_root();
        let world = Self::new();
        let layout = world.path("layout");
        Layout::tiny().write(&layout);
        let output = world.plywood().args(["image", "import"]).arg(&layout).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        fs::remove_dir_all(layout).unwrap();
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn plywood(&self) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("plywood"));
        command.env("PLYWOOD_ROOT", self.path("root")).env("PLYWOOD_RUN", self.path("run"));
        command.env_remove("PLYWOOD_FAILPOINT").stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(self.plywood().args(arguments).output().unwrap())
    }

    /// `plywood run … tiny:1 -- sh -c SCRIPT`
    pub fn shell(&self, options: &[&str], script: &str) -> Outcome {
        let mut command = self.plywood();
        command.arg("run").args(options).args([IMAGE, "--", "sh", "-c", script]);
        Outcome::of(command.output().unwrap())
    }

    /// One JSON object a line.
    pub fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let outcome = self.run(&[&["--format", "json"], arguments].concat());
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        outcome.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Nothing of this world is there but files in a store.
    ///
    /// The kernel detaches a loop device with the last mount of it, and a runtime that starts a container of another
    /// test just now has a copy of that for a moment, so those may take a while.
    #[track_caller]
    pub fn assert_no_traces(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let traces = self.traces();
            let only_loops = traces.iter().all(|trace| trace.starts_with("AttachedLoop"));
            if only_loops && !traces.is_empty() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            assert_eq!(traces, [""; 0]);
            return;
        }
    }

    /// Everything of this world that is more than files in a store: mounts, loop devices, control groups,
    /// containers on record, volumes' directories, scratches.
    pub fn traces(&self) -> Vec<String> {
        let mut traces = Vec::new();
        let here = self.dir.path().to_string_lossy().into_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        traces.extend(mounts.lines().filter(|line| line.contains(&here)).map(str::to_owned));
        for device in sys::attached_loops().unwrap() {
            let device = format!("{device:?}");
            if device.contains(&here) {
                traces.push(device);
            }
        }
        let run = uuid::Uuid::new_v5(
            &uuid::Uuid::NAMESPACE_URL,
            self.path("run").as_os_str().as_encoded_bytes(),
        );
        let ours = format!("plywood-{}", &run.simple().to_string()[..8]);
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            for group in fs::read_dir(hierarchy.path()).into_iter().flatten().flatten() {
                if group.file_name().to_string_lossy().starts_with(&ours) {
                    traces.push(group.path().display().to_string());
                }
            }
        }
        for entry in fs::read_dir(self.path("run")).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("probe-") {
                traces.push(entry.path().display().to_string());
            }
        }
        for part in ["run/c", "run/v", "run/s", "run/runtime", "root/snapshots", "root/staging"] {
            for entry in fs::read_dir(self.path(part)).into_iter().flatten().flatten() {
                traces.push(entry.path().display().to_string());
            }
        }
        traces
    }
}

/// A `plywood serve` of a world, killed at its end.
pub struct Daemon {
    child: Child,
}

impl Daemon {
    /// Started, and answering.
    pub fn new(world: &World) -> Self {
        require_root();
        let mut command = world.plywood();
        command.arg("serve").stderr(fs::File::create(world.path("serve.log")).unwrap());
        let child = command.spawn().unwrap();
        let address = world.path("run/plywood.sock");
        let begin = Instant::now();
        while UnixStream::connect(&address).is_err() {
            let log = fs::read_to_string(world.path("serve.log")).unwrap();
            assert!(begin.elapsed() < Duration::from_secs(20), "no daemon answers: {log}");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { child }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops it in good order.
    pub fn stop(mut self) {
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::TERM,
        )
        .unwrap();
        assert!(self.child.wait().unwrap().success());
    }

    /// Kills it.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // After a failed test something may still be mounted: take it down so that the directory can go.
        for mount in mounts_below(self.dir.path()).iter().rev() {
            let _ = Command::new("umount").arg("-l").arg(mount).stderr(Stdio::null()).status();
        }
    }
}

fn mounts_below(dir: &Path) -> Vec<String> {
    let here = dir.to_string_lossy();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|target| target.starts_with(&*here))
        .map(str::to_owned)
        .collect()
}

/// How a command ended and what it said.
#[derive(Debug)]
pub struct Outcome {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// Its standard output, after it has succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stdout
    }

    /// Its standard error, after it has ended with this code and printed no result.
    #[track_caller]
    pub fn fails(self, code: i32) -> String {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        assert!(self.stderr.contains("plywood: error: "), "{}", self.stderr);
        self.stderr
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
pub fn require_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test mounts real images on the real kernel: run it as root"
    );
}

/// An image as an OCI image layout, with plain layers.
pub struct Layout {
    pub layers: Vec<Vec<u8>>,
    pub config: Value,
    pub media_type: &'static str,
    pub name: &'static str,
}

impl Layout {
    /// busybox and a few files in one layer; a greeting and a whiteout in a second one.
    pub fn tiny() -> Self {
        let busybox = fs::read("/bin/busybox")
            .expect("/bin/busybox is missing: apt-get install busybox-static");
        let mut base = Tar::new();
        base.directory("bin", 0o755).file("bin/busybox", 0o755, &busybox);
        for applet in APPLETS.split_whitespace() {
            base.symlink(&format!("bin/{applet}"), "busybox");
        }
        base.directory("etc", 0o755)
            .file(
                "etc/passwd",
                0o644,
                b"root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n",
            )
            .file("etc/group", 0o644, b"root:x:0:\napp:x:1001:\nextra:x:44:app\n")
            .directory("root", 0o700)
            .directory("tmp", 0o1777)
            .file("old", 0o644, b"old\n");
        let mut top = Tar::new();
        top.file("greeting", 0o644, b"hello from the second layer\n").file(".wh.old", 0o644, b"");
        Self {
            layers: vec![base.finish(), top.finish()],
            config: json!({
                "Env": ["PATH=/bin", "GREETING=hi"],
                "Cmd": ["cat", "/greeting"],
                "WorkingDir": "/work/dir",
                "StopSignal": "SIGUSR1",
            }),
            media_type: "application/vnd.oci.image.layer.v1.tar",
            name: IMAGE,
        }
    }

    pub fn write(&self, dir: &Path) {
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let put = |bytes: &[u8]| {
            let digest = Digest::of(bytes);
            fs::write(blobs.join(digest.hex()), bytes).unwrap();
            json!({ "digest": digest, "size": bytes.len() })
        };
        let descriptor = |bytes: &[u8], media_type: &str| {
            let mut descriptor = put(bytes);
            descriptor["mediaType"] = json!(media_type);
            descriptor
        };
        let platform = layer::archive::Platform::host();
        let diff_ids: Vec<Digest> = self.layers.iter().map(|layer| Digest::of(layer)).collect();
        let config = json!({
            "os": platform.os,
            "architecture": platform.architecture,
            "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let manifest_type = "application/vnd.oci.image.manifest.v1+json";
        let layers: Vec<Value> =
            self.layers.iter().map(|layer| descriptor(layer, self.media_type)).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": descriptor(
                config.to_string().as_bytes(),
                "application/vnd.oci.image.config.v1+json",
            ),
            "layers": layers,
        });
        let mut manifest = descriptor(manifest.to_string().as_bytes(), manifest_type);
        manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": self.name });
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        fs::write(dir.join("index.json"), index.to_string()).unwrap();
        let version = json!({ "imageLayoutVersion": "1.0.0" });
        fs::write(dir.join("oci-layout"), version.to_string()).unwrap();
    }
}

/// A tar that is built in memory.
pub struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn add(&mut self, path: &str, kind: tar::EntryType, mode: u32, link: &str, data: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_735_689_600);
        header.set_size(data.len() as u64);
        // Set as bytes, so that a test may use names that the builder would refuse.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, data).unwrap();
    }

    pub fn directory(&mut self, path: &str, mode: u32) -> &mut Self {
        self.add(path, tar::EntryType::Directory, mode, "", b"");
        self
    }

    pub fn file(&mut self, path: &str, mode: u32, data: &[u8]) -> &mut Self {
        self.add(path, tar::EntryType::Regular, mode, "", data);
        self
    }

    pub fn symlink(&mut self, path: &str, target: &str) -> &mut Self {
        self.add(path, tar::EntryType::Symlink, 0o777, target, b"");
        self
    }

    pub fn link(&mut self, path: &str, target: &str) -> &mut Self {
        self.add(path, tar::EntryType::Link, 0o644, target, b"");
        self
    }

    pub fn fifo(&mut self, path: &str) -> &mut Self {
        self.add(path, tar::EntryType::Fifo, 0o600, "", b"");
        self
    }

    pub fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}
