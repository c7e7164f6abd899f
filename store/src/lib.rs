//! The store: layers, snapshots and images on disk, their metadata, gc and fsck. It mounts nothing.
//!
//! ```text
//!  image import ──▶ Staging ──add_layer──▶ layers/<hex>.erofs ◀── apply_layer ── a layer's blob
//!                                             ▲                       │
//!  prepare ──▶ active ──commit────────────────┘   ┌──▶ prepare ──▶ active ──commit──▶ …
//!               │ (scratch becomes a layer)       │
//!               └────────────────▶ committed ─────┴──▶ view
//! ```
//!
//! [`Store::scope`] shows the snapshots of one origin alone, as containerd has to see them; the same calls on
//! [`Store`] see them all.
//!
//! One process opens a store at a time ([`Store::open`] waits, then says who has it); inside it any number of
//! threads may use it. What a successful call did survives a power cut; what a cut call left is removed by the next
//! opening. The files, the tables and the crash model are drawn in `docs/store.md`.

mod apply;
mod below;
mod cim;
mod collect;
mod commit;
mod db;
mod error;
mod export;
mod filter;
mod fsck;
mod gc;
mod images;
pub mod import;
mod layers;
mod layout;
mod metadata;
mod reference;
mod scope;
mod snapshot;
mod snapshots;
mod spares;
mod staging;
mod store;
mod sweep;
mod verity;
mod windows;

pub use below::Below;
pub use cim::{CimFile, CimOrigin, CimParts, MadeCim, make_cim};
pub use collect::Collected;
pub use commit::CommitOptions;
pub use db::SCHEMA;
pub use error::{Error, ErrorKind, Result};
pub use export::{Export, ExportPlan};
pub use filter::{Fields, Filter};
pub use fsck::{Finding, FsckOptions, FsckReport, Severity};
pub use gc::{GcItem, GcObject, GcOptions};
pub use images::{BLOB_LIMIT, ImageRecord};
pub use layers::{BLOBS_PER_LAYER, Layer, LayerId, LayerRecord};
pub use reference::{REFERENCE_LIMIT, canonical_reference};
pub use scope::Scope;
pub use snapshot::{
    Chain, DeferredLayer, KEY_LIMIT, Kind, LABEL_LIMIT, LABEL_OVERHEAD, LABELS_LIMIT, Labels,
    Origin, Scratch, ScratchPaths, Snapshot, Timestamp, Usage, keyed, name,
};
pub use snapshots::SCRATCH_MINIMUM;
pub use snapshots::check_labels;
pub use staging::Staging;
pub use store::{OpenOptions, Store};
pub use sweep::{Remains, Swept};
pub use verity::LayerVerity;
pub use windows::{
    HostForm, ParentLayer, WindowsChain, WindowsHost, export_layer_folder, import_layer_folder,
};
