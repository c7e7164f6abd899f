//! The real interfaces of a Windows host. Each DLL is loaded from the system directory when one of its functions is
//! first called, and each function is looked up by name, so that a Windows without it still runs everything else.
//!
//! What each `unsafe` relies on: the signatures of the tables in these modules are the DLLs' (docs/windows.md names
//! the source of each), every pointer that is passed is to memory which outlives the call, and texts end with NUL.
//! **Never run on a host with the Host Compute Service**; the tests named `wine_` call through these modules into
//! DLLs written in C that record what arrives.
#![allow(unsafe_code, reason = "calls of Windows' DLLs")]

mod backup;
mod binding;
mod cim_writer;
mod cimfs;
mod compute;
mod disk;
mod facts;
mod layers;
mod offline_registry;
mod storage;
mod text;
mod volume;

use std::time::Duration;

use super::{Guid, HResult, Result};

/// This Windows. Costs nothing to make; nothing is loaded before it is needed.
#[derive(Debug, Clone)]
pub struct System {
    operation_timeout: Duration,
}

impl System {
    /// Waits four minutes for an operation of the compute service, as long as hcsshim does.
    pub fn new() -> Self {
        Self { operation_timeout: Duration::from_secs(240) }
    }

    /// Waits this long for an operation of the compute service instead.
    #[must_use]
    pub fn with_operation_timeout(mut self, timeout: Duration) -> Self {
        self.operation_timeout = timeout;
        self
    }
}

impl Default for System {
    fn default() -> Self {
        Self::new()
    }
}

/// The GUID as Windows has it in memory: the first three fields in the machine's order.
fn native(guid: &Guid) -> windows_sys::core::GUID {
    let (data1, data2, data3, data4) = guid.as_fields();
    windows_sys::core::GUID { data1, data2, data3, data4: *data4 }
}

fn portable(guid: &windows_sys::core::GUID) -> Guid {
    Guid::from_fields(guid.data1, guid.data2, guid.data3, &guid.data4)
}

/// What an HRESULT says of a call.
fn checked(function: &'static str, subject: impl Into<String>, answer: i32) -> Result<()> {
    let code = HResult::from_raw(answer);
    if code.is_failure() {
        return Err(super::Error::new(function, subject, code));
    }
    Ok(())
}

/// What a Win32 error number says of a call.
fn checked_win32(function: &'static str, subject: impl Into<String>, answer: u32) -> Result<()> {
    if answer == 0 {
        return Ok(());
    }
    Err(super::Error::new(function, subject, HResult::win32(answer)))
}

/// The error of a function that answers with a BOOL or a handle.
fn last_error(function: &'static str, subject: impl Into<String>) -> super::Error {
    // SAFETY: reads a number of the calling thread.
    let number = unsafe { windows_sys::Win32::Foundation::GetLastError() };
    // A function that fails without a number has failed all the same.
    let code = if number == 0 { HResult::UNSPECIFIED } else { HResult::win32(number) };
    super::Error::new(function, subject, code)
}
