//! What only the first process of a machine does: modules, its root, power.

use std::ffi::CString;
use std::fs::File;
use std::path::Path;

use rustix::system::RebootCommand;

use crate::{DetachedMount, Error, Result};

/// `MODULE_INIT_COMPRESSED_FILE` (linux/module.h, since Linux 5.17): the kernel inflates the file itself.
const COMPRESSED: i32 = 4;

/// Loads a kernel module without parameters; one that is loaded already is no error. A file whose name does not end
/// in `.ko` is left to the kernel to inflate.
///
/// # Errors
/// Those of `finit_module(2)`: `ENOENT` for symbols of a module that is not loaded.
pub fn load_module(path: &Path) -> Result<()> {
    let file = File::open(path)
        .map_err(|source| Error::new(format!("open({})", path.display()), source))?;
    let plain = path.extension().is_some_and(|extension| extension == "ko");
    let flags = if plain { 0 } else { COMPRESSED };
    match rustix::system::finit_module(&file, &CString::default(), flags) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(errno) => Err(Error::new(format!("finit_module({})", path.display()), errno)),
    }
}

/// Puts a bind of the root over itself and makes it this process's root. The first root of a machine that runs from
/// an initramfs has no parent mount, and `pivot_root(2)` (which container runtimes use) wants one.
///
/// # Errors
/// Those of the calls.
pub fn cover_root() -> Result<()> {
    let root = DetachedMount::copy_of(Path::new("/"), true)?;
    root.attach(Path::new("/"))?;
    let failed = |call: &str| {
        let call = call.to_owned();
        move |errno| Error::new(call, errno)
    };
    rustix::process::fchdir(root.as_fd()).map_err(failed("fchdir(/)"))?;
    rustix::process::chroot(".").map_err(failed("chroot(.)"))
}

/// Writes everything to the disks and turns the machine off. Returns only on failure.
///
/// # Errors
/// `EPERM` without the capability.
pub fn power_off() -> Result<()> {
    rustix::fs::sync();
    rustix::system::reboot(RebootCommand::PowerOff)
        .map_err(|errno| Error::new("reboot(POWER_OFF)", errno))
}

/// Sets the machine's name.
///
/// # Errors
/// `EPERM` without the capability.
pub fn set_host_name(name: &str) -> Result<()> {
    rustix::system::sethostname(name.as_bytes())
        .map_err(|errno| Error::new(format!("sethostname({name})"), errno))
}
