//! The mount table, read again only when it has changed.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{Seek, SeekFrom};

use crate::{Error, MountTable, Result};

const PATH: &str = "/proc/thread-self/mountinfo";

/// The table of the mount namespace in which the first [`MountWatch::table`] was called, kept until the kernel
/// says that something was mounted or unmounted there (`POLLPRI`, proc_pid_mountinfo(5)). With a thousand mounts
/// the kernel takes more than a millisecond to write the table, and one microsecond to say that it is the same.
#[derive(Debug, Default)]
pub struct MountWatch {
    seen: Option<(File, Arc<MountTable>)>,
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
        let file = match self.seen.take() {
            Some((file, table)) => {
                if !has_changed(&file)? {
                    self.seen = Some((file, Arc::clone(&table)));
                    return Ok(table);
                }
                file
            }
            None => {
                let failed = |source| Error::new(format!("open({PATH})"), source);
                let file = File::open(PATH).map_err(failed)?;
                // What changes from here on is announced.
                has_changed(&file)?;
                file
            }
        };
        let failed = |source| Error::new(format!("read({PATH})"), source);
        let mut text = Vec::new();
        let mut reader = &file;
        reader.seek(SeekFrom::Start(0)).map_err(failed)?;
        reader.read_to_end(&mut text).map_err(failed)?;
        let table = Arc::new(MountTable::parse(&text)?);
        self.seen = Some((file, Arc::clone(&table)));
        Ok(table)
    }
}

/// Whether there was a change since this was last asked.
fn has_changed(file: &File) -> Result<bool> {
    let mut fds = [PollFd::new(file, PollFlags::PRI)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))
        .map_err(|errno| Error::new(format!("poll({PATH})"), errno))?;
    Ok(fds[0].revents().intersects(PollFlags::PRI | PollFlags::ERR))
}
