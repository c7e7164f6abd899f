//! Performing the mounts of an activation, one after the other.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use store::Layer;
use sys::directory::Directory;
use sys::{LoopDevice, LoopOptions, MountAttributes};

use crate::activation::options::{
    DirectoryWish, ErofsOptions, Options, take_directories, take_file_system,
};
use crate::activation::plan::{Handler, Plan, Step, Transform};
use crate::activation::roots::Roots;
use crate::activation::template::{Performed, Template, performed};
use crate::activation::{holder_of, kernel};
use crate::clock::unix_time_now;
use crate::journal::Journal;
use crate::record::{ActiveRecord, Identity, Record};
use crate::registry::make_directory;
use crate::volumes::{Volumes, Wanted, detached_identity, make_mount_point};
use crate::{Error, ErrorKind, Mount, Registry, Result, VolumeId, image, scratch};

/// `S_IFMT` and two of its values.
const TYPE: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;

/// An activation that is being made.
pub(super) struct Making<'a> {
    pub(super) registry: &'a Registry,
    pub(super) name: &'a str,
    /// Where its mounts go.
    pub(super) directory: PathBuf,
    pub(super) roots: &'a Roots,
    pub(super) layer_of: &'a dyn Fn(&Path) -> Option<Layer>,
    pub(super) temporary: bool,
}

/// What has been made so far.
#[derive(Default)]
struct Made {
    active: Vec<ActiveRecord>,
    volumes: Vec<VolumeId>,
    /// To be made read-only when everything is in its place.
    writable: Vec<PathBuf>,
}

impl Making<'_> {
    /// Makes everything and writes that it is there. After an error, what was made is to be dismantled.
    pub(super) fn make(&self, journal: &mut Journal, plan: Plan) -> Result<()> {
        if let Some(parent) = self.directory.parent() {
            // Only root passes, as for volumes.
            make_directory(parent, 0o700, false)?;
        }
        make_directory(&self.directory, 0o700, false)?;
        sys::failpoint::hit("activation-directory");
        let mut volumes = Volumes::new(self.registry, journal);
        let mut made = Made::default();
        let result = self.steps(&mut volumes, plan, &mut made).and_then(|system| {
            let (holder, since) = (holder_of(self.name), unix_time_now());
            let name = self.name.to_owned();
            let hold = Record::Hold { holder, volumes: made.volumes, since };
            volumes.finish(vec![hold, Record::Activated { name, active: made.active, system }])
        });
        if result.is_err() {
            volumes.abandon();
        }
        result
    }

    fn steps(&self, volumes: &mut Volumes<'_>, plan: Plan, made: &mut Made) -> Result<Vec<Mount>> {
        for (index, step) in plan.mounted.iter().enumerate() {
            let active = self
                .transform(step, &made.active)
                .and_then(|mount| self.perform(volumes, index, step, mount, made))
                .map_err(|error| {
                    Error::caused(error.kind(), format!("cannot activate mount {index}"), error)
                })?;
            made.active.push(active);
            sys::failpoint::hit("activation-mounted");
        }
        let mut system = Vec::new();
        if let Some(step) = &plan.transformed {
            system.push(self.transform(step, &made.active)?);
        }
        system.extend(plan.rest);
        if self.temporary
            && let Some(last) = made.active.last()
        {
            system.push(Mount {
                r#type: "bind".to_owned(),
                source: last.point.clone(),
                target: PathBuf::new(),
                options: vec!["rbind".to_owned()],
            });
        }
        for path in &made.writable {
            sys::make_read_only(path).map_err(|error| {
                Error::sys(format!("cannot make {} read-only", path.display()), error)
            })?;
        }
        Ok(system)
    }

    /// The mount of `step` as it is to be performed.
    fn transform(&self, step: &Step, before: &[ActiveRecord]) -> Result<Mount> {
        let mut mount = step.mount.clone();
        for transform in &step.transforms {
            match transform {
                Transform::Format => {
                    let before = before.iter().map(|active| (&active.mount, &active.point));
                    fill(&mut mount, &performed(before))?;
                }
                Transform::MakeFileSystem => self.make_file_system(&mut mount)?,
                Transform::MakeDirectories => {
                    for wish in take_directories(&mut mount.options)? {
                        self.make_directory(&wish)?;
                    }
                }
            }
        }
        Ok(mount)
    }

    fn make_file_system(&self, mount: &mut Mount) -> Result<()> {
        let wish = take_file_system(&mut mount.options)?;
        let (parent, name) = self.roots.parent_of(&mount.source)?;
        match parent.status(&name) {
            Ok(status) if status.mode & TYPE == REGULAR => return Ok(()),
            Ok(_) => {
                let message = format!("{} is no regular file", mount.source.display());
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            Err(error) if error.errno() == Some(libc::ENOENT) => {}
            Err(error) => {
                return Err(Error::sys(
                    format!("cannot look at {}", mount.source.display()),
                    error,
                ));
            }
        }
        // By descriptor, so that it is made in the directory that was checked.
        let pid = std::process::id();
        let mut path = PathBuf::from(format!("/proc/{pid}/fd/{}", parent.as_fd().as_raw_fd()));
        path.push(OsStr::from_bytes(&name));
        scratch::make(&path, wish.size, &wish.sort, wish.uuid.as_deref())
    }

    fn make_directory(&self, wish: &DirectoryWish) -> Result<()> {
        let (parent, name) = self.roots.parent_of(Path::new(&wish.path))?;
        let failed = |error| Error::sys(format!("cannot make the directory {}", wish.path), error);
        let made: Directory = match parent.make_directory(&name) {
            Ok(made) => made,
            Err(error) if error.errno() == Some(libc::EEXIST) => {
                let status = parent.status(&name).map_err(failed)?;
                let fits = status.mode & TYPE == DIRECTORY
                    && status.mode & 0o7777 == u32::from(wish.mode)
                    && wish.owner.is_none_or(|owner| owner == (status.uid, status.gid));
                return match fits {
                    true => Ok(()),
                    false => Err(Error::new(
                        ErrorKind::NotSupported,
                        format!("{} exists, but not as it is wanted", wish.path),
                    )),
                };
            }
            Err(error) => return Err(failed(error)),
        };
        if let Some((uid, gid)) = wish.owner {
            made.set_owner(b"", uid, gid).map_err(failed)?;
        }
        made.set_permissions(b"", wish.mode).map_err(failed)
    }

    fn perform(
        &self,
        volumes: &mut Volumes<'_>,
        index: usize,
        step: &Step,
        mount: Mount,
        made: &mut Made,
    ) -> Result<ActiveRecord> {
        let point = self.directory.join(index.to_string());
        let active = |mount: Mount, point: PathBuf, identity: Option<Identity>| ActiveRecord {
            mount,
            point,
            identity,
            since: unix_time_now(),
        };
        let detached = match step.handler {
            Handler::Loop => {
                attach_loop(&mount, &point)?;
                return Ok(active(mount, point, None));
            }
            Handler::Erofs => {
                let options = ErofsOptions::read(&mount.options)?;
                let alone = MountAttributes { read_only: true, ..options.attributes };
                let shareable = options.devices.is_empty()
                    && alone == MountAttributes { read_only: true, ..MountAttributes::default() };
                let layer = shareable.then(|| (self.layer_of)(&mount.source)).flatten();
                if let Some(layer) = layer {
                    let wanted = Wanted::layer(&layer);
                    let shared = self.registry.layer_mount_point(&wanted.id);
                    if !made.volumes.contains(&wanted.id) {
                        volumes.ensure(std::slice::from_ref(&wanted))?;
                        made.volumes.push(wanted.id);
                    }
                    return Ok(active(mount, shared, None));
                }
                let devices: Vec<PathBuf> = options.devices.iter().map(PathBuf::from).collect();
                let prepared =
                    image::prepare(&mount.source, &devices, None, self.registry.backing)?;
                prepared.mount.add_attributes(alone).map_err(|error| {
                    Error::sys(format!("cannot mount {}", mount.source.display()), error)
                })?;
                prepared.mount
            }
            Handler::Kernel => {
                // Directories may have to be made in it before it is as read-only as it was wanted.
                let writable =
                    step.makes_file_system() && Options::read(&mount.options)?.attributes.read_only;
                if writable {
                    made.writable.push(point.clone());
                }
                kernel::prepare(&mount, writable)?
            }
        };
        let identity = detached_identity(&detached)?;
        make_mount_point(&point)?;
        image::attach(&detached, &point)?;
        Ok(active(mount, point, Some(identity)))
    }
}

/// Fills the templates of `mount` in.
fn fill(mount: &mut Mount, before: &[Performed<'_>]) -> Result<()> {
    let filled = |text: &str, escape: bool| match Template::parse(text, before.len())? {
        None => Ok(None),
        Some(template) => template.fill(before, escape).map(Some),
    };
    for path in [&mut mount.source, &mut mount.target] {
        if let Some(text) = filled(path.to_str().unwrap_or_default(), false)? {
            *path = PathBuf::from(text);
        }
    }
    // What overlayfs takes apart at separators; the options of the manager itself are not.
    let overlay = mount.r#type.ends_with("overlay");
    for option in &mut mount.options {
        if let Some(text) = filled(option, overlay && !option.starts_with("X-containerd."))? {
            *option = text;
        }
    }
    Ok(())
}

/// What the loop device of the link at `link` is known by.
pub(super) fn loop_name(link: &Path) -> PathBuf {
    let names: Vec<_> = link.iter().rev().take(2).collect();
    let names: PathBuf = names.into_iter().rev().collect();
    Path::new("plywood").join(names)
}

/// Attaches the source of `mount` to a loop device that stays, and links it at `link`.
fn attach_loop(mount: &Mount, link: &Path) -> Result<()> {
    let read_only = mount.options.iter().any(|option| option == "ro");
    let direct_io = mount.options.iter().any(|option| option == "direct-io");
    let file = OpenOptions::new()
        .read(true)
        .write(!read_only)
        .open(&mount.source)
        .map_err(|error| Error::io(format!("cannot open {}", mount.source.display()), error))?;
    let options = LoopOptions { read_only, direct_io, block_size: 0 };
    let failed = |error| Error::sys(format!("cannot attach {}", mount.source.display()), error);
    let device = LoopDevice::attach(&file, &loop_name(link), &options).map_err(failed)?;
    // Until it is kept, it ends with us; the link has to be there before, to be found.
    std::os::unix::fs::symlink(device.path(), link)
        .map_err(|error| Error::io(format!("cannot link {}", link.display()), error))?;
    sys::failpoint::hit("activation-linked");
    device.keep(true).map_err(failed)
}
