//! Volumes for snapshots: held from the moment that mounts are described until the snapshot goes.

use std::path::PathBuf;

use mount::{Holder, HolderKind, MountForm};
use store::{Labels, Scratch, Snapshot};
use tonic::Status;

use super::{scope, wire};
use crate::api::types;
use crate::config::{self, Config};
use crate::service::Service;
use crate::{status, text};

/// Begins the name of a holder whose key is no text, or begins like this itself: hexadecimal digits follow.
const ESCAPE: char = '\0';

/// Who holds the volumes of snapshot `key`: the command line calls it by the same name.
pub(crate) fn holder(key: &[u8]) -> Holder {
    let name = match std::str::from_utf8(key) {
        Ok(text) if !text.starts_with(ESCAPE) => text.to_owned(),
        _ => {
            let digits = key.iter().map(|byte| format!("{byte:02x}"));
            std::iter::once(ESCAPE.to_string()).chain(digits).collect()
        }
    };
    Holder::new(HolderKind::Snapshot, name)
}

/// The key of the snapshot that holds under `name`.
pub(crate) fn key_of(name: &str) -> Vec<u8> {
    let Some(digits) = name.strip_prefix(ESCAPE) else { return name.as_bytes().to_vec() };
    let byte = |pair: &[u8]| {
        std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok())
    };
    // Digits that nobody here wrote stand for no snapshot.
    digits.as_bytes().chunks(2).map(byte).collect::<Option<_>>().unwrap_or_default()
}

/// What a new snapshot writes to: what its labels ask for, else what the configuration says.
pub(super) fn scratch(key: &[u8], labels: &Labels, config: &Config) -> Result<Scratch, Status> {
    let default = config.scratch_size.map_or(Scratch::Directory, |size| Scratch::Image { size });
    Scratch::for_key(key, labels, default).map_err(|error| status::of_store(&error))
}

/// The mounts of an active snapshot or view, its volumes held.
pub(super) fn mounts(service: &Service, key: &[u8]) -> Result<Vec<types::Mount>, Status> {
    let chain = scope(service).chain(key).map_err(|error| status::of_store(&error))?;
    let config = service.config();
    let form = MountForm { user_xattrs: config.userxattr };
    let (registry, holder) = (service.registry(), holder(key));
    let described = (|| {
        let scratch = match chain.scratch {
            Some(_) => Some(registry.hold_scratch(&chain, &holder)?),
            None => None,
        };
        match config.mounts {
            config::MountForm::Plain => {
                // Most snapshots of an unpack have no layers, and then there is nothing to write down.
                let volumes = match chain.layers.is_empty() {
                    true => Vec::new(),
                    false => registry.hold(&chain.layers, &holder)?,
                };
                mount::describe(&chain, &volumes, scratch.as_ref(), &form)
            }
            config::MountForm::Erofs => mount::describe_erofs(&chain, scratch.as_ref(), &form),
        }
    })();
    let mounts = described.map_err(|error| status::of_mount(&error))?;
    Ok(mounts.into_iter().map(wire::mount).collect())
}

/// Gives back what a snapshot holds. A failure is only logged: the snapshot is gone or going, and the next start
/// of the daemon releases holders without a snapshot.
pub(super) fn release(service: &Service, key: &[u8]) {
    if let Err(error) = service.registry().release(&holder(key)) {
        tracing::warn!("cannot release the volumes of {}: {error}", text::key(key));
    }
}

/// The upper directory of an active snapshot that writes to a disk image, which is mounted for it; `None` for one
/// that writes to a directory.
pub(super) fn upper_of_image(
    service: &Service,
    active: &Snapshot,
) -> Result<Option<PathBuf>, Status> {
    let Some(Scratch::Image { .. }) = active.scratch else { return Ok(None) };
    let chain = scope(service).chain(&active.key).map_err(|error| status::of_store(&error))?;
    let scratch = service.registry().hold_scratch(&chain, &holder(&active.key));
    scratch.map(|scratch| Some(scratch.upper)).map_err(|error| status::of_mount(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_holder_of_its_own() {
        let keys: [&[u8]; 7] =
            [b"default/1/x y:z", b"0xff", b"\xff", b"\0ff", b"\0", "\u{e9}".as_bytes(), b"\xc3"];
        let names: std::collections::BTreeSet<String> =
            keys.iter().map(|key| holder(key).name).collect();
        assert_eq!(names.len(), keys.len());
        for key in keys {
            assert_eq!(key_of(&holder(key).name), key);
        }
        assert_eq!(key_of("\0zz"), b"");
    }
}
