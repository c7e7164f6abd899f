//! A file mode creation mask for one thread alone.

use rustix::fs::Mode;
use rustix::thread::UnshareFlags;

use crate::error::{Error, Result};

/// Gives the calling thread its own file mode creation mask (and root and working directory, which stay where they are)
/// and sets it to 0: files it makes have exactly the mode that it asks for. Other threads are not affected.
///
/// # Errors
/// That of `unshare(CLONE_FS)`, which needs no privileges.
#[expect(unsafe_code, reason = "unshare can break what a program takes for granted")]
pub fn thread_without_umask() -> Result<()> {
    // SAFETY: only CLONE_FILES can make safe code unsound, by descriptors that are another thread's; CLONE_FS parts
    // paths and the mask.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }
        .map_err(|error| Error::new("unshare(CLONE_FS)", error))?;
    rustix::process::umask(Mode::empty());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_mask_is_the_threads_own() {
        let directory = tempfile::tempdir().unwrap();
        let made = |name: &str| {
            let path = directory.path().join(name);
            let file = crate::file::create_new(&path, 0o666).unwrap();
            file.metadata().unwrap().permissions().mode() & 0o777
        };
        let before = made("before");
        std::thread::scope(|scope| {
            let exact = scope.spawn(|| {
                super::thread_without_umask().unwrap();
                made("own")
            });
            assert_eq!(exact.join().unwrap(), 0o666);
        });
        assert_eq!(made("after"), before);
    }
}
