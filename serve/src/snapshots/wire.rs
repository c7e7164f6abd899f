//! Snapshots and mounts in the wire's form.

use prost_types::Timestamp;
use store::{Kind, Snapshot};

use crate::api::snapshots::{Info, Kind as WireKind};
use crate::api::types;

pub(super) fn info(snapshot: Snapshot) -> Info {
    let kind = match snapshot.kind {
        Kind::View => WireKind::View,
        Kind::Active => WireKind::Active,
        Kind::Committed => WireKind::Committed,
    };
    Info {
        name: snapshot.key,
        parent: snapshot.parent.unwrap_or_default(),
        kind: kind.into(),
        created_at: Some(timestamp(snapshot.created)),
        updated_at: Some(timestamp(snapshot.updated)),
        labels: snapshot.labels,
    }
}

/// All nanoseconds: containerd compares what Stat and List say.
fn timestamp(time: store::Timestamp) -> Timestamp {
    const SECOND: i64 = 1_000_000_000;
    let nanoseconds = time.nanoseconds();
    Timestamp {
        seconds: nanoseconds.div_euclid(SECOND),
        nanos: i32::try_from(nanoseconds.rem_euclid(SECOND)).unwrap_or_default(),
    }
}

/// The paths are text: describing refuses others.
pub(super) fn mount(mount: mount::Mount) -> types::Mount {
    types::Mount {
        r#type: mount.r#type,
        source: mount.source.to_string_lossy().into_owned(),
        target: mount.target.to_string_lossy().into_owned(),
        options: mount.options,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_keep_every_nanosecond() {
        for (nanoseconds, seconds, nanos) in [
            (0, 0, 0),
            (1_763_000_000_123_456_789, 1_763_000_000, 123_456_789),
            (-1, -1, 999_999_999),
        ] {
            let time = timestamp(store::Timestamp::from_nanoseconds(nanoseconds));
            assert_eq!(time, Timestamp { seconds, nanos });
        }
    }
}
