//! Upper directories of overlays.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use layer::Cancel;

use super::IMAGE;
use crate::apply::is_empty;
use crate::error::{Error, Result};
use crate::layers::{LayerId, LayerRecord};
use crate::snapshot::Timestamp;
use crate::staging::Staging;

/// Writes the upper directory as a layer image into `staging`.
pub(super) fn convert(
    upper: &Path,
    staging: &Staging,
    cancel: &Cancel,
) -> Result<(LayerId, LayerRecord)> {
    let output = staging.create(IMAGE)?;
    let image = layer::write_directory_image(upper, &output, cancel).map_err(|source| {
        Error::layer(format!("turning {} into a layer image", upper.display()), source)
    })?;
    let id = LayerId::of_commit(&image.checksum);
    let record = LayerRecord {
        diff_id: None,
        image_size: image.image_size,
        checksum: image.checksum,
        uuid: image.uuid,
        tar_size: 0,
        entries: image.entries,
        hides_lower: false,
        blobs: Vec::new(),
        cim: None,
        verity: None,
        created: Timestamp::now(),
    };
    Ok((id, record))
}

/// Whether an upper directory is as prepare made it: nothing in it, and nothing changed about the root.
pub(super) fn is_as_prepared(upper: &Path) -> Result<bool> {
    let metadata = std::fs::symlink_metadata(upper)
        .map_err(|source| Error::io(format!("looking at {}", upper.display()), source))?;
    let root = metadata.mode() & 0o7777 == 0o755 && metadata.uid() == 0 && metadata.gid() == 0;
    Ok(root && is_empty(upper)?)
}
