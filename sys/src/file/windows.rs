//! Files by Windows' calls, as far as the standard library has none. Paths are opened by it alone, which takes those
//! over 260 characters; everything here works on handles.
#![allow(unsafe_code, reason = "calls of kernel32 and bcrypt")]
// UNSAFETY: every call gets a handle that a borrowed `File` keeps open and, where it takes memory, a pointer to a value
// of its own type that lives through the call.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io;
use std::os::windows::fs::OpenOptionsExt as _;
use std::os::windows::io::AsRawHandle as _;
use std::path::Path;
use std::time::SystemTime;

use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_INVALID_FUNCTION, ERROR_LOCK_VIOLATION, ERROR_NOT_SUPPORTED,
    GENERIC_WRITE,
};
use windows_sys::Win32::Security::Cryptography::{
    BCRYPT_USE_SYSTEM_PREFERRED_RNG, BCryptGenRandom,
};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_OPEN_REPARSE_POINT, FILE_ID_INFO,
    FILE_INFO_BY_HANDLE_CLASS, FILE_READ_ATTRIBUTES, FILE_STANDARD_INFO, FILE_WRITE_ATTRIBUTES,
    FileIdInfo, FileStandardInfo, GetFileInformationByHandleEx, LOCKFILE_EXCLUSIVE_LOCK,
    LOCKFILE_FAIL_IMMEDIATELY, LockFileEx,
};
use windows_sys::Win32::System::IO::OVERLAPPED;

use super::{Cost, FileIdentity, Sharing, failed};
use crate::error::{Error, Result};

/// Windows' locks keep others from reading what is locked, so this one byte, far behind any content, is it.
const LOCKED_BYTE: u64 = 1 << 62;

pub(super) fn set_mode(options: &mut OpenOptions, _mode: u32) -> &mut OpenOptions {
    options
}

pub(super) fn create_directory(path: &Path, _mode: u32) -> Result<()> {
    fs::create_dir(path).map_err(failed("CreateDirectory", path))
}

pub(super) fn create_private_directories(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}

pub(super) fn is_like_new(path: &Path, _mode: u32) -> Result<bool> {
    let metadata = fs::symlink_metadata(path).map_err(failed("stat", path))?;
    let mut entries = fs::read_dir(path).map_err(failed("FindFirstFile", path))?;
    Ok(metadata.is_dir() && entries.next().is_none())
}

/// A file that is not sparse has clusters for all of its length.
pub(super) fn allocate(file: &File, length: u64) -> io::Result<()> {
    if file.metadata()?.len() < length {
        file.set_len(length)?;
    }
    Ok(())
}

pub(super) fn read_ahead(_file: &File, _offset: u64, _length: u64) {}

/// Opens a file or directory itself, a link too, for its attributes or its names alone.
fn open_itself(path: &Path, access: u32) -> io::Result<File> {
    OpenOptions::new()
        .access_mode(access)
        .custom_flags(FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OPEN_REPARSE_POINT)
        .open(path)
}

pub(super) fn set_times_to_now(path: &Path) -> Result<()> {
    let now = SystemTime::now();
    open_itself(path, FILE_WRITE_ATTRIBUTES)
        .and_then(|file| file.set_times(FileTimes::new().set_accessed(now).set_modified(now)))
        .map_err(failed("SetFileTime", path))
}

pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    // FlushFileBuffers wants a handle that may write; file systems may refuse both for a directory.
    let flushed = OpenOptions::new()
        .access_mode(GENERIC_WRITE)
        .custom_flags(FILE_FLAG_BACKUP_SEMANTICS)
        .open(path)
        .and_then(|directory| directory.sync_all());
    match flushed {
        Err(error) if refused(&error) => fs::metadata(path).map(drop),
        other => other,
    }
}

fn refused(error: &io::Error) -> bool {
    const REFUSALS: [u32; 3] = [ERROR_ACCESS_DENIED, ERROR_INVALID_FUNCTION, ERROR_NOT_SUPPORTED];
    let code = error.raw_os_error().and_then(|code| u32::try_from(code).ok());
    code.is_some_and(|code| REFUSALS.contains(&code))
}

/// Whether the lock was to be had at once.
pub(super) fn try_lock(file: &File, sharing: Sharing) -> io::Result<bool> {
    let flags = match sharing {
        Sharing::Exclusive => LOCKFILE_FAIL_IMMEDIATELY | LOCKFILE_EXCLUSIVE_LOCK,
        Sharing::Shared => LOCKFILE_FAIL_IMMEDIATELY,
    };
    let mut at = OVERLAPPED::default();
    at.Anonymous.Anonymous.Offset = (LOCKED_BYTE & u64::from(u32::MAX)) as u32;
    at.Anonymous.Anonymous.OffsetHigh = (LOCKED_BYTE >> 32) as u32;
    // SAFETY: see above; the handle is synchronous, so the call is over with `at` when it returns.
    let locked = unsafe { LockFileEx(file.as_raw_handle(), flags, 0, 1, 0, &raw mut at) };
    if locked != 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() == Some(ERROR_LOCK_VIOLATION as i32) {
        true => Ok(false),
        false => Err(error),
    }
}

/// # Safety
/// `T` is the structure that `class` fills.
unsafe fn information<T: Default>(file: &File, class: FILE_INFO_BY_HANDLE_CLASS) -> io::Result<T> {
    let mut information = T::default();
    let length = size_of::<T>() as u32;
    // SAFETY: see above; `length` is that of the value pointed at.
    let filled = unsafe {
        let memory = (&raw mut information).cast();
        GetFileInformationByHandleEx(file.as_raw_handle(), class, memory, length)
    };
    if filled == 0 { Err(io::Error::last_os_error()) } else { Ok(information) }
}

fn identity(file: &File) -> io::Result<FileIdentity> {
    // SAFETY: the class's structure.
    let id: FILE_ID_INFO = unsafe { information(file, FileIdInfo) }?;
    let number = u128::from_le_bytes(id.FileId.Identifier);
    Ok(FileIdentity { volume: id.VolumeSerialNumber, number })
}

pub(super) fn identity_at(path: &Path) -> io::Result<FileIdentity> {
    identity(&open_itself(path, FILE_READ_ATTRIBUTES)?)
}

pub(super) fn open_to_sync(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).open(path)
}

pub(super) fn open_disk(path: &Path, write: bool) -> io::Result<Option<File>> {
    let file = match File::options().read(true).write(write).open(path) {
        Ok(file) => file,
        // A directory is "access denied".
        Err(_) if fs::metadata(path).is_ok_and(|metadata| metadata.is_dir()) => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(file.metadata()?.is_file().then_some(file))
}

pub(super) fn is_physical_disk(path: &Path) -> io::Result<bool> {
    const NAME: &str = r"\\.\PhysicalDrive";
    let text = path.to_string_lossy();
    let named = text.get(..NAME.len()).is_some_and(|start| start.eq_ignore_ascii_case(NAME));
    if !named {
        fs::metadata(path)?;
    }
    Ok(named)
}

pub(super) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    Ok(identity(file)? == identity_at(path)?)
}

pub(super) fn cost(path: &Path) -> io::Result<Cost> {
    let file = open_itself(path, FILE_READ_ATTRIBUTES)?;
    // SAFETY: the class's structure.
    let standard: FILE_STANDARD_INFO = unsafe { information(&file, FileStandardInfo) }?;
    let FileIdentity { volume, number } = identity(&file)?;
    Ok(Cost {
        bytes: u64::try_from(standard.AllocationSize).unwrap_or(0),
        // A link to a directory has the attribute too.
        directory: file.metadata()?.is_dir(),
        volume,
        identity: number,
        links: standard.NumberOfLinks.into(),
    })
}

pub(super) fn fill_random(bytes: &mut [u8]) -> Result<()> {
    let asked = bytes.len();
    let failed = |error| Error::new(format!("BCryptGenRandom({asked})"), error);
    let length =
        u32::try_from(asked).map_err(|_| failed(io::Error::from(io::ErrorKind::InvalidInput)))?;
    let (provider, flags) = (std::ptr::null_mut(), BCRYPT_USE_SYSTEM_PREFERRED_RNG);
    // SAFETY: see above; `length` is that of the slice.
    let status = unsafe { BCryptGenRandom(provider, bytes.as_mut_ptr(), length, flags) };
    if status == 0 {
        return Ok(());
    }
    Err(failed(io::Error::other(format!("NTSTATUS {status:#010x}"))))
}
