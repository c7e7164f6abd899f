//! The first process of the machine: its root, the kernel's file systems, modules, the way to the host.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use bridge::Connection;
use sys::{FsContext, MountAttributes};

use crate::{Error, ErrorKind, Result};

/// The kernel's modules; they are loaded in the order of their names.
const MODULES: &str = "/modules";
/// The name of the virtio-serial port of the bridge, where there is no vsock.
const SERIAL_PORT: &str = "plywood.bridge";
/// How long the host's end of the bridge may take to come, and to come again.
pub const BRIDGE_WAIT: Duration = Duration::from_secs(20);

/// What the machine was told on the kernel's command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// `plywood.bridge=serial`: the bridge is on a virtio-serial port and nothing else is.
    pub serial: bool,
    /// `plywood.port=N`: the host's port of the bridge, if not the protocol's.
    pub port: Option<u32>,
    /// `plywood.hostname=NAME`.
    pub host_name: Option<String>,
}

impl CommandLine {
    /// Of the running kernel.
    pub fn read() -> Self {
        Self::of(&fs::read_to_string("/proc/cmdline").unwrap_or_default())
    }

    fn of(text: &str) -> Self {
        let mut line = Self::default();
        for word in text.split_ascii_whitespace() {
            match word.split_once('=') {
                Some(("plywood.bridge", kind)) => line.serial = kind == "serial",
                Some(("plywood.port", port)) => line.port = port.parse().ok(),
                Some(("plywood.hostname", name)) => line.host_name = Some(name.to_owned()),
                _ => {}
            }
        }
        line
    }
}

/// Says something on the machine's console, where the host keeps it.
pub fn say(words: &str) {
    use std::io::Write as _;
    // Nobody could be told that the console is gone.
    let _ = writeln!(std::io::stderr(), "plywood-guest: {words}");
}

/// Makes the machine ready: root, `/proc`, `/sys`, `/dev`, `/run`, control groups, modules.
///
/// # Errors
/// If one of the file systems cannot be mounted. A module that cannot be loaded is told and left out: what needs it
/// fails by itself.
pub fn set_up() -> Result<CommandLine> {
    sys::cover_root().map_err(|error| Error::failed("covering the root", error))?;
    let plain = MountAttributes { no_suid: true, no_dev: true, ..MountAttributes::default() };
    let inert = MountAttributes { no_exec: true, ..plain };
    let devices = MountAttributes { no_suid: true, ..MountAttributes::default() };
    mount("proc", "/proc", inert, &[])?;
    mount("sysfs", "/sys", inert, &[])?;
    mount("devtmpfs", "/dev", devices, &[("mode", "0755")])?;
    mount("devpts", "/dev/pts", devices, &[("mode", "0620"), ("ptmxmode", "0666")])?;
    mount("tmpfs", "/dev/shm", plain, &[("mode", "1777")])?;
    // Container roots and bundles are here: programs and devices in them are.
    mount("tmpfs", "/run", MountAttributes::default(), &[("mode", "0755")])?;
    mount("tmpfs", "/tmp", MountAttributes::default(), &[("mode", "1777")])?;
    mount("cgroup2", "/sys/fs/cgroup", inert, &[])?;
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        // There already in some kernels.
        let _ = std::os::unix::fs::symlink(target, link);
    }
    load_modules();
    let line = CommandLine::read();
    let name = line.host_name.as_deref().unwrap_or("plywood");
    if let Err(error) = sys::set_host_name(name) {
        say(&Error::failed("naming the machine", error).chain());
    }
    // For containers without a network of their own; the runtime does it for the others.
    if let Err(error) = sys::bring_loopback_up() {
        say(&Error::failed("bringing the loopback up", error).chain());
    }
    Ok(line)
}

fn mount(
    file_system: &str,
    target: &str,
    attributes: MountAttributes,
    options: &[(&str, &str)],
) -> Result<()> {
    let mounted = || {
        let context = FsContext::open(file_system)?;
        context.set_string("source", file_system)?;
        for (key, value) in options {
            context.set_string(key, value)?;
        }
        context.create()?;
        context.mount(attributes)?.attach(Path::new(target))
    };
    fs::create_dir_all(target).map_err(|error| Error::failed(format!("mkdir({target})"), error))?;
    mounted().map_err(|error| Error::failed(format!("mounting {file_system} at {target}"), error))
}

fn load_modules() {
    // Without the directory, everything is in the kernel.
    let Ok(entries) = fs::read_dir(MODULES) else { return };
    let mut modules: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    modules.sort();
    for module in modules {
        if let Err(error) = sys::load_module(&module) {
            say(&Error::failed("loading a module", error).chain());
        }
    }
}

/// Dials the host's end of the bridge, until it is there or the time is over.
///
/// # Errors
/// [`ErrorKind::TimedOut`] with the last failure.
pub fn dial_bridge(line: &CommandLine) -> Result<Connection> {
    let until = Instant::now() + BRIDGE_WAIT;
    loop {
        let dialled = match line.serial {
            true => open_serial(),
            false => connect(line.port.unwrap_or(bridge::BRIDGE_PORT)),
        };
        match dialled {
            Ok(connection) => return Ok(connection),
            Err(error) if Instant::now() >= until => {
                let message =
                    format!("the host's end of the bridge is not there: {}", error.chain());
                return Err(Error::new(ErrorKind::TimedOut, message));
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn connect(port: u32) -> Result<Connection> {
    let stream = sys::connect_vsock(bridge::HOST_CID, port)
        .map_err(|error| Error::failed("dialling the bridge", error))?;
    Connection::unix(stream).map_err(|error| Error::failed("duplicating a socket", error))
}

/// Opens the virtio-serial port whose name is [`SERIAL_PORT`]. It has one opener: both directions share it.
fn open_serial() -> Result<Connection> {
    let class = Path::new("/sys/class/virtio-ports");
    let failed = |error| Error::failed(format!("looking for the port {SERIAL_PORT}"), error);
    for entry in fs::read_dir(class).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim() != SERIAL_PORT {
            continue;
        }
        let node = Path::new("/dev").join(entry.file_name());
        let open = || fs::File::options().read(true).write(true).open(&node);
        let file =
            open().map_err(|error| Error::failed(format!("open({})", node.display()), error))?;
        let reader =
            file.try_clone().map_err(|error| Error::failed("duplicating a descriptor", error))?;
        // A port cannot be shut down; the host's end ends it.
        return Ok(Connection::new(reader, file, || {}));
    }
    Err(Error::new(ErrorKind::Failed, format!("there is no port {SERIAL_PORT}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_the_kernels() {
        let line =
            CommandLine::of("quiet plywood.bridge=serial plywood.port=7 plywood.hostname=a x=y\n");
        assert_eq!(
            line,
            CommandLine { serial: true, port: Some(7), host_name: Some("a".to_owned()) }
        );
        assert_eq!(CommandLine::of("plywood.bridge=vsock plywood.port=no"), CommandLine::default());
    }
}
