//! Mounting something at a directory for a holder, and undoing it.

use std::path::{Path, PathBuf};

use store::{Chain, ScratchPaths};
use sys::{DetachedMount, MountAttributes, MountTable};

use crate::clock::unix_time_now;
use crate::overlay::{Overlay, check_count, distinct};
use crate::record::{Identity, Record};
use crate::state::TargetState;
use crate::volumes::{Volumes, Wanted, detached_identity, identity_at};
use crate::{Error, ErrorKind, Holder, IdMapping, Registry, Result, TargetKind, VolumeId, image};

/// How [`Registry::mount_chain`] mounts.
#[derive(Debug, Clone, Default)]
pub struct MountOptions {
    /// Nothing can be written through the mount, scratch or not.
    pub read_only: bool,
}

/// Directories of a scratch that is there to be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScratchDirs {
    /// The overlay's upper directory.
    pub upper: PathBuf,
    /// The overlay's work directory.
    pub work: PathBuf,
}

impl ScratchDirs {
    /// Makes the root of the container's user namespace own its root directory, as overlayfs shows the upper
    /// directory's owner there.
    ///
    /// # Errors
    /// Those of `chown(2)`.
    pub fn give_to(&self, mapping: &IdMapping) -> Result<()> {
        let (uid, gid) = mapping.root();
        std::os::unix::fs::lchown(&self.upper, Some(uid), Some(gid)).map_err(|error| {
            Error::io(format!("cannot give {} to {uid}:{gid}", self.upper.display()), error)
        })
    }
}

/// A mount that is ready to be attached at a target.
pub(crate) struct Ready {
    pub(crate) mount: DetachedMount,
    pub(crate) kind: TargetKind,
    pub(crate) what: String,
    pub(crate) volumes: Vec<VolumeId>,
    pub(crate) upper: PathBuf,
    pub(crate) read_only: bool,
}

impl Registry {
    /// Mounts the root file system of `chain` at the directory `target`, for `holder`, with the volumes that it
    /// needs. What the holder's death means is for [`Registry::reconcile`] to find.
    ///
    /// # Errors
    /// `TooManyLayers` before anything is done; `AlreadyExists` if something of ours is mounted at `target`;
    /// `Busy` if the scratch is in use by another mount; `Corrupt`, `ToolMissing` and what the kernel says.
    /// Nothing stays mounted then that was not before.
    pub fn mount_chain(
        &self,
        chain: &Chain,
        target: &Path,
        holder: &Holder,
        options: &MountOptions,
    ) -> Result<()> {
        check_count(chain.layers.len())?;
        let target = directory(target)?;
        let mut wanted: Vec<Wanted> = chain.layers.iter().map(Wanted::layer).collect();
        let lowers: Vec<PathBuf> =
            wanted.iter().map(|wanted| self.layer_mount_point(&wanted.id)).collect();
        let scratch = match &chain.scratch {
            None => None,
            Some(ScratchPaths::Directory { upper, work }) => {
                Some(ScratchDirs { upper: upper.clone(), work: work.clone() })
            }
            Some(ScratchPaths::Image { path, size }) => {
                wanted.push(Wanted::scratch(path, *size)?);
                wanted.last().map(|wanted| self.scratch_dirs(&wanted.id))
            }
        };
        let mut locked = self.locked()?;
        self.check_target(&mut Volumes::new(self, &mut locked.journal), &target)?;
        if let Some(scratch) = &scratch {
            for (path, other) in &locked.journal.state().targets {
                // One that is not there any more is only waiting for reconcile.
                if other.upper != scratch.upper || identity_at(path)? != Some(other.identity) {
                    continue;
                }
                return Err(Error::new(
                    ErrorKind::Busy,
                    format!("the scratch is mounted at {} by {}", path.display(), other.holder),
                ));
            }
        }
        let mut volumes = Volumes::new(self, &mut locked.journal);
        volumes.ensure(&wanted)?;
        let ready = self.combine(chain, &distinct(&lowers), scratch.as_ref(), options).map(
            |(mount, kind)| Ready {
                mount,
                kind,
                what: chain.snapshot.name(),
                volumes: wanted.iter().map(|wanted| wanted.id.clone()).collect(),
                upper: scratch.map(|scratch| scratch.upper).unwrap_or_default(),
                read_only: options.read_only || chain.scratch.is_none(),
            },
        );
        self.attach(volumes, ready, &target, holder)?;
        locked.journal.compact()
    }

    /// Mounts one EROFS file, with its extra devices in slot order, at the directory `target`.
    ///
    /// # Errors
    /// As [`Registry::mount_chain`]; `Invalid` if the image wants another number of devices.
    pub fn mount_image_file(
        &self,
        image: &Path,
        devices: &[PathBuf],
        target: &Path,
        holder: &Holder,
    ) -> Result<()> {
        self.mount_view(image, image, devices, target, holder)
    }

    /// Mounts an EROFS file that shows another image, `what`, whose files are its extra devices.
    ///
    /// # Errors
    /// As [`Registry::mount_image_file`].
    pub fn mount_view(
        &self,
        what: &Path,
        view: &Path,
        devices: &[PathBuf],
        target: &Path,
        holder: &Holder,
    ) -> Result<()> {
        let target = directory(target)?;
        let mut locked = self.locked()?;
        let mut volumes = Volumes::new(self, &mut locked.journal);
        self.check_target(&mut volumes, &target)?;
        let ready = image::prepare(view, devices, None, self.backing).map(|mounted| Ready {
            mount: mounted.mount,
            kind: TargetKind::Image,
            what: what.display().to_string(),
            volumes: Vec::new(),
            upper: PathBuf::new(),
            read_only: true,
        });
        self.attach(volumes, ready, &target, holder)?;
        locked.journal.compact()
    }

    /// One mount out of layers and scratch.
    fn combine(
        &self,
        chain: &Chain,
        lowers: &[PathBuf],
        scratch: Option<&ScratchDirs>,
        options: &MountOptions,
    ) -> Result<(DetachedMount, TargetKind)> {
        let bind = |source: &Path, read_only: bool| {
            let doing = |error| Error::sys(format!("cannot bind {}", source.display()), error);
            let mount = DetachedMount::copy_of(source, false).map_err(doing)?;
            if read_only {
                let attributes = MountAttributes { read_only, ..MountAttributes::default() };
                mount.add_attributes(attributes).map_err(doing)?;
            }
            Ok((mount, TargetKind::Bind))
        };
        match (scratch, lowers) {
            (Some(scratch), []) => bind(&scratch.upper, options.read_only),
            (None, [single]) => bind(single, true),
            (None, []) => match &chain.empty {
                Some(empty) => bind(empty, true),
                None => Err(Error::new(ErrorKind::Invalid, "there is nothing to mount")),
            },
            (scratch, lowers) => {
                let stage = self.run_dir().join("stage");
                let overlay = Overlay {
                    lowers,
                    upper: scratch.map(|dirs| (dirs.upper.as_path(), dirs.work.as_path())),
                    read_only: options.read_only || scratch.is_none(),
                    stage: &stage,
                    old_kernel: self.old_overlay,
                };
                Ok((overlay.prepare()?, TargetKind::Overlay))
            }
        }
    }

    /// Refuses a target that carries one of our mounts; forgets one that is there only in the journal.
    pub(crate) fn check_target(&self, volumes: &mut Volumes<'_>, target: &Path) -> Result<()> {
        let Some(known) = volumes.state().targets.get(target) else { return Ok(()) };
        if identity_at(target)? != Some(known.identity) {
            return volumes.finish(vec![Record::Detached { path: target.to_owned() }]);
        }
        let (what, holder) = (&known.what, &known.holder);
        Err(Error::new(
            ErrorKind::AlreadyExists,
            format!("{what} is mounted at {} already, by {holder}", target.display()),
        ))
    }

    /// Attaches `ready` at `target`, or undoes the volumes that were made for it.
    pub(crate) fn attach(
        &self,
        mut volumes: Volumes<'_>,
        ready: Result<Ready>,
        target: &Path,
        holder: &Holder,
    ) -> Result<()> {
        let result = ready.and_then(|ready| {
            // The mount exists already, attached nowhere, and ends with us; what the intention announces is
            // where it will appear, and as which mount.
            let intention = Record::Target {
                path: target.to_owned(),
                identity: detached_identity(&ready.mount)?,
                kind: ready.kind,
                holder: holder.clone(),
                what: ready.what,
                volumes: ready.volumes,
                upper: ready.upper,
                read_only: ready.read_only,
                since: unix_time_now(),
            };
            sys::failpoint::hit("target-prepared");
            volumes.finish(vec![intention])?;
            sys::failpoint::hit("target-intended");
            if let Err(error) = image::attach(&ready.mount, target) {
                drop(ready.mount);
                volumes.drop_target(target)?;
                return Err(error);
            }
            sys::failpoint::hit("target-attached");
            volumes.finish(vec![Record::Attached { path: target.to_owned() }])?;
            sys::failpoint::hit("target-done");
            Ok(())
        });
        if result.is_err() {
            volumes.abandon();
        }
        result
    }

    /// Undoes everything that was mounted at `target` through this registry: mounts on and below it, itself,
    /// and the volumes that nobody needs any more. `false` if there was nothing; doing it again does no harm.
    ///
    /// # Errors
    /// `Busy` if it is in use; everything stays then, except mounts below it that were not.
    pub fn unmount(&self, target: &Path) -> Result<bool> {
        let target = match target.canonicalize() {
            Ok(path) => path,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                std::path::absolute(target).unwrap_or_else(|_| target.to_owned())
            }
            Err(error) => {
                return Err(Error::io(format!("cannot find {}", target.display()), error));
            }
        };
        let mut locked = self.locked()?;
        let mut volumes = Volumes::new(self, &mut locked.journal);
        let Some(known) = volumes.state().targets.get(&target).cloned() else { return Ok(false) };
        let was_there = detach(&target, &known)?;
        sys::failpoint::hit("target-unmounted");
        volumes.drop_target(&target)?;
        locked.journal.compact()?;
        Ok(was_there)
    }
}

/// Unmounts the mount `known` from `target`, with everything on and below it. `false` if it is not there.
pub(crate) fn detach(target: &Path, known: &TargetState) -> Result<bool> {
    let failed =
        |error| Error::sys(format!("cannot unmount {} ({})", target.display(), known.what), error);
    if identity_at(target)? == Some(known.identity) {
        match sys::unmount(target) {
            Ok(()) => return Ok(true),
            // In use, perhaps only by mounts below it.
            Err(error) if error.errno() == Some(libc::EBUSY) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let table = MountTable::read().map_err(failed)?;
    let tree = table.tree(target);
    let is_ours = |entry: &sys::MountEntry| {
        let (major, minor) = entry.device;
        entry.mount_point == target && known.identity == Identity { id: entry.id, major, minor }
    };
    if !tree.iter().any(|entry| is_ours(entry)) {
        return Ok(false);
    }
    // The mounts that depend on ours come before it, because they are deeper in the tree.
    for entry in tree {
        sys::unmount(&entry.mount_point).map_err(failed)?;
        if is_ours(entry) {
            break;
        }
    }
    Ok(true)
}

/// `target` without symbolic links, which must be a directory.
pub(crate) fn directory(target: &Path) -> Result<PathBuf> {
    let path = target.canonicalize().map_err(|error| {
        Error::io(format!("cannot find the directory {}", target.display()), error)
    })?;
    if !path.is_dir() {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("{} is not a directory", path.display()),
        ));
    }
    Ok(path)
}
