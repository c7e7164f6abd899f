//! Taking mounts out of the tree.

use std::path::Path;

use rustix::mount::UnmountFlags;

use crate::{Error, Result};

/// Unmounts the topmost mount at `target`, which must not be in use. A symbolic link is not followed.
///
/// # Errors
/// `EBUSY` while anything uses it or is mounted below it, `EINVAL` if nothing is mounted there.
pub fn unmount(target: &Path) -> Result<()> {
    unmount_by(target, UnmountFlags::NOFOLLOW, "nofollow")
}

/// Takes the mount at `target` out of the tree although it is in use; it ends when its last user does.
///
/// # Errors
/// `EINVAL` if nothing is mounted there.
pub fn unmount_lazily(target: &Path) -> Result<()> {
    unmount_by(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH, "nofollow, detach")
}

fn unmount_by(target: &Path, flags: UnmountFlags, words: &str) -> Result<()> {
    rustix::mount::unmount(target, flags)
        .map_err(|errno| Error::new(format!("umount2({}, {words})", target.display()), errno))
}
