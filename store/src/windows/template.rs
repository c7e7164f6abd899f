//! The one scratch disk that all scratches on CIMs are copies of: empty, and a difference to one that is formatted.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sys::windows::{AttachFlags, NewDisk};

use crate::error::{Error, Result};
use crate::store::Store;

use super::WindowsHost;

/// What a container sees of a scratch that nobody asked a size for, as containerd has it.
const SIZE: u64 = 10 << 30;
/// As hcsshim asks for: what is written costs little more than it is long.
const BLOCK: u32 = 1 << 20;

const BASE: &str = "base.vhdx";
const SCRATCH: &str = "scratch.vhdx";
/// Made last: a directory without it is what a crash left. The disks themselves cannot be renamed, because one says where
/// the other is.
const COMPLETE: &str = "complete";

/// One thread makes it, others wait.
static MAKING: Mutex<()> = Mutex::new(());

impl Store {
    /// The template, made if there is none.
    pub(super) fn scratch_template(&self, host: &WindowsHost) -> Result<PathBuf> {
        let _alone = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = self.layout().scratch_template();
        let template = directory.join(SCRATCH);
        if !directory.join(COMPLETE).exists() {
            let doing = || format!("making the template of scratch disks {}", directory.display());
            sys::file::remove_tree(&directory).map_err(|error| Error::sys(doing(), error))?;
            sys::file::create_directory(&directory, crate::spares::SCRATCH_MODE)
                .map_err(|error| Error::sys(doing(), error))?;
            let made = host.make_template(&directory.join(BASE), &template);
            made.map_err(|error| Error::windows(doing(), error))?;
            let complete = directory.join(COMPLETE);
            let marked = File::create(&complete);
            marked.map_err(|error| Error::io(doing(), error))?;
            sys::file::sync_directory(&directory).map_err(|error| Error::sys(doing(), error))?;
        }
        Ok(template)
    }
}

impl WindowsHost {
    fn make_template(&self, base: &Path, scratch: &Path) -> sys::windows::Result<()> {
        let api = self.api();
        let disk =
            api.create_disk(base, &NewDisk { size: SIZE, block_size: BLOCK, parent: None })?;
        api.attach_disk(&disk, AttachFlags::NO_DRIVE_LETTER)?;
        let formatted = api.format_writable_layer_vhd(&disk);
        let detached = api.detach_disk(&disk);
        formatted?;
        detached?;
        drop(disk);
        let parent = Some(base.to_owned());
        drop(api.create_disk(scratch, &NewDisk { size: 0, block_size: BLOCK, parent })?);
        Ok(())
    }
}
