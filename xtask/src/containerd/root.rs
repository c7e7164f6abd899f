//! Debian's containerds, each in a root of its own: unpacked and not installed, so that no daemon starts and the host
//! stays as it is.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::{namespace, program, suite_root, workspace};

/// Where the directory that a daemon works in is seen, on the host and in every root alike: paths in requests and in
/// mounts mean the same to everyone. Short, since a socket's address has room for about a hundred bytes.
pub(crate) const WORK: &str = "/run/work";

/// Part of the cache's name: a change of how roots are made makes new ones.
const RECIPE: u32 = 1;

/// What a root holds; the rest are their dependencies.
const PACKAGES: &str = "base-files,containerd,runc,docker-registry,erofs-utils";

/// A version of containerd, and with it a suite of Debian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Version {
    /// Debian 12's
    #[value(name = "1.6")]
    V1_6,
    /// Debian 13's
    #[value(name = "1.7")]
    V1_7,
    /// Debian unstable's
    #[value(name = "2.1")]
    V2_1,
}

impl Version {
    /// Oldest first.
    pub(crate) const ALL: [Self; 3] = [Self::V1_6, Self::V1_7, Self::V2_1];

    /// As in `--version`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V1_6 => "1.6",
            Self::V1_7 => "1.7",
            Self::V2_1 => "2.1",
        }
    }

    fn suite(self) -> &'static str {
        match self {
            Self::V1_6 => "bookworm",
            Self::V1_7 => "trixie",
            Self::V2_1 => "sid",
        }
    }

    /// The version of its configuration files.
    pub(crate) fn config_version(self) -> u32 {
        match self {
            Self::V1_6 | Self::V1_7 => 2,
            Self::V2_1 => 3,
        }
    }

    /// Whether differs can be plugged in; else the snapshotter sees what containerd's own differ writes.
    pub(crate) fn has_proxy_differs(self) -> bool {
        self != Self::V1_6
    }
}

/// A root directory with a containerd, `ctr` and runc in it.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    path: PathBuf,
    pub(crate) version: Version,
}

impl Root {
    /// The root in the cache; made when it is not there.
    pub(crate) fn prepared(version: Version) -> Result<Self> {
        let directory = workspace::target().join("containerd/roots");
        let path = directory.join(format!("{}-{RECIPE}", version.suite()));
        if path.is_dir() {
            return Ok(Self { path, version });
        }
        // What a killed run may have mounted is only gone with its namespace.
        ensure!(namespace::is_private(), "a root is made in a namespace of its own");
        // Mirrors may hold a suite that is still in the making as a copy of some day.
        let options = [r#"--aptopt=Acquire::Check-Valid-Until "false""#];
        suite_root::unpack(&path, (version.suite(), &[]), PACKAGES, &options)?;
        Ok(Self { path, version })
    }

    /// Makes this the root of the namespace, and `work` what is seen as [`WORK`] in it and on the host's side. This
    /// process stays on the host's side, which is the namespace's `/host` from now on.
    ///
    /// A mere `chroot` for containerd would not do: entering a container's mount namespace, which `runc exec` does,
    /// leads to the root of that namespace and not to where a process was confined.
    pub(crate) fn enter(&self, work: &Path) -> Result<()> {
        ensure!(namespace::is_private(), "a root is entered in a namespace of its own");
        let inside = |name: &str| self.path.join(name.trim_start_matches('/'));
        std::fs::create_dir_all(WORK).with_context(|| format!("cannot create {WORK}"))?;
        mount(&["--bind"], work, Path::new(WORK))?;
        // What is mounted below it on the host's side or in the root appears on the other.
        mount_argument("--make-shared", Path::new(WORK))?;
        mount(&["--bind"], &self.path, &self.path)?;
        for name in ["/proc", "/dev", "/sys"] {
            mount(&["--rbind"], Path::new(name), &inside(name))?;
        }
        for name in ["/run", "/tmp"] {
            mount(&["-t", "tmpfs"], Path::new("tmpfs"), &inside(name))?;
        }
        for name in [WORK, "/host"] {
            std::fs::create_dir_all(inside(name))
                .with_context(|| format!("cannot create {}", inside(name).display()))?;
        }
        mount(&["--bind"], Path::new(WORK), &inside(WORK))?;
        rustix::process::pivot_root(&self.path, inside("/host"))
            .context("cannot change the namespace's root")?;
        rustix::process::chroot("/host").context("cannot go back to the host's side")?;
        std::env::set_current_dir(WORK).with_context(|| format!("cannot enter {WORK}"))
    }

    /// A program of the root, seeing it as `/`.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("chroot");
        // The namespace's first process went along when its root changed.
        command.arg("/proc/1/root").arg(program).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }
}

fn mount(options: &[&str], source: &Path, target: &Path) -> Result<()> {
    let mut command = Command::new("mount");
    program::quietly(command.args(options).arg(source).arg(target)).map(drop)
}

fn mount_argument(option: &str, target: &Path) -> Result<()> {
    let mut command = Command::new("mount");
    program::quietly(command.arg(option).arg(target)).map(drop)
}
