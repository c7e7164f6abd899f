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
    "9pnet_virtio",
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

/// Something that a guest cannot do, because its kernel lacks a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lacking {
    /// The module's name.
    pub module: &'static str,
    /// What takes it.
    pub what: &'static str,
}

/// What takes which module. Kernels for clouds lack some.
const USES: &[Lacking] = &[
    Lacking { module: "virtio_scsi", what: "disks" },
    Lacking { module: "sd_mod", what: "disks" },
    Lacking { module: "erofs", what: "layer images" },
    Lacking { module: "overlay", what: "containers of more than one layer" },
    Lacking { module: "ext4", what: "scratches" },
    Lacking {
        module: "vmw_vsock_virtio_transport",
        what: "bind mounts, and what containers read and print",
    },
    Lacking { module: "9p", what: "bind mounts" },
    Lacking { module: "9pnet_fd", what: "bind mounts" },
    Lacking { module: "dm_verity", what: "layers with a root hash" },
    Lacking { module: "dm_crypt", what: "encrypted scratches" },
    Lacking { module: "xfs", what: "encrypted scratches" },
    Lacking { module: "nd_pmem", what: "persistent memory" },
];

/// What a kernel lacks, by its modules below `tree` (a `/lib/modules/VERSION`) and its list of what is built in.
///
/// # Errors
/// If they cannot be read.
pub fn lacking(tree: &Path) -> Result<Vec<Lacking>> {
    let mut files = BTreeMap::new();
    find(&tree.join("kernel"), &mut files, 0)?;
    let list = tree.join("modules.builtin");
    let built_in = std::fs::read_to_string(&list)
        .map_err(|error| Error::io(format!("cannot read {}", list.display()), error))?;
    let built_in: Vec<String> = built_in
        .lines()
        .filter_map(|line| line.rsplit('/').next()?.strip_suffix(".ko"))
        .map(canonical)
        .collect();
    let has = |name: &str| files.contains_key(name) || built_in.iter().any(|module| module == name);
    Ok(USES.iter().filter(|entry| !has(entry.module)).copied().collect())
}

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
    fn what_a_kernel_lacks_is_neither_a_module_nor_built_in() {
        let tree = tempfile::tempdir().unwrap();
        assert!(super::lacking(tree.path()).is_err());
        let modules = tree.path().join("kernel/fs");
        std::fs::create_dir_all(&modules).unwrap();
        let names =
            super::USES.iter().map(|entry| entry.module).filter(|name| !name.starts_with("9p"));
        for name in names.filter(|name| *name != "ext4") {
            std::fs::write(modules.join(format!("{}.ko.xz", name.replace('_', "-"))), "").unwrap();
        }
        let list = tree.path().join("modules.builtin");
        std::fs::write(list, "kernel/fs/ext4/ext4.ko\nkernel/net/9p/9pnet_fd.ko\n").unwrap();
        let lacking = super::lacking(tree.path()).unwrap();
        assert_eq!(lacking, [super::Lacking { module: "9p", what: "bind mounts" }]);
    }

    #[test]
    fn a_module_says_what_it_needs() {
        let module = b"\x7fELF\0license=GPL\0depends=jbd2,mbcache\0softdep=pre: crc32c post: late\0depends=\0";
        assert_eq!(super::dependencies(module), ["jbd2", "mbcache", "crc32c"]);
    }
}
