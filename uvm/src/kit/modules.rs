//! Kernel modules and the order in which they load, from what each says about itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Error, ErrorKind, Result};

/// What the guest needs loaded, and why. A name that this kernel has no module of is built in.
pub(super) const WANTED: &[&str] = &[
    // ext4 and xfs ask for crc32c by name, which no dependency says.
    "crc32c_generic",
    "virtio_scsi",
    "sd_mod",
    "vmw_vsock_virtio_transport",
    "erofs",
    "overlay",
    "ext4",
    "xfs",
    "9pnet_fd",
    "9p",
    // Block devices over block devices: verity, encrypted scratch, mapped pmem.
    "dm-mod",
    "dm-verity",
    "dm-crypt",
    "xts",
    // The processor's own AES.
    "aesni_intel",
    "nfit",
    "nd_pmem",
    "virtio-rng",
];

/// A module, loadable as it is.
pub(super) struct Module {
    pub(super) name: String,
    pub(super) data: Vec<u8>,
}

/// The wanted modules below `tree` (a `/lib/modules/VERSION`) and what they depend on, in load order.
pub(super) fn load_order(tree: &Path) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    find(&tree.join("kernel"), &mut files, 0)?;
    if files.is_empty() {
        let message = format!("there are no kernel modules in {}", tree.display());
        return Err(Error::new(ErrorKind::NotFound, message));
    }
    let mut order = Vec::new();
    for name in WANTED {
        add(name, &files, &mut order, 0)?;
    }
    Ok(order)
}

/// Modules are named with either of the two.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

fn find(directory: &Path, files: &mut BTreeMap<String, PathBuf>, depth: usize) -> Result<()> {
    let failed = |error| Error::io(format!("cannot list {}", directory.display()), error);
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let kind = entry.file_type().map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if kind.is_dir() && depth < 16 {
            find(&entry.path(), files, depth + 1)?;
        } else if let Some((stem, "" | ".xz")) = name.split_once(".ko") {
            files.insert(canonical(stem), entry.path());
        }
    }
    Ok(())
}

fn add(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    order: &mut Vec<Module>,
    depth: usize,
) -> Result<()> {
    let name = canonical(name);
    let Some(file) = files.get(&name) else { return Ok(()) };
    if depth > 32 || order.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let data = read(file)?;
    for needed in dependencies(&data) {
        add(&needed, files, order, depth + 1)?;
    }
    order.push(Module { name, data });
    Ok(())
}

/// Unpacked here: the guest's processor may be an emulated one, and a kernel may not be able to.
fn read(file: &Path) -> Result<Vec<u8>> {
    let failed = |error| Error::io(format!("cannot read {}", file.display()), error);
    if file.extension().is_none_or(|extension| extension != "xz") {
        return std::fs::read(file).map_err(failed);
    }
    let output = Command::new("xz").arg("-dc").arg("--").arg(file).output().map_err(|error| {
        Error::caused(ErrorKind::ToolMissing, "cannot start xz (package xz-utils)", error)
    })?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let message = format!("cannot unpack {}: {why}", file.display());
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    Ok(output.stdout)
}

/// The module's own words, in its section `.modinfo`: `depends=a,b` and `softdep=pre: c d post: e`, each ended by NUL.
fn dependencies(module: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    for words in module.split(|byte| *byte == 0) {
        if let Some(list) = words.strip_prefix(b"depends=") {
            let list = String::from_utf8_lossy(list);
            names.extend(list.split(',').filter(|name| !name.is_empty()).map(str::to_owned));
        } else if let Some(list) = words.strip_prefix(b"softdep=pre: ") {
            let list = String::from_utf8_lossy(list);
            let before = list.split("post:").next().unwrap_or_default();
            names.extend(before.split_whitespace().map(str::to_owned));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_module_says_what_it_needs() {
        let module = b"\x7fELF\0license=GPL\0depends=jbd2,mbcache\0softdep=pre: crc32c post: late\0depends=\0";
        assert_eq!(super::dependencies(module), ["jbd2", "mbcache", "crc32c"]);
    }
}
