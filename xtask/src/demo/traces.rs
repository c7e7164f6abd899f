//! What could be left behind: mounts, loop devices, files. Looked at from outside, without Plywood's help.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::mount::{UnmountFlags, unmount};

/// The kernel objects of the host that Plywood could have made.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Traces {
    mounts: BTreeSet<String>,
    loops: BTreeSet<(String, String)>,
}

impl Traces {
    /// What there is now that has to do with `directory`.
    pub(super) fn below(directory: &Path) -> Result<Self> {
        let directory = directory.to_string_lossy().into_owned();
        let mounts = mountinfo()?
            .lines()
            .filter(|line| line.contains(&directory))
            .map(str::to_owned)
            .collect();
        let mut loops = BTreeSet::new();
        for entry in std::fs::read_dir("/sys/block").context("cannot list /sys/block")? {
            let device = entry?.path();
            // No such file: not a loop device, or not attached.
            if let Ok(backing) = std::fs::read_to_string(device.join("loop/backing_file"))
                && backing.contains(&directory)
            {
                loops.insert((device.display().to_string(), backing));
            }
        }
        Ok(Self { mounts, loops })
    }

    pub(super) fn mounts(&self) -> usize {
        self.mounts.len()
    }

    pub(super) fn loops(&self) -> usize {
        self.loops.len()
    }
}

fn mountinfo() -> Result<String> {
    std::fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")
}

/// How many EROFS filesystems are mounted below `directory`, each counted once however often it is bound.
pub(super) fn erofs_mounted(directory: &Path) -> Result<usize> {
    let directory = directory.to_string_lossy();
    let text = mountinfo()?;
    let devices: BTreeSet<&str> = text
        .lines()
        .filter(|line| line.contains(" - erofs ") && line.contains(directory.as_ref()))
        .filter_map(|line| line.split(' ').nth(2))
        .collect();
    Ok(devices.len())
}

/// Takes away what a demo that was cut left: newest mounts first.
pub(super) fn unmount_below(directory: &Path) -> Result<()> {
    let text = mountinfo()?;
    for line in text.lines().rev() {
        let target = unescaped(line.split(' ').nth(4).unwrap_or_default());
        if target.starts_with(directory) {
            unmount(&target, UnmountFlags::DETACH)
                .with_context(|| format!("cannot unmount {}", target.display()))?;
        }
    }
    Ok(())
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescaped(text: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(code) if *first == b'\\' => {
                bytes.push(code);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsStr::from_bytes(&bytes))
}

/// Entries of a directory; none if it does not exist.
pub(super) fn entries(directory: &Path) -> Result<usize> {
    match std::fs::read_dir(directory) {
        Ok(entries) => Ok(entries.count()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error).with_context(|| format!("cannot list {}", directory.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_mountinfo() {
        assert_eq!(unescaped(r"/a\040b\134c"), Path::new(r"/a b\c"));
        assert_eq!(unescaped(r"/plain\0"), Path::new(r"/plain\0"));
    }
}
