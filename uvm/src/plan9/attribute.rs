//! Extended attributes of files of a share.

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::fid::Setting;
use super::node::Node;

/// Longest value and longest list that Linux has (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
pub(super) const LONGEST: usize = 65_536;

/// Whether a guest is shown an attribute and may set it. The rest of `security.` and `trusted.` means something to the
/// host (labels, layers of overlayfs) that a guest has no say in.
fn is_the_guests(name: &[u8]) -> bool {
    name.starts_with(b"user.")
        || matches!(
            name,
            b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default"
        )
}

/// The calls take paths: those with a descriptor refuse `O_PATH`. A symbolic link's descriptor leads to the link itself.
fn path(node: &Node) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", node.fd().as_raw_fd())
}

/// The value of an attribute; of the empty name, the names of all.
pub(super) fn read(node: &Node, name: &[u8]) -> Result<Vec<u8>, Errno> {
    let path = path(node);
    if name.is_empty() {
        let list = whole(|buffer| rustix::fs::listxattr(&path, buffer))?;
        let names = list.split_inclusive(|&byte| byte == 0);
        return Ok(names
            .filter(|name| is_the_guests(&name[..name.len() - 1]))
            .flatten()
            .copied()
            .collect());
    }
    if !is_the_guests(name) {
        return Err(Errno::OPNOTSUPP);
    }
    whole(|buffer| rustix::fs::getxattr(&path, name, buffer))
}

/// Checks what is asked for before any byte of it comes.
pub(super) fn begin(name: &[u8], size: u64, flags: u32) -> Result<Setting, Errno> {
    if !is_the_guests(name) {
        return Err(Errno::OPNOTSUPP);
    }
    let size = usize::try_from(size).ok().filter(|&size| size <= LONGEST).ok_or(Errno::TOOBIG)?;
    XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
    Ok(Setting { name: name.to_vec(), flags, size, value: Vec::new() })
}

/// Sets what has come. The kernel's client removes an attribute by setting one that must exist to nothing.
pub(super) fn finish(node: &Node, setting: &Setting) -> Result<(), Errno> {
    if setting.value.len() != setting.size {
        return Err(Errno::INVAL);
    }
    let flags = XattrFlags::from_bits(setting.flags).ok_or(Errno::INVAL)?;
    let path = path(node);
    if setting.size == 0 && flags.contains(XattrFlags::REPLACE) {
        rustix::fs::removexattr(&path, &setting.name)
    } else {
        rustix::fs::setxattr(&path, &setting.name, &setting.value, flags)
    }
}

/// Calls with a buffer that nearly always suffices, then with one that always does.
fn whole(call: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 256];
    let length = match call(&mut buffer) {
        Err(Errno::RANGE) => {
            buffer.resize(LONGEST, 0);
            call(&mut buffer)?
        }
        result => result?,
    };
    buffer.truncate(length);
    Ok(buffer)
}
