//! A container's root: layers and a scratch, combined.

use std::path::{Path, PathBuf};

use bridge::CombinedLayers;
use sys::{DetachedMount, FsContext, MountAttributes};

use crate::place::{MadeDirectories, checked};
use crate::{Error, ErrorKind, Result};

/// Overlayfs's own limit (`OVL_MAX_STACK` in fs/overlayfs/params.h).
const MOST_LAYERS: usize = 500;

/// A root that was combined, with what was made for it and goes with it: the scratch does not.
#[derive(Debug)]
pub(crate) struct Combined {
    made: MadeDirectories,
}

/// The request, checked.
struct Plan {
    root: PathBuf,
    layers: Vec<PathBuf>,
    scratch: Option<PathBuf>,
}

impl Plan {
    fn of(request: &CombinedLayers) -> Result<Self> {
        let root = checked(&request.container_root_path, "the container's root")?;
        let layers: Vec<PathBuf> = request
            .layers
            .iter()
            .map(|layer| checked(&layer.path, "a layer"))
            .collect::<Result<_>>()?;
        if layers.is_empty() {
            return Err(Error::invalid("there are no layers to combine"));
        }
        if layers.len() > MOST_LAYERS {
            let message = format!(
                "{} layers are more than the {MOST_LAYERS} the kernel combines; merging layers helps",
                layers.len()
            );
            return Err(Error::invalid(message));
        }
        let scratch = match request.scratch_path.as_str() {
            "" => None,
            path => Some(checked(path, "the scratch")?),
        };
        Ok(Self { root, layers, scratch })
    }
}

/// The path a request is about.
pub(crate) fn root_of(request: &CombinedLayers) -> Result<PathBuf> {
    checked(&request.container_root_path, "the container's root")
}

/// Combines; on failure nothing that was made stays.
pub(crate) fn combine(request: &CombinedLayers) -> Result<Combined> {
    let plan = Plan::of(request)?;
    if is_mount_point(&plan.root)? {
        let message = format!("{}: something is mounted there already", plan.root.display());
        return Err(Error::new(ErrorKind::Busy, message));
    }
    for layer in &plan.layers {
        let is_directory = std::fs::metadata(layer)
            .map_err(|error| Error::failed(format!("the layer {}", layer.display()), error))?
            .is_dir();
        if !is_directory {
            return Err(Error::invalid(format!("the layer {} is no directory", layer.display())));
        }
    }
    let mut made = MadeDirectories::default();
    let mut scratch = MadeDirectories::default();
    match attach(&plan, &mut made, &mut scratch) {
        Ok(()) => Ok(Combined { made }),
        Err(error) => {
            scratch.remove();
            made.remove();
            Err(error)
        }
    }
}

fn attach(
    plan: &Plan,
    made: &mut MadeDirectories,
    made_of_scratch: &mut MadeDirectories,
) -> Result<()> {
    made.make(&plan.root, 0o755)?;
    let what = || format!("combining {} layers at {}", plan.layers.len(), plan.root.display());
    let mount = match (&plan.scratch, plan.layers.as_slice()) {
        // Overlayfs wants two layers or an upper directory; one read-only layer is just itself.
        (None, [layer]) => bind(layer),
        (None, layers) => overlay(layers, None),
        (Some(scratch), layers) => {
            let (upper, work) = (scratch.join("upper"), scratch.join("work"));
            made_of_scratch.make(&upper, 0o755)?;
            made_of_scratch.make(&work, 0o755)?;
            let mounted = overlay(layers, Some((&upper, &work)));
            if mounted.is_err() {
                // Overlayfs makes a directory of its own inside before it notices some failures.
                let _ = std::fs::remove_dir(work.join("work"));
            }
            mounted
        }
    };
    mount.and_then(|mount| mount.attach(&plan.root)).map_err(|error| Error::failed(what(), error))
}

fn bind(layer: &Path) -> sys::Result<DetachedMount> {
    let mount = DetachedMount::copy_of(layer, false)?;
    mount.make_private()?;
    mount.add_attributes(MountAttributes { read_only: true, ..MountAttributes::default() })?;
    Ok(mount)
}

fn overlay(layers: &[PathBuf], writable: Option<(&Path, &Path)>) -> sys::Result<DetachedMount> {
    let context = FsContext::open("overlay")?;
    context.set_string("source", "overlay")?;
    // One option for each layer: no page of text to be cut, no characters that mean something.
    for layer in layers {
        context.set_string("lowerdir+", layer)?;
    }
    if let Some((upper, work)) = writable {
        context.set_string("upperdir", upper)?;
        context.set_string("workdir", work)?;
    }
    context.create()?;
    context.mount(MountAttributes { read_only: writable.is_none(), ..MountAttributes::default() })
}

pub(crate) fn is_mount_point(path: &Path) -> Result<bool> {
    match sys::MountIdentity::of_path(path) {
        Ok(identity) => Ok(identity.is_root),
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(Error::failed(format!("looking at {}", path.display()), error)),
    }
}

impl Combined {
    /// Takes the root apart: unmounts it, and removes the directory it was on if that was made here and is empty.
    /// The scratch stays as the container left it.
    pub(crate) fn separate(&mut self, root: &Path) -> Result<()> {
        match sys::unmount(root) {
            Ok(()) => {}
            // Somebody has unmounted it already.
            Err(error) if matches!(error.errno(), Some(libc::EINVAL | libc::ENOENT)) => {}
            Err(error) => {
                return Err(Error::failed(format!("taking apart {}", root.display()), error));
            }
        }
        self.made.remove();
        Ok(())
    }
}
