//! Many writers, few fsyncs: whoever commits while others wait for their turn leaves the fsync to one of them.
//!
//! ```text
//!  A  ── write ── commit, not durable ──────────── wait ────────────┐
//!  B             └ write ── commit, not durable ── wait ────────────┤ durable: all three return
//!  C                       └ write ── commit, durable (one fsync) ──┘
//! ```
//!
//! Nobody's commit returns before an fsync that began after it. One writer alone commits durably at once. What is
//! committed but not durable is seen by readers; if the power goes then, it never was, and neither was anything that
//! builds on it.
//!
//! A database that could not write, for want of space say, does nothing more. The next who wants to write opens it anew,
//! as after a kill: commits that were not durable are gone then, and those who wait for them are told.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};
use std::time::{Duration, Instant};

use redb::{
    CommitError, DatabaseError, Durability, ReadTransaction, ReadableDatabase as _, StorageError,
    TransactionError, WriteTransaction,
};

use super::allocated::AllocatedFile;

/// How long opening anew waits for transactions of others to end.
const REOPEN: Duration = Duration::from_secs(5);

/// Most commits that one fsync makes durable, so that none waits for ever.
const GROUP: u64 = 64;

/// A database and its writers.
pub(super) struct Turns {
    /// Locked for writing only by those who need it without transactions: a check of the file's structure, and whoever
    /// opens it anew.
    pub(super) opened: RwLock<Opened>,
    /// Whether it is of no more use, as far as writers have seen: those who only read see it late.
    broken: AtomicBool,
    path: PathBuf,
    /// Bytes of the database's cache.
    cache: usize,
    state: Mutex<State>,
    changed: Condvar,
}

/// The database as it was opened last.
pub(super) struct Opened {
    /// `None` if it could not be opened anew.
    database: Option<redb::Database>,
    /// How often it was opened anew.
    times: u64,
}

impl Opened {
    pub(super) fn check_integrity(&mut self) -> Result<bool, DatabaseError> {
        match &mut self.database {
            Some(database) => database.check_integrity(),
            None => Err(StorageError::DatabaseClosed.into()),
        }
    }
}

#[derive(Default)]
struct State {
    /// Writers that wait for their transaction.
    waiting: usize,
    /// Writers that have a transaction. Two for a moment, while one hands over to the next.
    writing: usize,
    /// Commits so far, in their order.
    committed: u64,
    /// How many of them are durable.
    durable: u64,
    /// Those that never will be, because the database was opened anew.
    lost: Vec<Range<u64>>,
}

/// The right to write, with the one write transaction.
pub(super) struct Turn {
    // First, so that it has ended before the next in line is told.
    transaction: WriteTransaction,
    place: Place,
}

/// A writer's place in the count of those that have a transaction.
struct Place(Arc<Turns>);

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.writing -= 1;
        self.0.left(&state);
    }
}

/// Why a commit failed.
pub(super) enum Failure {
    Begin(TransactionError),
    Commit(CommitError),
    /// The database was opened anew before the commit was durable.
    Lost,
}

fn is_of_no_more_use(error: &TransactionError) -> bool {
    matches!(
        error,
        TransactionError::Storage(StorageError::PreviousIo | StorageError::DatabaseClosed)
    )
}

impl Turns {
    /// Opens the database at `path`.
    pub(super) fn open(path: &Path, cache: usize) -> Result<Arc<Self>, DatabaseError> {
        let database = open(path, cache)?;
        Ok(Self::new(database, path, cache))
    }

    /// The writers of a database that was opened already.
    pub(super) fn new(database: redb::Database, path: &Path, cache: usize) -> Arc<Self> {
        Arc::new(Self {
            opened: RwLock::new(Opened { database: Some(database), times: 0 }),
            broken: AtomicBool::new(false),
            path: path.to_owned(),
            cache,
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `begin` on the database; how often that was opened anew is for [`Self::open_anew`].
    fn with<T>(
        &self,
        begin: impl Fn(&redb::Database) -> Result<T, TransactionError>,
    ) -> (u64, Result<T, TransactionError>) {
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        let begun = match &opened.database {
            Some(database) => begin(database),
            None => Err(StorageError::DatabaseClosed.into()),
        };
        (opened.times, begun)
    }

    /// Begins to read.
    pub(super) fn read(&self) -> Result<ReadTransaction, TransactionError> {
        let begin = |database: &redb::Database| match self.broken.load(Ordering::Acquire) {
            true => Err(StorageError::PreviousIo.into()),
            false => database.begin_read(),
        };
        match self.with(begin) {
            (times, Err(error)) if is_of_no_more_use(&error) => {
                self.open_anew(times)?;
                self.with(|database| database.begin_read()).1
            }
            (_, begun) => begun,
        }
    }

    /// Waits for the write transaction.
    pub(super) fn begin(self: &Arc<Self>) -> Result<Turn, TransactionError> {
        match self.begin_once() {
            (times, Err(error)) if is_of_no_more_use(&error) => {
                self.open_anew(times)?;
                self.begin_once().1
            }
            (_, begun) => begun,
        }
    }

    /// Opens the database anew, unless somebody did after it was opened for the time `times`. What was committed and is
    /// not durable is lost.
    fn open_anew(&self, times: u64) -> Result<(), TransactionError> {
        let deadline = Instant::now() + REOPEN;
        loop {
            // Never waited for: those who come to read meanwhile would wait behind, perhaps inside the transaction that
            // has to end first.
            let mut opened = match self.opened.try_write() {
                Ok(opened) => opened,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(2));
                    continue;
                }
                Err(TryLockError::WouldBlock) => return Err(StorageError::PreviousIo.into()),
            };
            if opened.times != times {
                return Ok(());
            }
            // Closed first: its file is locked.
            opened.database = None;
            match open(&self.path, self.cache) {
                Ok(database) => {
                    opened.database = Some(database);
                    opened.times += 1;
                    self.broken.store(false, Ordering::Release);
                    self.lose();
                    return Ok(());
                }
                // By a transaction that goes on.
                Err(DatabaseError::DatabaseAlreadyOpen) if Instant::now() < deadline => {
                    drop(opened);
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(DatabaseError::Storage(error)) => return Err(error.into()),
                Err(_) => return Err(StorageError::PreviousIo.into()),
            }
        }
    }

    /// Tells those who wait that their commits never were.
    fn lose(&self) {
        let mut state = self.state();
        if state.durable < state.committed {
            let lost = state.durable + 1..state.committed + 1;
            state.lost.push(lost);
            state.durable = state.committed;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// [`Self::begin`] with the database as it is, and how often that was opened anew.
    fn begin_once(self: &Arc<Self>) -> (u64, Result<Turn, TransactionError>) {
        self.state().waiting += 1;
        let (times, begun) = self.with(redb::Database::begin_write);
        let mut state = self.state();
        state.waiting -= 1;
        let begun = match begun {
            Ok(transaction) => {
                state.writing += 1;
                drop(state);
                Ok(Turn { transaction, place: Place(Arc::clone(self)) })
            }
            Err(error) => {
                self.left(&state);
                Err(error)
            }
        };
        (times, begun)
    }

    /// What came of a commit. One that failed leaves a database that is of no more use.
    fn committed(&self, result: Result<(), CommitError>) -> Result<(), Failure> {
        result.map_err(|error| {
            self.broken.store(true, Ordering::Release);
            Failure::Commit(error)
        })
    }

    /// A writer has gone. Was it the last, then those who wait for an fsync have to see to it themselves.
    fn left(&self, state: &State) {
        if state.waiting == 0 && state.writing == 0 && state.durable < state.committed {
            self.changed.notify_all();
        }
    }

    /// Waits until the commit of this number is durable, and sees to it where nobody else will.
    fn wait(self: &Arc<Self>, number: u64) -> Result<(), Failure> {
        let mut state = self.state();
        loop {
            if state.lost.iter().any(|lost| lost.contains(&number)) {
                return Err(Failure::Lost);
            }
            if state.durable >= number {
                return Ok(());
            }
            if state.waiting == 0 && state.writing == 0 {
                drop(state);
                // In a database that was opened anew meanwhile this commit is not: looked at again.
                self.begin_once().1.map_err(Failure::Begin)?.commit_durably()?;
                state = self.state();
                continue;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Turn {
    /// Takes note of a failure to write, for those who read meanwhile.
    pub(super) fn failed(&self, error: StorageError) -> StorageError {
        if matches!(error, StorageError::Io(_) | StorageError::PreviousIo) {
            self.place.0.broken.store(true, Ordering::Release);
        }
        error
    }

    pub(super) fn transaction(&self) -> &WriteTransaction {
        &self.transaction
    }

    /// Commits and returns when it is durable.
    pub(super) fn commit(mut self) -> Result<(), Failure> {
        let turns = Arc::clone(&self.place.0);
        let number = {
            let mut state = turns.state();
            if state.waiting == 0 || state.committed - state.durable >= GROUP {
                drop(state);
                return self.commit_durably();
            }
            if self.transaction.set_durability(Durability::None).is_err() {
                drop(state);
                return self.commit_durably();
            }
            // Nobody else counts before our transaction has ended, so the numbers are in the commits' order.
            state.committed += 1;
            state.committed
        };
        let Self { transaction, place } = self;
        turns.committed(transaction.commit())?;
        sys::failpoint::hit("commit-not-durable");
        drop(place);
        turns.wait(number)
    }

    fn commit_durably(self) -> Result<(), Failure> {
        let Self { transaction, place } = self;
        let turns = &place.0;
        // All that was committed before this transaction, which is all that there is until it ends.
        let before = turns.state().committed;
        turns.committed(transaction.commit())?;
        let mut state = turns.state();
        state.durable = state.durable.max(before);
        drop(state);
        turns.changed.notify_all();
        Ok(())
    }
}

fn open(path: &Path, cache: usize) -> Result<redb::Database, DatabaseError> {
    redb::Builder::new().set_cache_size(cache).create_with_backend(AllocatedFile::open(path)?)
}
