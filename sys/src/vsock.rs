//! Sockets between a virtual machine and its host (vsock(7)).

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::{Error, Result};

/// Connects a stream to `port` of `context` (2 is the host). The kernel gives up after two seconds.
///
/// The stream is read, written and shut down like a UNIX socket's, so it has that type; its addresses are not.
///
/// # Errors
/// `EAFNOSUPPORT` without vsock in the kernel, `ENODEV` without the device, `ECONNRESET` or `ETIMEDOUT` if nobody
/// listens.
#[expect(unsafe_code, reason = "rustix has no addresses of vsock")]
pub fn connect_vsock(context: u32, port: u32) -> Result<UnixStream> {
    let failed = |source| Error::new(format!("connect(vsock {context}:{port})"), source);
    let flags = SocketFlags::CLOEXEC;
    let socket: OwnedFd = socket_with(AddressFamily::VSOCK, SocketType::STREAM, flags, None)
        .map_err(|errno| failed(errno.into()))?;
    // SAFETY: all zero bytes are a valid sockaddr_vm.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = context;
    address.svm_port = port;
    // SAFETY: the pointer is to an initialised address of the length that is passed, which is only read.
    let result = unsafe {
        libc::connect(
            socket.as_raw_fd(),
            std::ptr::from_ref(&address).cast(),
            size_of::<libc::sockaddr_vm>() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(UnixStream::from(socket)),
        _ => Err(failed(std::io::Error::last_os_error())),
    }
}
