//! Mounts of any type, as containerd's `mount(2)` helper performs them, but attached nowhere at first.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use sys::{DetachedMount, FsContext, LoopDevice, LoopOptions, MountAttributes};

use crate::activation::options::Options;
use crate::overlay::check_count;
use crate::{Error, ErrorKind, Mount, Result, compat};

/// The mount that `mount` describes. With `writable`, its file system can be written although the mount is
/// described as read-only.
pub(super) fn prepare(mount: &Mount, writable: bool) -> Result<DetachedMount> {
    let mut options = Options::read(&mount.options)?;
    if writable {
        options.attributes.read_only = false;
    }
    let failed = |error| {
        let (sort, source) = (&mount.r#type, mount.source.display());
        Error::sys(format!("cannot mount {sort} {source}"), error)
    };
    match options.bind.or((mount.r#type == "bind").then_some(false)) {
        Some(recursive) => bind(&mount.source, recursive, options.attributes).map_err(failed),
        None if mount.r#type == "overlay" => overlay(&options)?.finish().map_err(failed),
        None => file_system(mount, &options),
    }
}

fn bind(source: &Path, recursive: bool, attributes: MountAttributes) -> sys::Result<DetachedMount> {
    let mount = DetachedMount::copy_of(source, recursive)?;
    // Or unmounting the copy would unmount what it is a copy of.
    mount.make_private()?;
    if attributes != MountAttributes::default() {
        mount.add_attributes(attributes)?;
    }
    Ok(mount)
}

fn file_system(mount: &Mount, options: &Options) -> Result<DetachedMount> {
    let failed = |error| {
        let (sort, source) = (&mount.r#type, mount.source.display());
        Error::sys(format!("cannot mount {sort} {source}"), error)
    };
    let read_only = options.attributes.read_only;
    let device = match options.looped {
        None => None,
        Some(direct_io) => {
            let doing = |error| Error::io(format!("cannot open {}", mount.source.display()), error);
            let mut how = OpenOptions::new();
            let file = how.read(true).write(!read_only).open(&mount.source).map_err(doing)?;
            let loop_options = LoopOptions { read_only, direct_io, block_size: 0 };
            Some(LoopDevice::attach(&file, &mount.source, &loop_options).map_err(failed)?)
        }
    };
    let configured = || {
        let context = FsContext::open(&mount.r#type)?;
        match &device {
            Some(device) => context.set_string("source", device.path())?,
            None if mount.source.as_os_str().is_empty() => {}
            None => context.set_string("source", &mount.source)?,
        }
        if read_only {
            context.set_flag("ro")?;
        }
        set_all(&context, &options.data)?;
        context.create()?;
        context.mount(options.attributes)
    };
    // The device is the file system's from here on.
    configured().map_err(failed)
}

fn set_all(context: &FsContext, data: &[String]) -> sys::Result<()> {
    for option in data.iter().flat_map(|option| option.split(',')) {
        match option.split_once('=') {
            _ if option.is_empty() => {}
            Some((key, value)) => context.set_string(key, value)?,
            None => context.set_flag(option)?,
        }
    }
    Ok(())
}

/// An overlay by its option string.
struct Overlay<'a> {
    lowers: Vec<PathBuf>,
    upper: Option<PathBuf>,
    work: Option<PathBuf>,
    rest: Vec<String>,
    attributes: &'a MountAttributes,
}

fn overlay(options: &Options) -> Result<Overlay<'_>> {
    let attributes = &options.attributes;
    let mut found =
        Overlay { lowers: Vec::new(), upper: None, work: None, rest: Vec::new(), attributes };
    for option in &options.data {
        match option.split_once('=') {
            Some(("lowerdir", list)) => found.lowers = split(list)?,
            Some(("upperdir", path)) => found.upper = Some(one(path)?),
            Some(("workdir", path)) => found.work = Some(one(path)?),
            _ => found.rest.push(option.clone()),
        }
    }
    check_count(found.lowers.len())?;
    let paths = found.lowers.iter().chain(&found.upper).chain(&found.work);
    for path in paths {
        if !path.is_absolute() {
            let message = format!("the directory {} of an overlay is not absolute", path.display());
            return Err(Error::new(ErrorKind::Invalid, message));
        }
    }
    Ok(found)
}

impl Overlay<'_> {
    fn finish(&self) -> sys::Result<DetachedMount> {
        let context = FsContext::open("overlay")?;
        context.set_string("source", "overlay")?;
        let mut open = Vec::with_capacity(self.lowers.len() + 2);
        for lower in &self.lowers {
            open.push(compat::set_directory(&context, "lowerdir+", lower)?);
        }
        for (key, path) in [("upperdir", &self.upper), ("workdir", &self.work)] {
            if let Some(path) = path {
                open.push(compat::set_directory(&context, key, path)?);
            }
        }
        set_all(&context, &self.rest)?;
        context.create()?;
        context.mount(*self.attributes)
    }
}

/// Takes the backslashes before separators away, and splits at those that have none.
fn split(list: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    let mut path = String::new();
    let mut characters = list.chars();
    while let Some(character) = characters.next() {
        match character {
            ':' => paths.push(std::mem::take(&mut path)),
            '\\' => path.push(characters.next().unwrap_or('\\')),
            other => path.push(other),
        }
    }
    paths.push(path);
    if paths.iter().any(String::is_empty) {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("the layers {list:?} of an overlay are not a list of directories"),
        ));
    }
    Ok(paths.into_iter().map(PathBuf::from).collect())
}

/// One directory, which separators do not end.
fn one(path: &str) -> Result<PathBuf> {
    let mut plain = String::with_capacity(path.len());
    let mut characters = path.chars();
    while let Some(character) = characters.next() {
        plain.push(match character {
            '\\' => characters.next().unwrap_or('\\'),
            other => other,
        });
    }
    match plain.is_empty() {
        true => Err(Error::new(ErrorKind::Invalid, "a directory of an overlay has no name")),
        false => Ok(PathBuf::from(plain)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlay_options_are_taken_apart() {
        let data = ["lowerdir=/a\\:b:/c\\,d", "upperdir=/u\\:x", "workdir=/w:y", "index=off"];
        let data = data.map(str::to_owned).to_vec();
        let options = Options { data, ..Options::default() };
        let overlay = overlay(&options).unwrap();
        assert_eq!(overlay.lowers, [Path::new("/a:b"), Path::new("/c,d")]);
        assert_eq!(overlay.upper.as_deref(), Some(Path::new("/u:x")));
        assert_eq!(overlay.work.as_deref(), Some(Path::new("/w:y")));
        assert_eq!(overlay.rest, ["index=off"]);
        for bad in ["lowerdir=", "lowerdir=/a::/b", "lowerdir=a", "upperdir=", "workdir=x"] {
            let options = Options { data: vec![bad.to_owned()], ..Options::default() };
            assert!(super::overlay(&options).is_err(), "{bad}");
        }
    }
}
