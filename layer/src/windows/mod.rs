//! Windows layers: what their tars say in PAX records, and how a CIM stores it.
//!
//! The codecs take and return bytes and never panic on them: security descriptors as bytes and as SDDL text,
//! reparse buffers, extended attributes, times, attributes, names. Where sources of facts are tagged, they are
//! Microsoft's published protocol documents (MS-DTYP, MS-FSCC) or the behaviour of go-winio and hcsshim.
//! **Unverified on Windows**: nothing here was run there.

mod attributes;
mod backup_stream;
mod base64;
mod convert;
mod description;
mod difference;
mod ea;
mod export;
mod folder;
mod image_set;
mod intake;
mod name;
mod path;
mod processing;
mod recognition;
mod reparse;
mod security;
mod seen;
mod sid;
mod tar_header;
mod time;
mod usual;

pub use attributes::{
    ARCHIVE, DIRECTORY, HIDDEN, NORMAL, READ_ONLY, REPARSE_POINT, SPARSE_FILE, SYSTEM,
};
pub use convert::{WindowsLayer, WindowsOptions, write_windows_layer, write_windows_layer_to};
pub use description::AbsentTimes;
pub use ea::write_eas;
pub use export::{WindowsLayerTar, write_windows_layer_tar};
pub use folder::{FolderBasics, FolderEntry, FolderTar, LayerFolder, unpack_windows_layer};
pub use name::{decode_wtf8, encode_wtf8, is_reserved_name, name_fault};
pub use processing::Processing;
pub use recognition::{RECOGNITION_LENGTH, is_windows_layer};
pub use reparse::{ReparsePoint, tag};
pub use security::{Ace, AceBody, Acl, SecurityDescriptor, control};
pub use sid::Sid;
pub use time::{parse_time, time_text};
pub use usual::AbsentSecurity;
