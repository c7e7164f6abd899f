//! Who keeps a volume mounted.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The sort of thing that holds volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HolderKind {
    /// A snapshot whose mounts were described to somebody who performs them.
    Snapshot,
    /// A running container.
    Container,
    /// A person, by `plywood mount`.
    User,
}

impl fmt::Display for HolderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Snapshot => "snapshot",
            Self::Container => "container",
            Self::User => "user",
        })
    }
}

/// A process that can be told from a later one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot, from `/proc/PID/stat`.
    pub start: u64,
}

/// Who keeps volumes mounted: a name within a kind, and the process whose death ends the holding.
///
/// Two holders of the same kind and name are the same holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The sort of thing.
    pub kind: HolderKind,
    /// Its name: a snapshot key, a container name, a directory.
    pub name: String,
    /// The process that must live for the holding to last; `None`: until released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
}

impl Holder {
    /// A holder that stays until it is released.
    pub fn new(kind: HolderKind, name: impl Into<String>) -> Self {
        Self { kind, name: name.into(), process: None }
    }

    /// The same holder, ending with `process`.
    #[must_use]
    pub fn with_process(mut self, process: Process) -> Self {
        self.process = Some(process);
        self
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)?;
        match self.process {
            Some(process) => write!(f, " (pid {})", process.pid),
            None => Ok(()),
        }
    }
}
