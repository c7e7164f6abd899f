//! Kernel fallbacks, each with the kernel that removes it.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use sys::FsContext;

/// Gives `key` a directory, exactly, whatever its name: as a descriptor where overlayfs takes one (Linux 6.13).
/// Before that as `/proc/self/fd/N`, because strings are cut at 255 bytes and unescaped for some keys.
///
/// The descriptor must stay open until the file system is created, so it is returned.
pub(crate) fn set_directory(context: &FsContext, key: &str, path: &Path) -> sys::Result<File> {
    let directory = sys::open_path(path)?;
    match context.set_fd(key, directory.as_fd(), path) {
        Err(error) if lacks_lower_appending(&error) => Err(error),
        Err(error) if error.errno() == Some(libc::EINVAL) => {
            match context.set_string(key, descriptor_name(&directory)) {
                Ok(()) => Ok(directory),
                // EINVAL again: it was not the descriptor; the first error names the path.
                Err(again) if again.errno() == Some(libc::EINVAL) => Err(error),
                Err(again) => Err(again),
            }
        }
        Err(error) => Err(error),
        Ok(()) => Ok(directory),
    }
}

/// Gives `key` a file by its path; where the path is longer than `fsconfig` takes, by descriptor (which must
/// then stay open). EROFS takes descriptors themselves only from Linux 7.3.
pub(crate) fn set_file(context: &FsContext, key: &str, path: &Path) -> sys::Result<Option<File>> {
    if path.as_os_str().len() <= sys::STRING_MAX {
        return context.set_string(key, path).map(|()| None);
    }
    let (name, file) = by_descriptor(path)?;
    context.set_string(key, name).map(|()| Some(file))
}

/// An EROFS option that only spares memory: `directio` exists since Linux 6.12.
pub(crate) fn set_if_known(context: &FsContext, key: &str) -> sys::Result<()> {
    match context.set_flag(key) {
        Err(error) if error.errno() == Some(libc::EINVAL) => Ok(()),
        other => other,
    }
}

/// Whether the kernel wants a block device for this source: before Linux 6.12 always, later for files on file
/// systems that cannot back one (tmpfs, overlayfs, an EROFS file). Asked for every image anew.
pub(crate) fn needs_loop_device(error: &sys::Error) -> bool {
    error.errno() == Some(libc::ENOTBLK)
}

/// Whether overlayfs does not know `lowerdir+` (before Linux 6.5): EINVAL with words of an unknown parameter.
pub(crate) fn lacks_lower_appending(error: &sys::Error) -> bool {
    error.errno() == Some(libc::EINVAL) && error.to_string().contains("Unknown parameter")
}

/// Layers as the start of an option string for `mount(2)`, for kernels without `lowerdir+`: short names by
/// descriptor, so that many fit a page and nothing needs escaping. The descriptors must stay open.
pub(crate) fn lower_string(lowers: &[PathBuf]) -> sys::Result<(String, Vec<File>)> {
    let named: Vec<(String, File)> =
        lowers.iter().map(|path| by_descriptor(path)).collect::<Result<_, _>>()?;
    let (names, files): (Vec<String>, Vec<File>) = named.into_iter().unzip();
    Ok((format!("lowerdir={}", names.join(":")), files))
}

/// A name for `path` that is short and needs no escaping, as long as the file is open.
pub(crate) fn by_descriptor(path: &Path) -> sys::Result<(String, File)> {
    let file = sys::open_path(path)?;
    Ok((descriptor_name(&file), file))
}

fn descriptor_name(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}
