//! `plywood mount`, `plywood umount`, `plywood mount ls`

mod cim;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use mount::{Holder, HolderKind, MountOptions};
use serde_json::json;
use store::{Kind, Labels, Scratch};

use crate::Session;
use crate::cli::{MountArgs, MountVerb, UmountArgs};
use crate::escape;
use crate::exit::{Exit, Failure};
use crate::host::{Host, require_root};
use crate::output;
use crate::store_handle::StoreHandle;

/// What the key of a snapshot made for a mount begins with; the directory follows.
const KEY_PREFIX: &str = "mount";

pub(crate) fn mount(session: &mut Session, args: &MountArgs) -> Result<()> {
    if let Some(MountVerb::Ls(_)) = args.verb {
        return ls(session);
    }
    // clap requires both unless there is a sub-verb.
    let (Some(what), Some(dir)) = (&args.what, &args.dir) else {
        return Err(Failure::new(Exit::Usage, "WHAT and DIR are needed").into());
    };
    if looks_like_a_file(what) && cim::is_cim(Path::new(what))? {
        return cim::mount(&session.host, args, Path::new(what), dir);
    }
    if !looks_like_a_file(what)
        && let Some(top) = cim::of_image(&session.host, what)?
    {
        // What is removed from the store meanwhile lives on in the mount.
        return cim::mount(&session.host, args, &top, dir);
    }
    cim::refuse_options(args)?;
    require_root("mounting")?;
    let host = &session.host;
    host.settle()?;
    let target = directory(dir)?;
    let holder = Holder::new(HolderKind::User, target.to_string_lossy());
    if looks_like_a_file(what) {
        return mount_file(host, args, Path::new(what), &target, &holder);
    }
    if !args.devices.is_empty() {
        anyhow::bail!(Failure::new(Exit::Usage, "--device is for EROFS files"));
    }
    mount_stored(host, args, what, &target, &holder)
}

/// A path is meant where the text begins like one, or names a file of the current directory.
fn looks_like_a_file(what: &str) -> bool {
    ["/", "./", "../"].iter().any(|begin| what.starts_with(begin)) || Path::new(what).is_file()
}

fn mount_file(
    host: &Host,
    args: &MountArgs,
    file: &Path,
    target: &Path,
    holder: &Holder,
) -> Result<()> {
    if args.rw {
        anyhow::bail!(
            Failure::new(Exit::Usage, "an EROFS file can only be read")
                .hint("import it as an image to mount it with --rw")
        );
    }
    let absolute = |path: &Path| {
        path.canonicalize().with_context(|| format!("cannot find {}", path.display()))
    };
    let file = absolute(file)?;
    let devices: Vec<PathBuf> =
        args.devices.iter().map(|path| absolute(path)).collect::<Result<_>>()?;
    // The kernel would take an image with too few devices, and fail every read later.
    super::erofs::check_openable(&file, &devices)?;
    host.registry()?
        .mount_image_file(&file, &devices, target, holder)
        .with_context(|| format!("cannot mount {}", file.display()))?;
    Ok(())
}

/// Mounts a snapshot by its key, or an image by its reference over a snapshot made for it.
fn mount_stored(
    host: &Host,
    args: &MountArgs,
    what: &str,
    target: &Path,
    holder: &Holder,
) -> Result<()> {
    crate::container::refuse_in_vm(host, what)?;
    let store = host.existing_store()?;
    let mut options = MountOptions { read_only: !args.rw };
    let mut made = None;
    let existing = store.list(&[])?.into_iter().find(|snapshot| snapshot.key == what.as_bytes());
    let key = match existing {
        Some(snapshot) if snapshot.kind != Kind::Committed => {
            options.read_only = snapshot.kind == Kind::View;
            if args.rw && options.read_only {
                anyhow::bail!(Failure::new(Exit::Usage, format!("{what} is a view: read-only")));
            }
            what.to_owned()
        }
        committed => {
            let parent =
                match committed {
                    Some(_) => what.as_bytes().to_vec(),
                    None => match super::image::lookup(&store, what)? {
                        Some(image) => image.chain.last().cloned().unwrap_or_default().into_bytes(),
                        None => anyhow::bail!(
                        Failure::new(
                            Exit::NotFound,
                            format!("there is no snapshot, image or file {what}")
                        )
                        .hint("`plywood image list` and `plywood snapshot list` show what is there")
                    ),
                    },
                };
            let key = format!("{KEY_PREFIX}{}", target.display());
            let parent = Some(&*parent).filter(|parent| !parent.is_empty());
            prepare(host, &store, args, &key, parent)
                .with_context(|| format!("cannot make a snapshot for {what}"))?;
            made = Some(key.clone());
            key
        }
    };
    let chain = store.chain(key.as_bytes())?;
    drop(store);
    let mounted = host
        .registry()?
        .mount_chain(&chain, target, holder, &options)
        .with_context(|| format!("cannot mount {what}"));
    if mounted.is_err()
        && let Some(key) = made
    {
        host.existing_store()?.remove(key.as_bytes())?;
    }
    mounted
}

fn prepare(
    host: &Host,
    store: &StoreHandle,
    args: &MountArgs,
    key: &str,
    parent: Option<&[u8]>,
) -> Result<()> {
    let labels: Labels = host.owner_labels()?;
    match (args.rw, args.scratch_size) {
        (false, _) => store.view(key.as_bytes(), parent, labels)?,
        (true, None) => store.prepare(key.as_bytes(), parent, labels, Scratch::Directory)?,
        (true, Some(size)) => {
            store.prepare(key.as_bytes(), parent, labels, Scratch::Image { size })?
        }
    };
    Ok(())
}

fn directory(dir: &Path) -> Result<PathBuf> {
    let target = dir.canonicalize().with_context(|| format!("cannot find {}", dir.display()))?;
    if !target.is_dir() {
        anyhow::bail!(Failure::new(Exit::Usage, format!("{} is not a directory", dir.display())));
    }
    Ok(target)
}

pub(crate) fn umount(session: &mut Session, args: &UmountArgs) -> Result<()> {
    let host = &session.host;
    host.settle()?;
    for dir in &args.dirs {
        // Not asked whether it is a directory: what a dead process served answers nothing.
        let target =
            dir.canonicalize().with_context(|| format!("cannot find {}", dir.display()))?;
        if cim::unmount_unprivileged(&target)? {
            continue;
        }
        require_root("unmounting")?;
        let missing = || {
            Failure::new(Exit::NotFound, format!("{} is not mounted by plywood", target.display()))
                .hint("`plywood mount ls` shows what is")
        };
        if !host.has_journal() {
            anyhow::bail!(missing());
        }
        let registry = host.registry()?;
        let mounts = registry.mounts().context("cannot list the mounts")?;
        let mounted = mounts.iter().find(|mount| mount.target == target).ok_or_else(missing)?;
        if mounted.holder.kind == HolderKind::Container {
            anyhow::bail!(Failure::new(
                Exit::Exists,
                format!("{} is the root filesystem of {}", target.display(), mounted.holder)
            ));
        }
        registry
            .unmount(&target)
            .with_context(|| format!("cannot unmount {}", target.display()))?;
        let holder = mounted.holder.clone();
        let key = mounted.what.clone();
        registry.release(&holder).context("cannot release the volumes")?;
        drop(registry);
        if key == format!("{KEY_PREFIX}{}", target.display()) {
            // Opening the store removes snapshots whose mount is gone; this one is, now.
            drop(host.existing_store()?);
        }
    }
    Ok(())
}

fn ls(session: &mut Session) -> Result<()> {
    session.host.settle()?;
    if !session.host.has_journal() {
        return Ok(());
    }
    let registry = session.host.registry()?;
    let volumes = registry.volumes().context("cannot list the volumes")?;
    let mounts = registry.mounts().context("cannot list the mounts")?;
    drop(registry);
    let age = |since: SystemTime| -> Duration { since.elapsed().unwrap_or_default() };
    let mut rows = Vec::new();
    for volume in &volumes {
        let holders: Vec<String> = volume.holders.iter().map(ToString::to_string).collect();
        let seconds = age(volume.since).as_secs();
        if session.output.is_json() {
            session.output.json(&json!({
                "kind": if volume.scratch { "scratch" } else { "volume" },
                "id": volume.id,
                "layer": volume.layer,
                "image": volume.image,
                "mountpoint": volume.mountpoint,
                "uuid": uuid::Uuid::from_bytes(volume.uuid).to_string(),
                "loop_device": volume.loop_device,
                "owner": "plywood",
                "holders": holders,
                "age_seconds": seconds,
            }))?;
        }
        rows.push(vec![
            if volume.scratch { "scratch" } else { "volume" }.to_owned(),
            volume.mountpoint.display().to_string(),
            match volume.scratch {
                true => escape::name(volume.layer.as_bytes()),
                false => volume.layer.chars().take(26).collect(),
            },
            match holders.len() {
                0..=2 => holders.join(", "),
                more => format!("{} and {} more", holders[0], more - 1),
            },
            output::age(age(volume.since)),
        ]);
    }
    for mount in &mounts {
        if session.output.is_json() {
            session.output.json(&json!({
                "kind": mount.kind,
                "target": mount.target,
                "what": mount.what,
                "owner": mount.holder.to_string(),
                "volumes": mount.volumes,
                "read_only": mount.read_only,
                "age_seconds": age(mount.since).as_secs(),
            }))?;
        }
        rows.push(vec![
            format!("{:?}", mount.kind).to_lowercase(),
            mount.target.display().to_string(),
            escape::name(mount.what.as_bytes()),
            mount.holder.to_string(),
            output::age(age(mount.since)),
        ]);
    }
    match session.output.is_json() {
        true => Ok(()),
        false => session.output.table(&["KIND", "MOUNTED AT", "WHAT", "FOR", "AGE"], &rows),
    }
}
