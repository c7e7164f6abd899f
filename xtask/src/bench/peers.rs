//! The peers, privately: nothing of them is installed on the host, nothing of them keeps running.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::private_apt::PrivateApt;
use crate::{apt_sources, program};

/// The suite whose erofs-utils source package is built; Debian 12's own is too old to read a tar.
const EROFS_SUITE: &str = "trixie";

/// mkfs.erofs of erofs-utils 1.8.6 or newer, built under `directory` from Debian's source package.
pub(crate) fn mkfs_erofs(directory: &Path) -> Result<PathBuf> {
    let built = directory.join("erofs-utils/mkfs/mkfs.erofs");
    if built.is_file() {
        return Ok(built);
    }
    println!("building erofs-utils of {EROFS_SUITE}");
    // An apt of its own: the host's sources and lists stay as they are.
    let apt = PrivateApt::new(&directory.join("apt"), "deb-src", EROFS_SUITE, &[])?;
    program::run(&mut apt.command(&["source", "erofs-utils"]))?;
    let source = std::fs::read_dir(apt.files())?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.join("configure.ac").is_file())
        .context("the source package of erofs-utils unpacked to nothing")?;
    let script = "./autogen.sh && ./configure --disable-fuse --without-selinux CFLAGS=-O2 && make -j\"$(nproc)\"";
    let log = std::fs::File::create(directory.join("erofs-utils.log"))?;
    let mut build = Command::new("sh");
    build.args(["-c", script]).current_dir(&source).stderr(log.try_clone()?).stdout(log);
    program::run(&mut build)
        .with_context(|| format!("see {}", directory.join("erofs-utils.log").display()))?;
    std::fs::rename(&source, directory.join("erofs-utils"))
        .context("cannot move erofs-utils to its place")?;
    ensure!(built.is_file(), "erofs-utils built no {}", built.display());
    Ok(built)
}

/// Debian's containerd, unpacked but not installed: its package would start a daemon on the host.
pub(crate) fn containerd_programs(directory: &Path) -> Result<PathBuf> {
    let programs = directory.join("containerd/usr/bin");
    if programs.join("containerd").is_file() {
        return Ok(programs);
    }
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let mut download = Command::new("apt-get");
    download
        .args(["-q", "-o", "APT::Sandbox::User=root", "download", "containerd"])
        .current_dir(directory);
    program::run(&mut download)?;
    let package = std::fs::read_dir(directory)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("containerd_"))
        })
        .context("apt-get downloaded no containerd package")?;
    let mut unpack = Command::new("dpkg");
    unpack.arg("-x").arg(&package).arg(directory.join("containerd"));
    program::run(&mut unpack)?;
    Ok(programs)
}

/// containerd's overlayfs snapshotter behind containerd's adaptor for proxy plugins: a program of a few lines, built
/// with Debian's Go and from Debian's package of containerd's sources.
pub(crate) fn overlayfs_service(directory: &Path) -> Result<PathBuf> {
    let built = directory.join("overlayfs-service");
    if built.is_file() {
        return Ok(built);
    }
    println!("building containerd's overlayfs snapshotter as a service");
    let sources = apt_sources::of_host()?;
    let go = directory.join("go");
    if go.exists() {
        std::fs::remove_dir_all(&go).with_context(|| format!("cannot remove {}", go.display()))?;
    }
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap
        .env("TMPDIR", directory)
        .args(["--quiet", "--variant=extract"])
        .arg("--include=golang-go,golang-github-containerd-containerd-dev")
        .arg("bookworm")
        .arg(&go)
        .args(apt_sources::of_suite(&sources, "bookworm")?);
    program::run(&mut mmdebstrap)?;
    let source = crate::workspace::root().join("xtask/src/bench/overlayfs/main.go");
    let mut build = Command::new(go.join("usr/lib/go/bin/go"));
    build
        .env("GOROOT", go.join("usr/lib/go"))
        .env("GOPATH", go.join("usr/share/gocode"))
        .env("GOCACHE", go.join("cache"))
        .envs([("GO111MODULE", "off"), ("CGO_ENABLED", "0"), ("GOFLAGS", "")])
        .args(["build", "-o"])
        .arg(&built)
        .arg(&source);
    program::run(&mut build)?;
    // A gigabyte for a program of thirteen megabytes.
    std::fs::remove_dir_all(&go).with_context(|| format!("cannot remove {}", go.display()))?;
    Ok(built)
}

/// A containerd of our own, with its root, state and socket under one directory. Killed and its directory
/// removed when dropped.
pub(crate) struct Containerd {
    child: Child,
    programs: PathBuf,
    directory: PathBuf,
}

impl Containerd {
    /// Starts on an empty `directory` and waits until it answers.
    pub(crate) fn start(programs: &Path, directory: &Path) -> Result<Self> {
        if directory.exists() {
            std::fs::remove_dir_all(directory)
                .with_context(|| format!("cannot remove {}", directory.display()))?;
        }
        std::fs::create_dir_all(directory)?;
        let config = directory.join("config.toml");
        let at = |name: &str| directory.join(name).display().to_string();
        std::fs::write(
            &config,
            format!(
                "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [{}]\n[grpc]\naddress = {:?}\n",
                at("root"),
                at("state"),
                [
                    "io.containerd.grpc.v1.cri",
                    "io.containerd.snapshotter.v1.aufs",
                    "io.containerd.snapshotter.v1.btrfs",
                    "io.containerd.snapshotter.v1.devmapper",
                    "io.containerd.snapshotter.v1.zfs",
                    "io.containerd.tracing.processor.v1.otlp",
                    "io.containerd.internal.v1.tracing",
                ]
                .map(|name| format!("{name:?}"))
                .join(", "),
                at("socket"),
            ),
        )?;
        let log = std::fs::File::create(directory.join("log"))?;
        let child = Command::new(programs.join("containerd"))
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stderr(log.try_clone()?)
            .stdout(log)
            .spawn()
            .context("cannot start containerd")?;
        let this = Self { child, programs: programs.to_owned(), directory: directory.to_owned() };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !this.ctr(&["version"]).stderr(Stdio::null()).output()?.status.success() {
            if Instant::now() > deadline {
                bail!("containerd does not answer; see {}", directory.join("log").display());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(this)
    }

    /// `ctr` talking to this containerd.
    pub(crate) fn ctr(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join("ctr"));
        command.arg("--address").arg(self.socket()).args(arguments);
        command
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join("socket")
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // SIGTERM: it then unmounts its temporary mounts. Its death is what matters, not its exit code.
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        _ = self.child.wait();
        _ = std::fs::remove_dir_all(&self.directory);
    }
}
