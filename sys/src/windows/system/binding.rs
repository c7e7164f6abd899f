//! Loading DLLs from the system directory, and finding functions in them by name.

use std::ptr;
use std::sync::OnceLock;

use windows_sys::Win32::Foundation::HMODULE;
use windows_sys::Win32::System::LibraryLoader::{
    GetProcAddress, LOAD_LIBRARY_SEARCH_SYSTEM32, LoadLibraryExW,
};

use crate::windows::{Error, LibraryFacts, Missing, Result};

/// A function before its signature is known.
pub(super) type Entry = unsafe extern "system" fn() -> isize;

/// A DLL of Windows.
pub(super) struct Library {
    name: &'static str,
    needs_build: u32,
    entries: &'static [(&'static str, u32)],
    or: Option<&'static Library>,
    module: OnceLock<usize>,
}

impl Library {
    pub(super) const fn new(
        name: &'static str,
        needs_build: u32,
        entries: &'static [(&'static str, u32)],
    ) -> Self {
        Self { name, needs_build, entries, or: None, module: OnceLock::new() }
    }

    /// Takes the functions from another DLL where this one is missing.
    pub(super) const fn or(mut self, other: &'static Library) -> Self {
        self.or = Some(other);
        self
    }

    /// The function `entry`. Loads the DLL if it is not loaded; a DLL stays loaded.
    pub(super) fn entry(&self, entry: &'static str) -> Result<Entry> {
        if let (Some(other), None) = (self.or, self.module()) {
            return other.entry(entry);
        }
        let whole = Missing { dll: self.name, entry: None, needs_build: self.needs_build };
        let module = self.module().ok_or_else(|| Error::missing(entry, whole))?;
        find(module, entry).ok_or_else(|| {
            let known = self.entries.iter().find(|(name, _)| *name == entry);
            let needs_build = known.map_or(self.needs_build, |(_, build)| *build);
            Error::missing(entry, Missing { dll: self.name, entry: Some(entry), needs_build })
        })
    }

    /// What of the DLL this Windows lacks.
    pub(super) fn facts(&self) -> LibraryFacts {
        let missing = match self.module() {
            None => vec![Missing { dll: self.name, entry: None, needs_build: self.needs_build }],
            Some(module) => {
                let missing = self.entries.iter().filter(|(name, _)| find(module, name).is_none());
                missing
                    .map(|(name, build)| Missing {
                        dll: self.name,
                        entry: Some(name),
                        needs_build: *build,
                    })
                    .collect()
            }
        };
        LibraryFacts { dll: self.name, missing }
    }

    fn module(&self) -> Option<HMODULE> {
        if let Some(module) = self.module.get() {
            return Some(*module as HMODULE);
        }
        let name: Vec<u16> = self.name.encode_utf16().chain([0]).collect();
        // SAFETY: the name ends with NUL and outlives the call. Only the system directory is searched, so that a DLL
        // of the same name elsewhere is never run.
        let module =
            unsafe { LoadLibraryExW(name.as_ptr(), ptr::null_mut(), LOAD_LIBRARY_SEARCH_SYSTEM32) };
        if module.is_null() {
            return None;
        }
        // Two threads may both load it; Windows counts, and neither ever unloads.
        Some(*self.module.get_or_init(|| module as usize) as HMODULE)
    }
}

fn find(module: HMODULE, entry: &str) -> Option<Entry> {
    let name: Vec<u8> = entry.bytes().chain([0]).collect();
    // SAFETY: the module is loaded and never unloaded; the name ends with NUL and outlives the call.
    unsafe { GetProcAddress(module, name.as_ptr()) }
}

/// A DLL's functions with their signatures. Each becomes a function that finds the entry point, or says what is
/// missing. `build` is the first Windows build known to have it.
macro_rules! bindings {
    (
        $library:ident = $dll:literal, build $dll_build:literal $(, or $other:path)?;
        $($function:ident: $entry:literal, build $build:literal, fn($($argument:ty),* $(,)?) $(-> $answer:ty)?;)*
    ) => {
        pub(super) static $library: $crate::windows::system::binding::Library =
            $crate::windows::system::binding::Library::new($dll, $dll_build, &[$(($entry, $build)),*])
                $(.or(&$other))?;
        $(
            fn $function() -> $crate::windows::Result<unsafe extern "system" fn($($argument),*) $(-> $answer)?> {
                type Wanted = unsafe extern "system" fn($($argument),*) $(-> $answer)?;
                let entry = $library.entry($entry)?;
                // SAFETY: both are pointers to functions, and the table has the signature of the DLL's function.
                Ok(unsafe {
                    std::mem::transmute::<$crate::windows::system::binding::Entry, Wanted>(entry)
                })
            }
        )*
    };
}
pub(super) use bindings;

#[cfg(test)]
mod tests {
    use super::*;

    // Whether there is such a DLL or function differs between no two systems.
    static NOWHERE: Library = Library::new("plywood-nowhere.dll", 12_345, &[("Any", 1)]);
    static KERNEL32: Library =
        Library::new("kernel32.dll", 1, &[("GetTickCount", 2), ("PlywoodNowhere", 23_456)]);

    #[test]
    fn a_missing_dll_is_named_with_the_build_that_has_it() {
        let error = NOWHERE.entry("Any").err().unwrap();
        assert_eq!(
            error.to_string(),
            "Any: this Windows lacks plywood-nowhere.dll (needs build 12345)"
        );
    }

    static ELSEWHERE: Library = Library::new("plywood-nowhere.dll", 1, &[]).or(&KERNEL32);

    #[test]
    fn the_other_dll_is_asked_where_the_first_is_missing() {
        assert!(ELSEWHERE.entry("GetTickCount").is_ok());
        let error = ELSEWHERE.entry("PlywoodNowhere").err().unwrap();
        assert_eq!(error.missing_binding().unwrap().dll, "kernel32.dll");
    }

    #[test]
    fn a_missing_entry_point_is_named_with_the_build_that_has_it() {
        assert!(KERNEL32.entry("GetTickCount").is_ok());
        let error = KERNEL32.entry("PlywoodNowhere").err().unwrap();
        assert_eq!(
            error.to_string(),
            "PlywoodNowhere: this Windows lacks PlywoodNowhere in kernel32.dll (needs build 23456)"
        );
        assert_eq!(error.missing_binding().unwrap().entry, Some("PlywoodNowhere"));
        assert_eq!(KERNEL32.facts().missing, [error.missing_binding().unwrap().clone()]);
        assert_eq!(NOWHERE.facts().missing[0].entry, None);
    }
}
