//! From an image's configuration and the command line to the runtime's `config.json`.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::user::User;
use crate::cli::{MountKind, MountOption, Network, RunArgs};
use crate::exit::{Exit, Failure};

/// What of an image's configuration a run honours (OCI image specification, `config.md`).
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct ImageConfig {
    #[serde(default)]
    config: Option<Execution>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Execution {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
}

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What Docker gives a container's root.
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Files of /proc and /sys that tell or change something about the host.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What a container runs, after image and command line have been put together; not yet resolved in the rootfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Execute {
    pub(super) args: Vec<String>,
    env: Vec<(String, String)>,
    pub(super) user: String,
    pub(super) workdir: String,
    pub(super) stop_signal: String,
}

impl Execute {
    /// Puts the command line over the image's configuration.
    pub(super) fn new(image: &ImageConfig, options: &RunArgs) -> Result<Self> {
        let image = image.config.clone().unwrap_or_default();
        let command = texts(&options.command, "the command")?;
        let mut args = Vec::new();
        match &options.entrypoint {
            Some(entrypoint) if entrypoint.is_empty() => args.extend(command),
            Some(entrypoint) => {
                args.push(text(entrypoint, "the entrypoint")?);
                args.extend(command);
            }
            None => {
                args.extend(image.entrypoint.unwrap_or_default());
                match command.is_empty() {
                    true => args.extend(image.cmd.unwrap_or_default()),
                    false => args.extend(command),
                }
            }
        }
        if args.is_empty() || args[0].is_empty() {
            anyhow::bail!(
                Failure::new(Exit::Usage, "the image has no command of its own")
                    .hint("give one behind `--`, for example `-- sh`")
            );
        }
        let mut env: Vec<(String, String)> = Vec::new();
        for variable in image.env.unwrap_or_default() {
            if let Some((key, value)) = variable.split_once('=').filter(|(key, _)| !key.is_empty())
            {
                set(&mut env, key, value);
            }
        }
        if !env.iter().any(|(key, _)| key == "PATH") {
            set(&mut env, "PATH", DEFAULT_PATH);
        }
        if options.tty && !env.iter().any(|(key, _)| key == "TERM") {
            set(&mut env, "TERM", &std::env::var("TERM").unwrap_or_else(|_| "xterm".to_owned()));
        }
        for variable in texts(&options.env, "an environment variable")? {
            match variable.split_once('=') {
                Some(("", _)) => anyhow::bail!(Failure::new(
                    Exit::Usage,
                    format!("`{variable}` is not KEY=VALUE")
                )),
                Some((key, value)) => set(&mut env, key, value),
                // A variable that the caller does not have stays unset, as with other tools.
                None => {
                    if let Ok(value) = std::env::var(&variable) {
                        set(&mut env, &variable, &value);
                    }
                }
            }
        }
        let workdir = options
            .workdir
            .clone()
            .or(image.working_dir)
            .filter(|workdir| !workdir.is_empty())
            .unwrap_or_else(|| "/".to_owned());
        if !workdir.starts_with('/') {
            anyhow::bail!(Failure::new(
                Exit::Usage,
                format!("the working directory `{workdir}` is not an absolute path")
            ));
        }
        if options.mounts.iter().any(|mount| mount.target == Path::new("/")) {
            anyhow::bail!(Failure::new(Exit::Usage, "nothing can be mounted over `/`"));
        }
        Ok(Self {
            args,
            env,
            user: options.user.clone().or(image.user).unwrap_or_default(),
            workdir,
            stop_signal: image
                .stop_signal
                .filter(|signal| !signal.is_empty())
                .unwrap_or_else(|| "SIGTERM".to_owned()),
        })
    }
}

/// Where and how the container is run on this host.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// The container's name.
    pub(super) name: &'a str,
    /// The name of its control group.
    pub(super) cgroup: &'a str,
    /// The mounted root filesystem.
    pub(super) rootfs: &'a Path,
    /// Most open files that this process may allow others.
    pub(super) most_open_files: u64,
    /// Whether the host's control groups are version 2 alone.
    pub(super) unified_cgroups: bool,
}

/// The runtime's `config.json` (OCI runtime specification 1.0.2).
pub(super) fn runtime_config(
    execute: &Execute,
    user: &User,
    options: &RunArgs,
    place: Place<'_>,
) -> Result<Value> {
    let hostname = options.hostname.as_deref().unwrap_or(place.name);
    let mut env = execute.env.clone();
    if !env.iter().any(|(key, _)| key == "HOME") {
        env.push(("HOME".to_owned(), user.home.clone()));
    }
    if !env.iter().any(|(key, _)| key == "HOSTNAME") && options.network == Network::None {
        env.push(("HOSTNAME".to_owned(), hostname.to_owned()));
    }
    let env: Vec<String> = env.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    // Who is not root gets its capabilities from the files it executes, within the bounding set.
    let held: &[&str] = if user.uid == 0 { &CAPABILITIES } else { &[] };
    let most_open_files = place.most_open_files;
    let mut namespaces = vec!["pid", "ipc", "uts", "mount"];
    if options.network == Network::None {
        namespaces.push("network");
    }
    if place.unified_cgroups {
        namespaces.push("cgroup");
    }
    let namespaces: Vec<Value> =
        namespaces.into_iter().map(|namespace| json!({ "type": namespace })).collect();
    let mut mounts = default_mounts();
    if options.network == Network::Host {
        for file in ["/etc/resolv.conf", "/etc/hosts"] {
            if Path::new(file).is_file() {
                mounts.push(bind(file, file, true));
            }
        }
    }
    for mount in &options.mounts {
        mounts.push(asked_mount(mount)?);
    }
    Ok(json!({
        "ociVersion": "1.0.2",
        "hostname": hostname,
        "root": { "path": utf8(place.rootfs)?, "readonly": options.read_only },
        "process": {
            "terminal": options.tty,
            "user": { "uid": user.uid, "gid": user.gid, "additionalGids": user.additional_gids },
            "args": execute.args,
            "env": env,
            "cwd": execute.workdir,
            "capabilities": {
                "bounding": CAPABILITIES,
                "effective": held,
                "permitted": held,
            },
            "rlimits": [{
                "type": "RLIMIT_NOFILE",
                "soft": most_open_files.min(1024),
                "hard": most_open_files,
            }],
            "noNewPrivileges": false,
        },
        "mounts": mounts,
        "linux": {
            "cgroupsPath": format!("/{}", place.cgroup),
            "namespaces": namespaces,
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    }))
}

/// Finds out before anything is set up whether what is to be bind-mounted exists.
pub(super) fn check_sources(mounts: &[MountOption]) -> Result<()> {
    for mount in mounts {
        if let MountKind::Bind(source) | MountKind::Disk(source) = &mount.kind {
            std::fs::metadata(source).with_context(|| {
                format!("the source of a mount, {}, cannot be used", source.display())
            })?;
        }
    }
    Ok(())
}

fn default_mounts() -> Vec<Value> {
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": kind, "options": options });
    vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ]
}

fn bind(source: &str, destination: &str, read_only: bool) -> Value {
    let access = if read_only { "ro" } else { "rw" };
    json!({
        "destination": destination,
        "type": "bind",
        "source": source,
        "options": ["rbind", "rprivate", access],
    })
}

fn asked_mount(mount: &MountOption) -> Result<Value> {
    let target = utf8(&mount.target)?;
    match &mount.kind {
        MountKind::Bind(source) => Ok(bind(&utf8(source)?, &target, mount.read_only)),
        // The type's name in hcsshim's specifications.
        MountKind::Disk(source) => {
            let access = if mount.read_only { "ro" } else { "rw" };
            Ok(json!({
                "destination": target,
                "type": "virtual-disk",
                "source": utf8(source)?,
                "options": ["rbind", access],
            }))
        }
        MountKind::Tmpfs(size) => {
            let mut options = vec!["nosuid".to_owned(), "nodev".to_owned(), "mode=1777".to_owned()];
            options.extend(size.map(|size| format!("size={size}")));
            options.extend(mount.read_only.then(|| "ro".to_owned()));
            Ok(json!({
                "destination": target, "type": "tmpfs", "source": "tmpfs", "options": options
            }))
        }
    }
}

fn set(env: &mut Vec<(String, String)>, key: &str, value: &str) {
    match env.iter_mut().find(|(existing, _)| existing == key) {
        Some((_, existing)) => *existing = value.to_owned(),
        None => env.push((key.to_owned(), value.to_owned())),
    }
}

/// The runtime's configuration is JSON, so arguments must be UTF-8.
fn text(value: &OsStr, what: &str) -> Result<String> {
    match value.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(Failure::new(
            Exit::Usage,
            format!("{what} is not UTF-8: {}", crate::escape::name(value.as_encoded_bytes())),
        )
        .into()),
    }
}

fn texts(values: &[OsString], what: &str) -> Result<Vec<String>> {
    values.iter().map(|value| text(value, what)).collect()
}

fn utf8(path: &Path) -> Result<String> {
    text(path.as_os_str(), "a path")
}

#[cfg(test)]
#[path = "config/tests.rs"]
mod tests;
