//! `cimwriter.dll`, which can be installed beside a Windows older than itself, or else `cimfs.dll`: Microsoft's reference
//! of cimfs.h (cim-format.md 11.1).

use std::ffi::c_void;
use std::path::Path;
use std::ptr;

use windows_sys::core::{HRESULT, PCWSTR};

use super::binding::bindings;
use super::text::Wide;
use super::{System, checked, cimfs};
use crate::windows::{CimFileMetadata, CimImage, CimStream, CimWriter, Error, HResult, Result};

type ImageHandle = *mut c_void;
type StreamHandle = *mut c_void;

/// `CIMFS_FILE_METADATA`.
#[repr(C)]
struct Metadata {
    attributes: u32,
    size: i64,
    creation_time: i64,
    last_write_time: i64,
    change_time: i64,
    last_access_time: i64,
    security_descriptor: *const c_void,
    security_descriptor_size: u32,
    reparse_data: *const c_void,
    reparse_data_size: u32,
    extended_attributes: *const c_void,
    extended_attributes_size: u32,
}

#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Metadata>() == 96);

bindings! {
    CIMWRITER = "cimwriter.dll", build 19041, or cimfs::CIMFS;
    create_image: "CimCreateImage", build 19041, fn(PCWSTR, PCWSTR, PCWSTR, *mut ImageHandle) -> HRESULT;
    close_image: "CimCloseImage", build 19041, fn(ImageHandle);
    commit_image: "CimCommitImage", build 19041, fn(ImageHandle) -> HRESULT;
    create_file: "CimCreateFile", build 19041, fn(
        ImageHandle, PCWSTR, *const Metadata, *mut StreamHandle,
    ) -> HRESULT;
    create_stream: "CimCreateAlternateStream", build 19041, fn(
        ImageHandle, PCWSTR, u64, *mut StreamHandle,
    ) -> HRESULT;
    write_stream: "CimWriteStream", build 19041, fn(StreamHandle, *const c_void, u32) -> HRESULT;
    close_stream: "CimCloseStream", build 19041, fn(StreamHandle);
    create_link: "CimCreateHardLink", build 19041, fn(ImageHandle, PCWSTR, PCWSTR) -> HRESULT;
    delete_path: "CimDeletePath", build 19041, fn(ImageHandle, PCWSTR) -> HRESULT;
}

/// Bytes of one write: the function takes 32 bits.
const LARGEST_WRITE: usize = 1 << 30;

fn handle(image: &CimImage) -> ImageHandle {
    image.value() as ImageHandle
}

fn owned(
    image: &CimImage,
    stream: StreamHandle,
    close: unsafe extern "system" fn(StreamHandle),
) -> CimStream {
    let image = image.held();
    CimStream::new(stream as usize, move |value| {
        // SAFETY: the handle was made by the DLL for this value alone, which closes it once, and before its image.
        unsafe { close(value as StreamHandle) };
        drop(image);
    })
}

/// A pointer to data with its length; NULL for none.
fn buffer(function: &'static str, data: &[u8]) -> Result<(*const c_void, u32)> {
    let length = u32::try_from(data.len())
        .map_err(|_| Error::new(function, "metadata", HResult::INVALID_PARAMETER))?;
    Ok((if data.is_empty() { ptr::null() } else { data.as_ptr().cast() }, length))
}

impl CimWriter for System {
    fn create_image(
        &self,
        directory: &Path,
        existing: Option<&str>,
        new: Option<&str>,
    ) -> Result<CimImage> {
        let function = "CimCreateImage";
        let (call, close) = (create_image()?, close_image()?);
        let path = Wide::path(function, directory)?;
        let existing = existing.map(|name| Wide::text(function, name)).transpose()?;
        let new = new.map(|name| Wide::text(function, name)).transpose()?;
        let or_null = |name: &Option<Wide>| name.as_ref().map_or(ptr::null(), Wide::as_ptr);
        let mut out: ImageHandle = ptr::null_mut();
        // SAFETY: the texts end with NUL and, like the handle, outlive the call; a name may be NULL.
        let answer =
            unsafe { call(path.as_ptr(), or_null(&existing), or_null(&new), &raw mut out) };
        checked(function, directory.to_string_lossy(), answer)?;
        Ok(CimImage::new(out as usize, move |value| {
            // SAFETY: the handle was made by the DLL for this value alone, which closes it once; streams hold the image.
            unsafe { close(value as ImageHandle) };
        }))
    }

    fn create_image_file(
        &self,
        image: &CimImage,
        path: &Path,
        metadata: &CimFileMetadata<'_>,
    ) -> Result<CimStream> {
        let function = "CimCreateFile";
        let (call, close) = (create_file()?, close_stream()?);
        let text = Wide::path(function, path)?;
        let (security_descriptor, security_descriptor_size) =
            buffer(function, metadata.security_descriptor)?;
        let (reparse_data, reparse_data_size) = buffer(function, metadata.reparse_data)?;
        let (extended_attributes, extended_attributes_size) =
            buffer(function, metadata.extended_attributes)?;
        let size = i64::try_from(metadata.size)
            .map_err(|_| Error::at(function, path, HResult::INVALID_PARAMETER))?;
        let given = Metadata {
            attributes: metadata.attributes,
            size,
            creation_time: metadata.creation_time,
            last_write_time: metadata.last_write_time,
            change_time: metadata.change_time,
            last_access_time: metadata.last_access_time,
            security_descriptor,
            security_descriptor_size,
            reparse_data,
            reparse_data_size,
            extended_attributes,
            extended_attributes_size,
        };
        let mut out: StreamHandle = ptr::null_mut();
        // SAFETY: the image is open as long as it is borrowed; the path ends with NUL; it, the metadata with what they
        // point to, and the handle outlive the call.
        let answer = unsafe { call(handle(image), text.as_ptr(), &raw const given, &raw mut out) };
        checked(function, path.to_string_lossy(), answer)?;
        Ok(owned(image, out, close))
    }

    fn create_alternate_stream(
        &self,
        image: &CimImage,
        path: &Path,
        size: u64,
    ) -> Result<CimStream> {
        let function = "CimCreateAlternateStream";
        let (call, close) = (create_stream()?, close_stream()?);
        let text = Wide::path(function, path)?;
        let mut out: StreamHandle = ptr::null_mut();
        // SAFETY: the image is open as long as it is borrowed; the path ends with NUL and, like the handle, outlives the
        // call.
        let answer = unsafe { call(handle(image), text.as_ptr(), size, &raw mut out) };
        checked(function, path.to_string_lossy(), answer)?;
        Ok(owned(image, out, close))
    }

    fn write_stream(&self, stream: &CimStream, data: &[u8]) -> Result<()> {
        let call = write_stream()?;
        for part in data.chunks(LARGEST_WRITE) {
            // SAFETY: the stream is open as long as it is borrowed; the data have as many bytes as said and outlive the
            // call.
            let answer = unsafe {
                call(stream.value() as StreamHandle, part.as_ptr().cast(), part.len() as u32)
            };
            checked("CimWriteStream", format!("{stream:?}"), answer)?;
        }
        Ok(())
    }

    fn create_image_link(&self, image: &CimImage, new: &Path, existing: &Path) -> Result<()> {
        let function = "CimCreateHardLink";
        let call = create_link()?;
        let text = Wide::path(function, new)?;
        let existing = Wide::path(function, existing)?;
        // SAFETY: the image is open as long as it is borrowed; the paths end with NUL and outlive the call.
        let answer = unsafe { call(handle(image), text.as_ptr(), existing.as_ptr()) };
        checked(function, new.to_string_lossy(), answer)
    }

    fn delete_image_path(&self, image: &CimImage, path: &Path) -> Result<()> {
        let function = "CimDeletePath";
        let call = delete_path()?;
        let text = Wide::path(function, path)?;
        // SAFETY: the image is open as long as it is borrowed; the path ends with NUL and outlives the call.
        let answer = unsafe { call(handle(image), text.as_ptr()) };
        checked(function, path.to_string_lossy(), answer)
    }

    fn commit_image(&self, image: &CimImage) -> Result<()> {
        let call = commit_image()?;
        // SAFETY: the image is open as long as it is borrowed.
        let answer = unsafe { call(handle(image)) };
        checked("CimCommitImage", format!("{image:?}"), answer)
    }
}
