//! Who keeps a volume mounted.

use std::fmt;

use serde::{Deserialize, Serialize};
use sys::process::Process;

use crate::{Error, Result};

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
    /// An activation of mounts ([`crate::Registry::activate`]), by its name.
    Activation,
}

impl fmt::Display for HolderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Snapshot => "snapshot",
            Self::Container => "container",
            Self::User => "user",
            Self::Activation => "activation",
        })
    }
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
    #[serde(default, skip_serializing_if = "Option::is_none", with = "process_text")]
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

impl Holder {
    /// Whether the process that the holding depends on still lives; a holder without one does.
    ///
    /// # Errors
    /// Those of looking at `/proc`.
    pub fn is_alive(&self) -> Result<bool> {
        self.process.map_or(Ok(true), |process| {
            process.is_alive().map_err(|error| Error::sys(format!("cannot look for {self}"), error))
        })
    }
}

/// `PID:START`.
mod process_text {
    use serde::{Deserialize, Deserializer, Serializer};
    use sys::process::Process;

    pub(super) fn serialize<S: Serializer>(
        process: &Option<Process>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match process {
            Some(process) => serializer.collect_str(process),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<Process>, D::Error> {
        let text = Option::<String>::deserialize(d)?;
        text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
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
