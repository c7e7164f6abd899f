//! Processes by handles.
#![allow(unsafe_code, reason = "calls of kernel32 and ntdll")]
// UNSAFETY: handles are owned by `OwnedHandle` as soon as they are made; pointers are to values of the types that the calls
// fill, and live through them.

use std::io;
use std::os::windows::io::{AsRawHandle as _, FromRawHandle as _, OwnedHandle};

use windows_sys::Wdk::System::SystemInformation::{
    NtQuerySystemInformation, SYSTEM_INFORMATION_CLASS,
};
use windows_sys::Win32::Foundation::{ERROR_INVALID_PARAMETER, FILETIME, STILL_ACTIVE};
use windows_sys::Win32::System::Threading::{
    GetExitCodeProcess, GetProcessId, GetProcessTimes, OpenProcess,
    PROCESS_QUERY_LIMITED_INFORMATION, PROCESS_TERMINATE, TerminateProcess,
};

use super::Process;
use crate::error::{Error, Result};

/// `SystemTimeOfDayInformation`; its structure begins with the moment of the boot, corrected for every later change of
/// the clock (ntexapi.h of the documented reverse engineering; winternl.h reserves the bytes).
const TIME_OF_DAY: SYSTEM_INFORMATION_CLASS = 3;
const TIME_OF_DAY_LENGTH: usize = 48;

pub(super) fn boot_id() -> Result<String> {
    let mut bytes = [0u64; TIME_OF_DAY_LENGTH / 8];
    let mut length = 0;
    // SAFETY: see above; the length is that of the array.
    let status = unsafe {
        NtQuerySystemInformation(
            TIME_OF_DAY,
            bytes.as_mut_ptr().cast(),
            TIME_OF_DAY_LENGTH as u32,
            &raw mut length,
        )
    };
    if status < 0 {
        let source = io::Error::other(format!("NTSTATUS {status:#010x}"));
        return Err(Error::new("NtQuerySystemInformation(TimeOfDay)", source));
    }
    Ok(format!("boot-{:016x}", bytes[0]))
}

/// `None` if there is no such process.
fn open(pid: u32, access: u32) -> Result<Option<OwnedHandle>> {
    // SAFETY: no memory is passed.
    let handle = unsafe { OpenProcess(access, 0, pid) };
    if handle.is_null() {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() == Some(ERROR_INVALID_PARAMETER as i32) {
            true => Ok(None),
            false => Err(Error::new(format!("OpenProcess({pid})"), error)),
        };
    }
    // SAFETY: a handle that was made just now and that nobody else has.
    let handle = unsafe { OwnedHandle::from_raw_handle(handle) };
    // SAFETY: the handle is open.
    let opened = unsafe { GetProcessId(handle.as_raw_handle()) };
    // The lowest two bits of an id are ignored when one is opened.
    Ok((opened == pid).then_some(handle))
}

/// `None` if it has ended. One that ended with code 259 counts as running while somebody has it open.
fn start(process: &OwnedHandle, pid: u32) -> Result<Option<u64>> {
    let failed = |call: &str| Error::new(format!("{call}({pid})"), io::Error::last_os_error());
    let mut code = 0;
    // SAFETY: see above.
    if unsafe { GetExitCodeProcess(process.as_raw_handle(), &raw mut code) } == 0 {
        return Err(failed("GetExitCodeProcess"));
    }
    if code != STILL_ACTIVE as u32 {
        return Ok(None);
    }
    let mut times = [FILETIME::default(); 4];
    let [created, exited, kernel, user] = &mut times;
    // SAFETY: see above; four places for four times.
    let got = unsafe { GetProcessTimes(process.as_raw_handle(), created, exited, kernel, user) };
    if got == 0 {
        return Err(failed("GetProcessTimes"));
    }
    Ok(Some(u64::from(created.dwHighDateTime) << 32 | u64::from(created.dwLowDateTime)))
}

pub(super) fn start_of(pid: u32) -> Result<Option<u64>> {
    match open(pid, PROCESS_QUERY_LIMITED_INFORMATION)? {
        Some(process) => start(&process, pid),
        None => Ok(None),
    }
}

pub(super) fn kill(process: &Process) -> Result<()> {
    let pid = process.pid;
    let access = PROCESS_QUERY_LIMITED_INFORMATION | PROCESS_TERMINATE;
    let Some(handle) = open(pid, access)? else { return Ok(()) };
    if start(&handle, pid)? != Some(process.start) {
        return Ok(());
    }
    // SAFETY: the handle is open.
    if unsafe { TerminateProcess(handle.as_raw_handle(), 1) } != 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    // It may have ended meanwhile, which is refused.
    match start(&handle, pid)? {
        None => Ok(()),
        Some(_) => Err(Error::new(format!("TerminateProcess({pid})"), error)),
    }
}
