//! Layers as persistent memory: an NVDIMM whose memory is the layer's file, mapped read-only.

use std::path::Path;

use serde_json::{Value, json};

use crate::{Error, ErrorKind, Result};

/// What a namespace of the guest's kernel must be a multiple of (a memory sub-section of x86-64).
const ALIGNMENT: u64 = 2 << 20;

/// Adds a file as NVDIMM `device`. One that has not the size of one is refused, since its file cannot be extended here.
pub(super) fn add(
    device: u32,
    path: &Path,
    command: impl Fn(&str, Value) -> Result<()>,
) -> Result<()> {
    let size = std::fs::metadata(path)
        .map_err(|error| Error::io(format!("cannot attach {}", path.display()), error))?
        .len();
    if size == 0 || !size.is_multiple_of(ALIGNMENT) {
        let message = format!("{} has {size} bytes; a pmem device has whole 2 MiB", path.display());
        return Err(Error::new(ErrorKind::NoAvailableLocation, message));
    }
    let memory = format!("pmem-memory-{device}");
    command(
        "object-add",
        json!({
            "qom-type": "memory-backend-file",
            "id": memory,
            "mem-path": path.to_str(),
            "size": size,
            "share": true,
            "readonly": true,
        }),
    )?;
    let add = json!({ "driver": "nvdimm", "id": format!("pmem-{device}"), "memdev": memory, "unarmed": true });
    command("device_add", add).inspect_err(|_| {
        let _ = command("object-del", json!({ "id": memory }));
    })
}
