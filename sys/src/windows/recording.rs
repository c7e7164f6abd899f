//! A double of every Windows interface: writes each call down as a line of text, fails where it is told to, and
//! answers as scripted. Feature `recording`.
//!
//! It models only what the references document: a volume GUID can be mounted once
//! ([`HResult::ALREADY_EXISTS`]), dismounting one that is not mounted is [`HResult::FILE_NOT_FOUND`], and a path
//! that is no link is [`HResult::NOT_A_REPARSE_POINT`]. Everything else succeeds.

mod backup;
mod interfaces;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    Error, Guid, HResult, LayerDescriptor, LibraryFacts, Privilege, Result, WindowsVersion,
};

/// The double. Clones share one log and one script.
///
/// A line is the DLL's name of the function and its arguments in the DLL's order:
/// `PrepareLayer(C:\layers\7, [7cadcf96-…:C:\layers\6])`. A handle is `disk#1`, `hive#2` or `system#3`, numbered
/// over all kinds; its closing is a line too.
#[derive(Clone, Default)]
pub struct Recorder {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    lines: Vec<String>,
    calls: usize,
    fail_at: BTreeMap<usize, HResult>,
    failures: BTreeMap<String, VecDeque<Failure>>,
    answers: BTreeMap<String, VecDeque<String>>,
    handles: usize,
    mounted: BTreeSet<Guid>,
    mount_points: BTreeMap<PathBuf, String>,
    links: BTreeMap<PathBuf, PathBuf>,
    files: BTreeMap<PathBuf, backup::Known>,
    facts: Facts,
}

/// What the double says of its host; calls for it are not written down.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The version.
    pub version: WindowsVersion,
    /// The DLLs, complete unless said otherwise.
    pub libraries: Vec<LibraryFacts>,
    /// The privileges that are held.
    pub privileges: Vec<Privilege>,
    /// Whether the process runs elevated.
    pub elevated: bool,
    /// The filters that are loaded.
    pub filters: Vec<String>,
}

impl Default for Facts {
    /// An elevated process on Server 2022 with everything in place.
    fn default() -> Self {
        let dlls = [
            "cimfs.dll",
            "computecore.dll",
            "virtdisk.dll",
            "vmcompute.dll",
            "offreg.dll",
            "computestorage.dll",
            "fltlib.dll",
        ];
        let privileges = [
            Privilege::BACKUP,
            Privilege::RESTORE,
            Privilege::MANAGE_VOLUME,
            Privilege::SECURITY,
            Privilege::CREATE_SYMBOLIC_LINK,
        ];
        Self {
            version: WindowsVersion { major: 10, minor: 0, build: 20348, revision: 2031 },
            libraries: dlls.map(|dll| LibraryFacts { dll, missing: Vec::new() }).into(),
            privileges: privileges
                .map(|name| Privilege { name: name.to_owned(), enabled: false })
                .into(),
            elevated: true,
            filters: ["wcifs", "unionfs"].map(str::to_owned).into(),
        }
    }
}

enum Failure {
    Once(HResult),
    Always(HResult),
}

impl Recorder {
    /// A double on which everything succeeds.
    pub fn new() -> Self {
        Self::default()
    }

    /// The lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.state().lines.clone()
    }

    /// The lines since the last time, which are forgotten.
    pub fn take_lines(&self) -> Vec<String> {
        std::mem::take(&mut self.state().lines)
    }

    /// How many calls there were that could fail: all but the closing of handles.
    pub fn calls(&self) -> usize {
        self.state().calls
    }

    /// The `number`th call from the start (the first is 1; closing handles does not count) fails with `code`.
    pub fn fail_at(&self, number: usize, code: HResult) -> &Self {
        self.state().fail_at.insert(number, code);
        self
    }

    /// The next call of `function` fails with `code`; said twice, the next two.
    pub fn fail_once(&self, function: &str, code: HResult) -> &Self {
        self.fail(function, Failure::Once(code))
    }

    /// Every call of `function` from its next on (after those of [`fail_once`](Self::fail_once)) fails with `code`.
    pub fn fail_always(&self, function: &str, code: HResult) -> &Self {
        self.fail(function, Failure::Always(code))
    }

    /// Takes back every failure that was asked for.
    pub fn heal(&self) -> &Self {
        let mut state = self.state();
        state.fail_at.clear();
        state.failures.clear();
        drop(state);
        self
    }

    /// What the next call of `function` answers, for functions that answer with text, a GUID, a number or
    /// true and false; several answers are given in turn, the last one for ever.
    pub fn answer(&self, function: &str, text: impl Into<String>) -> &Self {
        self.state().answers.entry(function.to_owned()).or_default().push_back(text.into());
        self
    }

    /// Makes the host another one.
    pub fn set_facts(&self, facts: Facts) -> &Self {
        self.state().facts = facts;
        self
    }

    /// A CIM volume that was mounted before this process started.
    pub fn add_volume(&self, volume: Guid) -> &Self {
        self.state().mounted.insert(volume);
        self
    }

    /// A link or junction that existed before.
    pub fn add_link(&self, link: impl Into<PathBuf>, target: impl Into<PathBuf>) -> &Self {
        self.state().links.insert(link.into(), target.into());
        self
    }

    /// A mount point that existed before.
    pub fn add_mount_point(&self, directory: impl Into<PathBuf>, volume: &str) -> &Self {
        self.state().mount_points.insert(directory.into(), volume.to_owned());
        self
    }

    /// The CIM volumes that are mounted now.
    pub fn volumes(&self) -> Vec<Guid> {
        self.state().mounted.iter().copied().collect()
    }

    fn fail(&self, function: &str, failure: Failure) -> &Self {
        self.state().failures.entry(function.to_owned()).or_default().push_back(failure);
        self
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panicking test must not hide its own message behind a poisoned lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the call down and fails it if the script says so.
    fn call(
        &self,
        function: &'static str,
        subject: impl fmt::Display,
        others: &[String],
    ) -> Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        let mut line = format!("{function}({subject}");
        for other in others {
            line.push_str(", ");
            line.push_str(other);
        }
        line.push(')');
        state.lines.push(line);
        state.calls += 1;
        match state.failure(function) {
            Some(code) => Err(Error::new(function, subject.to_string(), code)),
            None => Ok(state),
        }
    }

    fn answered(
        &self,
        function: &'static str,
        subject: impl fmt::Display,
        others: &[String],
        usual: impl FnOnce() -> String,
    ) -> Result<String> {
        let mut state = self.call(function, subject, others)?;
        Ok(state.answer(function).unwrap_or_else(usual))
    }

    /// A new handle's number, and the function that writes down its closing.
    fn handle(
        &self,
        mut state: MutexGuard<'_, State>,
        function: &'static str,
        kind: &'static str,
    ) -> (usize, impl FnOnce(usize) + Send + Sync + 'static) {
        state.handles += 1;
        let log = self.clone();
        (state.handles, move |value| {
            log.state().lines.push(format!("{function}({kind}#{value})"));
        })
    }
}

impl State {
    fn failure(&mut self, function: &str) -> Option<HResult> {
        if let Some(code) = self.fail_at.get(&self.calls) {
            return Some(*code);
        }
        let queue = self.failures.get_mut(function)?;
        match queue.front()? {
            Failure::Always(code) => Some(*code),
            Failure::Once(code) => {
                let code = *code;
                queue.pop_front();
                Some(code)
            }
        }
    }

    fn answer(&mut self, function: &str) -> Option<String> {
        let queue = self.answers.get_mut(function)?;
        if queue.len() > 1 { queue.pop_front() } else { queue.front().cloned() }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.lines()).finish()
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn shown_parents(parents: &[LayerDescriptor]) -> String {
    let parents = parents.iter().map(|parent| match parent.flags {
        0 => format!("{}:{}", parent.id, parent.path.display()),
        flags => format!("{}:{}:0x{flags:X}", parent.id, parent.path.display()),
    });
    format!("[{}]", parents.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests;
