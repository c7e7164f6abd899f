//! Volumes for snapshots: held from the moment that mounts are described until the snapshot goes.

use std::collections::HashSet;
use std::path::PathBuf;

use mount::{Holder, HolderKind, IdMapping, MountForm, ScratchDirs};
use store::{Chain, Labels, Scratch, Snapshot};
use tonic::Status;

use super::host_mounts::host_mounts;
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
pub fn key_of(name: &str) -> Vec<u8> {
    let Some(digits) = name.strip_prefix(ESCAPE) else { return name.as_bytes().to_vec() };
    let byte = |pair: &[u8]| {
        std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok())
    };
    // Digits that nobody here wrote stand for no snapshot.
    digits.as_bytes().chunks(2).map(byte).collect::<Option<_>>().unwrap_or_default()
}

/// What a new snapshot writes to: what its labels ask for, else what the configuration says.
pub(super) fn scratch(
    service: &Service,
    key: &[u8],
    labels: &Labels,
    config: &Config,
) -> Result<Scratch, Status> {
    // A Windows host has disks only, and the store reads the labels for it.
    let default = config.scratch_size.map_or(Scratch::Directory, |size| Scratch::Image { size });
    if service.store().host().is_some() {
        return Ok(default);
    }
    Scratch::for_key(key, labels, default).map_err(|error| status::of_store(&error))
}

/// Whose files a snapshot's are to look like, if its labels ask for it.
pub(super) fn mapping(labels: &Labels) -> Result<Option<IdMapping>, Status> {
    IdMapping::from_labels(labels).map_err(|error| status::of_mount(&error))
}

/// Who uses the scratch of a snapshot, for a message.
pub(super) fn users(service: &Service, snapshot: &Snapshot) -> Vec<String> {
    let Some(scratch) = service.store().scratch_of(snapshot) else { return Vec::new() };
    service.registry().users_of(&scratch).unwrap_or_else(|error| {
        // Of no use for the answer: what is in use then stays, and the next sweep takes it.
        let (key, error) = (text::key(&snapshot.key), status::line(&error));
        tracing::warn!("cannot find out who uses {key}: {error}");
        Vec::new()
    })
}

/// Ids of the layers that are mounted.
pub(super) fn mounted(service: &Service) -> Result<HashSet<String>, Status> {
    service.registry().mounted_layers().map_err(|error| status::of_mount(&error))
}

/// The mounts of a snapshot that was just made, its volumes held.
pub(super) fn first_mounts(
    service: &Service,
    made: &Snapshot,
    mapping: Option<&IdMapping>,
) -> Result<Vec<types::Mount>, Status> {
    if service.store().host().is_some() {
        return host_mounts(service, &made.key);
    }
    let chain = scope(service).chain(&made.key).map_err(|error| status::of_store(&error))?;
    let scratch = hold_scratch(service, &chain).map_err(|error| status::of_mount(&error))?;
    if let (Some(scratch), Some(mapping)) = (&scratch, mapping) {
        // Only now: later the container's root directory may belong to whom the container wants.
        scratch.give_to(mapping).map_err(|error| status::of_mount(&error))?;
    }
    described(service, &chain, scratch.as_ref(), mapping)
}

/// The mounts of an active snapshot or view, its volumes held.
pub(super) fn mounts(service: &Service, key: &[u8]) -> Result<Vec<types::Mount>, Status> {
    if service.store().host().is_some() {
        return host_mounts(service, key);
    }
    let chain = scope(service).chain(key).map_err(|error| status::of_store(&error))?;
    let failed = |error| status::of_mount(&error);
    let mapping = IdMapping::from_labels(&chain.snapshot.labels).map_err(failed)?;
    let scratch = hold_scratch(service, &chain).map_err(failed)?;
    described(service, &chain, scratch.as_ref(), mapping.as_ref())
}

fn hold_scratch(service: &Service, chain: &Chain) -> mount::Result<Option<ScratchDirs>> {
    match chain.scratch {
        Some(_) => service.registry().hold_scratch(chain, &holder(&chain.snapshot.key)).map(Some),
        None => Ok(None),
    }
}

fn described(
    service: &Service,
    chain: &Chain,
    scratch: Option<&ScratchDirs>,
    mapping: Option<&IdMapping>,
) -> Result<Vec<types::Mount>, Status> {
    let mapping = match mapping {
        Some(mapping) if mapping.is_done(chain).map_err(|error| status::of_mount(&error))? => None,
        mapping => mapping,
    };
    if chain.layers.first().is_some_and(|top| top.id.is_cim()) {
        return windows_mounts(service, chain);
    }
    let config = service.config();
    let form = MountForm { user_xattrs: config.userxattr };
    let described = match (config.mounts, mapping) {
        (config::MountForm::Erofs, None) => mount::describe_erofs(chain, scratch, &form),
        // Owners of layer files can be mapped only where they are mounted, so by us.
        _ => volumes(service, chain, mapping)
            .and_then(|volumes| mount::describe(chain, &volumes, scratch, &form)),
    };
    let mounts = described.map_err(|error| status::of_mount(&error))?;
    Ok(mounts.into_iter().map(wire::mount).collect())
}

/// The mounts of a snapshot on a Windows image, in the form of containerd's own snapshotter for CIMs, which only Windows
/// can mount: on Linux they tell the differ what it unpacks into. As there, only snapshots that a layer is unpacked into
/// can be had without a container.
fn windows_mounts(service: &Service, chain: &Chain) -> Result<Vec<types::Mount>, Status> {
    let key = &chain.snapshot.key;
    if chain.scratch.is_none() || !text::key(key).contains(EXTRACT) {
        return Err(Status::unimplemented(format!(
            "snapshot {} is based on a Windows image, which containerd cannot mount on Linux; `plywood mount` shows it",
            text::key(key)
        )));
    }
    let path = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let cims: Vec<String> = chain.layers.iter().map(|layer| path(&layer.path)).collect();
    let source = service.store().root().join("snapshots").join(chain.snapshot.id.to_string());
    Ok(vec![types::Mount {
        r#type: "CimFS".to_owned(),
        source: path(&source),
        target: String::new(),
        options: vec!["rw".to_owned(), format!("parentCimPaths={}", serde_json::json!(cims))],
    }])
}

/// What containerd puts into the keys of snapshots that layers are unpacked into.
const EXTRACT: &str = "extract";

fn volumes(
    service: &Service,
    chain: &Chain,
    mapping: Option<&IdMapping>,
) -> mount::Result<Vec<PathBuf>> {
    let (registry, holder) = (service.registry(), holder(&chain.snapshot.key));
    match mapping {
        // Most snapshots of an unpack have no layers, and then there is nothing to write down.
        _ if chain.layers.is_empty() => Ok(Vec::new()),
        Some(mapping) => registry.hold_mapped(&chain.layers, mapping, &holder),
        None => registry.hold(&chain.layers, &holder),
    }
}

/// Gives back what a snapshot holds that is going. Layers stay mounted for the next who wants them, until [`trim`]; a
/// scratch image is unmounted now, because its file goes.
///
/// # Errors
/// `Busy` if the scratch image is in use by whatever: then nothing has changed.
pub(super) fn give_back(service: &Service, snapshot: &Snapshot) -> mount::Result<()> {
    if service.registry().let_go(&holder(&snapshot.key))? {
        service.note_idle_volumes();
    }
    Ok(())
}

/// As [`give_back`], for a snapshot that is gone. A failure is only logged: the next start of the daemon releases holders
/// without a snapshot.
pub(super) fn release(service: &Service, snapshot: &Snapshot) {
    if let Err(error) = give_back(service, snapshot) {
        tracing::warn!(
            "cannot release the volumes of {}: {}",
            text::key(&snapshot.key),
            status::line(&error)
        );
    }
}

/// Unmounts the volumes that nobody holds.
pub(crate) fn trim(service: &Service) -> Result<(), Status> {
    if service.take_idle_volumes() {
        service.registry().trim().map_err(|error| {
            service.note_idle_volumes();
            status::of_mount(&error)
        })?;
    }
    Ok(())
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
        let names: std::collections::HashSet<String> =
            keys.iter().map(|key| holder(key).name).collect();
        assert_eq!(names.len(), keys.len());
        for key in keys {
            assert_eq!(key_of(&holder(key).name), key);
        }
        assert_eq!(key_of("\0zz"), b"");
    }
}
