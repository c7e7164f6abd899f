//! Fids: the client's numbers for the files it holds.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

use super::node::Node;
use super::share::Share;

/// A file that the client holds. It never changes: opening it puts another in its place.
#[derive(Debug)]
pub(super) struct Fid {
    pub(super) node: Arc<Node>,
    pub(super) share: Arc<Share>,
    /// Whom files that are made with this fid belong to: the user of the attach that it comes from.
    pub(super) uid: u32,
    pub(super) open: Open,
}

/// What a fid is open for. The descriptor is the node's.
#[derive(Debug)]
pub(super) enum Open {
    /// It only names the file.
    No,
    File {
        readable: bool,
        writable: bool,
    },
    /// A directory; where its descriptor stands.
    Directory(Mutex<u64>),
    /// The value of an extended attribute, or the list of their names.
    Attribute {
        value: Vec<u8>,
        _held: Held,
    },
    /// An extended attribute that is being sent.
    Setting {
        setting: Mutex<Setting>,
        _held: Held,
    },
}

/// An extended attribute that is set when its fid is clunked.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) name: Vec<u8>,
    pub(super) flags: u32,
    pub(super) size: usize,
    pub(super) value: Vec<u8>,
}

impl Fid {
    /// The same file, not open.
    pub(super) fn of(&self, node: Arc<Node>) -> Self {
        Self { node, share: self.share.clone(), uid: self.uid, open: Open::No }
    }

    /// The same file, open.
    pub(super) fn opened(&self, node: Arc<Node>, open: Open) -> Self {
        Self { node, share: self.share.clone(), uid: self.uid, open }
    }

    /// The file, unless the fid has become one of its extended attributes.
    pub(super) fn file(&self) -> Result<&Arc<Node>, Errno> {
        match self.open {
            Open::Attribute { .. } | Open::Setting { .. } => Err(Errno::BADF),
            _ => Ok(&self.node),
        }
    }
}

/// Most fids of one connection. Those beyond the first of a file cost memory only.
const FIDS: usize = 65_536;

/// Most extended attributes, of up to 64 KiB each, that one connection has on the way.
const ATTRIBUTES: usize = 128;

/// The fids of a connection.
#[derive(Debug, Default)]
pub(super) struct Fids {
    table: Mutex<Table>,
    attributes: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Table {
    fids: HashMap<u32, Arc<Fid>>,
    /// Whether there are to be no more.
    closed: bool,
}

/// Leave to hold an extended attribute in memory; given back when dropped.
#[derive(Debug)]
pub(super) struct Held(Arc<AtomicUsize>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Fids {
    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, number: u32) -> Result<Arc<Fid>, Errno> {
        self.table().fids.get(&number).cloned().ok_or(Errno::BADF)
    }

    /// Adds a fid under a number that must be free.
    pub(super) fn add(&self, number: u32, fid: Fid) -> Result<(), Errno> {
        let mut table = self.table();
        if number == super::message::NO_FID || table.fids.contains_key(&number) || table.closed {
            return Err(Errno::BADF);
        }
        if table.fids.len() >= FIDS {
            return Err(Errno::NFILE);
        }
        table.fids.insert(number, Arc::new(fid));
        Ok(())
    }

    /// Puts a fid in the place of one that was there when the request began.
    pub(super) fn replace(&self, number: u32, fid: Fid) -> Result<(), Errno> {
        let replaced = match self.table().fids.get_mut(&number) {
            Some(place) => std::mem::replace(place, Arc::new(fid)),
            None => return Err(Errno::BADF),
        };
        // Closing may take time; the table is free again.
        drop(replaced);
        Ok(())
    }

    pub(super) fn remove(&self, number: u32) -> Result<Arc<Fid>, Errno> {
        self.table().fids.remove(&number).ok_or(Errno::BADF)
    }

    /// Closes all, for a client that begins anew.
    pub(super) fn clear(&self) {
        drop(std::mem::take(&mut *self.table()));
    }

    /// Closes all; there will be no others until the client begins anew.
    pub(super) fn close(&self) {
        let closed = Table { closed: true, ..Table::default() };
        drop(std::mem::replace(&mut *self.table(), closed));
    }

    pub(super) fn hold_attribute(&self) -> Result<Held, Errno> {
        self.attributes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
                (held < ATTRIBUTES).then_some(held + 1)
            })
            .map(|_| Held(self.attributes.clone()))
            .map_err(|_| Errno::NOMEM)
    }
}
