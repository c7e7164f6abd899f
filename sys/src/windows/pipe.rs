//! Named pipes with their access list from the first moment (feature `named-pipe`).
#![allow(unsafe_code, reason = "calls of Windows' DLLs, and one of tokio's")]

use std::ffi::c_void;
use std::io;
use std::ptr;

use tokio::net::windows::named_pipe::{NamedPipeServer, ServerOptions};
use windows_sys::Win32::Foundation::LocalFree;
use windows_sys::Win32::Security::Authorization::{
    ConvertStringSecurityDescriptorToSecurityDescriptorW, SDDL_REVISION_1,
};
use windows_sys::Win32::Security::{PSECURITY_DESCRIPTOR, SECURITY_ATTRIBUTES};

/// A security descriptor that Windows has made of text.
struct Descriptor(PSECURITY_DESCRIPTOR);

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: the conversion has allocated it with LocalAlloc for the caller, and nobody else frees it.
        unsafe { LocalFree(self.0) };
    }
}

impl Descriptor {
    fn of(sddl: &str) -> io::Result<Self> {
        let text: Vec<u16> = sddl.encode_utf16().chain([0]).collect();
        let mut descriptor = ptr::null_mut();
        // SAFETY: the text ends with a NUL and outlives the call; the pointer that is filled does too; no length is
        // asked for.
        let made = unsafe {
            ConvertStringSecurityDescriptorToSecurityDescriptorW(
                text.as_ptr(),
                SDDL_REVISION_1,
                &raw mut descriptor,
                ptr::null_mut(),
            )
        };
        if made == 0 { Err(io::Error::last_os_error()) } else { Ok(Self(descriptor)) }
    }
}

/// An instance of the pipe `name` (`\\.\pipe\…`) for one client of this machine, with the access list `sddl`. With
/// `first`, a pipe of that name that exists already is an error (`PermissionDenied`): else somebody could have made it
/// before, to be taken for us.
///
/// # Errors
/// What Windows says of the list or the name. Written from winbase.h and sddl.h.
pub fn create_pipe(name: &str, sddl: &str, first: bool) -> io::Result<NamedPipeServer> {
    let descriptor = Descriptor::of(sddl)?;
    let mut attributes = SECURITY_ATTRIBUTES {
        nLength: u32::try_from(size_of::<SECURITY_ATTRIBUTES>()).unwrap_or(0),
        lpSecurityDescriptor: descriptor.0,
        bInheritHandle: 0,
    };
    let attributes: *mut c_void = (&raw mut attributes).cast();
    let mut options = ServerOptions::new();
    options.first_pipe_instance(first).reject_remote_clients(true);
    // SAFETY: the attributes are those of the call's contract, and they and the descriptor outlive the call.
    unsafe { options.create_with_security_attributes_raw(name, attributes) }
}
