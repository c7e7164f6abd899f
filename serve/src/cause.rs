//! Errors on their way from a daemon to a command.

use std::error::Error;
use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// One cause of an error that a daemon told, with those behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteCause {
    message: String,
    kind: CauseKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<Box<RemoteCause>>,
}

/// Whose error a cause is and of what kind, wherever it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CauseKind {
    /// Of the crate `store`.
    Store(store::ErrorKind),
    /// Of the crate `layer`.
    Layer(layer::ErrorKind),
    /// Of the crate `mount`.
    Mount(mount::ErrorKind),
    /// Of the crate `erofs`.
    #[serde(with = "erofs_kind")]
    Erofs(erofs::ErrorKind),
    /// A failed system call, with its error number where it has one.
    System(Option<i32>),
    /// An input or output that failed.
    Io {
        /// Its error number where it has one.
        errno: Option<i32>,
        /// Its kind.
        #[serde(with = "io_kind")]
        kind: io::ErrorKind,
    },
    /// None of these.
    Other,
}

impl CauseKind {
    /// Of one cause in a chain; a [`RemoteCause`] is what it was at its origin.
    pub fn of(cause: &(dyn Error + 'static)) -> Self {
        if let Some(cause) = cause.downcast_ref::<RemoteCause>() {
            cause.kind
        } else if let Some(error) = cause.downcast_ref::<store::Error>() {
            Self::Store(error.kind())
        } else if let Some(error) = cause.downcast_ref::<layer::Error>() {
            Self::Layer(error.kind())
        } else if let Some(error) = cause.downcast_ref::<mount::Error>() {
            Self::Mount(error.kind())
        } else if let Some(error) = cause.downcast_ref::<erofs::Error>() {
            Self::Erofs(error.kind())
        } else if let Some(error) = cause.downcast_ref::<sys::Error>() {
            Self::System(error.errno())
        } else if let Some(error) = cause.downcast_ref::<io::Error>() {
            Self::Io { errno: error.raw_os_error(), kind: error.kind() }
        } else {
            Self::Other
        }
    }
}

impl RemoteCause {
    /// An error with everything behind it, as it is told.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        Self {
            message: error.to_string(),
            kind: CauseKind::of(error),
            source: error.source().map(|source| Box::new(Self::of(source))),
        }
    }
}

impl fmt::Display for RemoteCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for RemoteCause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// Kinds that are not ours to make serialisable, by name. One without a name counts as the last.
macro_rules! named_kinds {
    ($module:ident, $kind:ty, [$($variant:ident = $name:literal),+ $(,)?], $other:ident) => {
        mod $module {
            use serde::{Deserialize, Deserializer, Serializer};

            pub(super) fn serialize<S: Serializer>(
                kind: &$kind,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(match kind {
                    $(<$kind>::$variant => $name,)+
                    _ => "other",
                })
            }

            pub(super) fn deserialize<'de, D: Deserializer<'de>>(
                deserializer: D,
            ) -> Result<$kind, D::Error> {
                let name = String::deserialize(deserializer)?;
                Ok(match name.as_str() {
                    $($name => <$kind>::$variant,)+
                    _ => <$kind>::$other,
                })
            }
        }
    };
}

named_kinds!(
    erofs_kind,
    erofs::ErrorKind,
    [
        NotErofs = "not-erofs",
        Corrupt = "corrupt",
        Unsupported = "unsupported",
        Invalid = "invalid",
        NotFound = "not-found",
        TooLarge = "too-large",
    ],
    Io
);

named_kinds!(
    io_kind,
    std::io::ErrorKind,
    [
        NotFound = "not-found",
        AlreadyExists = "already-exists",
        PermissionDenied = "permission-denied",
        StorageFull = "storage-full",
        Unsupported = "unsupported",
        InvalidData = "invalid-data",
        UnexpectedEof = "unexpected-eof",
        BrokenPipe = "broken-pipe",
        TimedOut = "timed-out",
    ],
    Other
);

#[cfg(test)]
mod tests {
    use super::*;

    /// A full disk.
    #[cfg(unix)]
    const FULL: i32 = 28;
    #[cfg(windows)]
    const FULL: i32 = 112;

    #[test]
    fn a_chain_arrives_as_it_was() {
        let root = io::Error::from_raw_os_error(FULL);
        let system = sys::Error::new("write(3)", root);
        let error = store::Error::sys("adding a layer", system);
        let told = serde_json::to_string(&RemoteCause::of(&error)).unwrap();
        let heard: RemoteCause = serde_json::from_str(&told).unwrap();
        let (mut here, mut there): (&(dyn Error + 'static), &(dyn Error + 'static)) =
            (&error, &heard);
        let mut kinds = Vec::new();
        loop {
            assert_eq!(here.to_string(), there.to_string());
            assert_eq!(CauseKind::of(here), CauseKind::of(there), "{here}");
            kinds.push(CauseKind::of(there));
            match (here.source(), there.source()) {
                (Some(one), Some(other)) => (here, there) = (one, other),
                (one, other) => break assert!(one.is_none() && other.is_none()),
            }
        }
        assert_eq!(kinds[0], CauseKind::Store(store::ErrorKind::NoSpace));
        assert_eq!(kinds[1], CauseKind::System(Some(FULL)));
    }

    #[test]
    fn kinds_keep_their_names() {
        for kind in [
            CauseKind::Store(store::ErrorKind::NeedsBase),
            CauseKind::Layer(layer::ErrorKind::DigestMismatch),
            CauseKind::Mount(mount::ErrorKind::TooManyLayers),
            CauseKind::Erofs(erofs::ErrorKind::NotErofs),
            CauseKind::System(Some(13)),
            CauseKind::System(None),
            CauseKind::Io { errno: None, kind: io::ErrorKind::UnexpectedEof },
            CauseKind::Other,
        ] {
            let text = serde_json::to_string(&kind).unwrap();
            assert_eq!(serde_json::from_str::<CauseKind>(&text).unwrap(), kind, "{text}");
        }
        let strange = CauseKind::Io { errno: Some(4), kind: io::ErrorKind::Interrupted };
        let text = serde_json::to_string(&strange).unwrap();
        let heard: CauseKind = serde_json::from_str(&text).unwrap();
        assert_eq!(heard, CauseKind::Io { errno: Some(4), kind: io::ErrorKind::Other });
    }
}
