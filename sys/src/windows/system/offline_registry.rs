//! `offreg.dll`: documented but for `ORMergeHives` (regf.md 16.4). All answer with Win32 error numbers.

use std::ffi::c_void;
use std::path::Path;
use std::ptr;

use windows_sys::core::PCWSTR;

use super::binding::bindings;
use super::text::Wide;
use super::{System, checked_win32};
use crate::windows::{Hive, OfflineRegistry, Result};

type HiveHandle = *mut c_void;

bindings! {
    OFFREG = "offreg.dll", build 9200;
    create: "ORCreateHive", build 9200, fn(*mut HiveHandle) -> u32;
    open: "OROpenHive", build 9200, fn(PCWSTR, *mut HiveHandle) -> u32;
    close: "ORCloseHive", build 9200, fn(HiveHandle) -> u32;
    merge: "ORMergeHives", build 19041, fn(*const HiveHandle, u32, *mut HiveHandle) -> u32;
    save: "ORSaveHive", build 9200, fn(HiveHandle, PCWSTR, u32, u32) -> u32;
}

fn owned(handle: HiveHandle, close: unsafe extern "system" fn(HiveHandle) -> u32) -> Hive {
    Hive::new(handle as usize, move |value| {
        // SAFETY: the handle was made by offreg for this value alone, which closes it once.
        unsafe { close(value as HiveHandle) };
    })
}

impl OfflineRegistry for System {
    fn create_hive(&self) -> Result<Hive> {
        let (call, close) = (create()?, close()?);
        let mut out: HiveHandle = ptr::null_mut();
        // SAFETY: the handle outlives the call.
        let answer = unsafe { call(&raw mut out) };
        checked_win32("ORCreateHive", "", answer)?;
        Ok(owned(out, close))
    }

    fn open_hive(&self, path: &Path) -> Result<Hive> {
        let function = "OROpenHive";
        let (call, close) = (open()?, close()?);
        let text = Wide::path(function, path)?;
        let mut out: HiveHandle = ptr::null_mut();
        // SAFETY: the path ends with NUL and, like the handle, outlives the call.
        let answer = unsafe { call(text.as_ptr(), &raw mut out) };
        checked_win32(function, path.to_string_lossy(), answer)?;
        Ok(owned(out, close))
    }

    fn merge_hives(&self, hives: &[&Hive]) -> Result<Hive> {
        let function = "ORMergeHives";
        let (call, close) = (merge()?, close()?);
        let handles: Vec<HiveHandle> =
            hives.iter().map(|hive| hive.value() as HiveHandle).collect();
        let mut out: HiveHandle = ptr::null_mut();
        // SAFETY: as many handles as said, open as long as the hives are borrowed; they and the new handle outlive the
        // call.
        let answer = unsafe { call(handles.as_ptr(), handles.len() as u32, &raw mut out) };
        checked_win32(function, format!("{hives:?}"), answer)?;
        Ok(owned(out, close))
    }

    fn save_hive(&self, hive: &Hive, path: &Path, major: u32, minor: u32) -> Result<()> {
        let function = "ORSaveHive";
        let call = save()?;
        let text = Wide::path(function, path)?;
        // SAFETY: the hive is open as long as it is borrowed; the path ends with NUL and outlives the call.
        let answer = unsafe { call(hive.value() as HiveHandle, text.as_ptr(), major, minor) };
        checked_win32(function, path.to_string_lossy(), answer)
    }
}
