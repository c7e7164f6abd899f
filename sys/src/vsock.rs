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

/// Lets `bytes` be on their way to a connected socket until it has read some; 256 KiB otherwise. A message longer than that
/// waits in its middle for word from the reader.
///
/// # Errors
/// `ENOPROTOOPT` if it is not a socket of vsock.
#[expect(unsafe_code, reason = "rustix has no options of vsock")]
pub fn set_vsock_buffer(socket: &UnixStream, bytes: u64) -> Result<()> {
    // SO_VM_SOCKETS_BUFFER_MAX_SIZE and SO_VM_SOCKETS_BUFFER_SIZE of linux/vm_sockets.h; the first bounds the other.
    for option in [2, 0] {
        // SAFETY: the pointer is to an initialised number of the length that is passed, which is only read.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::AF_VSOCK,
                option,
                std::ptr::from_ref(&bytes).cast(),
                size_of::<u64>() as libc::socklen_t,
            )
        };
        if result != 0 {
            let call = format!("setsockopt(AF_VSOCK, {option}, {bytes})");
            return Err(Error::new(call, std::io::Error::last_os_error()));
        }
    }
    Ok(())
}
