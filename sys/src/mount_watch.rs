//! The mount table, read again only when it has changed.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{Error, MountTable, Result};

const PATH: &str = "/proc/thread-self/mountinfo";

/// The kernel's word on whether the mount table of a mount namespace has changed (`POLLPRI`,
/// proc_pid_mountinfo(5)). It takes a microsecond, whatever the number of mounts.
#[derive(Debug)]
pub struct MountEvents {
    file: File,
}

impl MountEvents {
    /// Of the calling thread's mount namespace, from now on.
    ///
    /// # Errors
    /// Those of opening the table.
    pub fn new() -> Result<Self> {
        let failed = |source| Error::new(format!("open({PATH})"), source);
        let events = Self { file: File::open(PATH).map_err(failed)? };
        events.have_come()?;
        Ok(events)
    }

    /// Whether anything was mounted or unmounted since this was last asked.
    ///
    /// # Errors
    /// That of `poll(2)`.
    pub fn have_come(&self) -> Result<bool> {
        let mut fds = [PollFd::new(&self.file, PollFlags::PRI)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))
            .map_err(|errno| Error::new(format!("poll({PATH})"), errno))?;
        Ok(fds[0].revents().intersects(PollFlags::PRI | PollFlags::ERR))
    }
}

/// The table of the mount namespace in which the first [`MountWatch::table`] was called, kept until the kernel
/// says that it has changed. With a thousand mounts the kernel takes more than a millisecond to write it.
#[derive(Debug, Default)]
pub struct MountWatch {
    seen: Option<(MountEvents, Arc<MountTable>)>,
}

impl MountWatch {
    /// Nothing read yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The table as it is now.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn table(&mut self) -> Result<Arc<MountTable>> {
        let events = match self.seen.take() {
            Some((events, table)) => {
                if !events.have_come()? {
                    self.seen = Some((events, Arc::clone(&table)));
                    return Ok(table);
                }
                events
            }
            // What changes while it is read is announced.
            None => MountEvents::new()?,
        };
        let failed = |source| Error::new(format!("read({PATH})"), source);
        let mut text = Vec::new();
        let mut reader = &events.file;
        reader.seek(SeekFrom::Start(0)).map_err(failed)?;
        reader.read_to_end(&mut text).map_err(failed)?;
        let table = Arc::new(MountTable::parse(&text)?);
        self.seen = Some((events, Arc::clone(&table)));
        Ok(table)
    }
}
