//! What a Windows container's specification takes: its root file system and its mounts.
//!
//! Written from hcs-layers.md 3.2 (v0.12.3). Everything is looked at before the first thing is attached.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::sync::Arc;

use layer::Cancel;
use mount::windows::{PathKind, WindowsPath};
use oci_spec::runtime::{Mount, Spec};
use serde::Serialize;
use uvm::hcs::{HcsLayer, VirtualSmbShareOptions, VsmbRequest, WindowsGuest};
use uvm::{ScsiDisk, ScsiKind};

use super::layers::WcowLayers;
use super::mount::{Isolation, WcowCloser, WcowHost, mount_wcow_layers, to_host_hcs_schema_layers};
use crate::error::{Error, ErrorKind, Result};

const PIPE: &str = r"\\.\pipe\";
const SANDBOX: &str = "sandbox://";
const SANDBOX_MOUNTS: &str = r"C:\SandboxMounts";
const IN_GUEST: &str = "uvm://";
const EXTENSIBLE: &str = "evd://";

/// What is allocated for.
#[derive(Debug, Clone)]
pub struct WindowsRequest<'a> {
    /// The container's id.
    pub id: &'a str,
    /// Its specification, as the client gave it.
    pub spec: &'a Spec,
    /// Its layers, if they came beside the specification; otherwise they are its layer folders.
    pub layers: Option<&'a WcowLayers>,
    /// Where it runs.
    pub isolation: &'a Isolation,
    /// Ends the waiting for disks.
    pub cancel: &'a Cancel,
}

/// A directory that the container's document maps into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct MappedDirectory {
    /// On the host, or in the guest for a container in a virtual machine.
    pub host_path: String,
    /// In the container.
    pub container_path: String,
    /// Writes are refused.
    pub read_only: bool,
}

/// A named pipe that the container's document maps into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct MappedPipe {
    /// On the host, or in the guest.
    pub host_path: String,
    /// In the container, without `\\.\pipe\`.
    pub container_pipe_name: String,
}

/// What was allocated.
#[derive(Debug)]
pub struct WindowsAllocation {
    /// The root: a volume without a backslash at the end, or a path in the guest.
    pub rootfs: String,
    /// The layers for the container's document, topmost first.
    pub layers: Vec<HcsLayer>,
    /// For the container's document, in the order of the specification.
    pub mapped_directories: Vec<MappedDirectory>,
    /// For the container's document, in the order of the specification.
    pub mapped_pipes: Vec<MappedPipe>,
    /// Directories that must be there in the guest before the container is made.
    pub guest_directories: Vec<String>,
    /// What undoes it.
    pub closer: WcowCloser,
}

/// One mount, looked at.
#[derive(Debug)]
struct Plan {
    source: Source,
    destination: String,
    read_only: bool,
}

#[derive(Debug)]
enum Source {
    Directory(WindowsPath),
    File { folder: WindowsPath, name: String },
    Disk(ScsiDisk),
    Pipe(String),
    Sandbox(String),
}

/// Attaches everything that a container's specification names.
///
/// | mount | on the host | in a virtual machine |
/// | --- | --- | --- |
/// | a folder or file (no type) | mapped, links resolved first | a VSMB share (of the folder, restricted to the file), mapped |
/// | `\\.\pipe\…` | mapped | given to the machine, mapped from its `IPC$` |
/// | `physical-disk`, `virtual-disk`, `extensible-virtual-disk` | refused | a SCSI disk, mapped from where the guest mounts it |
/// | `sandbox://…` | refused | `C:\SandboxMounts\…`, which has to be made in the guest |
/// | `uvm://…`, other types | refused | refused |
///
/// A destination such as `/data` is `C:\data`.
///
/// # Errors
///
/// [`Invalid`](ErrorKind::Invalid) for what makes no sense, with the mount's number; those of [`mount_wcow_layers`].
/// What was attached is undone then.
pub fn allocate_windows_resources(
    host: &Arc<WcowHost>,
    request: &WindowsRequest<'_>,
) -> Result<WindowsAllocation> {
    let guest = match request.isolation {
        Isolation::Hypervisor(guest) => Some(guest),
        Isolation::Process | Isolation::Job(_) => None,
    };
    let root = root_path(request.spec, guest.is_some())?;
    let windows = request.spec.windows().as_ref();
    let folders = windows.and_then(|windows| windows.layer_folders().clone()).unwrap_or_default();
    let own;
    let layers = match request.layers {
        Some(_) if !folders.is_empty() => {
            return Err(Error::precondition(
                "layers are given both beside the specification and in its layer folders",
            ));
        }
        Some(layers) => layers,
        None => {
            own = WcowLayers::of(&[], &folders)?;
            &own
        }
    };
    let mounts = request.spec.mounts().as_deref().unwrap_or_default();
    let plans: Vec<Plan> = mounts
        .iter()
        .enumerate()
        .map(|(index, mount)| plan(host, index, mount, guest.is_some()))
        .collect::<Result<_>>()?;
    let (rootfs, layers, closer) = match root {
        Some(root) => {
            let layers = to_host_hcs_schema_layers(host, request.id, layers)?;
            (root, layers, WcowCloser::empty(host))
        }
        None => {
            let mounted =
                mount_wcow_layers(host, request.id, layers, request.isolation, request.cancel)?;
            (mounted.rootfs, mounted.layers, mounted.closer)
        }
    };
    let mut allocation = WindowsAllocation {
        rootfs,
        layers,
        mapped_directories: Vec::new(),
        mapped_pipes: Vec::new(),
        guest_directories: Vec::new(),
        closer,
    };
    for plan in plans {
        if let Err(error) = allocation.add(guest, plan) {
            return Err(error.and("while undoing it", allocation.closer.undo_all()));
        }
    }
    Ok(allocation)
}

impl WindowsAllocation {
    fn add(&mut self, guest: Option<&Arc<WindowsGuest>>, plan: Plan) -> Result<()> {
        let Plan { source, destination, read_only } = plan;
        let host_path = match (source, guest) {
            (Source::Pipe(path), guest) => {
                let container_pipe_name = destination;
                let host_path = match guest {
                    None => path,
                    Some(guest) => {
                        let shared = guest.add_pipe(&path).map_err(|error| {
                            Error::vm("cannot give a pipe to the virtual machine", error)
                        })?;
                        self.closer.push_pipe(guest, path);
                        shared
                    }
                };
                self.mapped_pipes.push(MappedPipe { host_path, container_pipe_name });
                return Ok(());
            }
            (Source::Sandbox(path), _) => {
                self.guest_directories.push(path.clone());
                path
            }
            (Source::Disk(disk), Some(guest)) => {
                let disk = guest.add_disk(&disk).map_err(|error| {
                    Error::vm(format!("cannot mount a disk for {destination}"), error)
                })?;
                let path = disk.guest_path().to_owned();
                self.closer.push_disk(guest, disk);
                path
            }
            (Source::Directory(path), Some(guest)) => self.share(guest, &path, None, read_only)?,
            (Source::File { folder, name }, Some(guest)) => {
                let share = self.share(guest, &folder, Some(&name), read_only)?;
                format!(r"{share}\{name}")
            }
            (Source::Directory(path), None) => path.to_string(),
            (Source::File { folder, name }, None) => {
                let path = folder.join(&name);
                path.map_err(|error| Error::mount("cannot map a file", error))?.to_string()
            }
            (Source::Disk(disk), None) => {
                let message = format!("{} takes a virtual machine", disk.path.display());
                return Err(Error::invalid(message));
            }
        };
        let directory = MappedDirectory { host_path, container_path: destination, read_only };
        self.mapped_directories.push(directory);
        Ok(())
    }

    fn share(
        &mut self,
        guest: &Arc<WindowsGuest>,
        folder: &WindowsPath,
        name: Option<&str>,
        read_only: bool,
    ) -> Result<String> {
        let allowed: Option<BTreeSet<OsString>> = name.map(|name| [name.into()].into());
        let options = match read_only {
            true => VirtualSmbShareOptions::read_only(),
            false => VirtualSmbShareOptions::default(),
        };
        let request = VsmbRequest { path: folder.to_string().into(), allowed, options };
        let share = guest.add_vsmb(&request).map_err(|error| {
            Error::vm(format!("cannot share {folder} with the virtual machine"), error)
        })?;
        let path = share.guest_path().to_owned();
        self.closer.push_share(guest, share);
        Ok(path)
    }
}

/// The root that the client has mounted already, if it has.
fn root_path(spec: &Spec, in_guest: bool) -> Result<Option<String>> {
    let Some(root) = spec.root() else { return Ok(None) };
    if root.readonly() == Some(true) {
        return Err(Error::invalid("the root of a Windows container cannot be read-only"));
    }
    let path = root.path();
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let text = path.to_string_lossy();
    let wrong = |what: &str| {
        let message = format!("the root `{}` {what}", text.escape_debug());
        Err(Error::invalid(message))
    };
    if in_guest {
        return wrong(
            "cannot be that of a container in a virtual machine: its layers are mounted there",
        );
    }
    match WindowsPath::parse(&text) {
        Ok(volume) if volume.is_root() && volume.to_string().starts_with(r"\\?\Volume{") => {
            Ok(Some(volume.to_string().trim_end_matches('\\').to_owned()))
        }
        _ => wrong(r"is no volume \\?\Volume{guid}\"),
    }
}

fn plan(host: &WcowHost, index: usize, mount: &Mount, in_guest: bool) -> Result<Plan> {
    let wrong = |what: &str| Error::invalid(format!("the specification's mount {index} {what}"));
    let kind = mount.typ().as_deref().unwrap_or_default();
    let text = |path: Option<&std::path::Path>| {
        let text = path.map(|path| path.to_str().map(str::to_owned));
        match text {
            Some(Some(text)) if !text.is_empty() => Ok(text),
            Some(None) => Err(wrong("has a path that is not Unicode")),
            _ => Err(wrong("must have both a source and a destination")),
        }
    };
    let source = text(mount.source().as_deref().map(AsRef::as_ref))?;
    let target = text(Some(mount.destination()))?;
    let options = mount.options().as_deref().unwrap_or_default();
    let read_only = options.iter().any(|option| option.eq_ignore_ascii_case("ro"));
    if source.starts_with(IN_GUEST) {
        let message =
            format!("the source {source} of mount {index} is in the guest, which cannot be mapped");
        return Err(Error::new(ErrorKind::NotSupported, message));
    }
    let takes_guest = |what: &str| match in_guest {
        true => Ok(()),
        false => Err(wrong(&format!("is {what}, which takes a virtual machine"))),
    };
    let disk = match kind {
        "" => None,
        "physical-disk" => Some((source.clone(), ScsiKind::PassThrough)),
        "virtual-disk" => Some((source.clone(), ScsiKind::VirtualDisk)),
        "extensible-virtual-disk" => {
            let parts = source.strip_prefix(EXTENSIBLE).and_then(|rest| rest.split_once('/'));
            let parts = parts.filter(|(provider, path)| !provider.is_empty() && !path.is_empty());
            let (provider, path) = parts.ok_or_else(|| wrong("is not evd://<type>/<path>"))?;
            Some((path.to_owned(), ScsiKind::Extensible(provider.to_owned())))
        }
        other => {
            let other = other.escape_debug();
            return Err(wrong(&format!(
                "is of type `{other}`, which Windows containers do not have"
            )));
        }
    };
    if let Some((path, kind)) = disk {
        takes_guest("a disk")?;
        let disk = ScsiDisk { path: path.into(), read_only, kind };
        return Ok(Plan {
            source: Source::Disk(disk),
            destination: container_path(&target)?,
            read_only,
        });
    }
    if let Some(name) = pipe_name(&source) {
        let destination = pipe_name(&target)
            .ok_or_else(|| wrong("has a pipe for a source, so its destination must be one"))?;
        return Ok(Plan {
            source: Source::Pipe(format!("{PIPE}{name}")),
            destination: destination.to_owned(),
            read_only,
        });
    }
    let destination = container_path(&target)?;
    if let Some(rest) = source.strip_prefix(SANDBOX) {
        takes_guest("in the sandbox")?;
        let parts: Vec<&str> = rest.split(['/', '\\']).filter(|part| !part.is_empty()).collect();
        let mut path = WindowsPath::parse(SANDBOX_MOUNTS)
            .map_err(|error| Error::mount("cannot name the sandbox", error))?;
        for part in parts {
            // One name at a time, so that none leads out.
            path = path.join(part).map_err(|error| {
                Error::mount(format!("the source of mount {index} cannot be in the sandbox"), error)
            })?;
        }
        return Ok(Plan { source: Source::Sandbox(path.to_string()), destination, read_only });
    }
    let failed = |error| Error::mount(format!("cannot map mount {index}"), error);
    let folders = host.layers.folders();
    // The service follows links to files wrongly.
    let path =
        WindowsPath::parse(&source).and_then(|path| folders.resolve(&path)).map_err(failed)?;
    let source = match (folders.kind(&path).map_err(failed)?, path.parent(), path.file_name()) {
        (PathKind::File, Some(folder), Some(name)) => {
            Source::File { folder, name: name.to_owned() }
        }
        _ => Source::Directory(path),
    };
    Ok(Plan { source, destination, read_only })
}

fn pipe_name(path: &str) -> Option<&str> {
    let (prefix, name) = path.split_at_checked(PIPE.len())?;
    let same = prefix.replace('/', r"\").eq_ignore_ascii_case(PIPE);
    (same && !name.is_empty()).then_some(name)
}

/// Where in the container: `/data` and `\data` are `C:\data`.
fn container_path(text: &str) -> Result<String> {
    let rooted = text.starts_with(['/', '\\']) && !text[1..].starts_with(['/', '\\']);
    let full = if rooted { format!("C:{text}") } else { text.to_owned() };
    match WindowsPath::parse(&full) {
        Ok(path) if path.is_root() => {
            Err(Error::invalid(format!("nothing can be mounted at {path}: it is a root")))
        }
        Ok(path) => Ok(path.to_string()),
        Err(error) => Err(Error::mount("cannot mount there", error)),
    }
}
