//! `kernel32.dll`: linked, as every Windows has it.

use std::ffi::OsString;
use std::fs::File;
use std::os::windows::ffi::OsStringExt;
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::AsRawHandle;
use std::path::{Path, PathBuf};
use std::ptr;

use windows_sys::Win32::Foundation::{GENERIC_READ, GENERIC_WRITE, HANDLE};
use windows_sys::Win32::Storage::FileSystem::{
    CreateDirectoryW, CreateSymbolicLinkW, DeleteVolumeMountPointW, FILE_FLAG_BACKUP_SEMANTICS,
    FILE_FLAG_OPEN_REPARSE_POINT, FILE_SHARE_DELETE, FILE_SHARE_READ, FILE_SHARE_WRITE,
    GetDiskFreeSpaceW, GetFileAttributesW, GetVolumeNameForVolumeMountPointW,
    INVALID_FILE_ATTRIBUTES, RemoveDirectoryW, SYMBOLIC_LINK_FLAG_DIRECTORY, SetVolumeMountPointW,
};
use windows_sys::Win32::System::IO::DeviceIoControl;
use windows_sys::Win32::System::Ioctl::{
    FSCTL_EXTEND_VOLUME, FSCTL_GET_REPARSE_POINT, FSCTL_SET_REPARSE_POINT,
    IOCTL_DISK_GET_LENGTH_INFO,
};

use super::text::{Wide, from_units};
use super::{System, last_error};
use crate::windows::{ClusterGeometry, Error, HResult, Result, VolumeApi, reparse};

/// Units of `\\?\Volume{guid}\` with its NUL, and some to spare.
const VOLUME_NAME: usize = 64;

/// A volume or directory, open for control codes. `what` is the control code, which errors show.
fn open(function: &'static str, path: &Wide, access: u32, subject: &str) -> Result<File> {
    // Through the units, so that half a surrogate pair and a volume's name go through as they are.
    let path = PathBuf::from(OsString::from_wide(path.units()));
    std::fs::OpenOptions::new()
        .access_mode(access)
        .share_mode(FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE)
        .custom_flags(FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OPEN_REPARSE_POINT)
        .open(path)
        .map_err(|error| {
            let number = error.raw_os_error().map_or(0, i32::cast_unsigned);
            Error::new(function, subject, HResult::win32(number))
        })
}

/// Sends a control code; answers how many bytes came back.
fn control(
    function: &'static str,
    subject: &str,
    file: &File,
    code: u32,
    input: &[u8],
    output: &mut [u8],
) -> Result<usize> {
    let mut returned = 0_u32;
    // SAFETY: the handle is open as long as the file is borrowed; input and output have as many bytes as said and
    // outlive the call, which ends when the request ends, because the file was opened without FILE_FLAG_OVERLAPPED.
    let done = unsafe {
        DeviceIoControl(
            file.as_raw_handle() as HANDLE,
            code,
            input.as_ptr().cast(),
            input.len() as u32,
            output.as_mut_ptr().cast(),
            output.len() as u32,
            &raw mut returned,
            ptr::null_mut(),
        )
    };
    if done == 0 {
        return Err(last_error(function, subject));
    }
    Ok((returned as usize).min(output.len()))
}

fn done(function: &'static str, path: &Path, answer: i32) -> Result<()> {
    if answer == 0 {
        return Err(last_error(function, path.to_string_lossy()));
    }
    Ok(())
}

impl VolumeApi for System {
    fn set_volume_mount_point(&self, directory: &Path, volume: &str) -> Result<()> {
        let function = "SetVolumeMountPointW";
        let text = Wide::path(function, directory)?.with_backslash();
        let volume = Wide::text(function, volume)?.with_backslash();
        // SAFETY: both texts end with NUL and outlive the call.
        done(function, directory, unsafe { SetVolumeMountPointW(text.as_ptr(), volume.as_ptr()) })
    }

    fn delete_volume_mount_point(&self, directory: &Path) -> Result<()> {
        let function = "DeleteVolumeMountPointW";
        let text = Wide::path(function, directory)?.with_backslash();
        // SAFETY: the path ends with NUL and outlives the call.
        done(function, directory, unsafe { DeleteVolumeMountPointW(text.as_ptr()) })
    }

    fn volume_at_mount_point(&self, directory: &Path) -> Result<String> {
        let function = "GetVolumeNameForVolumeMountPointW";
        let text = Wide::path(function, directory)?.with_backslash();
        let mut name = [0_u16; VOLUME_NAME];
        // SAFETY: the path ends with NUL, and the buffer has as many units as said; both outlive the call.
        let answer = unsafe {
            GetVolumeNameForVolumeMountPointW(text.as_ptr(), name.as_mut_ptr(), VOLUME_NAME as u32)
        };
        done(function, directory, answer)?;
        from_units(function, &name)
    }

    fn volume_exists(&self, volume: &str) -> Result<bool> {
        let function = "GetFileAttributesW";
        let text = Wide::text(function, volume)?.with_backslash();
        // SAFETY: the name ends with NUL and outlives the call.
        if unsafe { GetFileAttributesW(text.as_ptr()) } != INVALID_FILE_ATTRIBUTES {
            return Ok(true);
        }
        let error = last_error(function, volume);
        match error.code() {
            HResult::FILE_NOT_FOUND | HResult::PATH_NOT_FOUND => Ok(false),
            _ => Err(error),
        }
    }

    fn create_directory_symlink(&self, link: &Path, target: &str) -> Result<()> {
        let function = "CreateSymbolicLinkW";
        let text = Wide::path(function, link)?;
        let target = Wide::text(function, target)?;
        // SAFETY: both texts end with NUL and outlive the call.
        let made = unsafe {
            CreateSymbolicLinkW(text.as_ptr(), target.as_ptr(), SYMBOLIC_LINK_FLAG_DIRECTORY)
        };
        done(function, link, i32::from(made))
    }

    fn create_junction(&self, link: &Path, target: &Path) -> Result<()> {
        let function = "FSCTL_SET_REPARSE_POINT";
        let subject = link.to_string_lossy();
        let target = Wide::path(function, target)?;
        let data = reparse::junction(target.units())
            .ok_or_else(|| Error::at(function, link, HResult::win32(0x6F)))?;
        let text = Wide::path(function, link)?;
        // SAFETY: the path ends with NUL and outlives the call; NULL gives the directory its parent's rights.
        done("CreateDirectoryW", link, unsafe { CreateDirectoryW(text.as_ptr(), ptr::null()) })?;
        let set = open(function, &text, GENERIC_WRITE, &subject).and_then(|directory| {
            control(function, &subject, &directory, FSCTL_SET_REPARSE_POINT, &data, &mut [])
        });
        if let Err(error) = set {
            // The directory was made above and is empty. The first error says why.
            _ = self.remove_directory_link(link);
            return Err(error);
        }
        Ok(())
    }

    fn read_link(&self, link: &Path) -> Result<PathBuf> {
        let function = "FSCTL_GET_REPARSE_POINT";
        let subject = link.to_string_lossy();
        // Reading a reparse point needs no rights on the file.
        let file = open(function, &Wide::path(function, link)?, 0, &subject)?;
        let mut data = vec![0_u8; reparse::LONGEST];
        let length = control(function, &subject, &file, FSCTL_GET_REPARSE_POINT, &[], &mut data)?;
        let target = reparse::target(&data[..length])
            .ok_or_else(|| Error::at(function, link, HResult::NOT_A_REPARSE_POINT))?;
        Ok(PathBuf::from(OsString::from_wide(&target)))
    }

    fn remove_directory_link(&self, link: &Path) -> Result<()> {
        let function = "RemoveDirectoryW";
        let text = Wide::path(function, link)?.without_backslash();
        // SAFETY: the path ends with NUL and outlives the call.
        done(function, link, unsafe { RemoveDirectoryW(text.as_ptr()) })
    }

    fn partition_length(&self, volume: &str) -> Result<u64> {
        let function = "IOCTL_DISK_GET_LENGTH_INFO";
        let text = Wide::text(function, volume)?.without_backslash();
        let file = open(function, &text, GENERIC_READ, volume)?;
        let mut length = [0_u8; 8];
        let got = control(function, volume, &file, IOCTL_DISK_GET_LENGTH_INFO, &[], &mut length)?;
        if got != length.len() {
            return Err(Error::new(function, volume, HResult::INSUFFICIENT_BUFFER));
        }
        Ok(u64::from_le_bytes(length))
    }

    fn cluster_geometry(&self, volume: &str) -> Result<ClusterGeometry> {
        let function = "GetDiskFreeSpaceW";
        let text = Wide::text(function, volume)?.with_backslash();
        let (mut sectors_per_cluster, mut bytes_per_sector, mut clusters) = (0, 0, 0);
        let mut free = 0;
        // SAFETY: the name ends with NUL; it and the four numbers outlive the call.
        let answer = unsafe {
            GetDiskFreeSpaceW(
                text.as_ptr(),
                &raw mut sectors_per_cluster,
                &raw mut bytes_per_sector,
                &raw mut free,
                &raw mut clusters,
            )
        };
        done(function, Path::new(volume), answer)?;
        Ok(ClusterGeometry { bytes_per_sector, sectors_per_cluster, clusters })
    }

    fn extend_volume(&self, volume: &str, sectors: u64) -> Result<()> {
        let function = "FSCTL_EXTEND_VOLUME";
        let text = Wide::text(function, volume)?.without_backslash();
        let file = open(function, &text, GENERIC_READ | GENERIC_WRITE, volume)?;
        let input = sectors.to_le_bytes();
        control(function, volume, &file, FSCTL_EXTEND_VOLUME, &input, &mut []).map(drop)
    }
}
