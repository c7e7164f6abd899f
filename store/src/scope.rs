//! Which snapshots a caller sees.

use crate::below::Below;
use crate::commit::CommitOptions;
use crate::db::Records;
use crate::error::{Error, Result};
use crate::layers::{Layer, LayerId, LayerRecord};
use crate::snapshot::{
    Chain, DeferredLayer, Kind, Labels, Origin, Scratch, Snapshot, Usage, shown,
};
use crate::staging::Staging;
use crate::store::Store;

/// The snapshots of one origin. All others do not exist in it, except that their keys are taken: there is one space of
/// keys. What it makes has its origin. Layers belong to everybody.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'s> {
    pub(crate) store: &'s Store,
    /// `None`: all are seen, and what is made is local.
    origin: Option<Origin>,
}

impl<'s> Scope<'s> {
    /// The origin of what is made here.
    pub fn origin(&self) -> Origin {
        self.origin.unwrap_or_default()
    }

    pub(crate) fn sees(&self, snapshot: &Snapshot) -> bool {
        self.origin.is_none_or(|origin| snapshot.origin == origin)
    }

    /// A snapshot that is seen here.
    pub(crate) fn find(&self, records: &impl Records, key: &[u8]) -> Result<Option<Snapshot>> {
        Ok(records.snapshot(key)?.filter(|snapshot| self.sees(snapshot)))
    }

    pub(crate) fn existing(&self, records: &impl Records, key: &[u8]) -> Result<Snapshot> {
        self.find(records, key)?
            .ok_or_else(|| Error::not_found(format!("snapshot {:?} does not exist", shown(key))))
    }

    /// A snapshot that may be mounted.
    pub(crate) fn with_mounts(&self, records: &impl Records, key: &[u8]) -> Result<Snapshot> {
        let snapshot = self.existing(records, key)?;
        if snapshot.kind == Kind::Committed {
            return Err(Error::precondition(format!(
                "snapshot {} is committed and has no mounts; make a view of it",
                snapshot.name()
            )));
        }
        Ok(snapshot)
    }

    /// The number of a parent that must exist and be committed.
    pub(crate) fn committed_parent(
        &self,
        records: &impl Records,
        parent: Option<&[u8]>,
    ) -> Result<Option<u64>> {
        let Some(name) = parent else { return Ok(None) };
        match self.find(records, name)? {
            None => {
                Err(Error::not_found(format!("parent snapshot {} does not exist", shown(name))))
            }
            Some(snapshot) if snapshot.kind != Kind::Committed => Err(Error::invalid(format!(
                "parent snapshot {} is of kind {}, not committed",
                shown(name),
                snapshot.kind
            ))),
            Some(snapshot) => Ok(Some(snapshot.id)),
        }
    }
}

/// The same over all snapshots; what these make is local.
impl Store {
    /// The snapshots of one origin.
    pub fn scope(&self, origin: Origin) -> Scope<'_> {
        Scope { store: self, origin: Some(origin) }
    }

    /// All snapshots; what is made is local.
    pub fn everything(&self) -> Scope<'_> {
        Scope { store: self, origin: None }
    }

    /// [`Scope::prepare`].
    ///
    /// # Errors
    /// As that.
    pub fn prepare(
        &self,
        key: &[u8],
        parent: Option<&[u8]>,
        labels: Labels,
        scratch: Scratch,
    ) -> Result<Snapshot> {
        self.everything().prepare(key, parent, labels, scratch)
    }

    /// [`Scope::view`].
    ///
    /// # Errors
    /// As that.
    pub fn view(&self, key: &[u8], parent: Option<&[u8]>, labels: Labels) -> Result<Snapshot> {
        self.everything().view(key, parent, labels)
    }

    /// [`Scope::chain`].
    ///
    /// # Errors
    /// As that.
    pub fn chain(&self, key: &[u8]) -> Result<Chain> {
        self.everything().chain(key)
    }

    /// [`Scope::committed_layers`].
    ///
    /// # Errors
    /// As that.
    pub fn committed_layers(&self, name: &[u8]) -> Result<Vec<Layer>> {
        self.everything().committed_layers(name)
    }

    /// [`Scope::apply_layer`].
    ///
    /// # Errors
    /// As that.
    pub fn apply_layer(
        &self,
        key: &[u8],
        staging: &Staging,
        file: &str,
        id: &LayerId,
        record: &LayerRecord,
    ) -> Result<Snapshot> {
        self.everything().apply_layer(key, staging, file, id, record)
    }

    /// [`Scope::apply_known_layer`].
    ///
    /// # Errors
    /// As that.
    pub fn apply_known_layer(&self, key: &[u8], id: &LayerId) -> Result<Snapshot> {
        self.everything().apply_known_layer(key, id)
    }

    /// [`Scope::defer_layer`].
    ///
    /// # Errors
    /// As that.
    pub fn defer_layer(
        &self,
        key: &[u8],
        staging: &Staging,
        file: &str,
        layer: DeferredLayer,
    ) -> Result<Snapshot> {
        self.everything().defer_layer(key, staging, file, layer)
    }

    /// [`Scope::below`].
    ///
    /// # Errors
    /// As that.
    pub fn below(&self, key: &[u8], parent: Option<&[u8]>) -> Result<Below> {
        self.everything().below(key, parent)
    }

    /// [`Scope::commit`].
    ///
    /// # Errors
    /// As that.
    pub fn commit(&self, name: &[u8], key: &[u8], options: &CommitOptions) -> Result<Snapshot> {
        self.everything().commit(name, key, options)
    }

    /// [`Scope::remove`].
    ///
    /// # Errors
    /// As that.
    pub fn remove(&self, key: &[u8]) -> Result<()> {
        self.everything().remove(key)
    }

    /// [`Scope::stat`].
    ///
    /// # Errors
    /// As that.
    pub fn stat(&self, key: &[u8]) -> Result<Snapshot> {
        self.everything().stat(key)
    }

    /// [`Scope::usage`].
    ///
    /// # Errors
    /// As that.
    pub fn usage(&self, key: &[u8]) -> Result<Usage> {
        self.everything().usage(key)
    }

    /// [`Scope::update`].
    ///
    /// # Errors
    /// As that.
    pub fn update(&self, key: &[u8], labels: Labels, mask: &[&str]) -> Result<Snapshot> {
        self.everything().update(key, labels, mask)
    }

    /// [`Scope::list`].
    ///
    /// # Errors
    /// As that.
    pub fn list(&self, filters: &[&str]) -> Result<Vec<Snapshot>> {
        self.everything().list(filters)
    }
}
