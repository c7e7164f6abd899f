//! The metadata database: the only place that knows redb. Every table maps bytes to bytes; this module says which
//! bytes. The layout is drawn in `docs/store.md`.

use std::path::Path;
use std::sync::{Arc, TryLockError};
use std::time::{Duration, Instant};

use layer::Digest;
use redb::{ReadableDatabase, ReadableTable, TableDefinition, TableError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, Result};
use crate::images::ImageRecord;
use crate::layers::{BLOBS_PER_LAYER, LayerId, LayerRecord};
use crate::snapshot::{Snapshot, shown};

mod allocated;
mod turns;

use self::turns::{Failure, Turn, Turns};

/// Version of the tables and values below; a store of a higher version is refused. One of a lower version is read as it
/// is, and marked with this one when it is opened for writing: its records stay.
///
/// 2: snapshots have a list `layers` (1: one `layer`, which is still read), an origin, and deferred layers.
/// 3: layers that are CIMs.
/// 4: disks and layer folders of Windows hosts.
pub const SCHEMA: u64 = 4;

type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

const META: Table = Table::new("meta");
const SNAPSHOTS: Table = Table::new("snapshots");
const CHILDREN: Table = Table::new("children");
const LAYERS: Table = Table::new("layers");
const IMAGES: Table = Table::new("images");
const BLOBS: Table = Table::new("blobs");
/// Which layer a compressed blob gives; `LayerRecord::blobs` the other way round.
const SOURCES: Table = Table::new("sources");

const KEY_SCHEMA: &[u8] = b"schema";
const KEY_SEQUENCE: &[u8] = b"sequence";

/// Length of the cache of pages; the whole database of a busy host is a few MiB.
const CACHE: usize = 8 << 20;

/// How long a check of the file's structure waits for a moment without transactions.
const QUIET: Duration = Duration::from_secs(10);

/// An open database.
#[derive(Debug)]
pub(crate) struct Database(Inner);

enum Inner {
    Writable(Arc<Turns>),
    ReadOnly(redb::ReadOnlyDatabase),
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Writable(_) => "Writable",
            Self::ReadOnly(_) => "ReadOnly",
        })
    }
}

fn failed(doing: impl Into<String>, source: impl Into<redb::Error>) -> Error {
    let doing = doing.into();
    match source.into() {
        // What redb says of a file that is no database.
        redb::Error::Io(source) if source.kind() == std::io::ErrorKind::InvalidData => {
            Error::caused(ErrorKind::Corrupt, doing, source)
        }
        redb::Error::Io(source) => Error::io(doing, source),
        redb::Error::DatabaseAlreadyOpen => {
            Error::new(ErrorKind::Busy, format!("{doing}: another process has it open"))
        }
        error @ (redb::Error::Corrupted(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TypeDefinitionChanged { .. }) => {
            Error::caused(ErrorKind::Corrupt, doing, error)
        }
        redb::Error::UpgradeRequired(version) => Error::new(
            ErrorKind::Unsupported,
            format!(
                "{doing}: the database file has the old format {version}, written by no released version"
            ),
        ),
        error => Error::caused(ErrorKind::Io, doing, error),
    }
}

impl Database {
    /// Opens or, if there is none, makes the database. Nothing is changed in one of a newer schema.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let doing = || format!("opening {}", path.display());
        if path.try_exists().map_err(|source| Error::io(doing(), source))? {
            // Opening for writing marks the file as open, so the version is read first. Only a database that was not
            // closed has to be recovered before it can be read at all.
            match Self::open_read_only(path) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::FailedPrecondition => {}
                Err(error) => return Err(error),
            }
        } else {
            // Complete before it has its name: a cut one would be neither empty nor a database.
            let unfinished = path.with_extension("new");
            sys::file::remove_tree(&unfinished).map_err(|source| Error::sys(doing(), source))?;
            let inner =
                redb::Database::create(&unfinished).map_err(|source| failed(doing(), source))?;
            let mut write = Self(Inner::Writable(Turns::new(inner, &unfinished, CACHE))).write()?;
            for table in [META, SNAPSHOTS, CHILDREN, LAYERS, IMAGES, BLOBS, SOURCES] {
                write
                    .turn
                    .transaction()
                    .open_table(table)
                    .map_err(|source| failed(doing(), source))?;
            }
            write.put(META, KEY_SCHEMA, &SCHEMA)?;
            write.commit()?;
            sys::file::rename(&unfinished, path).map_err(|source| Error::sys(doing(), source))?;
            if let Some(parent) = path.parent() {
                sys::file::sync_directory(parent).map_err(|source| Error::sys(doing(), source))?;
            }
        }
        let turns = Turns::open(path, CACHE).map_err(|source| failed(doing(), source))?;
        let database = Self(Inner::Writable(turns));
        if database.check_schema(path)? < SCHEMA {
            let mut write = database.write()?;
            write.put(META, KEY_SCHEMA, &SCHEMA)?;
            write.commit()?;
        }
        Ok(database)
    }

    /// The schema version found, which is known.
    fn check_schema(&self, path: &Path) -> Result<u64> {
        let found = self.read()?.schema()?;
        let found = found
            .ok_or_else(|| Error::corrupt(format!("{} has no schema version", path.display())))?;
        refuse_newer(path, found)?;
        Ok(found)
    }

    /// Whether the file's own structure was in order; what can be repaired is. Waits for a moment without
    /// transactions of other threads.
    pub(crate) fn check_integrity(&self) -> Result<bool> {
        let Inner::Writable(turns) = &self.0 else { return Ok(true) };
        let deadline = Instant::now() + QUIET;
        loop {
            // Never waited for: those who come to read meanwhile would wait behind, perhaps inside the transaction
            // that has to end first.
            let checked = match turns.opened.try_write() {
                Ok(mut opened) => opened.check_integrity(),
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().check_integrity(),
                Err(TryLockError::WouldBlock) => Err(redb::DatabaseError::TransactionInProgress),
            };
            match checked {
                Err(redb::DatabaseError::TransactionInProgress) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(redb::DatabaseError::TransactionInProgress) => {
                    return Err(Error::new(
                        ErrorKind::Busy,
                        "checking the structure of the metadata: the store was never at rest",
                    ));
                }
                other => {
                    return other.map_err(|source| {
                        failed("checking the structure of the metadata", source)
                    });
                }
            }
        }
    }

    pub(crate) fn is_read_only(&self) -> bool {
        matches!(self.0, Inner::ReadOnly(_))
    }

    /// Opens an existing database without ever writing to it.
    pub(crate) fn open_read_only(path: &Path) -> Result<Self> {
        let inner = redb::ReadOnlyDatabase::open(path).map_err(|source| match source {
            redb::DatabaseError::RepairAborted => Error::new(
                ErrorKind::FailedPrecondition,
                format!(
                    "{} was not closed cleanly and cannot be recovered read-only; open the store for writing once",
                    path.display()
                ),
            ),
            source => failed(format!("opening {}", path.display()), source),
        })?;
        let database = Self(Inner::ReadOnly(inner));
        database.check_schema(path)?;
        Ok(database)
    }

    pub(crate) fn read(&self) -> Result<Read> {
        let transaction = match &self.0 {
            Inner::Writable(turns) => turns.read(),
            Inner::ReadOnly(database) => database.begin_read(),
        };
        Ok(Read {
            transaction: transaction
                .map_err(|source| failed("starting to read the metadata", source))?,
        })
    }

    /// Starts the one write transaction; others wait until it is committed or dropped.
    pub(crate) fn write(&self) -> Result<Write> {
        match &self.0 {
            Inner::Writable(turns) => {
                let turn = turns.begin();
                Ok(Write {
                    turn: turn
                        .map_err(|source| failed("starting to write the metadata", source))?,
                })
            }
            Inner::ReadOnly(_) => {
                Err(Error::new(ErrorKind::ReadOnly, "the store was opened for reading only"))
            }
        }
    }
}

fn refuse_newer(path: &Path, found: u64) -> Result<()> {
    if found <= SCHEMA {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::NewerVersion,
        format!(
            "{} has schema version {found}, this Plywood ({}) knows versions up to {SCHEMA}; use the newer Plywood \
             that wrote it, or another --root",
            path.display(),
            env!("CARGO_PKG_VERSION")
        ),
    ))
}

/// A consistent look at the metadata.
pub(crate) struct Read {
    transaction: redb::ReadTransaction,
}

/// The write transaction; dropped without [`commit`](Self::commit) it never was.
pub(crate) struct Write {
    turn: Turn,
}

/// Entries of a table: key and value.
type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// Keys with what their records say, or why one cannot be read.
type Each<V> = Vec<(Vec<u8>, Result<V>)>;

/// What can be read in either kind of transaction.
pub(crate) trait Records {
    fn get_bytes(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// Entries whose key starts with `prefix`, in byte order of the key, at most `limit`.
    fn scan(&self, table: Table, prefix: &[u8], limit: usize) -> Result<Entries>;

    fn get<V: DeserializeOwned>(&self, table: Table, key: &[u8]) -> Result<Option<V>> {
        self.get_bytes(table, key)?.map(|bytes| decode(table, key, &bytes)).transpose()
    }

    fn schema(&self) -> Result<Option<u64>> {
        self.get(META, KEY_SCHEMA)
    }

    /// The highest number ever given to a snapshot, as far as it is recorded.
    fn sequence(&self) -> Result<u64> {
        Ok(self.get(META, KEY_SEQUENCE)?.unwrap_or(0))
    }

    fn snapshot(&self, key: &[u8]) -> Result<Option<Snapshot>> {
        Ok(self
            .get::<Snapshot>(SNAPSHOTS, key)?
            .map(|snapshot| Snapshot { key: key.to_vec(), ..snapshot }))
    }

    /// All snapshots in byte order of the key.
    fn snapshots(&self) -> Result<Vec<Snapshot>> {
        self.snapshots_one_by_one()?.into_iter().map(|(_, snapshot)| snapshot).collect()
    }

    /// All snapshots, an unreadable record being an error of its own.
    fn snapshots_one_by_one(&self) -> Result<Each<Snapshot>> {
        let decoded = self.scan(SNAPSHOTS, b"", usize::MAX)?.into_iter().map(|(key, bytes)| {
            let snapshot = decode::<Snapshot>(SNAPSHOTS, &key, &bytes);
            (key.clone(), snapshot.map(|snapshot| Snapshot { key, ..snapshot }))
        });
        Ok(decoded.collect())
    }

    /// Key of one child of the snapshot with this number, if it has any.
    fn child(&self, id: u64) -> Result<Option<Vec<u8>>> {
        Ok(self.scan(CHILDREN, &id.to_be_bytes(), 1)?.pop().map(|(_, child)| child))
    }

    /// All back links: number of the parent, number of the child, key of the child.
    fn back_links(&self) -> Result<Vec<(u64, u64, Vec<u8>)>> {
        let links = self.scan(CHILDREN, b"", usize::MAX)?.into_iter().map(|(link, child)| {
            let numbers =
                link.first_chunk::<8>().zip(link.last_chunk::<8>()).filter(|_| link.len() == 16);
            let (parent, id) =
                numbers.ok_or_else(|| Error::corrupt("a back link's key is not 16 bytes long"))?;
            Ok((u64::from_be_bytes(*parent), u64::from_be_bytes(*id), child))
        });
        links.collect()
    }

    fn layer(&self, id: &LayerId) -> Result<Option<LayerRecord>> {
        self.get(LAYERS, id.as_str().as_bytes())
    }

    /// The layer that a blob gives; a link that cannot be read is none.
    fn layer_of_blob(&self, blob: &Digest) -> Result<Option<LayerId>> {
        let id = self.get_bytes(SOURCES, &source(blob))?;
        Ok(id.and_then(|id| std::str::from_utf8(&id).ok()?.parse().ok()))
    }

    /// All links from blobs to layers, as they are.
    fn sources(&self) -> Result<Entries> {
        self.scan(SOURCES, b"", usize::MAX)
    }

    fn layers(&self) -> Result<Vec<(LayerId, LayerRecord)>> {
        self.layers_one_by_one()?.into_iter().map(|(_, layer)| layer).collect()
    }

    fn layers_one_by_one(&self) -> Result<Each<(LayerId, LayerRecord)>> {
        let decoded = self.scan(LAYERS, b"", usize::MAX)?.into_iter().map(|(key, bytes)| {
            let id = std::str::from_utf8(&key).ok().and_then(|text| text.parse().ok());
            let layer = match id {
                Some(id) => decode(LAYERS, &key, &bytes).map(|record| (id, record)),
                None => {
                    Err(Error::corrupt(format!("a layer record has the bad id {:?}", shown(&key))))
                }
            };
            (key, layer)
        });
        Ok(decoded.collect())
    }

    fn image(&self, reference: &str) -> Result<Option<ImageRecord>> {
        self.get(IMAGES, reference.as_bytes())
    }

    fn images(&self) -> Result<Vec<ImageRecord>> {
        self.images_one_by_one()?.into_iter().map(|(_, image)| image).collect()
    }

    fn images_one_by_one(&self) -> Result<Each<ImageRecord>> {
        let decoded = self.scan(IMAGES, b"", usize::MAX)?.into_iter();
        Ok(decoded
            .map(|(key, bytes)| {
                let image = decode(IMAGES, &key, &bytes);
                (key, image)
            })
            .collect())
    }

    fn blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>> {
        self.get_bytes(BLOBS, digest.to_string().as_bytes())
    }

    fn blobs(&self) -> Result<Vec<(Digest, Vec<u8>)>> {
        let decoded = self.scan(BLOBS, b"", usize::MAX)?.into_iter().map(|(key, bytes)| {
            let digest = std::str::from_utf8(&key).ok().and_then(|text| text.parse().ok());
            let digest = digest.ok_or_else(|| {
                Error::corrupt(format!("blob with the bad digest {:?}", shown(&key)))
            })?;
            Ok((digest, bytes))
        });
        decoded.collect()
    }
}

fn decode<V: DeserializeOwned>(table: Table, key: &[u8], bytes: &[u8]) -> Result<V> {
    use redb::TableHandle;
    serde_json::from_slice(bytes).map_err(|source| {
        Error::caused(
            ErrorKind::Corrupt,
            format!("reading {}/{} of the metadata", table.name(), shown(key)),
            source,
        )
    })
}

fn scan_table(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    prefix: &[u8],
    limit: usize,
) -> Result<Entries> {
    let mut entries = Vec::new();
    let range =
        table.range::<&[u8]>(prefix..).map_err(|source| failed("reading the metadata", source))?;
    for entry in range.take(limit) {
        let (key, value) = entry.map_err(|source| failed("reading the metadata", source))?;
        if !key.value().starts_with(prefix) {
            break;
        }
        entries.push((key.value().to_vec(), value.value().to_vec()));
    }
    Ok(entries)
}

impl Records for Read {
    fn get_bytes(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let table = match self.transaction.open_table(table) {
            Ok(table) => table,
            // Before the first write transaction there are no tables.
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(source) => return Err(failed("reading the metadata", source)),
        };
        let value = table.get(key).map_err(|source| failed("reading the metadata", source))?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    fn scan(&self, table: Table, prefix: &[u8], limit: usize) -> Result<Entries> {
        match self.transaction.open_table(table) {
            Ok(table) => scan_table(&table, prefix, limit),
            Err(TableError::TableDoesNotExist(_)) => Ok(Vec::new()),
            Err(source) => Err(failed("reading the metadata", source)),
        }
    }
}

impl Records for Write {
    fn get_bytes(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let table = self
            .turn
            .transaction()
            .open_table(table)
            .map_err(|source| failed("reading the metadata", source))?;
        let value = table.get(key).map_err(|source| failed("reading the metadata", source))?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    fn scan(&self, table: Table, prefix: &[u8], limit: usize) -> Result<Entries> {
        let table = self
            .turn
            .transaction()
            .open_table(table)
            .map_err(|source| failed("reading the metadata", source))?;
        scan_table(&table, prefix, limit)
    }
}

impl Write {
    fn put_bytes(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        let mut table = self
            .turn
            .transaction()
            .open_table(table)
            .map_err(|source| failed("writing the metadata", source))?;
        table
            .insert(key, value)
            .map_err(|source| failed("writing the metadata", self.turn.failed(source)))?;
        Ok(())
    }

    fn put<V: Serialize>(&mut self, table: Table, key: &[u8], value: &V) -> Result<()> {
        let bytes = serde_json::to_vec(value).map_err(|source| {
            Error::caused(ErrorKind::Invalid, "putting a record into JSON", source)
        })?;
        self.put_bytes(table, key, &bytes)
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> Result<bool> {
        let mut table = self
            .turn
            .transaction()
            .open_table(table)
            .map_err(|source| failed("writing the metadata", source))?;
        let old = table
            .remove(key)
            .map_err(|source| failed("writing the metadata", self.turn.failed(source)))?;
        Ok(old.is_some())
    }

    pub(crate) fn put_sequence(&mut self, sequence: u64) -> Result<()> {
        self.put(META, KEY_SEQUENCE, &sequence)
    }

    /// Writes a snapshot's record and, given its parent's number, the back link.
    pub(crate) fn put_snapshot(&mut self, snapshot: &Snapshot, parent: Option<u64>) -> Result<()> {
        self.put(SNAPSHOTS, &snapshot.key, snapshot)?;
        match parent {
            Some(parent) => self.put_bytes(CHILDREN, &link(parent, snapshot.id), &snapshot.key),
            None => Ok(()),
        }
    }

    /// Deletes a snapshot's record and, given its parent's number, the back link.
    pub(crate) fn delete_snapshot(
        &mut self,
        snapshot: &Snapshot,
        parent: Option<u64>,
    ) -> Result<()> {
        self.delete(SNAPSHOTS, &snapshot.key)?;
        if let Some(parent) = parent {
            self.delete(CHILDREN, &link(parent, snapshot.id))?;
        }
        Ok(())
    }

    pub(crate) fn put_back_link(&mut self, parent: u64, child: u64, key: &[u8]) -> Result<()> {
        self.put_bytes(CHILDREN, &link(parent, child), key)
    }

    pub(crate) fn delete_back_link(&mut self, parent: u64, child: u64) -> Result<()> {
        self.delete(CHILDREN, &link(parent, child)).map(drop)
    }

    /// Writes a layer's record, which forgets the oldest blobs over the limit.
    pub(crate) fn put_layer(&mut self, id: &LayerId, mut record: LayerRecord) -> Result<()> {
        let surplus = record.blobs.len().saturating_sub(BLOBS_PER_LAYER);
        for forgotten in record.blobs.drain(..surplus) {
            self.delete_source(&source(&forgotten), id.as_str().as_bytes())?;
        }
        self.put_sources(id, &record)?;
        self.put(LAYERS, id.as_str().as_bytes(), &record)
    }

    pub(crate) fn delete_layer(&mut self, id: &LayerId) -> Result<()> {
        for blob in self.layer(id)?.into_iter().flat_map(|record| record.blobs) {
            self.delete_source(&source(&blob), id.as_str().as_bytes())?;
        }
        self.delete(LAYERS, id.as_str().as_bytes()).map(drop)
    }

    /// Deletes the link from a blob to this layer; not one to another.
    pub(crate) fn delete_source(&mut self, blob: &[u8], id: &[u8]) -> Result<()> {
        if self.get_bytes(SOURCES, blob)?.as_deref() == Some(id) {
            self.delete(SOURCES, blob)?;
        }
        Ok(())
    }

    /// Writes the links from a layer's blobs to it.
    pub(crate) fn put_sources(&mut self, id: &LayerId, record: &LayerRecord) -> Result<()> {
        let id = id.as_str().as_bytes();
        record.blobs.iter().try_for_each(|blob| self.put_bytes(SOURCES, &source(blob), id))
    }

    pub(crate) fn put_image(&mut self, image: &ImageRecord) -> Result<()> {
        self.put(IMAGES, image.reference.as_bytes(), image)
    }

    pub(crate) fn delete_image(&mut self, reference: &str) -> Result<bool> {
        self.delete(IMAGES, reference.as_bytes())
    }

    pub(crate) fn put_blob(&mut self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        self.put_bytes(BLOBS, digest.to_string().as_bytes(), bytes)
    }

    pub(crate) fn delete_blob(&mut self, digest: &Digest) -> Result<()> {
        self.delete(BLOBS, digest.to_string().as_bytes()).map(drop)
    }

    /// Makes everything written durable and visible, all of it or nothing.
    pub(crate) fn commit(self) -> Result<()> {
        sys::failpoint::hit("commit-metadata");
        self.turn.commit().map_err(|failure| match failure {
            Failure::Begin(source) => failed("committing the metadata", source),
            Failure::Commit(source) => failed("committing the metadata", source),
            Failure::Lost => Error::new(
                ErrorKind::Io,
                "committing the metadata: the database could not be written any more and was opened anew",
            ),
        })
    }
}

/// A blob's key in [`SOURCES`].
pub(crate) fn source(blob: &Digest) -> Vec<u8> {
    blob.to_string().into_bytes()
}

fn link(parent: u64, child: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&parent.to_be_bytes());
    key[8..].copy_from_slice(&child.to_be_bytes());
    key
}
