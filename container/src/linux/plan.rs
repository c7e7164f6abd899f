//! What each mount of a specification takes, found out before anything is attached.

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};
use uvm::{ScsiDisk, ScsiKind};

use crate::error::{Error, ErrorKind, Result};

const BLOCK_DEVICE: &str = "blockdev://";
const HUGE_PAGES: &str = "hugepages://";
const EXTENSIBLE: &str = "evd://";
/// Prefixes of sources that the guest finds by itself.
const IN_GUEST: [&str; 3] = ["sandbox://", "sandbox-tmp://", "uvm://"];
const HUGE_PAGE_SIZE: &str = "2M";

/// One mount that needs something attached or checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// Its place in the specification.
    pub(super) index: usize,
    pub(super) source: Source,
    pub(super) read_only: bool,
    pub(super) options: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// The guest has it, or makes it.
    Guest,
    Directory(PathBuf),
    File {
        directory: PathBuf,
        name: String,
    },
    Disk {
        disk: ScsiDisk,
        way: Way,
        /// Whether the file goes when the container does.
        delete: bool,
    },
}

/// What a disk is to the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Mounted,
    BlockDevice,
}

/// Looks at every mount of a specification.
pub(super) fn plan(spec: &Spec) -> Result<Vec<Plan>> {
    let devices = spec.windows().as_ref().and_then(|windows| windows.devices().as_ref());
    if devices.is_some_and(|devices| !devices.is_empty()) {
        return Err(Error::new(
            ErrorKind::NotSupported,
            "the specification assigns devices of the host (windows.devices), which this version cannot",
        ));
    }
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let plans = mounts.iter().enumerate().map(|(index, mount)| plan_one(index, mount));
    plans.filter_map(Result::transpose).collect()
}

fn plan_one(index: usize, mount: &Mount) -> Result<Option<Plan>> {
    let kind = mount.typ().as_deref().unwrap_or_default();
    let disk = match kind {
        "bind" => None,
        "physical-disk"
        | "virtual-disk"
        | "automanage-virtual-disk"
        | "extensible-virtual-disk" => Some(kind),
        _ => return Ok(None),
    };
    let source = mount.source().as_deref().filter(|source| !source.as_os_str().is_empty());
    let destination = mount.destination();
    let (Some(source), false) = (source, destination.as_os_str().is_empty()) else {
        return Err(Error::invalid(format!(
            "the specification's mount {index} is of type {kind}: it must have both a source and a destination"
        )));
    };
    let text = |path: &Path| {
        path.to_str().map(str::to_owned).ok_or_else(|| {
            Error::invalid(format!(
                "{} is not UTF-8, and the guest is told by JSON",
                path.display()
            ))
        })
    };
    let (source, destination) = (text(source)?, text(destination)?);
    let options = mount.options().clone().unwrap_or_default();
    let read_only = options.iter().any(|option| option.eq_ignore_ascii_case("ro"));
    let block_device = destination.starts_with(BLOCK_DEVICE);
    let source = match disk {
        Some(kind) => {
            let way = if block_device { Way::BlockDevice } else { Way::Mounted };
            plan_disk(kind, &source, read_only, way)?
        }
        None if block_device => {
            return Err(Error::invalid(format!(
                "the mount at {destination} is of type bind; only disks can be block devices"
            )));
        }
        None => plan_bind(&source)?,
    };
    Ok(Some(Plan { index, source, read_only, options }))
}

fn plan_disk(kind: &str, source: &str, read_only: bool, way: Way) -> Result<Source> {
    let (path, scsi) = if kind == "extensible-virtual-disk" {
        let split = source.strip_prefix(EXTENSIBLE).and_then(|rest| rest.split_once('/'));
        let Some((provider, path)) =
            split.filter(|(provider, path)| !provider.is_empty() && !path.is_empty())
        else {
            return Err(Error::invalid(format!(
                "`{}` is no extensible virtual disk: evd://<type>/<path>",
                source.escape_debug()
            )));
        };
        (PathBuf::from(path), ScsiKind::Extensible(provider.to_owned()))
    } else {
        let path = resolved(Path::new(source), "the disk")?;
        let device = sys::file::is_physical_disk(&path)
            .map_err(|error| Error::io(format!("cannot look at the disk {source}"), error))?;
        let scsi = match kind {
            "physical-disk" if device => ScsiKind::PassThrough,
            "physical-disk" => {
                return Err(Error::invalid(format!(
                    "{source} is not a block device, so it is no physical disk"
                )));
            }
            // Deleting it in the end would take the name of a device.
            "automanage-virtual-disk" if device => {
                return Err(Error::invalid(format!(
                    "{source} is a device, and not the file of a disk"
                )));
            }
            _ if path.is_file() || device => ScsiKind::VirtualDisk,
            _ => {
                return Err(Error::invalid(format!(
                    "{source} is neither a file nor a block device, so it is no disk"
                )));
            }
        };
        (path, scsi)
    };
    let disk = ScsiDisk { path, read_only, kind: scsi };
    Ok(Source::Disk { disk, way, delete: kind == "automanage-virtual-disk" })
}

fn plan_bind(source: &str) -> Result<Source> {
    if IN_GUEST.iter().any(|prefix| source.starts_with(prefix)) {
        return Ok(Source::Guest);
    }
    if let Some(rest) = source.strip_prefix(HUGE_PAGES) {
        return match rest.split_once('/') {
            Some((HUGE_PAGE_SIZE, location)) if !location.is_empty() => Ok(Source::Guest),
            Some((size, location)) if !location.is_empty() => Err(Error::invalid(format!(
                "`{}` asks for pages of {}, and there are only those of {HUGE_PAGE_SIZE}",
                source.escape_debug(),
                size.escape_debug()
            ))),
            _ => Err(Error::invalid(format!(
                "`{}` is not hugepages://<size>/<location>",
                source.escape_debug()
            ))),
        };
    }
    // A link would be followed in the guest, where it leads elsewhere.
    let path = resolved(Path::new(source), "bind mount target")?;
    let kind = fs::metadata(&path)
        .map_err(|error| Error::io(format!("bind mount target {source}"), error))?
        .file_type();
    if kind.is_dir() {
        return Ok(Source::Directory(path));
    }
    if !kind.is_file() {
        return Err(Error::new(
            ErrorKind::NotSupported,
            format!(
                "bind mount target {source}: sockets, FIFOs and devices of the host cannot be shared with a virtual machine"
            ),
        ));
    }
    let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    match (path.parent(), name) {
        (Some(directory), Some(name)) => Ok(Source::File { directory: directory.to_owned(), name }),
        _ => Err(Error::invalid(format!("bind mount target {source}: its name is not UTF-8"))),
    }
}

/// An absolute path of the host without symbolic links.
pub(super) fn resolved(path: &Path, what: &str) -> Result<PathBuf> {
    if !path.is_absolute() {
        return Err(Error::invalid(format!("{what} {} is not an absolute path", path.display())));
    }
    path.canonicalize().map_err(|error| Error::io(format!("{what} {}", path.display()), error))
}

#[cfg(test)]
mod tests;
