//! `kernel32.dll`: linked, as every Windows has it.

use std::ffi::c_void;
use std::fs::File;
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::AsRawHandle;
use std::path::{Path, PathBuf};
use std::ptr;

use windows_sys::Win32::Foundation::{GENERIC_READ, GENERIC_WRITE, HANDLE};
use windows_sys::Win32::Storage::FileSystem::{
    BY_HANDLE_FILE_INFORMATION, BackupRead, BackupWrite, CreateHardLinkW, DELETE,
    FILE_ATTRIBUTE_READONLY, FILE_BASIC_INFO, FILE_DISPOSITION_INFO, FILE_FLAG_BACKUP_SEMANTICS,
    FILE_FLAG_OPEN_REPARSE_POINT, FILE_READ_ATTRIBUTES, FILE_SHARE_DELETE, FILE_SHARE_READ,
    FILE_SHARE_WRITE, FILE_WRITE_ATTRIBUTES, FileBasicInfo, FileDispositionInfo,
    GetFileInformationByHandle, GetFileInformationByHandleEx, READ_CONTROL,
    SetFileInformationByHandle, WRITE_DAC, WRITE_OWNER,
};

use super::text::Wide;
use super::{System, last_error};
use crate::windows::{
    BackedUpFile, BackupApi, BasicInfo, Error, FileFacts, HResult, RestoredFile, Result,
};

/// Access to the list of what is audited (winnt.h).
const ACCESS_SYSTEM_SECURITY: u32 = 0x0100_0000;
const ANYBODY: u32 = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;

fn of_io(function: &'static str, path: &Path, error: &std::io::Error) -> Error {
    let number = error.raw_os_error().map_or(0, i32::cast_unsigned);
    Error::new(function, path.to_string_lossy(), HResult::win32(number))
}

/// A file or directory itself, for backup programs.
fn open(path: &Path, access: u32, share: u32, new: bool) -> Result<File> {
    let mut options = std::fs::OpenOptions::new();
    options
        .access_mode(access)
        .share_mode(share)
        .custom_flags(FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OPEN_REPARSE_POINT);
    if new {
        // The standard library makes files only if it is told that they are written.
        options.write(true).create_new(true);
    }
    options.open(path).map_err(|error| of_io("CreateFileW", path, &error))
}

fn set_basic(file: &File, path: &Path, basic: &BasicInfo) -> Result<()> {
    let signed = u64::cast_signed;
    let info = FILE_BASIC_INFO {
        CreationTime: signed(basic.creation_time),
        LastAccessTime: signed(basic.last_access_time),
        LastWriteTime: signed(basic.last_write_time),
        ChangeTime: signed(basic.change_time),
        FileAttributes: basic.attributes,
    };
    let function = "SetFileInformationByHandle";
    // SAFETY: the handle is open as long as the file is borrowed; the structure is of the class that is said, and has
    // the length that is said.
    let done = unsafe {
        SetFileInformationByHandle(
            file.as_raw_handle() as HANDLE,
            FileBasicInfo,
            (&raw const info).cast(),
            size_of::<FILE_BASIC_INFO>() as u32,
        )
    };
    if done == 0 {
        return Err(last_error(function, path.to_string_lossy()));
    }
    Ok(())
}

fn basic(file: &File, path: &Path) -> Result<BasicInfo> {
    let mut info = FILE_BASIC_INFO::default();
    // SAFETY: as above, and the structure is written to.
    let done = unsafe {
        GetFileInformationByHandleEx(
            file.as_raw_handle() as HANDLE,
            FileBasicInfo,
            (&raw mut info).cast(),
            size_of::<FILE_BASIC_INFO>() as u32,
        )
    };
    if done == 0 {
        return Err(last_error("GetFileInformationByHandleEx", path.to_string_lossy()));
    }
    Ok(BasicInfo {
        creation_time: info.CreationTime.cast_unsigned(),
        last_access_time: info.LastAccessTime.cast_unsigned(),
        last_write_time: info.LastWriteTime.cast_unsigned(),
        change_time: info.ChangeTime.cast_unsigned(),
        attributes: info.FileAttributes,
    })
}

/// What Windows keeps of a stream between two calls; given back on drop.
struct Context(*mut c_void);

struct Restored {
    path: PathBuf,
    file: File,
    basic: BasicInfo,
    security: bool,
    context: Context,
}

impl Restored {
    fn call(&mut self, bytes: &[u8], end: bool) -> Result<()> {
        let mut rest = bytes;
        loop {
            let length = u32::try_from(rest.len()).unwrap_or(u32::MAX);
            let mut written = 0_u32;
            // SAFETY: the handle is open; the buffer has as many bytes as said and outlives the call; the context is what
            // the calls before have made of a NULL, and ends with the call that is told to abort.
            let done = unsafe {
                BackupWrite(
                    self.file.as_raw_handle() as HANDLE,
                    rest.as_ptr(),
                    length,
                    &raw mut written,
                    end.into(),
                    self.security.into(),
                    &raw mut self.context.0,
                )
            };
            if done == 0 {
                return Err(last_error("BackupWrite", self.path.to_string_lossy()));
            }
            rest = rest.get(written as usize..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(());
            }
            if written == 0 {
                let path = self.path.to_string_lossy();
                return Err(Error::new("BackupWrite", path, HResult::UNSPECIFIED));
            }
        }
    }

    fn end(&mut self) -> Result<()> {
        if self.context.0.is_null() {
            return Ok(());
        }
        let ended = self.call(&[], true);
        self.context.0 = ptr::null_mut();
        ended
    }
}

impl RestoredFile for Restored {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() { Ok(()) } else { self.call(bytes, false) }
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.end()?;
        set_basic(&self.file, &self.path, &self.basic)
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        // Nobody to tell: whoever drops it unfinished has an error already.
        let _ = self.end();
    }
}

struct BackedUp {
    path: PathBuf,
    file: File,
    security: bool,
    context: Context,
}

impl BackedUpFile for BackedUp {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let length = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
        let mut read = 0_u32;
        // SAFETY: as for BackupWrite, and the buffer is written to.
        let done = unsafe {
            BackupRead(
                self.file.as_raw_handle() as HANDLE,
                buffer.as_mut_ptr(),
                length,
                &raw mut read,
                0,
                self.security.into(),
                &raw mut self.context.0,
            )
        };
        if done == 0 {
            return Err(last_error("BackupRead", self.path.to_string_lossy()));
        }
        Ok((read as usize).min(buffer.len()))
    }
}

impl Drop for BackedUp {
    fn drop(&mut self) {
        if self.context.0.is_null() {
            return;
        }
        let mut read = 0_u32;
        // SAFETY: the call that aborts reads nothing and gives the context back.
        unsafe {
            BackupRead(
                self.file.as_raw_handle() as HANDLE,
                ptr::null_mut(),
                0,
                &raw mut read,
                1,
                self.security.into(),
                &raw mut self.context.0,
            )
        };
    }
}

impl BackupApi for System {
    fn restore(
        &self,
        path: &Path,
        directory: bool,
        basic: &BasicInfo,
        security: bool,
    ) -> Result<Box<dyn RestoredFile>> {
        if directory {
            std::fs::create_dir(path).map_err(|error| of_io("CreateDirectoryW", path, &error))?;
        }
        let guarded = if security { WRITE_DAC | WRITE_OWNER | ACCESS_SYSTEM_SECURITY } else { 0 };
        let file = open(path, GENERIC_READ | GENERIC_WRITE | guarded, FILE_SHARE_READ, !directory)?;
        let context = Context(ptr::null_mut());
        Ok(Box::new(Restored { path: path.to_owned(), file, basic: *basic, security, context }))
    }

    fn back_up(&self, path: &Path, security: bool) -> Result<Box<dyn BackedUpFile>> {
        let guarded = if security { READ_CONTROL | ACCESS_SYSTEM_SECURITY } else { 0 };
        let file = open(path, GENERIC_READ | guarded, ANYBODY, false)?;
        let context = Context(ptr::null_mut());
        Ok(Box::new(BackedUp { path: path.to_owned(), file, security, context }))
    }

    fn file_facts(&self, path: &Path) -> Result<FileFacts> {
        let file = open(path, FILE_READ_ATTRIBUTES, ANYBODY, false)?;
        let mut info = BY_HANDLE_FILE_INFORMATION::default();
        // SAFETY: the handle is open, and the structure is written to.
        let done =
            unsafe { GetFileInformationByHandle(file.as_raw_handle() as HANDLE, &raw mut info) };
        if done == 0 {
            return Err(last_error("GetFileInformationByHandle", path.to_string_lossy()));
        }
        let number = u128::from(info.nFileIndexHigh) << 32 | u128::from(info.nFileIndexLow);
        let linked = (info.nNumberOfLinks > 1).then_some(number);
        Ok(FileFacts { basic: basic(&file, path)?, linked })
    }

    fn set_basic_info(&self, path: &Path, basic: &BasicInfo) -> Result<()> {
        set_basic(&open(path, FILE_WRITE_ATTRIBUTES, ANYBODY, false)?, path, basic)
    }

    fn hard_link(&self, file: &Path, link: &Path) -> Result<()> {
        let function = "CreateHardLinkW";
        let (from, to) = (Wide::path(function, file)?, Wide::path(function, link)?);
        // SAFETY: both texts end with NUL and outlive the call; the reserved argument is NULL.
        let done = unsafe { CreateHardLinkW(to.as_ptr(), from.as_ptr(), ptr::null()) };
        if done == 0 {
            return Err(last_error(function, link.to_string_lossy()));
        }
        Ok(())
    }

    fn remove_entry(&self, path: &Path) -> Result<()> {
        let access = DELETE | FILE_READ_ATTRIBUTES | FILE_WRITE_ATTRIBUTES;
        let file = open(path, access, ANYBODY, false)?;
        let attributes = basic(&file, path)?.attributes;
        if attributes & FILE_ATTRIBUTE_READONLY != 0 {
            let attributes = attributes & !FILE_ATTRIBUTE_READONLY;
            // 0 would leave them as they are; FILE_ATTRIBUTE_NORMAL is none.
            let attributes = if attributes == 0 { 0x80 } else { attributes };
            set_basic(&file, path, &BasicInfo { attributes, ..BasicInfo::default() })?;
        }
        let info = FILE_DISPOSITION_INFO { DeleteFile: true };
        let function = "SetFileInformationByHandle";
        // SAFETY: the handle is open; the structure is of the class that is said, and has the length that is said.
        let done = unsafe {
            SetFileInformationByHandle(
                file.as_raw_handle() as HANDLE,
                FileDispositionInfo,
                (&raw const info).cast(),
                size_of::<FILE_DISPOSITION_INFO>() as u32,
            )
        };
        if done == 0 {
            return Err(last_error(function, path.to_string_lossy()));
        }
        Ok(())
    }
}
