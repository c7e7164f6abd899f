//! The real binding of [`sys::windows`] calls into DLLs of the same names that are written in C
//! (`recording_dlls`) and write down what arrives: names, order of arguments, encodings and structures are checked
//! from the outside. They must be in Wine's system directory and loaded as native; without them every test fails
//! before it calls anything.
#![cfg(windows)]
#![allow(unsafe_code, reason = "asks the recording DLLs for what they have recorded")]

#[path = "windows_binding/cim_writer.rs"]
mod cim_writer;
#[path = "windows_binding/compute.rs"]
mod compute;
#[path = "windows_binding/disk.rs"]
mod disk;
#[path = "windows_binding/facts.rs"]
mod facts;
#[path = "windows_binding/layers.rs"]
mod layers;
#[path = "windows_binding/recording.rs"]
mod recording;
#[path = "windows_binding/storage.rs"]
mod storage;
#[path = "windows_binding/volume.rs"]
mod volume;
