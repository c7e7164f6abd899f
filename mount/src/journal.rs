//! The journal file: one checksummed line a record, appended with one `write(2)`.
//!
//! It has to survive the death of any process at any instruction, not a power cut (a journal of another boot is
//! worthless), so nothing is ever fsynced: what `write` has taken, the kernel keeps. A process that is killed
//! inside `write` leaves at most a torn last line, which the next writer cuts off.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind as IoKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sys::checked_line;

use crate::record::{Header, Record, VERSION};
use crate::state::State;
use crate::{Error, ErrorKind, Result};

/// The journal and the state that its lines add up to. Only used under the registry's lock.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    header: Header,
    file: Option<File>,
    /// Bytes of the file that `state` contains.
    read: u64,
    state: State,
    /// Length at which the next attempt to rewrite it is worth its while.
    compact_at: u64,
}

/// A journal shorter than this is never rewritten.
const COMPACT_FROM: u64 = 16 << 10;

impl Journal {
    pub(crate) fn new(path: PathBuf, boot: String, namespace: u64) -> Self {
        let header = Header { version: VERSION, boot, namespace };
        let state = State::default();
        Self { path, header, file: None, read: 0, state, compact_at: COMPACT_FROM }
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Takes in what other processes have written, or starts a new journal if there is none of this boot.
    pub(crate) fn catch_up(&mut self) -> Result<()> {
        let length = match &self.file {
            Some(file) => self.length_if_current(file)?,
            None => None,
        };
        if length == Some(self.read) && self.read > 0 {
            return Ok(());
        }
        if length.is_none() {
            self.file = None;
            self.read = 0;
            self.state = State::default();
            match OpenOptions::new().read(true).append(true).open(&self.path) {
                Ok(file) => self.file = Some(file),
                Err(error) if error.kind() == IoKind::NotFound => return self.start_new(),
                Err(error) => return Err(self.failed("open", error)),
            }
        }
        let Some(file) = &self.file else { return Ok(()) };
        let mut text = Vec::new();
        let mut reader = file;
        reader
            .seek(SeekFrom::Start(self.read))
            .and_then(|_| reader.read_to_end(&mut text))
            .map_err(|error| self.failed("read", error))?;
        self.replay(&text)
    }

    /// Length of the open file, if it is the one that has the name: compaction and a new boot replace it.
    fn length_if_current(&self, file: &File) -> Result<Option<u64>> {
        let ours = file.metadata().map_err(|error| self.failed("stat", error))?;
        match std::fs::metadata(&self.path) {
            Ok(named) if (named.dev(), named.ino()) == (ours.dev(), ours.ino()) => {
                Ok(Some(ours.len()))
            }
            Ok(_) => Ok(None),
            Err(error) if error.kind() == IoKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("stat", error)),
        }
    }

    fn replay(&mut self, text: &[u8]) -> Result<()> {
        let mut rest = text;
        let mut taken = self.read;
        let mut outdated = false;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, tail) = (&rest[..end], &rest[end + 1..]);
            let json = checked_line::payload(line);
            if taken == 0 {
                let header = json.and_then(|json| serde_json::from_slice::<Header>(json).ok());
                let Some(header) = header else { return Err(self.damaged(0)) };
                if !self.is_ours(&header)? {
                    return self.start_new();
                }
                outdated = header.version < VERSION;
            } else {
                let record = json.and_then(|json| serde_json::from_slice::<Record>(json).ok());
                match record {
                    Some(record) => self.state.apply(record),
                    // Only the last line can be torn: lines are written under the lock.
                    None if tail.is_empty() => break,
                    None => return Err(self.damaged(taken)),
                }
            }
            taken += end as u64 + 1;
            rest = tail;
        }
        self.read = taken;
        if taken == 0 {
            return self.start_new();
        }
        if !rest.is_empty() {
            let Some(file) = &self.file else { return Ok(()) };
            file.set_len(taken).map_err(|error| self.failed("truncate", error))?;
        }
        if outdated {
            // Older programs that still run notice the new file, and refuse it by its version.
            let text = self.shortest();
            self.replace(&text)?;
        }
        Ok(())
    }

    /// Whether this journal speaks of the mounts that we see.
    fn is_ours(&self, header: &Header) -> Result<bool> {
        if header.version > VERSION {
            let (path, theirs) = (self.path.display(), header.version);
            return Err(Error::new(
                ErrorKind::NewerVersion,
                format!("{path} has version {theirs}; this program knows versions up to {VERSION}"),
            ));
        }
        if header.boot != self.header.boot {
            return Ok(false);
        }
        if header.namespace == self.header.namespace {
            return Ok(true);
        }
        // Its mounts died with the namespace, unless somebody still lives there.
        let inhabitant = sys::process_in_mount_namespace(header.namespace)
            .map_err(|error| Error::sys("cannot look for the journal's mount namespace", error))?;
        match inhabitant {
            None => Ok(false),
            Some(pid) => Err(Error::new(
                ErrorKind::Busy,
                format!(
                    "{} belongs to another mount namespace, in which process {pid} lives; use it there or \
                     choose another run directory",
                    self.path.display()
                ),
            )),
        }
    }

    /// Appends `records` with one write; they are in the state only if that succeeded.
    pub(crate) fn append(&mut self, records: Vec<Record>) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let mut text = Vec::with_capacity(256 * records.len());
        for record in &records {
            write_line(&mut text, record);
        }
        let Some(file) = &mut self.file else {
            return Err(Error::new(ErrorKind::Io, "the journal is not open"));
        };
        if let Err(error) = file.write_all(&text) {
            // A part may have been written (no space): cut it off, so that the journal stays readable. Should
            // that fail too, the next reader does it.
            let _ = file.set_len(self.read);
            return Err(self.failed("append to", error));
        }
        self.read += text.len() as u64;
        for record in records {
            self.state.apply(record);
        }
        Ok(())
    }

    /// Rewrites a journal that is mostly history. What that costs is proportional to the state, so it is not
    /// looked at again before the journal has grown in proportion too.
    pub(crate) fn compact(&mut self) -> Result<()> {
        if self.read < self.compact_at {
            return Ok(());
        }
        let text = self.shortest();
        let length = text.len() as u64;
        self.compact_at = COMPACT_FROM.max(length * 4);
        if self.read < self.compact_at {
            return Ok(());
        }
        self.replace(&text)
    }

    /// The shortest journal with this state.
    fn shortest(&self) -> Vec<u8> {
        let mut text = Vec::new();
        write_line(&mut text, &self.header);
        for record in &self.state.records() {
            write_line(&mut text, record);
        }
        text
    }

    fn start_new(&mut self) -> Result<()> {
        let mut text = Vec::new();
        write_line(&mut text, &self.header);
        self.state = State::default();
        self.replace(&text)
    }

    fn replace(&mut self, text: &[u8]) -> Result<()> {
        let new = self.path.with_extension("journal.new");
        let written = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| {
                // Left over by a process that was killed here.
                file.set_len(0)?;
                file.write_all(text)?;
                std::fs::rename(&new, &self.path)?;
                Ok(file)
            });
        match written {
            Ok(file) => {
                self.file = Some(file);
                self.read = text.len() as u64;
                Ok(())
            }
            Err(error) => Err(self.failed("write", error)),
        }
    }

    fn failed(&self, doing: &str, error: std::io::Error) -> Error {
        Error::io(format!("cannot {doing} {}", self.path.display()), error)
    }

    fn damaged(&self, offset: u64) -> Error {
        Error::new(
            ErrorKind::Corrupt,
            format!(
                "{} is damaged at byte {offset}; remove it to forget what is mounted, then reconcile",
                self.path.display()
            ),
        )
    }
}

/// Appends a record.
fn write_line(text: &mut Vec<u8>, value: &impl serde::Serialize) {
    // Serialising our own types into memory cannot fail: no maps with odd keys, no failing writer.
    let json = serde_json::to_vec(value).expect("records are serialisable");
    checked_line::append(text, &json);
}

/// Where the journal of a run directory is.
pub(crate) fn path_in(run: &Path) -> PathBuf {
    run.join("mounts.journal")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Identity;
    use crate::{Holder, HolderKind, VolumeId};

    fn volume(name: &str) -> Record {
        Record::Volume {
            id: VolumeId(name.to_owned()),
            layer: "sha256:00".to_owned(),
            image: PathBuf::from("/images/a b"),
            uuid: [7; 16],
            scratch: false,
            mapping: None,
        }
    }

    fn mounted(name: &str) -> Record {
        let identity = Identity { id: 5, major: 0, minor: 9 };
        Record::Mounted { id: VolumeId(name.to_owned()), identity, loop_device: None, since: 1 }
    }

    fn open(directory: &Path, boot: &str) -> Journal {
        let namespace = sys::mount_namespace().unwrap();
        Journal::new(path_in(directory), boot.to_owned(), namespace)
    }

    fn names(journal: &Journal) -> Vec<&str> {
        journal.state().volumes.keys().map(VolumeId::as_str).collect()
    }

    #[test]
    fn a_second_opener_sees_what_the_first_wrote() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = open(directory.path(), "boot");
        first.catch_up().unwrap();
        first.append(vec![volume("a"), mounted("a")]).unwrap();
        let mut second = open(directory.path(), "boot");
        second.catch_up().unwrap();
        assert_eq!(second.state(), first.state());
        second.append(vec![Record::Gone { id: VolumeId("a".into()) }, volume("b")]).unwrap();
        first.catch_up().unwrap();
        assert_eq!(names(&first), ["b"]);
    }

    #[test]
    fn another_boot_starts_anew() {
        let directory = tempfile::tempdir().unwrap();
        let mut before = open(directory.path(), "one");
        before.catch_up().unwrap();
        before.append(vec![volume("a")]).unwrap();
        let mut after = open(directory.path(), "two");
        after.catch_up().unwrap();
        assert!(names(&after).is_empty());
    }

    #[test]
    fn a_namespace_without_inhabitants_starts_anew() {
        let directory = tempfile::tempdir().unwrap();
        let mut dead = Journal::new(path_in(directory.path()), "boot".into(), 1);
        dead.catch_up().unwrap();
        dead.append(vec![volume("a")]).unwrap();
        let mut ours = open(directory.path(), "boot");
        ours.catch_up().unwrap();
        assert!(names(&ours).is_empty());
    }

    #[test]
    fn every_cut_of_the_last_record_is_survived() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = open(directory.path(), "boot");
        journal.catch_up().unwrap();
        journal.append(vec![volume("a")]).unwrap();
        let whole = journal.read;
        journal.append(vec![volume("b")]).unwrap();
        let text = std::fs::read(path_in(directory.path())).unwrap();
        for cut in whole..text.len() as u64 {
            std::fs::write(path_in(directory.path()), &text[..usize::try_from(cut).unwrap()])
                .unwrap();
            let mut reader = open(directory.path(), "boot");
            reader.catch_up().unwrap();
            assert_eq!(names(&reader), ["a"], "cut at {cut}");
            reader.append(vec![volume("c")]).unwrap();
            let mut again = open(directory.path(), "boot");
            again.catch_up().unwrap();
            assert_eq!(names(&again), ["a", "c"], "cut at {cut}");
        }
    }

    #[test]
    fn damage_before_the_end_is_reported() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = open(directory.path(), "boot");
        journal.catch_up().unwrap();
        journal.append(vec![volume("a"), volume("b")]).unwrap();
        let mut text = std::fs::read(path_in(directory.path())).unwrap();
        let middle = text.windows(3).position(|window| window == b"a b").unwrap();
        text[middle] = b'X';
        std::fs::write(path_in(directory.path()), &text).unwrap();
        let error = open(directory.path(), "boot").catch_up().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn a_newer_journal_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut newer = open(directory.path(), "boot");
        newer.header.version = VERSION + 1;
        newer.catch_up().unwrap();
        let error = open(directory.path(), "boot").catch_up().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NewerVersion);
    }

    #[test]
    fn an_older_journal_is_taken_over() {
        // As version 1 wrote it: no field is missing to it, and none is new.
        let directory = tempfile::tempdir().unwrap();
        let mut older = open(directory.path(), "boot");
        older.header.version = 1;
        older.catch_up().unwrap();
        older.append(vec![volume("a"), mounted("a")]).unwrap();
        let state = older.state().clone();
        let mut ours = open(directory.path(), "boot");
        ours.catch_up().unwrap();
        assert_eq!(ours.state(), &state);
        let text = std::fs::read_to_string(path_in(directory.path())).unwrap();
        assert!(text.lines().next().unwrap().contains("\"version\":2"), "{text}");
        ours.append(vec![volume("b")]).unwrap();
        let mut third = open(directory.path(), "boot");
        third.catch_up().unwrap();
        assert_eq!(names(&third), ["a", "b"]);
    }

    #[test]
    fn a_journal_of_much_state_is_not_written_again_and_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = open(directory.path(), "boot");
        journal.catch_up().unwrap();
        let mut rewritten = 0;
        for index in 0..2000 {
            let holder = Holder::new(HolderKind::Snapshot, format!("snapshot {index}"));
            let volumes = vec![VolumeId("a".into())];
            let before = journal.read;
            journal.append(vec![Record::Hold { holder, volumes, since: 3 }]).unwrap();
            journal.compact().unwrap();
            rewritten += usize::from(journal.read < before);
        }
        assert_eq!(rewritten, 0, "there is no history to drop");
        assert!(journal.compact_at > journal.read);
        for index in 0..20_000 {
            let name = format!("snapshot {index}");
            journal.append(vec![Record::Release { kind: HolderKind::Snapshot, name }]).unwrap();
            let before = journal.read;
            journal.compact().unwrap();
            rewritten += usize::from(journal.read < before);
        }
        assert!((1..200).contains(&rewritten), "{rewritten}");
    }

    #[test]
    fn history_is_dropped_and_other_openers_follow() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = open(directory.path(), "boot");
        let mut other = open(directory.path(), "boot");
        journal.catch_up().unwrap();
        other.catch_up().unwrap();
        let holder = Holder::new(HolderKind::User, "me");
        journal.append(vec![volume("a"), mounted("a")]).unwrap();
        let held = Record::Hold { holder, volumes: vec![VolumeId("a".into())], since: 3 };
        journal.append(vec![held]).unwrap();
        while journal.read < COMPACT_FROM {
            let gone = Record::Gone { id: VolumeId("b".into()) };
            journal.append(vec![volume("b"), mounted("b"), gone]).unwrap();
        }
        let before = journal.state().clone();
        journal.compact().unwrap();
        assert!(journal.read < 1000, "{}", journal.read);
        assert_eq!(journal.state(), &before);
        other.catch_up().unwrap();
        assert_eq!(other.state(), &before);
    }
}
