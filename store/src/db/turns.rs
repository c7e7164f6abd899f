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

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};

use redb::{CommitError, Durability, TransactionError, WriteTransaction};

/// Most commits that one fsync makes durable, so that none waits for ever.
const GROUP: u64 = 64;

/// A database and its writers.
pub(super) struct Turns {
    /// Locked for writing only by a check of the file's structure, which needs it without transactions.
    pub(super) database: RwLock<redb::Database>,
    state: Mutex<State>,
    changed: Condvar,
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
}

impl Turns {
    pub(super) fn new(database: redb::Database) -> Arc<Self> {
        Arc::new(Self {
            database: RwLock::new(database),
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the write transaction.
    pub(super) fn begin(self: &Arc<Self>) -> Result<Turn, TransactionError> {
        self.state().waiting += 1;
        let begun = self.database.read().unwrap_or_else(PoisonError::into_inner).begin_write();
        let mut state = self.state();
        state.waiting -= 1;
        match begun {
            Ok(transaction) => {
                state.writing += 1;
                drop(state);
                Ok(Turn { transaction, place: Place(Arc::clone(self)) })
            }
            Err(error) => {
                self.left(&state);
                Err(error)
            }
        }
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
            if state.durable >= number {
                return Ok(());
            }
            if state.waiting == 0 && state.writing == 0 {
                drop(state);
                return self.begin().map_err(Failure::Begin)?.commit_durably();
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Turn {
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
        transaction.commit().map_err(Failure::Commit)?;
        sys::failpoint::hit("commit-not-durable");
        drop(place);
        turns.wait(number)
    }

    fn commit_durably(self) -> Result<(), Failure> {
        let Self { transaction, place } = self;
        let turns = &place.0;
        // All that was committed before this transaction, which is all that there is until it ends.
        let before = turns.state().committed;
        transaction.commit().map_err(Failure::Commit)?;
        let mut state = turns.state();
        state.durable = state.durable.max(before);
        drop(state);
        turns.changed.notify_all();
        Ok(())
    }
}
