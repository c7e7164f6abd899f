//! Windows hosts, where nothing is mounted for an operation: the store asks Windows what is in use.

use std::collections::HashSet;

use store::{CommitOptions, Snapshot};

use super::Commit;
use crate::control::{Call, Fault};

/// No snapshot of a Windows host writes to an image; one of another store's is refused by the store.
pub(super) fn commit_image(
    call: &Call<'_>,
    commit: Commit,
    options: CommitOptions,
) -> Result<Snapshot, Fault> {
    Ok(call.store()?.commit(&commit.name, &commit.key, &options)?)
}

/// A CIM that is mounted cannot be renamed, which the store finds out.
#[expect(clippy::unnecessary_wraps, reason = "as on Linux")]
pub(super) fn mounted_layers(_call: &Call<'_>) -> Result<HashSet<String>, Fault> {
    Ok(HashSet::new())
}
