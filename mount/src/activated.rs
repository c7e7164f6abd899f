//! What an activation is, on hosts of both kinds.

use std::path::PathBuf;
use std::time::SystemTime;

use serde::Serialize;
use store::Labels;

use crate::{Error, ErrorKind, Mount, Result};

/// Longest name of an activation in bytes.
const NAME_LIMIT: usize = 4096;

/// Mounts that were performed under a name, and those that are left to the caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Activation {
    /// Its name.
    pub name: String,
    /// What was performed, in the order of the request.
    pub active: Vec<ActiveMount>,
    /// What the caller has to mount, at the directory where it wants everything.
    pub system: Vec<Mount>,
    /// As given.
    pub labels: Labels,
    /// When it began.
    pub since: SystemTime,
}

/// A mount that an activation performed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ActiveMount {
    /// The mount, with templates filled in and without what was for the mount manager.
    pub mount: Mount,
    /// Where it is; for a `loop` mount a link to the device.
    pub mount_point: PathBuf,
    /// When it was mounted.
    pub mounted_at: SystemTime,
}

pub(crate) fn check_name(name: &str) -> Result<()> {
    match name.len() {
        0 => Err(Error::new(ErrorKind::Invalid, "an activation needs a name")),
        1..=NAME_LIMIT => Ok(()),
        _ => {
            let message = format!("the name of an activation is longer than {NAME_LIMIT} bytes");
            Err(Error::new(ErrorKind::Invalid, message))
        }
    }
}

pub(crate) fn not_found(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no activation {name}"))
}
