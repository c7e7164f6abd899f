//! User namespaces made for their id maps alone.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use crate::{Error, Result};

/// A user namespace in which nobody lives, to give to `mount_setattr(MOUNT_ATTR_IDMAP)`.
#[derive(Debug)]
pub struct UserNamespace {
    file: File,
}

impl UserNamespace {
    /// Makes one with these maps, in the form of `/proc/PID/uid_map`: lines `inside outside count`.
    ///
    /// # Errors
    /// `ENOSPC` if the limit of user namespaces (or a limit of 0) is reached, `EINVAL` without kernel support or
    /// for a map that the kernel refuses, `EPERM` without `CAP_SETUID` and `CAP_SETGID`.
    pub fn new(uids: &str, gids: &str) -> Result<Self> {
        let inhabitant = Inhabitant::new()?;
        let base = format!("/proc/{}", inhabitant.pid);
        for (name, map) in [("uid_map", uids), ("gid_map", gids)] {
            let path = format!("{base}/{name}");
            // In one write: the kernel takes a map only once, and whole.
            std::fs::write(&path, map)
                .map_err(|source| Error::new(format!("write({path}, {map:?})"), source))?;
        }
        let path = format!("{base}/ns/user");
        let file =
            File::open(&path).map_err(|source| Error::new(format!("open({path})"), source))?;
        Ok(Self { file })
    }

    /// The namespace's descriptor.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A process that does nothing but live in a new user namespace until this is dropped.
struct Inhabitant {
    pid: libc::pid_t,
}

impl Inhabitant {
    #[expect(unsafe_code, reason = "clone without a new program")]
    fn new() -> Result<Self> {
        // The descriptors are shared, not copied: a copy of one would keep another thread's mount busy. There is
        // no signal at its end, so nobody else's `wait` meets it.
        let flags = libc::CLONE_NEWUSER | libc::CLONE_FILES;
        let parent = std::process::id();
        // SAFETY: without a stack and without CLONE_VM this is fork: the child has a copy of the memory and of
        // this thread only. It therefore calls nothing but async-signal-safe functions, takes no lock, allocates
        // nothing, and never returns from this function.
        let pid = unsafe {
            let zero: libc::c_long = 0;
            libc::syscall(libc::SYS_clone, libc::c_long::from(flags), zero, zero, zero, zero)
        };
        match libc::pid_t::try_from(pid) {
            Ok(0) => {
                // SAFETY: all of these are async-signal-safe system calls. Should the parent die, the child is
                // killed; should it have died before that was arranged, the alarm ends it.
                unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    libc::alarm(10);
                    if u32::try_from(libc::getppid()) != Ok(parent) {
                        libc::_exit(0);
                    }
                    loop {
                        libc::pause();
                    }
                }
            }
            Ok(pid @ 1..) => Ok(Self { pid }),
            _ => Err(Error::new("clone(CLONE_NEWUSER)", std::io::Error::last_os_error())),
        }
    }
}

impl Drop for Inhabitant {
    #[expect(unsafe_code, reason = "ending and reaping the child")]
    fn drop(&mut self) {
        // SAFETY: the pid is that of our child, which nobody else waits for (it has no exit signal, so only
        // `__WALL` or `__WCLONE` finds it); `waitpid` writes nothing as the status is not asked for.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            while libc::waitpid(self.pid, std::ptr::null_mut(), libc::__WALL) == -1
                && std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted
            {
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileged_a_namespace_has_its_maps_and_no_inhabitant() {
        let threads: Vec<_> = (1..9)
            .map(|thread| {
                std::thread::spawn(move || {
                    let map = format!("0 {} 65536\n", thread * 100_000);
                    let namespace = UserNamespace::new(&map, &map).expect("needs root");
                    std::os::unix::fs::MetadataExt::ino(&namespace.file.metadata().unwrap())
                })
            })
            .collect();
        for thread in threads {
            assert!(thread.join().unwrap() > 0);
        }
        let children = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
        assert_eq!(children, "");
        for bad in ["0 0", "0 0 0", "0 0 10\n5 100 10\n"] {
            assert_eq!(
                UserNamespace::new(bad, bad).unwrap_err().errno(),
                Some(libc::EINVAL),
                "{bad}"
            );
        }
    }
}
