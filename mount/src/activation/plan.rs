//! What an activation has to do, worked out and checked before anything is done.

use crate::activation::options::{ErofsOptions, Options, take_directories, take_file_system};
use crate::activation::template::Template;
use crate::{Error, ErrorKind, Mount, Result};

/// Most mounts of one activation: more than an overlay with all its layers needs.
const MAX_MOUNTS: usize = 1024;

/// What happens to a mount's description before it is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transform {
    /// Templates are filled in.
    Format,
    /// A file system is made in the source.
    MakeFileSystem,
    /// Directories are made.
    MakeDirectories,
}

/// Who mounts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handler {
    /// An EROFS image file.
    Erofs,
    /// A file as a loop device: a link to it instead of a mount.
    Loop,
    /// Whatever the kernel knows.
    Kernel,
}

/// One mount of an activation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    /// With its type without what stands for transforms.
    pub(super) mount: Mount,
    pub(super) transforms: Vec<Transform>,
    pub(super) handler: Handler,
}

impl Step {
    pub(super) fn makes_file_system(&self) -> bool {
        self.transforms.contains(&Transform::MakeFileSystem)
    }
}

/// The steps to be mounted, the one that is only transformed, and what is handed back as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) mounted: Vec<Step>,
    pub(super) transformed: Option<Step>,
    pub(super) rest: Vec<Mount>,
}

impl Plan {
    /// Everything before the last mount that has to be transformed, and up to the last that has a handler, is
    /// mounted; with `temporary` everything is.
    pub(super) fn new(mounts: &[Mount], temporary: bool) -> Result<Self> {
        if mounts.len() > MAX_MOUNTS {
            let message = format!("{} mounts are more than {MAX_MOUNTS}", mounts.len());
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let mut steps = Vec::with_capacity(mounts.len());
        let mut first_system = None;
        for (index, mount) in mounts.iter().enumerate() {
            let step = step(mount).map_err(|error| in_mount(index, error))?;
            if !step.transforms.is_empty() {
                first_system = Some(index);
            }
            if step.handler != Handler::Kernel || temporary {
                first_system = Some(index + 1);
            }
            steps.push(step);
        }
        let Some(first_system) = first_system else {
            return Err(Error::new(
                ErrorKind::NotSupported,
                "there is nothing to activate: mount these as they are",
            ));
        };
        for (index, step) in steps.iter().enumerate().take(first_system + 1) {
            check(step, index, index < first_system).map_err(|error| in_mount(index, error))?;
        }
        let mut rest = steps.split_off(first_system);
        // Nothing behind the first system mount is transformed, so its type is whole in `mounts`.
        let transformed = (!rest.is_empty()).then(|| rest.remove(0));
        let rest = mounts[mounts.len() - rest.len()..].to_vec();
        Ok(Self { mounted: steps, transformed, rest })
    }
}

fn in_mount(index: usize, error: Error) -> Error {
    Error::caused(error.kind(), format!("mount {index} cannot be activated"), error)
}

fn step(mount: &Mount) -> Result<Step> {
    let texts = [mount.source.to_str(), mount.target.to_str(), Some(mount.r#type.as_str())];
    let texts = texts.into_iter().chain(mount.options.iter().map(|option| Some(option.as_str())));
    for text in texts {
        if text.is_none_or(|text| text.contains('\0')) {
            return Err(Error::new(ErrorKind::Invalid, "it is not made of UTF-8 without NUL"));
        }
    }
    let mut transforms = Vec::new();
    let mut r#type = mount.r#type.as_str();
    while let Some((first, rest)) = r#type.split_once('/') {
        transforms.push(match first {
            "format" => Transform::Format,
            "mkfs" => Transform::MakeFileSystem,
            "mkdir" => Transform::MakeDirectories,
            _ => break,
        });
        if transforms.len() > 8 {
            return Err(Error::new(ErrorKind::Invalid, "its type has too many parts"));
        }
        r#type = rest;
    }
    let handler = match r#type {
        "erofs" => Handler::Erofs,
        "loop" => Handler::Loop,
        _ => Handler::Kernel,
    };
    if r#type.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, "it has no type"));
    }
    let mount = Mount { r#type: r#type.to_owned(), ..mount.clone() };
    Ok(Step { mount, transforms, handler })
}

/// Checks what can be checked before templates are filled in.
fn check(step: &Step, index: usize, mounted: bool) -> Result<()> {
    let Step { mount, transforms, handler } = step;
    let formats = transforms.contains(&Transform::Format);
    let is_template = |text: &str| formats && text.contains("{{");
    if formats {
        let source = mount.source.to_str().into_iter();
        let texts = source.chain(mount.target.to_str());
        for text in texts.chain(mount.options.iter().map(String::as_str)) {
            Template::parse(text, index)?;
        }
    }
    let mut options = mount.options.clone();
    options.retain(|option| !is_template(option));
    for transform in transforms {
        match transform {
            Transform::Format => {}
            Transform::MakeFileSystem => {
                // A size that comes from a template is nothing anybody writes.
                take_file_system(&mut options)?;
            }
            Transform::MakeDirectories => {
                take_directories(&mut options)?;
            }
        }
    }
    if !mounted {
        return Ok(());
    }
    if !mount.target.as_os_str().is_empty() {
        let message = "a mount with a target inside the root file system can only be the caller's";
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    let absolute = |needed: bool| {
        let source = mount.source.to_str().unwrap_or_default();
        match needed && !mount.source.is_absolute() && !is_template(source) {
            true => Err(Error::new(
                ErrorKind::Invalid,
                format!("the source {source:?} is not an absolute path"),
            )),
            false => Ok(()),
        }
    };
    match handler {
        Handler::Erofs => {
            absolute(true)?;
            ErofsOptions::read(&options).map(drop)
        }
        Handler::Loop => absolute(true),
        Handler::Kernel => {
            let read = Options::read(&options)?;
            absolute(read.bind.is_some() || mount.r#type == "bind" || read.looped.is_some())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn mount(r#type: &str, source: &str, options: &[&str]) -> Mount {
        Mount {
            r#type: r#type.to_owned(),
            source: PathBuf::from(source),
            target: PathBuf::new(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        }
    }

    /// How many are mounted, transformed, and handed back.
    fn counts(mounts: &[Mount], temporary: bool) -> (usize, usize, usize) {
        let plan = Plan::new(mounts, temporary).unwrap();
        (plan.mounted.len(), usize::from(plan.transformed.is_some()), plan.rest.len())
    }

    fn kind(mounts: &[Mount]) -> ErrorKind {
        Plan::new(mounts, false).unwrap_err().kind()
    }

    #[test]
    fn what_comes_before_the_last_handled_one_is_mounted() {
        let erofs = mount("erofs", "/l", &["ro", "loop"]);
        let overlay = mount("format/mkdir/overlay", "overlay", &["lowerdir={{ overlay 0 1 }}"]);
        let bind = mount("bind", "/b", &["rbind"]);
        assert_eq!(counts(&[erofs.clone(), erofs.clone(), overlay.clone()], false), (2, 1, 0));
        assert_eq!(counts(&[erofs.clone(), erofs.clone(), overlay.clone()], true), (3, 0, 0));
        assert_eq!(
            counts(&[erofs.clone(), erofs.clone(), overlay, bind.clone()], false),
            (2, 1, 1)
        );
        assert_eq!(counts(std::slice::from_ref(&erofs), false), (1, 0, 0));
        assert_eq!(counts(&[bind.clone(), erofs.clone(), bind.clone()], false), (2, 1, 0));
        assert_eq!(counts(std::slice::from_ref(&bind), true), (1, 0, 0));
        let mkfs = mount("mkfs/ext4", "/x", &["X-containerd.mkfs.size=1m", "loop"]);
        assert_eq!(counts(std::slice::from_ref(&mkfs), false), (0, 1, 0));
        let plan = Plan::new(&[mkfs, bind.clone(), bind.clone()], false).unwrap();
        assert_eq!((plan.mounted.len(), plan.rest.len()), (0, 2));
        assert_eq!(plan.transformed.unwrap().mount.r#type, "ext4");
    }

    #[test]
    fn nothing_to_do_is_said_so() {
        let bind = mount("bind", "/b", &["rbind"]);
        assert_eq!(kind(std::slice::from_ref(&bind)), ErrorKind::NotSupported);
        assert_eq!(kind(&[]), ErrorKind::NotSupported);
        assert_eq!(Plan::new(&[], true).unwrap_err().kind(), ErrorKind::NotSupported);
        // A prefix that is not ours is a type like any other.
        assert_eq!(kind(&[mount("fuse3/x", "/b", &[])]), ErrorKind::NotSupported);
    }

    #[test]
    fn hostile_mounts_are_invalid_before_anything_is_done() {
        let erofs = || mount("erofs", "/l", &[]);
        let target = Mount { target: PathBuf::from("etc"), ..erofs() };
        let cases = [
            mount("format/bind", "{{ mount 0 }}", &[]),
            mount("format/bind", "{{ mount", &[]),
            mount("erofs", "relative", &[]),
            mount("erofs", "/l", &["odd"]),
            mount("erofs", "/l\0", &[]),
            mount("mkfs/ext4", "/x", &["loop"]),
            mount("mkfs/ext4", "/x", &["X-containerd.mkfs.size=-1"]),
            mount("mkdir/bind", "/x", &["X-containerd.mkdir.path=/x:9"]),
            mount("format/", "/x", &[]),
            mount(&"mkdir/".repeat(1000), "/x", &[]),
            target,
        ];
        for case in cases {
            assert_eq!(kind(std::slice::from_ref(&case)), ErrorKind::Invalid, "{case:?}");
            // Also with something before, and when everything is mounted.
            let two = [erofs(), case.clone()];
            if !matches!(case.source.to_str(), Some("{{ mount 0 }}")) {
                assert_eq!(
                    Plan::new(&two, true).unwrap_err().kind(),
                    ErrorKind::Invalid,
                    "{case:?}"
                );
            }
        }
        let many = vec![erofs(); 2000];
        assert_eq!(kind(&many), ErrorKind::Invalid);
        let verity = mount("erofs", "/l", &["X-containerd.dmverity=/v"]);
        assert_eq!(kind(&[verity]), ErrorKind::NotSupported);
    }

    #[test]
    fn whatever_comes_is_planned_or_refused() {
        const TYPES: [&str; 14] = [
            "erofs",
            "loop",
            "bind",
            "overlay",
            "ext4",
            "format/bind",
            "format/mkdir/overlay",
            "mkfs/ext4",
            "mkfs/",
            "/",
            "",
            "mkdir/mkfs/format/erofs",
            "format/format/loop",
            "\u{e9}/x",
        ];
        const SOURCES: [&str; 8] =
            ["", "/", "/x", "x", "{{ mount 0 }}", "{{ source 9 }}/{{ target 0 }}", "{{", "/a\0b"];
        const OPTIONS: [&str; 14] = [
            "ro",
            "rbind",
            "loop",
            "remount",
            "device=/x",
            "X-containerd.mkfs.size=1m",
            "X-containerd.mkfs.fs=xfs",
            "X-containerd.mkfs.",
            "X-containerd.mkdir.path={{ mount 0 }}/u:0755",
            "X-containerd.mkdir.path=:::",
            "lowerdir={{ overlay 0 1 }}",
            "{{ overlay 1 }}",
            "X-containerd.dmverity=",
            "",
        ];
        // A generator of one's own is enough here: xorshift, from a fixed start.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below as u64).unwrap()
        };
        let mut planned = 0;
        for _ in 0..20_000 {
            let mut mounts = Vec::new();
            for _ in 0..next(5) {
                let options: Vec<&str> =
                    (0..next(4)).map(|_| OPTIONS[next(OPTIONS.len())]).collect();
                mounts.push(mount(
                    TYPES[next(TYPES.len())],
                    SOURCES[next(SOURCES.len())],
                    &options,
                ));
            }
            for temporary in [false, true] {
                let Ok(plan) = Plan::new(&mounts, temporary) else { continue };
                let transformed = usize::from(plan.transformed.is_some());
                assert_eq!(plan.mounted.len() + transformed + plan.rest.len(), mounts.len());
                assert!(!temporary || plan.mounted.len() == mounts.len());
                planned += 1;
            }
        }
        assert!(planned > 500, "{planned}");
    }
}
