//! `plywood run`

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{VmArgs, parse_size};

/// `run`
#[derive(Debug, Args)]
#[command(after_long_help = "\
The command replaces the image's, behind the image's entrypoint. The container's exit code becomes plywood's own \
(128+n when signal n ended it). Standard input, output and error are the caller's. TERM, INT, HUP, QUIT, USR1 and \
USR2 are passed on; the first TERM arrives as the image's stop signal, and the container is killed when it still \
runs after the stop timeout, or when INT or TERM comes a second time. No system calls are filtered (no seccomp).

Examples:
  plywood run debian:12 -- cat /etc/os-release
  plywood run -t debian:12 -- bash
  plywood run --mount type=bind,source=/srv/data,target=/data,ro debian:12 -- ls /data
  plywood run --keep --name build --scratch-size 2G debian:12 -- apt-get update
  plywood snapshot diff container/build         what that run changed
  plywood run --isolation vm debian:12 -- uname -r     in a virtual machine, with its own kernel
  plywood run --isolation vm --encrypted-scratch --scratch-size 2G debian:12 -- sh -c 'echo secret > /key'
  plywood run --isolation vm --vm-pmem --vm-memory 512M debian:12 -- df /")]
pub(crate) struct RunArgs {
    /// The image's reference.
    #[arg(value_name = "REF")]
    pub(crate) reference: String,
    /// The command and its arguments [default: the image's].
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
    /// The container's name: letters, digits, `_`, `.` and `-` [default: made up].
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    pub(crate) name: Option<String>,
    /// Remove the container's snapshot when it ends; this is the default.
    #[arg(long, conflicts_with = "keep")]
    pub(crate) rm: bool,
    /// Keep the container's snapshot, under the key `container/NAME`.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Set an environment variable, or pass on the caller's when only its name is given.
    #[arg(short, long = "env", value_name = "KEY[=VALUE]")]
    pub(crate) env: Vec<OsString>,
    /// `type=bind,source=…,target=…[,ro]`, `type=tmpfs,target=…[,size=…]`, or in a virtual machine
    /// `type=disk,source=…,target=…[,ro]`, a disk image with a file system.
    #[arg(long = "mount", value_name = "MOUNT", value_parser = parse_mount)]
    pub(crate) mounts: Vec<MountOption>,
    /// Mount the root filesystem read-only.
    #[arg(long)]
    pub(crate) read_only: bool,
    /// User, and group, by name or number [default: the image's].
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Working directory; made if it is missing [default: the image's].
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// Host name [default: the container's name].
    #[arg(long, value_name = "NAME", value_parser = parse_hostname)]
    pub(crate) hostname: Option<String>,
    /// Replace the image's entrypoint; an empty one removes it.
    #[arg(long, value_name = "CMD")]
    pub(crate) entrypoint: Option<OsString>,
    /// Give the container a terminal.
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Standard input is always passed on; accepted because people type `-it`.
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// `none`: a network of its own with only a loopback; `host`: the host's.
    #[arg(long, value_enum, default_value_t = Network::None, value_name = "NETWORK")]
    pub(crate) network: Network,
    /// Limit what the container can write to its root filesystem.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) scratch_size: Option<u64>,
    /// The OCI runtime, a name or a path [default: runc or crun, the first that works here].
    #[arg(long, value_name = "RUNTIME")]
    pub(crate) runtime: Option<OsString>,
    /// Seconds from the stop signal to the kill.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub(crate) stop_timeout: u32,
    /// `process`: namespaces of this host's kernel; `vm`: a virtual machine with a kernel of its own.
    #[arg(long, value_enum, default_value_t = Isolation::Process, value_name = "ISOLATION")]
    pub(crate) isolation: Isolation,
    #[command(flatten)]
    pub(crate) vm: VmArgs,
}

/// What keeps a container apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Isolation {
    /// Namespaces of the host's kernel.
    Process,
    /// A virtual machine.
    Vm,
}

/// The container's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Network {
    /// A network namespace of its own with only a loopback.
    None,
    /// The host's network.
    Host,
}

/// One `--mount`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountOption {
    pub(crate) kind: MountKind,
    /// Absolute path in the container.
    pub(crate) target: PathBuf,
    pub(crate) read_only: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MountKind {
    /// A path of the host.
    Bind(PathBuf),
    /// A new tmpfs, optionally limited in bytes.
    Tmpfs(Option<u64>),
    /// A disk image of the host, which a virtual machine mounts.
    Disk(PathBuf),
}

/// The kernel takes at most 64 bytes; an empty one would leave the host's.
fn parse_hostname(text: &str) -> Result<String, String> {
    match text {
        "" => Err("a host name is not empty".to_owned()),
        _ if text.len() > 64 => Err("a host name has at most 64 characters".to_owned()),
        _ if text.bytes().any(|byte| byte == b' ' || byte.is_ascii_control()) => {
            Err("a host name has no spaces".to_owned())
        }
        _ => Ok(text.to_owned()),
    }
}

/// A name that is one path component, a host name's beginning and a cgroup's name.
pub(super) fn parse_name(text: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    match text.as_bytes() {
        [first, ..] if !first.is_ascii_alphanumeric() => {
            Err("a name begins with a letter or a digit".to_owned())
        }
        [] => Err("a name is not empty".to_owned()),
        bytes if bytes.len() > 64 => Err("a name has at most 64 characters".to_owned()),
        bytes if bytes.iter().all(|&byte| fits(byte)) => Ok(text.to_owned()),
        _ => Err("a name consists of letters, digits, `_`, `.` and `-`".to_owned()),
    }
}

fn parse_mount(text: &str) -> Result<MountOption, String> {
    let (mut kind, mut source, mut target, mut size, mut read_only) =
        (None, None, None, None, false);
    for part in text.split(',') {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        match key {
            "type" => kind = Some(value),
            "source" | "src" => source = Some(PathBuf::from(value)),
            "target" | "dst" | "destination" => target = Some(PathBuf::from(value)),
            "ro" | "readonly" => {
                read_only = match value {
                    "" | "true" | "1" => true,
                    "false" | "0" => false,
                    _ => return Err(format!("`{part}`: expected `{key}`")),
                }
            }
            "rw" if value.is_empty() => read_only = false,
            "size" => size = Some(parse_size(value)?),
            _ => return Err(format!("unknown part `{part}`")),
        }
    }
    let target = target.ok_or("`target=` is missing")?;
    // It is the container's, and so Linux's on any host.
    if !target.has_root() {
        return Err("the target must be an absolute path".to_owned());
    }
    let kind = match (kind.unwrap_or("bind"), source) {
        ("bind" | "disk", None) => return Err("`source=` is missing".to_owned()),
        ("bind" | "disk", Some(_)) if size.is_some() => {
            return Err("`size=` is for tmpfs".to_owned());
        }
        ("bind" | "disk", Some(source)) if !source.is_absolute() => {
            return Err("the source must be an absolute path".to_owned());
        }
        ("disk", Some(source)) => MountKind::Disk(source),
        ("bind", Some(source)) => MountKind::Bind(source),
        ("tmpfs", Some(_)) => return Err("a tmpfs has no source".to_owned()),
        ("tmpfs", None) => MountKind::Tmpfs(size),
        (other, _) => return Err(format!("unknown type `{other}`: bind, tmpfs or disk")),
    };
    Ok(MountOption { kind, target, read_only })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts() {
        let host = std::path::absolute("/a b").unwrap();
        assert_eq!(
            parse_mount(&format!("type=bind,source={},target=/c,ro", host.display())),
            Ok(MountOption { kind: MountKind::Bind(host), target: "/c".into(), read_only: true })
        );
        assert_eq!(
            parse_mount("type=tmpfs,dst=/t,size=1M"),
            Ok(MountOption {
                kind: MountKind::Tmpfs(Some(1 << 20)),
                target: "/t".into(),
                read_only: false
            })
        );
        for bad in [
            "",
            "type=bind,source=/a",
            "type=bind,target=/a",
            "type=bind,source=a,target=/b",
            "type=bind,source=/a,target=b",
            "type=tmpfs,source=/a,target=/b",
            "type=nfs,source=/a,target=/b",
            "type=disk,target=/b",
            "type=disk,source=a,target=/b",
            "type=disk,source=/a,target=/b,size=1",
            "source=/a,target=/b,size=1",
            "source=/a,target=/b,what=1",
        ] {
            assert!(parse_mount(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hostnames() {
        for good in ["a", "web-1.example.org", &"a".repeat(64)] {
            assert!(parse_hostname(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a\n", &"a".repeat(65)] {
            assert!(parse_hostname(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names() {
        for good in ["a", "A-1_b.c", "0"] {
            assert!(parse_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "-a", "a/b", "a b", "ä", &"a".repeat(65)] {
            assert!(parse_name(bad).is_err(), "{bad}");
        }
    }
}
