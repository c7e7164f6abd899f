//! Mounting a CIM: by the kernel through a view, or by FUSE.

mod served;

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use layer::cim_view::view_of;
use mount::{Holder, HolderKind};

use served::by_fuse;

use crate::cli::{Driver, MountArgs};
use crate::exit::{Exit, Failure, warn};
use crate::host::{Host, require_root};
use crate::interrupt::cancel_on_signal;

/// Whether a file is of a CIM, by its first bytes. What cannot be read is none: whoever opens it next says why.
pub(super) fn is_cim(path: &Path) -> Result<bool> {
    // Opening a pipe would wait for somebody who writes to it.
    if !path.is_file() {
        return Ok(false);
    }
    let mut magic = [0; cimfs::format::MAGIC.len()];
    match File::open(path).and_then(|mut file| file.read_exact(&mut magic)) {
        Ok(()) => Ok(magic == cimfs::format::MAGIC),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// The top CIM of an image for Windows, or of a snapshot on one; `None` for all others, and for what is not there.
pub(super) fn of_image(host: &Host, what: &str) -> Result<Option<PathBuf>> {
    if !host.root().is_dir() {
        return Ok(None);
    }
    let store = host.store_to_read()?;
    let snapshots = store.list(&[])?;
    let mut top = None;
    let mut next = snapshots.iter().find(|snapshot| snapshot.key == what.as_bytes());
    if next.is_none() {
        let image = super::super::image::lookup(&store, what)?;
        top = image.and_then(|image| image.layers.last().cloned());
    }
    while let (None, Some(snapshot)) = (&top, next) {
        top = snapshot.layers.first().cloned();
        let parent = snapshot.parent.as_ref();
        next = parent.and_then(|parent| snapshots.iter().find(|other| other.key == *parent));
    }
    let Some(id) = top.filter(store::LayerId::is_cim) else { return Ok(None) };
    Ok(store.layer(&id)?.map(|layer| layer.path))
}

/// Refuses what makes sense for a CIM only.
pub(super) fn refuse_options(args: &MountArgs) -> Result<()> {
    if args.driver != Driver::Auto || args.ignore_case || args.foreground {
        let message = "--driver, --ignore-case and --foreground are for CIMs";
        return Err(Failure::new(Exit::Usage, message).into());
    }
    Ok(())
}

pub(super) use served::unmount_unprivileged;

pub(super) fn mount(host: &Host, args: &MountArgs, image: &Path, dir: &Path) -> Result<()> {
    if args.rw || !args.devices.is_empty() {
        let message = "a CIM can only be read, and finds its other files itself";
        return Err(Failure::new(Exit::Usage, message).into());
    }
    let image = image.canonicalize().with_context(|| format!("cannot find {}", image.display()))?;
    let target = super::directory(dir)?;
    let needs_fuse = args.ignore_case || args.foreground;
    match args.driver {
        Driver::Erofs if needs_fuse => {
            let message = "--ignore-case and --foreground take the driver fuse";
            Err(Failure::new(Exit::Usage, message).into())
        }
        Driver::Erofs => by_kernel(host, &image, &target),
        Driver::Auto if rustix::process::geteuid().is_root() && !needs_fuse => {
            match by_kernel(host, &image, &target) {
                Err(error) if cannot_be_viewed(&error) => {
                    warn(&format!("the kernel cannot show this image, FUSE will: {error:#}"));
                    by_fuse(host, args, &image, &target)
                }
                other => other,
            }
        }
        Driver::Auto | Driver::Fuse => by_fuse(host, args, &image, &target),
    }
}

/// Whether it is a matter of the driver, and not of the image or the directory.
fn cannot_be_viewed(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let layer = cause.downcast_ref::<layer::Error>().map(layer::Error::kind);
        let mount = cause.downcast_ref::<mount::Error>().map(mount::Error::kind);
        matches!(layer, Some(layer::ErrorKind::Unsupported | layer::ErrorKind::TooLarge))
            || mount == Some(mount::ErrorKind::NotSupported)
    })
}

fn by_kernel(host: &Host, image: &Path, target: &Path) -> Result<()> {
    require_root("mounting by the kernel")?;
    host.settle()?;
    let cancel = cancel_on_signal()?;
    let view = view_of(image, &views(host), &cancel)
        .with_context(|| format!("cannot make a view of {}", image.display()))?;
    let holder = Holder::new(HolderKind::User, target.to_string_lossy());
    host.registry()?
        .mount_view(image, &view.path, &view.devices, target, &holder)
        .with_context(|| format!("cannot mount {}", image.display()))
}

/// Where views are kept: with the store if there is one, else among the user's caches.
fn views(host: &Host) -> PathBuf {
    let in_store = host.root().join("views");
    if host.root().is_dir() {
        return in_store;
    }
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    match (set("XDG_CACHE_HOME"), set("HOME")) {
        (Some(cache), _) => PathBuf::from(cache).join("plywood/views"),
        (None, Some(home)) => PathBuf::from(home).join(".cache/plywood/views"),
        (None, None) => host.run().join("views"),
    }
}
