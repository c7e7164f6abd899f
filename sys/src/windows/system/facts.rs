//! `ntdll`, `advapi32` (linked) and `fltlib.dll` (bound by name).

use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::ptr;

use windows_sys::Wdk::System::SystemServices::RtlGetVersion;
use windows_sys::Win32::Foundation::{
    ERROR_NOT_ALL_ASSIGNED, ERROR_SUCCESS, GetLastError, HANDLE, LUID,
};
use windows_sys::Win32::Security::{
    AdjustTokenPrivileges, GetTokenInformation, LUID_AND_ATTRIBUTES, LookupPrivilegeNameW,
    LookupPrivilegeValueW, SE_PRIVILEGE_ENABLED, TOKEN_ADJUST_PRIVILEGES, TOKEN_INFORMATION_CLASS,
    TOKEN_PRIVILEGES, TOKEN_QUERY, TokenElevation, TokenPrivileges,
};
use windows_sys::Win32::System::Registry::{HKEY_LOCAL_MACHINE, RRF_RT_REG_DWORD, RegGetValueW};
use windows_sys::Win32::System::SystemInformation::OSVERSIONINFOW;
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};
use windows_sys::core::HRESULT;

use super::binding::{Library, bindings};
use super::text::{Wide, from_units};
use super::{System, checked, cimfs, compute, disk, last_error, layers, offline_registry, storage};
use crate::windows::{
    Error, HResult, HostFacts, LibraryFacts, Privilege, Result, WindowsVersion, facts,
};

bindings! {
    FLTLIB = "fltlib.dll", build 6000;
    find_first: "FilterFindFirst", build 6000, fn(i32, *mut u8, u32, *mut u32, *mut HANDLE) -> HRESULT;
    find_next: "FilterFindNext", build 6000, fn(HANDLE, i32, *mut u8, u32, *mut u32) -> HRESULT;
    find_close: "FilterFindClose", build 6000, fn(HANDLE) -> HRESULT;
}

/// `FilterFullInformation` of `FILTER_INFORMATION_CLASS`.
const FULL_INFORMATION: i32 = 0;
/// Filters listed at most; a host has a dozen.
const MOST_FILTERS: usize = 1024;
const NO_MORE_ITEMS: HResult = HResult::win32(0x103);

fn libraries() -> [&'static Library; 7] {
    [
        &cimfs::CIMFS,
        &compute::COMPUTECORE,
        &disk::VIRTDISK,
        &layers::VMCOMPUTE,
        &offline_registry::OFFREG,
        &storage::COMPUTESTORAGE,
        &FLTLIB,
    ]
}

/// The process's own token.
fn token(function: &'static str, access: u32) -> Result<OwnedHandle> {
    let mut token: HANDLE = ptr::null_mut();
    // SAFETY: the pseudo handle of the process is always valid; the handle that is filled outlives the call.
    if unsafe { OpenProcessToken(GetCurrentProcess(), access, &raw mut token) } == 0 {
        return Err(last_error(function, "process"));
    }
    // SAFETY: the call has opened this handle for the caller alone.
    Ok(unsafe { OwnedHandle::from_raw_handle(token) })
}

/// What a token tells, as 32-bit words: every structure asked for here consists of them.
fn token_words(function: &'static str, class: TOKEN_INFORMATION_CLASS) -> Result<Vec<u32>> {
    let token = token(function, TOKEN_QUERY)?;
    // Windows has 35 privileges, of three words each.
    let mut words = vec![0_u32; 1024];
    let mut bytes = 0_u32;
    // SAFETY: the token is open; the buffer has as many bytes as said, and like the length outlives the call.
    let done = unsafe {
        GetTokenInformation(
            token.as_raw_handle(),
            class,
            words.as_mut_ptr().cast(),
            (words.len() * 4) as u32,
            &raw mut bytes,
        )
    };
    if done == 0 {
        return Err(last_error(function, "token"));
    }
    words.truncate(bytes as usize / 4);
    Ok(words)
}

fn privilege_name(function: &'static str, luid: LUID) -> Result<String> {
    let mut name = [0_u16; 128];
    let mut length = name.len() as u32;
    // SAFETY: the identifier, the buffer, which has as many units as said, and the length outlive the call; NULL is
    // this computer.
    let done = unsafe {
        LookupPrivilegeNameW(ptr::null(), &raw const luid, name.as_mut_ptr(), &raw mut length)
    };
    if done == 0 {
        return Err(last_error(function, format!("privilege {}", luid.LowPart)));
    }
    from_units(function, &name)
}

/// The update within the build. Older Windows have no such value.
fn revision() -> u32 {
    let function = "RegGetValueW";
    let key = Wide::text(function, r"SOFTWARE\Microsoft\Windows NT\CurrentVersion");
    let (Ok(key), Ok(name)) = (key, Wide::text(function, "UBR")) else { return 0 };
    let (mut value, mut bytes) = (0_u32, 4_u32);
    // SAFETY: both texts end with NUL; they, the value of four bytes and the length outlive the call.
    let answer = unsafe {
        RegGetValueW(
            HKEY_LOCAL_MACHINE,
            key.as_ptr(),
            name.as_ptr(),
            RRF_RT_REG_DWORD,
            ptr::null_mut(),
            (&raw mut value).cast(),
            &raw mut bytes,
        )
    };
    if answer == ERROR_SUCCESS { value } else { 0 }
}

/// A search for filters, closed on drop.
struct Search {
    handle: HANDLE,
    close: unsafe extern "system" fn(HANDLE) -> HRESULT,
}

impl Drop for Search {
    fn drop(&mut self) {
        // SAFETY: the search was begun by fltlib and is closed once.
        unsafe { (self.close)(self.handle) };
    }
}

impl HostFacts for System {
    fn version(&self) -> Result<WindowsVersion> {
        let mut info = OSVERSIONINFOW {
            dwOSVersionInfoSize: size_of::<OSVERSIONINFOW>() as u32,
            ..Default::default()
        };
        // SAFETY: the structure says how large it is, and outlives the call.
        let answer = unsafe { RtlGetVersion(&raw mut info) };
        checked("RtlGetVersion", "", answer)?;
        Ok(WindowsVersion {
            major: info.dwMajorVersion,
            minor: info.dwMinorVersion,
            build: info.dwBuildNumber,
            revision: revision(),
        })
    }

    fn libraries(&self) -> Vec<LibraryFacts> {
        libraries().into_iter().map(Library::facts).collect()
    }

    fn privileges(&self) -> Result<Vec<Privilege>> {
        let function = "GetTokenInformation";
        let words = token_words(function, TokenPrivileges)?;
        let held = words.get(1..).unwrap_or_default().chunks_exact(3);
        held.map(|entry| {
            let luid = LUID { LowPart: entry[0], HighPart: entry[1].cast_signed() };
            let enabled = entry[2] & SE_PRIVILEGE_ENABLED != 0;
            Ok(Privilege { name: privilege_name(function, luid)?, enabled })
        })
        .collect()
    }

    fn enable_privileges(&self, names: &[&str]) -> Result<()> {
        let function = "AdjustTokenPrivileges";
        let token = token(function, TOKEN_QUERY | TOKEN_ADJUST_PRIVILEGES)?;
        for name in names {
            let text = Wide::text(function, name)?;
            let mut luid = LUID::default();
            // SAFETY: the name ends with NUL and, like the identifier, outlives the call; NULL is this computer.
            if unsafe { LookupPrivilegeValueW(ptr::null(), text.as_ptr(), &raw mut luid) } == 0 {
                return Err(last_error(function, *name));
            }
            let wanted = TOKEN_PRIVILEGES {
                PrivilegeCount: 1,
                Privileges: [LUID_AND_ATTRIBUTES { Luid: luid, Attributes: SE_PRIVILEGE_ENABLED }],
            };
            // SAFETY: the token is open with the right to adjust; the one privilege outlives the call, and nothing is
            // asked for in return.
            let done = unsafe {
                AdjustTokenPrivileges(
                    token.as_raw_handle(),
                    0,
                    &raw const wanted,
                    0,
                    ptr::null_mut(),
                    ptr::null_mut(),
                )
            };
            if done == 0 {
                return Err(last_error(function, *name));
            }
            // The call succeeds also if the token lacks the privilege, and says so here.
            // SAFETY: reads a number of the calling thread.
            if unsafe { GetLastError() } == ERROR_NOT_ALL_ASSIGNED {
                return Err(Error::new(function, *name, HResult::PRIVILEGE_NOT_HELD));
            }
        }
        Ok(())
    }

    fn is_elevated(&self) -> Result<bool> {
        let words = token_words("GetTokenInformation", TokenElevation)?;
        Ok(words.first().is_some_and(|elevated| *elevated != 0))
    }

    fn filters(&self) -> Result<Vec<String>> {
        let function = "FilterFindFirst";
        let (first, next, close) = (find_first()?, find_next()?, find_close()?);
        let mut buffer = vec![0_u8; 4096];
        let mut filled = 0_u32;
        let mut handle: HANDLE = ptr::null_mut();
        let mut names = Vec::new();
        // SAFETY: the buffer has as many bytes as said; it, the length and the handle outlive the call.
        let mut answer = unsafe {
            first(
                FULL_INFORMATION,
                buffer.as_mut_ptr(),
                buffer.len() as u32,
                &raw mut filled,
                &raw mut handle,
            )
        };
        let search = (answer >= 0).then(|| Search { handle, close });
        while answer >= 0 && names.len() < MOST_FILTERS {
            let entry = buffer.get(..filled as usize).unwrap_or_default();
            names.extend(facts::filter_name(entry));
            let Some(search) = &search else { break };
            // SAFETY: the search is open; the rest as above.
            answer = unsafe {
                next(
                    search.handle,
                    FULL_INFORMATION,
                    buffer.as_mut_ptr(),
                    buffer.len() as u32,
                    &raw mut filled,
                )
            };
        }
        match HResult::from_raw(answer) {
            NO_MORE_ITEMS => Ok(names),
            code if code.is_failure() => Err(Error::new(function, "", code)),
            _ => Ok(names),
        }
    }
}
