//! A recording DLL as a test sees it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use windows_sys::Win32::Foundation::HMODULE;
use windows_sys::Win32::System::LibraryLoader::{
    GetProcAddress, LOAD_LIBRARY_SEARCH_SYSTEM32, LoadLibraryExW,
};

type Take = unsafe extern "C" fn(*mut u8, usize) -> usize;
type Fail = unsafe extern "C" fn(*const u8, i32);

/// Tests of one process share the DLLs and take turns.
static TURN: Mutex<()> = Mutex::new(());

pub(crate) struct Recording {
    take: Take,
    fail: Fail,
    _turn: MutexGuard<'static, ()>,
}

impl Recording {
    /// The log of this DLL, empty.
    pub(crate) fn of(dll: &str) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let name: Vec<u16> = dll.encode_utf16().chain([0]).collect();
        // SAFETY: the name ends with NUL and outlives the call.
        let module = unsafe {
            LoadLibraryExW(name.as_ptr(), std::ptr::null_mut(), LOAD_LIBRARY_SEARCH_SYSTEM32)
        };
        assert!(!module.is_null(), "{dll} is not in the system directory");
        let take = entry(module, "recording_take\0", dll);
        let fail = entry(module, "recording_fail\0", dll);
        // SAFETY: recording.h has functions of these signatures.
        let recording = unsafe {
            Self {
                take: std::mem::transmute::<unsafe extern "system" fn() -> isize, Take>(take),
                fail: std::mem::transmute::<unsafe extern "system" fn() -> isize, Fail>(fail),
                _turn: turn,
            }
        };
        recording.lines();
        recording
    }

    /// The lines since the last time.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut text = vec![0; 1 << 16];
        // SAFETY: the buffer has as many bytes as said.
        let length = unsafe { (self.take)(text.as_mut_ptr(), text.len()) };
        text.truncate(length);
        String::from_utf8(text).expect("the DLLs write ASCII").lines().map(str::to_owned).collect()
    }

    /// The next call of `function` answers with `code`.
    pub(crate) fn fail(&self, function: &str, code: u32) {
        let name = format!("{function}\0");
        // SAFETY: the name ends with NUL and outlives the call, which copies it.
        unsafe { (self.fail)(name.as_ptr(), code.cast_signed()) };
    }
}

fn entry(module: HMODULE, name: &str, dll: &str) -> unsafe extern "system" fn() -> isize {
    // SAFETY: the module is loaded and never unloaded; the name ends with NUL.
    let entry = unsafe { GetProcAddress(module, name.as_ptr()) };
    entry.unwrap_or_else(|| {
        panic!("{dll} is not the one that records: this is no place for these tests")
    })
}
