//! Things that are made once and used by many: counted entries, each with a key that says what it is and a place that
//! says where.
//!
//! The table is only locked to look things up and to count. Making and removing happen outside of the lock, by exactly
//! one caller, while the entry is in a phase that keeps everybody else waiting.

use std::sync::{Arc, OnceLock};

use crate::Error;
use crate::journal::StepId;
use crate::step::Step;

/// Of an entry, never used twice in one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct EntryId(u64);

/// What came of making an entry; waiters keep it beyond the entry's life.
pub(crate) type Outcome = Arc<OnceLock<Result<(), Error>>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The first caller is at it.
    Making,
    Ready,
    /// The last user is at it.
    Removing,
    /// Removing failed: it may still be there, nobody uses it, and its place stays taken.
    Stuck,
    /// Nobody uses it, and what is left of it cannot be taken away before the machine ends.
    Parked,
}

#[derive(Debug)]
pub(crate) struct Entry<K, P> {
    pub(crate) id: EntryId,
    pub(crate) key: K,
    pub(crate) place: P,
    pub(crate) phase: Phase,
    /// Users, those that wait included.
    pub(crate) count: usize,
    /// The steps that stand, in their order.
    pub(crate) steps: Vec<(StepId, Step)>,
    outcome: Outcome,
}

#[derive(Debug)]
pub(crate) struct Table<K, P> {
    entries: Vec<Entry<K, P>>,
    next: u64,
}

impl<K, P> Default for Table<K, P> {
    fn default() -> Self {
        Self { entries: Vec::new(), next: 0 }
    }
}

/// What [`Table::claim`] found.
#[derive(Debug)]
pub(crate) enum Claim {
    /// It is there, and counted for the caller.
    Ready(EntryId),
    /// Somebody makes it; the caller is counted and waits for the outcome.
    Wait(EntryId, Outcome),
    /// Somebody removes it; not counted. Look again when anything has changed.
    Leaving,
    /// Removing it failed before, which must be finished first. The caller is to do that.
    Stuck(EntryId),
    /// A part of it stands; the caller is counted and is to make the rest.
    Parked(EntryId),
    /// There is none of that key.
    Absent,
}

impl<K: PartialEq, P> Table<K, P> {
    pub(crate) fn entries(&self) -> &[Entry<K, P>] {
        &self.entries
    }

    pub(crate) fn get(&self, id: EntryId) -> Option<&Entry<K, P>> {
        self.entries.iter().find(|entry| entry.id == id)
    }

    fn get_mut(&mut self, id: EntryId) -> Option<&mut Entry<K, P>> {
        self.entries.iter_mut().find(|entry| entry.id == id)
    }

    /// Looks for an equal one and counts the caller where that makes sense.
    pub(crate) fn claim(&mut self, key: &K) -> Claim {
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.key == *key) else {
            return Claim::Absent;
        };
        match entry.phase {
            Phase::Ready => {
                entry.count += 1;
                Claim::Ready(entry.id)
            }
            Phase::Making => {
                entry.count += 1;
                Claim::Wait(entry.id, Arc::clone(&entry.outcome))
            }
            Phase::Removing => Claim::Leaving,
            Phase::Stuck => {
                entry.phase = Phase::Removing;
                Claim::Stuck(entry.id)
            }
            Phase::Parked => {
                entry.phase = Phase::Making;
                entry.count = 1;
                entry.outcome = Outcome::default();
                Claim::Parked(entry.id)
            }
        }
    }

    /// A new one, counted once, that the caller is to make.
    pub(crate) fn insert(&mut self, key: K, place: P) -> EntryId {
        let id = EntryId(self.next);
        self.next += 1;
        let outcome = Outcome::default();
        let (phase, steps) = (Phase::Making, Vec::new());
        self.entries.push(Entry { id, key, place, phase, count: 1, steps, outcome });
        id
    }

    /// Ends the making, with the steps that stand. On failure those are what could not be undone: with none the entry
    /// is gone, and everybody who was counted learns it from the outcome; otherwise its place stays taken.
    pub(crate) fn made(
        &mut self,
        id: EntryId,
        steps: Vec<(StepId, Step)>,
        result: Result<(), Error>,
        left: Phase,
    ) {
        let Some(entry) = self.get_mut(id) else { return };
        debug_assert_eq!(entry.phase, Phase::Making);
        let (failed, nothing) = (result.is_err(), steps.is_empty());
        entry.steps = steps;
        // Set once: only the maker comes here.
        let _ = entry.outcome.set(result);
        if !failed {
            entry.phase = Phase::Ready;
        } else if nothing {
            self.entries.retain(|entry| entry.id != id);
        } else {
            entry.phase = left;
            entry.count = 0;
        }
    }

    /// A waiter that gives up gives back its count. False if the making has ended meanwhile, in which case the
    /// caller is to go by the outcome.
    pub(crate) fn give_up(&mut self, id: EntryId) -> bool {
        match self.get_mut(id) {
            Some(entry) if entry.phase == Phase::Making => {
                debug_assert!(entry.count > 1, "the maker is counted too");
                entry.count -= 1;
                true
            }
            _ => false,
        }
    }

    /// One user more of what the caller uses already.
    pub(crate) fn add_one(&mut self, id: EntryId) {
        if let Some(entry) = self.get_mut(id) {
            debug_assert_eq!(entry.phase, Phase::Ready);
            entry.count += 1;
        }
    }

    /// One user less. True for the last one, who is now to remove it.
    pub(crate) fn drop_one(&mut self, id: EntryId) -> bool {
        let Some(entry) = self.get_mut(id) else { return false };
        if entry.count == 0 {
            return false;
        }
        entry.count -= 1;
        if entry.count == 0 {
            entry.phase = Phase::Removing;
        }
        entry.count == 0
    }

    /// The stuck ones, each now to be removed by the caller.
    pub(crate) fn take_stuck(&mut self) -> Vec<EntryId> {
        let stuck = self.entries.iter_mut().filter(|entry| entry.phase == Phase::Stuck);
        stuck
            .map(|entry| {
                entry.phase = Phase::Removing;
                entry.id
            })
            .collect()
    }

    /// Ends the removing, with the steps that still stand; with none the entry is gone.
    pub(crate) fn removed(&mut self, id: EntryId, steps: Vec<(StepId, Step)>, left: Phase) {
        if steps.is_empty() {
            self.entries.retain(|entry| entry.id != id);
        } else if let Some(entry) = self.get_mut(id) {
            entry.steps = steps;
            entry.phase = left;
        }
    }
}
