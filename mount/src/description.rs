//! Mounts as data, in containerd's form: describing is separate from performing.

mod erofs_form;

use std::path::{Path, PathBuf};

use store::Chain;

pub use erofs_form::describe_erofs;

use crate::overlay::{MAX_LAYERS, OPTIONS, distinct};
use crate::{Error, ErrorKind, Mount, Result, ScratchDirs};

/// What may differ between two descriptions of one chain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountForm {
    /// Overlays keep their marks in `user.` attributes (option `userxattr`): needed where whoever mounts does it
    /// in a user namespace of its own. Marks in layer images are `trusted.` ones, so opaque directories of
    /// layers are transparent then.
    pub user_xattrs: bool,
}

/// The mounts of `chain` over `volumes`, the mount points of its layers in the same order (top first), and
/// `scratch`, the directories that [`crate::Registry::hold_scratch`] gives for an active snapshot. They are what
/// containerd's overlayfs snapshotter would answer, so that any containerd can perform them with `mount(2)`.
///
/// # Errors
/// `TooManyLayers` if the options would not fit the page that `mount(2)` reads, even after containerd has taken
/// the common directory out of the lower layers' names. `Invalid` if a path is not UTF-8, or if the numbers of
/// volumes and layers differ.
pub fn describe(
    chain: &Chain,
    volumes: &[PathBuf],
    scratch: Option<&ScratchDirs>,
    form: &MountForm,
) -> Result<Vec<Mount>> {
    if volumes.len() != chain.layers.len() {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("{} volumes do not fit {} layers", volumes.len(), chain.layers.len()),
        ));
    }
    check_scratch(chain, scratch)?;
    let volumes = distinct(volumes);
    let mount = match (scratch, volumes.as_slice()) {
        (Some(scratch), []) => bind(&scratch.upper, "rw"),
        (None, [single]) => bind(single, "ro"),
        (None, []) => match &chain.empty {
            Some(empty) => bind(empty, "ro"),
            None => return Err(Error::new(ErrorKind::Invalid, "there is nothing to mount")),
        },
        (scratch, volumes) => overlay(scratch, volumes, form)?,
    };
    Ok(vec![mount])
}

fn check_scratch(chain: &Chain, scratch: Option<&ScratchDirs>) -> Result<()> {
    match (&chain.scratch, scratch) {
        (Some(_), Some(_)) | (None, None) => Ok(()),
        (Some(_), None) => Err(Error::new(
            ErrorKind::Invalid,
            "an active snapshot cannot be described without the directories of its scratch",
        )),
        (None, Some(_)) => Err(Error::new(ErrorKind::Invalid, "a view has no scratch")),
    }
}

fn bind(source: &Path, access: &str) -> Mount {
    Mount {
        r#type: "bind".to_owned(),
        source: source.to_owned(),
        target: PathBuf::new(),
        options: vec!["rbind".to_owned(), access.to_owned()],
    }
}

/// An overlay's options around its layers: upper and work directory, `lowerdir`, and what is always set.
fn overlay_options(
    scratch: Option<&ScratchDirs>,
    lowerdir: &str,
    form: &MountForm,
) -> Result<Vec<String>> {
    let mut options = Vec::new();
    if let Some(scratch) = scratch {
        options.push(format!("workdir={}", escaped(&scratch.work)?));
        options.push(format!("upperdir={}", escaped(&scratch.upper)?));
    }
    options.push(format!("lowerdir={lowerdir}"));
    options.extend(OPTIONS.iter().map(|&(key, value)| match key {
        // The one value that the kernel takes together with `userxattr` (`ovl_fs_params_verify`).
        "redirect_dir" if form.user_xattrs => "redirect_dir=nofollow".to_owned(),
        _ => format!("{key}={value}"),
    }));
    if form.user_xattrs {
        options.push("userxattr".to_owned());
    }
    Ok(options)
}

fn overlay(scratch: Option<&ScratchDirs>, volumes: &[PathBuf], form: &MountForm) -> Result<Mount> {
    let lowers: Vec<String> = volumes.iter().map(|path| escaped(path)).collect::<Result<_, _>>()?;
    let options = overlay_options(scratch, &lowers.join(":"), form)?;
    let length = options.iter().map(|option| option.len() + 1).sum::<usize>();
    // containerd enters the layers' common directory and names them from there.
    let spared = common_directory(volumes).map_or(0, |common| (common + 1) * volumes.len());
    if volumes.len() > MAX_LAYERS || length - spared >= sys::OPTIONS_PAGE {
        return Err(Error::new(
            ErrorKind::TooManyLayers,
            format!(
                "{} layers need more mount options than the {} bytes that mount(2) takes; merge some of them \
                 into one image first",
                volumes.len(),
                sys::OPTIONS_PAGE
            ),
        ));
    }
    Ok(Mount {
        r#type: "overlay".to_owned(),
        source: PathBuf::from("overlay"),
        target: PathBuf::new(),
        options,
    })
}

/// Length of the directory that all `paths` lie in, if it is the same one.
fn common_directory(paths: &[PathBuf]) -> Option<usize> {
    let first = paths.first()?.parent()?;
    let same = paths.iter().all(|path| path.parent() == Some(first));
    same.then_some(first.as_os_str().len())
}

/// A path as overlayfs reads it in an option string: separators are escaped with a backslash.
pub(crate) fn escaped(path: &Path) -> Result<String> {
    let Some(text) = path.to_str() else {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("{} is not UTF-8, which containerd's mounts have to be", path.display()),
        ));
    };
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '\\' | ':' | ',') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    Ok(escaped)
}

#[cfg(test)]
mod tests;
