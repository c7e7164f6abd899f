//! Where there are no overlays, nothing of theirs can be committed.

use std::path::Path;

use layer::Cancel;

use crate::apply::is_empty;
use crate::error::{Error, ErrorKind, Result};
use crate::layers::{LayerId, LayerRecord};
use crate::staging::Staging;

pub(super) fn convert(
    upper: &Path,
    _staging: &Staging,
    _cancel: &Cancel,
) -> Result<(LayerId, LayerRecord)> {
    let doing = format!("turning {} into a layer image: only on Linux", upper.display());
    Err(Error::new(ErrorKind::Unsupported, doing))
}

/// Whether an upper directory is as prepare made it: nothing in it.
pub(super) fn is_as_prepared(upper: &Path) -> Result<bool> {
    is_empty(upper)
}
