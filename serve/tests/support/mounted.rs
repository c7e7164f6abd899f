//! Performing mounts as containerd does, with mount(8), and comparing what is in them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use mount::{Backing, mount_image};
use rustix::mount::{UnmountFlags, unmount};
use serve::api::types::Mount;

/// Mounts at a directory, until it is dropped.
pub struct Mounted {
    target: PathBuf,
    /// Mount points to take down, last first.
    points: Vec<PathBuf>,
}

impl Mounted {
    /// Performs `mounts` at `target`, layers of the EROFS form at directories beside it.
    pub fn new(mounts: &[Mount], target: &Path) -> Self {
        let mut mounted = Self { target: target.to_owned(), points: Vec::new() };
        let (last, lowers) = mounts.split_last().expect("at least one mount");
        let mut directory = target.as_os_str().to_owned();
        directory.push(".t");
        for (index, mount) in lowers.iter().enumerate() {
            let point = Path::new(&directory).join(index.to_string());
            fs::create_dir_all(&point).unwrap();
            mounted.perform(mount, &point);
        }
        let mut last = last.clone();
        let points = mounted.points.clone();
        for option in &mut last.options {
            *option = filled(option, &points);
        }
        mounted.perform(&last, target);
        mounted
    }

    fn perform(&mut self, mount: &Mount, at: &Path) {
        assert!(mount.target.is_empty());
        let kind = mount.r#type.trim_start_matches("format/").trim_start_matches("mkdir/");
        let bind = mount.options.iter().any(|option| option == "rbind");
        let read_only = mount.options.iter().any(|option| option == "ro");
        if bind {
            run("mount", &["--rbind".into(), mount.source.clone().into(), at.into()]);
            self.points.push(at.to_owned());
            if read_only {
                run("mount", &["-o".into(), "remount,bind,ro".into(), at.into()]);
            }
            return;
        }
        if kind == "erofs" {
            // In this process: there may be thousands.
            mount_image(Path::new(&mount.source), &[], at, Backing::Auto).unwrap();
            self.points.push(at.to_owned());
            return;
        }
        let (directory, options) = shortened(&mount.options);
        let arguments: [OsString; 6] = [
            "-t".into(),
            kind.into(),
            "-o".into(),
            options.into(),
            mount.source.clone().into(),
            at.into(),
        ];
        run_in(&directory, "mount", &arguments);
        self.points.push(at.to_owned());
    }

    pub fn path(&self) -> &Path {
        &self.target
    }

    /// Lets go of the mounts without unmounting them, as a process that ends does.
    pub fn forget(mut self) {
        self.points.clear();
    }
}

/// A `format/` option with its templates filled in.
fn filled(option: &str, points: &[PathBuf]) -> String {
    let Some((before, rest)) = option.split_once("{{ ") else { return option.to_owned() };
    let (template, after) = rest.split_once(" }}").unwrap();
    let words: Vec<&str> = template.split(' ').collect();
    let point = |index: usize| points[index].to_str().unwrap().to_owned();
    let paths = match words.as_slice() {
        ["mount", index] => point(index.parse().unwrap()),
        ["overlay", first, last] => {
            let range = first.parse().unwrap()..=last.parse::<usize>().unwrap();
            range.map(point).collect::<Vec<_>>().join(":")
        }
        other => panic!("template {other:?}"),
    };
    format!("{before}{paths}{after}")
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for point in self.points.drain(..).rev() {
            let done = unmount(&point, UnmountFlags::empty());
            if !std::thread::panicking() {
                done.unwrap_or_else(|error| panic!("umount {}: {error}", point.display()));
            }
        }
    }
}

/// What containerd does when an overlay's options do not fit the page that mount(2) reads: it enters the directory that
/// the lower directories share, and names them from there.
fn shortened(options: &[String]) -> (PathBuf, String) {
    let joined = options.join(",");
    let lowers = options.iter().find_map(|option| option.strip_prefix("lowerdir="));
    let (Some(lowers), true) = (lowers, joined.len() > 3500) else {
        return (PathBuf::from("/"), joined);
    };
    let names: Vec<&Path> = lowers.split(':').map(Path::new).collect();
    let common = names[0].parent().unwrap();
    let short: Vec<&str> =
        names.iter().map(|name| name.strip_prefix(common).unwrap().to_str().unwrap()).collect();
    (common.to_owned(), joined.replace(lowers, &short.join(":")))
}

fn run(program: &str, arguments: &[OsString]) {
    run_in(Path::new("/"), program, arguments);
}

fn run_in(directory: &Path, program: &str, arguments: &[OsString]) {
    let output = Command::new(program).args(arguments).current_dir(directory).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
}

/// Mount points at or below `directory`, deepest first.
pub fn points_below(directory: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut points: Vec<PathBuf> = points.filter(|point| point.starts_with(directory)).collect();
    points.reverse();
    points
}

/// So that the directory can be deleted.
pub fn unmount_below(directory: &Path) {
    for point in points_below(directory) {
        let _ = Command::new("umount").arg("-l").arg(point).output();
    }
}

/// Everything of a tree that a layer keeps, by path: type, mode, owner, content or target, and which names are the
/// same file.
pub fn manifest(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut entries = BTreeMap::new();
    let mut names: BTreeMap<(u64, u64), PathBuf> = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        let mut found: Vec<PathBuf> =
            fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        found.push(directory.clone());
        found.sort();
        for path in found {
            let metadata = fs::symlink_metadata(&path).unwrap();
            let kind = metadata.file_type();
            let what = if kind.is_dir() {
                if path != directory {
                    left.push(path.clone());
                }
                "directory".to_owned()
            } else if kind.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else if kind.is_file() {
                format!("{:?}", String::from_utf8_lossy(&fs::read(&path).unwrap()))
            } else {
                format!("device {} {}", kind.is_char_device(), metadata.rdev())
            };
            let name = path.strip_prefix(root).unwrap().to_owned();
            let first = match kind.is_dir() {
                true => name.clone(),
                false => {
                    names.entry((metadata.dev(), metadata.ino())).or_insert(name.clone()).clone()
                }
            };
            let owner = (metadata.uid(), metadata.gid());
            entries.insert(name, format!("{:o} {owner:?} {what} {first:?}", metadata.mode()));
        }
    }
    entries
}
