//! The loopback interface of this process's network namespace.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::{Error, Result};

/// Brings `lo` up. The kernel gives it 127.0.0.1 and ::1 itself then.
///
/// # Errors
/// `EPERM` without the capability, `ENODEV` without the interface.
#[expect(unsafe_code, reason = "rustix has no requests about interfaces")]
pub fn bring_loopback_up() -> Result<()> {
    let flags = SocketFlags::CLOEXEC;
    let socket: OwnedFd = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)
        .map_err(|errno| Error::new("socket(AF_INET)", errno))?;
    // SAFETY: all zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = from.cast_signed();
    }
    // SAFETY: the request is an initialised ifreq with a name that ends with a zero; the kernel writes its flags.
    let read = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) };
    if read != 0 {
        return Err(Error::new("ioctl(SIOCGIFFLAGS, lo)", std::io::Error::last_os_error()));
    }
    // SAFETY: the call before has filled in the flags, which are one of the union's numbers.
    let before = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = before | libc::IFF_UP as libc::c_short;
    // SAFETY: as above; the kernel only reads.
    let written =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    match written {
        0 => Ok(()),
        _ => Err(Error::new("ioctl(SIOCSIFFLAGS, lo)", std::io::Error::last_os_error())),
    }
}
