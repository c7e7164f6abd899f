//! The container's specification: what is rewritten in the guest.

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value, json};
use sys::directory::Directory;
use sys::{DetachedMount, FsContext, MountAttributes};

use crate::place::MadeDirectories;
use crate::{Error, Result};

/// Who is in which sandbox, by the annotation of the Kubernetes runtimes.
const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";

/// What was mounted for a container and goes with it.
#[derive(Debug, Default)]
pub(crate) struct Mounted(pub(crate) Vec<PathBuf>);

impl Mounted {
    /// Unmounts, the last first, and removes what they were mounted on if that is empty.
    pub(crate) fn undo(&mut self) -> Result<()> {
        while let Some(path) = self.0.last() {
            match sys::unmount(path) {
                Ok(()) => {}
                Err(error) if matches!(error.errno(), Some(libc::EINVAL | libc::ENOENT)) => {}
                Err(error) => {
                    return Err(Error::failed(format!("unmounting {}", path.display()), error));
                }
            }
            if fs::remove_dir(path)
                .is_err_and(|error| error.kind() == std::io::ErrorKind::NotADirectory)
            {
                // Only what a file is bound over is one, and it has no content of its own.
                let _ = fs::remove_file(path);
            }
            self.0.pop();
        }
        Ok(())
    }
}

/// Makes what is open there reachable by a name that nobody can redirect; given the place's own name.
pub(crate) type Pin<'a> = dyn FnMut(&Path, BorrowedFd<'_>, &mut Mounted) -> Result<PathBuf> + 'a;

/// Binds what is open below `directory`. A container that shares a sandbox could otherwise put a link in the place between
/// our look and the runtime's.
pub(crate) fn pin_below(
    directory: &Path,
    from: BorrowedFd<'_>,
    mounted: &mut Mounted,
) -> Result<PathBuf> {
    let at = directory.join(mounted.0.len().to_string());
    let source = PathBuf::from(format!("/proc/self/fd/{}", from.as_raw_fd()));
    let is_directory = fs::metadata(&source)
        .map_err(|error| Error::failed("looking at a mount's source", error))?
        .is_dir();
    match is_directory {
        true => MadeDirectories::default().make(&at, 0o700)?,
        false => {
            MadeDirectories::default().make(directory, 0o700)?;
            fs::write(&at, "")
                .map_err(|error| Error::failed(format!("write({})", at.display()), error))?;
        }
    }
    DetachedMount::copy_of(&source, false)
        .and_then(|mount| {
            mount.make_private()?;
            mount.attach(&at)
        })
        .map_err(|error| Error::failed(format!("binding at {}", at.display()), error))?;
    mounted.0.push(at.clone());
    Ok(at)
}

/// The sandbox a specification says it belongs to.
pub(crate) fn sandbox_of(spec: &Value) -> Option<&str> {
    spec.get("annotations")?.get(SANDBOX_ID)?.as_str().filter(|id| !id.is_empty())
}

/// Prepares a specification for the runtime: prefixes of mounts, control group, what Linux has no use for. `sandbox` is
/// the bundle of the container's sandbox. What was mounted is added to `mounted`, also on failure.
pub(crate) fn prepare(
    spec: &mut Value,
    id: &str,
    sandbox: &Path,
    pin: &mut Pin<'_>,
    mounted: &mut Mounted,
) -> Result<()> {
    let Some(spec) = spec.as_object_mut() else {
        return Err(Error::invalid("the specification is no object"));
    };
    spec.remove("windows");
    let linux = object(spec, "linux")?;
    let unset = linux.get("cgroupsPath").and_then(Value::as_str).is_none_or(str::is_empty);
    if unset {
        linux.insert("cgroupsPath".to_owned(), json!(format!("/containers/{id}")));
    }
    let Some(mounts) = spec.get_mut("mounts").filter(|mounts| !mounts.is_null()) else {
        return Ok(());
    };
    let Some(mounts) = mounts.as_array_mut() else {
        return Err(Error::invalid("the specification's mounts are no list"));
    };
    let mut devices = Vec::new();
    for mount in mounts {
        let Some(mount) = mount.as_object_mut() else {
            return Err(Error::invalid("a mount is no object"));
        };
        rewrite(mount, sandbox, pin, mounted, &mut devices)?;
    }
    allow(spec, &devices)
}

fn object<'a>(
    parent: &'a mut Map<String, Value>,
    name: &str,
) -> Result<&'a mut Map<String, Value>> {
    let value = parent.entry(name).or_insert(Value::Null);
    if value.is_null() {
        *value = json!({});
    }
    value.as_object_mut().ok_or_else(|| Error::invalid(format!("{name} is no object")))
}

/// A block device a container may use.
struct Device {
    major: u32,
    minor: u32,
    read_only: bool,
}

fn rewrite(
    mount: &mut Map<String, Value>,
    sandbox: &Path,
    pin: &mut Pin<'_>,
    mounted: &mut Mounted,
    devices: &mut Vec<Device>,
) -> Result<()> {
    let text = |mount: &Map<String, Value>, name: &str| {
        mount.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let (source, destination) = (text(mount, "source"), text(mount, "destination"));
    if let Some(rest) = destination.strip_prefix("blockdev://") {
        let device = fs::read_link(&source)
            .map_err(|error| Error::failed(format!("the block device {source}"), error))?;
        let metadata = fs::metadata(&device)
            .map_err(|error| Error::failed(format!("stat({})", device.display()), error))?;
        if !metadata.file_type().is_block_device() {
            return Err(Error::invalid(format!("{} is no block device", device.display())));
        }
        let number = metadata.rdev();
        devices.push(Device {
            major: libc::major(number),
            minor: libc::minor(number),
            read_only: mount.get("options").and_then(Value::as_array).is_some_and(|options| {
                options.iter().any(|o| o.as_str().is_some_and(|o| o.eq_ignore_ascii_case("ro")))
            }),
        });
        mount.insert("source".to_owned(), json!(device));
        mount.insert("destination".to_owned(), json!(rest));
        mount.insert("type".to_owned(), json!("bind"));
        bind_option(mount);
        return Ok(());
    }
    let path = if let Some(rest) = source.strip_prefix("sandbox://") {
        let (path, open) = inside(&sandbox.join("sandboxMounts"), rest, 0o777)?;
        pin(&path, open.as_fd(), mounted)?
    } else if let Some(rest) = source.strip_prefix("sandbox-tmp://") {
        let root = sandbox.join("sandboxTmpfsMounts");
        mount_once(&root, "tmpfs", &[("mode", "0755")], mounted)?;
        let (path, open) = inside(&root, rest, 0o777)?;
        pin(&path, open.as_fd(), mounted)?
    } else if let Some(rest) = source.strip_prefix("hugepages://") {
        let (size, place) = rest.split_once('/').unwrap_or((rest, ""));
        if size != "2M" || place.is_empty() {
            let message = format!("{source}: huge pages are given as hugepages://2M/NAME");
            return Err(Error::invalid(message));
        }
        // Containers write into the pools and not above them, so this name stays what it is.
        let (path, _) = inside(&sandbox.join("hugepages"), rest, 0o755)?;
        mount_once(&path, "hugetlbfs", &[("pagesize", "2M")], mounted)?;
        path
    } else if let Some(rest) = source.strip_prefix("uvm://") {
        let path = Path::new("/").join(plain(rest)?);
        fs::metadata(&path)
            .map_err(|error| Error::failed(format!("{source} is not in this VM"), error))?;
        path
    } else {
        return Ok(());
    };
    mount.insert("source".to_owned(), json!(path));
    mount.insert("type".to_owned(), json!("bind"));
    bind_option(mount);
    Ok(())
}

/// The runtime takes a mount for a bind mount by its options.
fn bind_option(mount: &mut Map<String, Value>) {
    let options = mount.entry("options").or_insert(Value::Null);
    let mut list = options.as_array().cloned().unwrap_or_default();
    if !list.iter().any(|option| option == "bind" || option == "rbind") {
        list.push(json!("rbind"));
    }
    *options = Value::Array(list);
}

/// The components of what follows a prefix; nothing but names.
fn plain(rest: &str) -> Result<PathBuf> {
    let mut path = PathBuf::new();
    for component in Path::new(rest).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::RootDir | Component::CurDir => {}
            _ => return Err(Error::invalid(format!("{rest:?} leaves the directory it is in"))),
        }
    }
    Ok(path)
}

/// `rest` below `root`, made where it is missing, and open. No symbolic link is followed on the way: containers write
/// there.
fn inside(root: &Path, rest: &str, mode: u16) -> Result<(PathBuf, OwnedFd)> {
    let rest = plain(rest)?;
    MadeDirectories::default().make(root, 0o755)?;
    let failed =
        |error| Error::failed(format!("{} below {}", rest.display(), root.display()), error);
    let mut directory = Directory::open(root).map_err(failed)?;
    let mut components = rest.components().peekable();
    while let Some(component) = components.next() {
        let name = component.as_os_str().as_bytes();
        let is_last = components.peek().is_none();
        directory = match directory.open_directory(name) {
            Ok(next) => next,
            Err(error) if error.errno() == Some(libc::ENOENT) => {
                let next = directory.make_directory(name).map_err(failed)?;
                // Whatever the umask is.
                directory.set_permissions(name, mode).map_err(failed)?;
                next
            }
            Err(error) if error.errno() == Some(libc::ENOTDIR) && is_last => {
                let file = directory.open_file(name).map_err(failed)?;
                let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
                return match is_file {
                    true => Ok((root.join(&rest), file.into())),
                    false => Err(failed(error)),
                };
            }
            Err(error) => return Err(failed(error)),
        };
    }
    let open = directory.as_fd().try_clone_to_owned();
    let open = open.map_err(|error| Error::failed("duplicating a descriptor", error))?;
    Ok((root.join(&rest), open))
}

/// Mounts a file system of the kernel's own at `path`, unless one is there.
fn mount_once(
    path: &Path,
    file_system: &str,
    options: &[(&str, &str)],
    mounted: &mut Mounted,
) -> Result<()> {
    MadeDirectories::default().make(path, 0o755)?;
    if crate::layers::is_mount_point(path)? {
        return Ok(());
    }
    let mount = || {
        let context = FsContext::open(file_system)?;
        for (key, value) in options {
            context.set_string(key, value)?;
        }
        context.create()?;
        context.mount(MountAttributes::default())?.attach(path)
    };
    mount().map_err(|error| {
        Error::failed(format!("mounting {file_system} at {}", path.display()), error)
    })?;
    mounted.0.push(path.to_owned());
    Ok(())
}

fn allow(spec: &mut Map<String, Value>, devices: &[Device]) -> Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    let rules =
        object(object(spec, "linux")?, "resources")?.entry("devices").or_insert(Value::Null);
    let mut list = rules.as_array().cloned().unwrap_or_default();
    for device in devices {
        let access = if device.read_only { "r" } else { "rwm" };
        list.push(json!({
            "allow": true, "type": "b", "major": device.major, "minor": device.minor, "access": access,
        }));
    }
    *rules = Value::Array(list);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [`prepare`] without binding.
    fn prepared(spec: &mut Value, id: &str, sandbox: &Path) -> Result<()> {
        let pin = &mut |path: &Path, _: BorrowedFd<'_>, _: &mut Mounted| Ok(path.to_owned());
        prepare(spec, id, sandbox, pin, &mut Mounted::default())
    }

    fn mount(source: &str) -> Value {
        json!({"mounts": [{"source": source, "destination": "/d", "type": "bind", "options": ["ro"]}]})
    }

    #[test]
    fn prefixes_lead_into_the_sandbox_and_not_out_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let sandbox = directory.path();
        let rewritten = |source: &str| {
            let mut spec = mount(source);
            prepared(&mut spec, "c", sandbox)?;
            let source = spec["mounts"][0]["source"].as_str().unwrap().to_owned();
            assert_eq!(spec["mounts"][0]["options"], json!(["ro", "rbind"]));
            Ok::<_, Error>(PathBuf::from(source))
        };
        let path = rewritten("sandbox:///a/b").unwrap();
        assert_eq!(path, sandbox.join("sandboxMounts/a/b"));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o777);
        assert_eq!(rewritten("sandbox://a").unwrap(), sandbox.join("sandboxMounts/a"));
        // What a test of prefixes of text would let through.
        fs::create_dir(sandbox.join("sandboxMountsX")).unwrap();
        for bad in [
            "sandbox://../sandboxMountsX",
            "sandbox:///a/../../x",
            "uvm:///../etc",
            "hugepages://1G/x",
            "hugepages://2M",
        ] {
            assert!(rewritten(bad).is_err(), "{bad}");
        }
        std::os::unix::fs::symlink("/etc", sandbox.join("sandboxMounts/link")).unwrap();
        assert!(rewritten("sandbox:///link").is_err());
        assert!(rewritten("sandbox:///link/x").is_err());
        fs::write(sandbox.join("sandboxMounts/file"), "").unwrap();
        assert_eq!(rewritten("sandbox:///file").unwrap(), sandbox.join("sandboxMounts/file"));
        assert!(rewritten("sandbox:///file/x").is_err());
        assert_eq!(rewritten("uvm:///proc").unwrap(), Path::new("/proc"));
        assert!(rewritten("uvm:///no/such/thing").is_err());
    }

    #[test]
    fn the_rest_of_a_specification_stays() {
        let mut spec = json!({
            "process": {"args": ["x"], "x-future": 1}, "windows": {"network": {}},
            "mounts": [{"source": "proc", "destination": "/proc", "type": "proc"}],
        });
        prepared(&mut spec, "c1", Path::new("/nowhere")).unwrap();
        assert_eq!(
            spec,
            json!({
                "process": {"args": ["x"], "x-future": 1},
                "mounts": [{"source": "proc", "destination": "/proc", "type": "proc"}],
                "linux": {"cgroupsPath": "/containers/c1"},
            })
        );
        for bad in [json!([]), json!({"linux": 1}), json!({"mounts": 1}), json!({"mounts": [1]})] {
            let mut bad = bad;
            assert!(prepared(&mut bad, "c", Path::new("/nowhere")).is_err());
        }
        let mut device =
            json!({"mounts": [{"source": "/dev/null", "destination": "blockdev:///d"}]});
        let error = prepared(&mut device, "c", Path::new("/nowhere"));
        assert!(error.is_err(), "only a link that the agent made names a device");
    }
}
