//! One overlay mount over layers.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use sys::{DetachedMount, FsContext, MountAttributes};

use crate::{Error, ErrorKind, Result, compat};

/// Most lower layers of one overlay: the kernel's `OVL_MAX_STACK`.
pub const MAX_LAYERS: usize = 500;

/// Set whatever the kernel was built with, so that an upper directory holds plain files, directories and
/// whiteouts only, and committing it needs no other layer: no redirects, no data-less copies, no index. `xino`
/// keeps inode numbers of the layers apart and stable.
pub(crate) const OPTIONS: [(&str, &str); 4] =
    [("redirect_dir", "off"), ("metacopy", "off"), ("index", "off"), ("xino", "auto")];

/// What an overlay is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Overlay<'a> {
    /// Lower directories, top first.
    pub(crate) lowers: &'a [PathBuf],
    /// Upper and work directory of a writable one.
    pub(crate) upper: Option<(&'a Path, &'a Path)>,
    pub(crate) read_only: bool,
    /// A directory to be made for kernels that cannot make a detached overlay.
    pub(crate) stage: &'a Path,
    /// Does as if the kernel had no `lowerdir+`.
    pub(crate) old_kernel: bool,
}

/// `lowers` without repetitions, of which overlayfs takes none ("conflicting lowerdir path"). An image may have a
/// layer twice; the lower of the two shows nothing that the upper does not show or hide.
pub(crate) fn distinct(lowers: &[PathBuf]) -> Vec<PathBuf> {
    let mut seen = HashSet::with_capacity(lowers.len());
    lowers.iter().filter(|path| seen.insert(path.as_path())).cloned().collect()
}

/// Refuses more layers than an overlay can have, before anything is done.
pub(crate) fn check_count(layers: usize) -> Result<()> {
    if layers <= MAX_LAYERS {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::TooManyLayers,
        format!(
            "{layers} layers are more than the {MAX_LAYERS} that one overlay can have; merge some of them \
             into one image first"
        ),
    ))
}

impl Overlay<'_> {
    /// The overlay, attached nowhere.
    pub(crate) fn prepare(&self) -> Result<DetachedMount> {
        check_count(self.lowers.len())?;
        let result = if self.old_kernel { self.by_string() } else { self.by_context() };
        result.map_err(|error| {
            Error::sys(
                format!("cannot combine {} layers into an overlay", self.lowers.len()),
                error,
            )
        })
    }

    fn attributes(&self) -> MountAttributes {
        MountAttributes { read_only: self.read_only, ..MountAttributes::default() }
    }

    fn by_context(&self) -> sys::Result<DetachedMount> {
        let context = FsContext::open("overlay")?;
        context.set_string("source", "plywood")?;
        let mut open = Vec::with_capacity(self.lowers.len() + 2);
        for (index, lower) in self.lowers.iter().enumerate() {
            match compat::set_directory(&context, "lowerdir+", lower) {
                Ok(directory) => open.push(directory),
                Err(error) if index == 0 && compat::lacks_lower_appending(&error) => {
                    return self.by_string();
                }
                Err(error) => return Err(error),
            }
        }
        if let Some((upper, work)) = self.upper {
            open.push(compat::set_directory(&context, "upperdir", upper)?);
            open.push(compat::set_directory(&context, "workdir", work)?);
        }
        for (key, value) in OPTIONS {
            context.set_string(key, value)?;
        }
        context.create()?;
        context.mount(self.attributes())
    }

    /// For kernels before 6.5: mounts by option string on the stage, and takes the mount off it again.
    fn by_string(&self) -> sys::Result<DetachedMount> {
        let (mut options, mut open) = compat::lower_string(self.lowers)?;
        if let Some((upper, work)) = self.upper {
            for (key, path) in [(",upperdir=", upper), (",workdir=", work)] {
                let (name, file) = compat::by_descriptor(path)?;
                options.push_str(key);
                options.push_str(&name);
                open.push(file);
            }
        }
        for (key, value) in OPTIONS {
            options.push_str(&format!(",{key}={value}"));
        }
        match std::fs::create_dir(self.stage) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                let call = format!("mkdir({})", self.stage.display());
                return Err(sys::Error::new(call, error));
            }
            _ => {}
        }
        sys::mount_with_options(
            Path::new("plywood"),
            self.stage,
            "overlay",
            false,
            options.as_ref(),
        )?;
        let copy = DetachedMount::copy_of(self.stage, false);
        sys::unmount(self.stage)?;
        let copy = copy?;
        copy.add_attributes(self.attributes())?;
        Ok(copy)
    }
}
