//! The journal of one virtual machine: one checksummed line a record, appended with one `write(2)` before what it
//! speaks of is done.
//!
//! It has the form of `mount`'s journal and is smaller, because one process writes it, and only while it owns the
//! machine. It has to survive the death of that process, not a power cut (the machine does not survive that either), so nothing is
//! fsynced. A torn last line is cut off by the next opener.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sys::checked_line;

use crate::step::Step;
use crate::{Error, ErrorKind, Result};

/// Version of the records.
const VERSION: u32 = 1;
/// A journal shorter than this is never rewritten.
const COMPACT_FROM: u64 = 64 << 10;
/// More than any journal gets before it is rewritten: every slot's steps, many times over.
const LARGEST: u64 = 64 << 20;

/// Of a step, in the order of intending; undoing goes backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct StepId(u64);

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Record<S> {
    Header {
        version: u32,
    },
    /// About to be done.
    Intend {
        id: StepId,
        step: S,
    },
    Done {
        id: StepId,
    },
    /// About to be undone.
    Undo {
        id: StepId,
    },
    /// Undone, or never done.
    Gone {
        id: StepId,
    },
    /// Undoing failed with this; the next start tries again.
    Failed {
        id: StepId,
        error: String,
    },
}

/// The journal with what its records add up to: of the steps of a machine, or of a Windows guest.
#[derive(Debug)]
pub(crate) struct Journal<S = Step> {
    path: PathBuf,
    /// `None` if it could be neither replaced nor opened again.
    file: Option<File>,
    length: u64,
    next: u64,
    live: BTreeMap<StepId, S>,
}

impl<S: Clone + Serialize + DeserializeOwned> Journal<S> {
    /// Opens the journal of a run directory, or begins one.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let failed =
            |doing: &str, error| Error::io(format!("cannot {doing} {}", path.display()), error);
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        let mut file = sys::file::set_mode(&mut options, 0o600)
            .open(path)
            .map_err(|error| failed("open", error))?;
        let mut text = Vec::new();
        (&mut file)
            .take(LARGEST + 1)
            .read_to_end(&mut text)
            .map_err(|error| failed("read", error))?;
        let mut journal =
            Self { path: path.to_owned(), file: None, length: 0, next: 0, live: BTreeMap::new() };
        journal.replay(&text)?;
        if journal.length < text.len() as u64 {
            file.set_len(journal.length).map_err(|error| failed("truncate", error))?;
        }
        journal.file = Some(file);
        if journal.length == 0 {
            journal.append(&Record::Header { version: VERSION })?;
        }
        Ok(journal)
    }

    fn replay(&mut self, text: &[u8]) -> Result<()> {
        let mut rest = text;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, tail) = (&rest[..end], &rest[end + 1..]);
            let record = checked_line::payload(line)
                .and_then(|json| serde_json::from_slice::<Record<S>>(json).ok());
            match record {
                Some(Record::Header { version }) if version > VERSION => {
                    return Err(Error::new(
                        ErrorKind::Corrupt,
                        format!(
                            "{} has version {version}; this program knows versions up to {VERSION}",
                            self.path.display()
                        ),
                    ));
                }
                Some(record) if matches!(record, Record::Header { .. }) == (self.length == 0) => {
                    self.apply(record);
                }
                // Only the last line can be torn.
                _ if tail.is_empty() => break,
                _ => {
                    let (path, at) = (self.path.display(), self.length);
                    return Err(Error::new(
                        ErrorKind::Corrupt,
                        format!(
                            "{path} is damaged at byte {at}; stop the virtual machine and remove its run directory"
                        ),
                    ));
                }
            }
            self.length += end as u64 + 1;
            rest = tail;
        }
        Ok(())
    }

    fn apply(&mut self, record: Record<S>) {
        match record {
            Record::Intend { id, step } => {
                self.next = self.next.max(id.0 + 1);
                self.live.insert(id, step);
            }
            Record::Gone { id } => {
                self.live.remove(&id);
            }
            Record::Header { .. }
            | Record::Done { .. }
            | Record::Undo { .. }
            | Record::Failed { .. } => {}
        }
    }

    fn append(&mut self, record: &Record<S>) -> Result<()> {
        let mut text = Vec::with_capacity(256);
        write_line(&mut text, record).map_err(|error| {
            Error::caused(ErrorKind::Invalid, "cannot write a step down", error)
        })?;
        let failed = |error| Error::io(format!("cannot append to {}", self.path.display()), error);
        let file = self.file.as_mut().ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
        if let Err(error) = file.write_all(&text) {
            // A part may have been written: cut it off. Should that fail too, the next opener does it.
            let _ = file.set_len(self.length);
            return Err(failed(error));
        }
        self.length += text.len() as u64;
        Ok(())
    }

    /// Before a step is done.
    pub(crate) fn intend(&mut self, step: &S) -> Result<StepId> {
        let id = StepId(self.next);
        let record = Record::Intend { id, step: step.clone() };
        self.append(&record)?;
        self.apply(record);
        sys::failpoint::hit("uvm-intended");
        Ok(id)
    }

    /// After it was done. What this record is for is people who read the journal, so its loss is none.
    pub(crate) fn done(&mut self, id: StepId) {
        sys::failpoint::hit("uvm-done");
        let _ = self.append(&Record::Done { id });
        sys::failpoint::hit("uvm-recorded");
    }

    /// Before it is undone.
    pub(crate) fn undo(&mut self, id: StepId) {
        let _ = self.append(&Record::Undo { id });
        sys::failpoint::hit("uvm-undoing");
    }

    /// After it was undone. If the record is lost, the next start undoes it again, which does no harm.
    pub(crate) fn gone(&mut self, id: StepId) {
        sys::failpoint::hit("uvm-undone");
        let record = Record::Gone { id };
        let _ = self.append(&record);
        self.apply(record);
        sys::failpoint::hit("uvm-gone");
        self.compact();
    }

    /// Undoing it failed; it stays in the journal.
    pub(crate) fn failed(&mut self, id: StepId, error: &Error) {
        let _ = self.append(&Record::Failed { id, error: error.to_string() });
    }

    /// What is attached, or may be, oldest first.
    pub(crate) fn live(&self) -> &BTreeMap<StepId, S> {
        &self.live
    }

    /// Rewrites a journal that is mostly history. If that fails it stays as long as it is.
    fn compact(&mut self) {
        let most = 2_048 * (self.live.len() as u64 + 1);
        if self.length < COMPACT_FROM.max(most) {
            return;
        }
        let mut text = Vec::new();
        let header = Record::Header { version: VERSION };
        let live =
            self.live.iter().map(|(id, step)| Record::Intend { id: *id, step: step.clone() });
        if std::iter::once(header).chain(live).any(|record| write_line(&mut text, &record).is_err())
        {
            return;
        }
        let new = self.path.with_extension("journal.new");
        let mut options = OpenOptions::new();
        options.append(true).create(true);
        let written = sys::file::set_mode(&mut options, 0o600).open(&new).and_then(|mut file| {
            // Left over by a process that was killed here.
            file.set_len(0)?;
            file.write_all(&text)?;
            Ok(file)
        });
        let Ok(file) = written else { return };
        let replace = || std::fs::rename(&new, &self.path);
        let replaced = replace().or_else(|_| {
            // File systems of Windows may refuse to replace what is open.
            self.file = None;
            replace()
        });
        if replaced.is_ok() {
            self.file = Some(file);
            self.length = text.len() as u64;
        } else if self.file.is_none() {
            self.file = OpenOptions::new().append(true).open(&self.path).ok();
        }
    }
}

/// Appends a record.
fn write_line<S: Serialize>(text: &mut Vec<u8>, record: &Record<S>) -> serde_json::Result<()> {
    // Fails for paths that are not UTF-8.
    let json = serde_json::to_string(record)?;
    checked_line::append(text, json.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ScsiSlot;

    fn step(lun: u8) -> Step {
        let slot = ScsiSlot { controller: 1, lun };
        Step::ScsiMount { slot, mount: crate::ScsiMount::default() }
    }

    fn live(path: &Path) -> Vec<Step> {
        <Journal>::open(path).unwrap().live().values().cloned().collect()
    }

    #[test]
    fn what_is_not_gone_is_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut journal = <Journal>::open(&path).unwrap();
        let ids: Vec<StepId> = (0..3).map(|lun| journal.intend(&step(lun)).unwrap()).collect();
        journal.done(ids[0]);
        journal.gone(ids[0]);
        journal.failed(ids[1], &Error::new(ErrorKind::Io, "x"));
        assert_eq!(live(&path), [step(1), step(2)]);
        let mut next = <Journal>::open(&path).unwrap();
        assert!(next.intend(&step(3)).unwrap() > ids[2], "numbers are not used again");
    }

    #[test]
    fn every_cut_of_the_last_line_is_survived() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut journal = <Journal>::open(&path).unwrap();
        journal.intend(&step(0)).unwrap();
        let whole = usize::try_from(journal.length).unwrap();
        journal.intend(&step(1)).unwrap();
        let text = std::fs::read(&path).unwrap();
        for cut in whole..text.len() {
            std::fs::write(&path, &text[..cut]).unwrap();
            <Journal>::open(&path).unwrap().intend(&step(2)).unwrap();
            assert_eq!(live(&path), [step(0), step(2)], "cut at {cut}");
        }
        std::fs::write(&path, &text[..5]).unwrap();
        assert!(live(&path).is_empty(), "not even the header was whole");
    }

    #[test]
    fn damage_and_newer_versions_are_reported() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut journal = <Journal>::open(&path).unwrap();
        journal.intend(&step(0)).unwrap();
        journal.intend(&step(1)).unwrap();
        let text = std::fs::read(&path).unwrap();
        // The end of line two is left out: without it, lines two and three are one torn line.
        let ends: Vec<usize> = (0..text.len()).filter(|at| text[*at] == b'\n').collect();
        for at in 0..ends[1] {
            let mut damaged = text.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, &damaged).unwrap();
            assert_eq!(<Journal>::open(&path).unwrap_err().kind(), ErrorKind::Corrupt, "byte {at}");
        }
        let mut newer = Vec::new();
        write_line::<Step>(&mut newer, &Record::Header { version: VERSION + 1 }).unwrap();
        std::fs::write(&path, &newer).unwrap();
        assert_eq!(<Journal>::open(&path).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn history_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut journal = <Journal>::open(&path).unwrap();
        let kept = journal.intend(&step(0)).unwrap();
        for _ in 0..2000 {
            let id = journal.intend(&step(1)).unwrap();
            journal.done(id);
            journal.undo(id);
            journal.gone(id);
        }
        assert!(journal.length <= COMPACT_FROM, "{}", journal.length);
        assert_eq!(live(&path), [step(0)]);
        journal.gone(kept);
        assert!(live(&path).is_empty());
    }
}
