//! The metadata as one JSON document, for people, bug reports and other tools.

use serde_json::{Map, Value, json};

use crate::db::{Records as _, SCHEMA};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::name::Name;
use crate::store::Store;

impl Store {
    /// All records but the blobs' content: `schema`, `sequence`, `snapshots`, `layers`, `images`, `blobs`, lists in
    /// the order of their keys. Snapshot keys are text, or lists of bytes where they are none.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn export_metadata(&self) -> Result<Value> {
        let read = self.read()?;
        let mut snapshots = Vec::new();
        for snapshot in read.snapshots()? {
            snapshots.push(keyed(
                "key",
                json(&Name::from(snapshot.key.clone()))?,
                json(&snapshot)?,
            ));
        }
        let mut layers = Vec::new();
        for (id, record) in read.layers()? {
            layers.push(keyed("id", json(&id)?, json(&record)?));
        }
        let blobs: Vec<Value> = read
            .blobs()?
            .into_iter()
            .map(|(digest, bytes)| json!({ "digest": digest.to_string(), "size": bytes.len() }))
            .collect();
        Ok(json!({
            "schema": SCHEMA,
            "sequence": read.sequence()?,
            "snapshots": snapshots,
            "layers": layers,
            "images": json(&read.images()?)?,
            "blobs": blobs,
        }))
    }
}

fn json(value: &impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(value)
        .map_err(|source| Error::caused(ErrorKind::Invalid, "putting a record into JSON", source))
}

/// A record with its key in front.
fn keyed(name: &str, key: Value, record: Value) -> Value {
    let mut object = Map::from_iter([(name.to_owned(), key)]);
    if let Value::Object(fields) = record {
        object.extend(fields);
    }
    Value::Object(object)
}
