//! Texts as Windows wants them: UTF-16 with a NUL at the end.

use std::os::windows::ffi::OsStrExt;
use std::path::Path;

use windows_sys::core::{PCWSTR, PWSTR};

use crate::windows::{Error, HResult, Result};

/// Longest text taken from a DLL, in UTF-16 units: far above any document of the compute service.
const LIMIT: usize = 1 << 24;

/// A text to pass, ending with NUL.
pub(super) struct Wide(Vec<u16>);

impl Wide {
    /// A path, as it is; half a surrogate pair, which NTFS allows, goes through. A NUL inside is refused.
    pub(super) fn path(function: &'static str, path: &Path) -> Result<Self> {
        Self::new(function, path.as_os_str().encode_wide().collect())
    }

    /// A text. A NUL inside is refused.
    pub(super) fn text(function: &'static str, text: &str) -> Result<Self> {
        Self::new(function, text.encode_utf16().collect())
    }

    /// A path or volume with exactly one backslash at its end.
    pub(super) fn with_backslash(mut self) -> Self {
        self = self.without_backslash();
        let end = self.0.len() - 1;
        self.0.insert(end, u16::from(b'\\'));
        self
    }

    /// A path or volume with no backslash at its end.
    pub(super) fn without_backslash(mut self) -> Self {
        while self.0.len() > 1 && self.0[self.0.len() - 2] == u16::from(b'\\') {
            let last = self.0.len() - 2;
            self.0.remove(last);
        }
        self
    }

    pub(super) fn as_ptr(&self) -> PCWSTR {
        self.0.as_ptr()
    }

    /// NULL for an empty text, which some functions tell apart.
    pub(super) fn as_optional_ptr(&self) -> PCWSTR {
        if self.0.len() == 1 { std::ptr::null() } else { self.0.as_ptr() }
    }

    /// The units without the NUL.
    pub(super) fn units(&self) -> &[u16] {
        &self.0[..self.0.len() - 1]
    }

    fn new(function: &'static str, mut units: Vec<u16>) -> Result<Self> {
        if units.contains(&0) {
            let shown = String::from_utf16_lossy(&units).replace('\0', "\\0");
            return Err(Error::new(function, shown, HResult::NO_UNICODE_TRANSLATION));
        }
        units.push(0);
        Ok(Self(units))
    }
}

/// Text up to the first NUL of a buffer that a DLL has filled.
pub(super) fn from_units(function: &'static str, units: &[u16]) -> Result<String> {
    let length = units.iter().position(|unit| *unit == 0).unwrap_or(units.len());
    String::from_utf16(&units[..length]).map_err(|_| {
        let shown = String::from_utf16_lossy(&units[..length]);
        Error::new(function, shown, HResult::NO_UNICODE_TRANSLATION)
    })
}

/// Text that a DLL allocated and the caller frees: NULL until it is filled in.
pub(super) struct Allocated {
    pointer: PWSTR,
    free: fn(PWSTR),
}

impl Allocated {
    /// Text that is freed with `LocalFree`.
    pub(super) fn local() -> Self {
        Self { pointer: std::ptr::null_mut(), free: free_local }
    }

    /// Text that is freed with `CoTaskMemFree`.
    pub(super) fn task() -> Self {
        Self { pointer: std::ptr::null_mut(), free: free_task }
    }

    /// Where the DLL puts the pointer.
    pub(super) fn out(&mut self) -> *mut PWSTR {
        &raw mut self.pointer
    }

    /// The text; empty if there is none.
    pub(super) fn read(&self, function: &'static str) -> Result<String> {
        if self.pointer.is_null() {
            return Ok(String::new());
        }
        let mut length = 0;
        // SAFETY: the DLL put a pointer to a text ending with NUL here; nothing behind the NUL is read.
        while length < LIMIT && unsafe { *self.pointer.add(length) } != 0 {
            length += 1;
        }
        // SAFETY: the loop has read these units.
        let units = unsafe { std::slice::from_raw_parts(self.pointer, length) };
        from_units(function, units)
    }
}

impl Drop for Allocated {
    fn drop(&mut self) {
        if !self.pointer.is_null() {
            (self.free)(self.pointer);
        }
    }
}

fn free_local(pointer: PWSTR) {
    // SAFETY: the function that filled the pointer documents LocalFree, and it is freed once, on drop.
    unsafe { windows_sys::Win32::Foundation::LocalFree(pointer.cast()) };
}

fn free_task(pointer: PWSTR) {
    // SAFETY: the function that filled the pointer documents CoTaskMemFree, and it is freed once, on drop.
    unsafe { windows_sys::Win32::System::Com::CoTaskMemFree(pointer.cast()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(wide: &Wide) -> String {
        String::from_utf16(wide.units()).unwrap()
    }

    #[test]
    fn backslashes_at_the_end_come_and_go() {
        let cases = [(r"C:\a", r"C:\a\", r"C:\a"), (r"C:\a\\", r"C:\a\", r"C:\a"), ("", r"\", "")];
        for (given, with, without) in cases {
            let wide = || Wide::text("F", given).unwrap();
            assert_eq!(text(&wide().with_backslash()), with);
            assert_eq!(text(&wide().without_backslash()), without);
        }
    }

    #[test]
    fn texts_end_at_the_first_nul_and_half_pairs_are_errors() {
        assert_eq!(from_units("F", &[97, 98, 0, 99]).unwrap(), "ab");
        assert_eq!(from_units("F", &[97]).unwrap(), "a");
        assert!(from_units("F", &[0xD800]).is_err());
        assert!(Wide::text("F", "a\0b").is_err());
        assert!(Wide::text("F", "").unwrap().as_optional_ptr().is_null());
    }
}
