//! `plywood snapshot …`

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use mount::{Holder, HolderKind, MountForm};
use serde_json::{Value, json};
use store::{Chain, Kind, Labels, Origin, Scratch, ScratchPaths, Snapshot};

use crate::Session;
use crate::cli::{
    CommitArgs, FilterArgs, LabelArgs, PrepareArgs, SnapshotKeyArgs, SnapshotMountsArgs,
    SnapshotRemoveArgs, SnapshotUsageArgs, SnapshotVerb,
};
use crate::escape;
use crate::exit::{Exit, Failure};
use crate::host::{Host, require_root};
use crate::output;
use crate::store_handle::StoreHandle;

pub(crate) fn snapshot(session: &mut Session, verb: &SnapshotVerb) -> Result<()> {
    session.host.settle()?;
    match verb {
        SnapshotVerb::Prepare(args) => prepare(session, args),
        SnapshotVerb::View(args) => view(session, args),
        SnapshotVerb::Mounts(args) => mounts(session, args),
        SnapshotVerb::Commit(args) => commit(session, args),
        SnapshotVerb::Remove(args) => remove(session, args),
        SnapshotVerb::Info(args) => info(session, args),
        SnapshotVerb::Usage(args) => usage(session, args),
        SnapshotVerb::Label(args) => label(session, args),
        SnapshotVerb::List(args) => list(session, args),
        SnapshotVerb::Tree(_) => tree(session),
        SnapshotVerb::Diff(args) => super::changes::diff(session, args),
    }
}

/// The committed snapshot that a name stands for: itself, or the top of the image of that reference.
fn parent(store: &StoreHandle, name: Option<&str>) -> Result<Option<Vec<u8>>> {
    let Some(name) = name else { return Ok(None) };
    if let Some(image) = super::image::lookup(store, name)? {
        return Ok(image.chain.last().map(|name| name.clone().into_bytes()));
    }
    Ok(Some(name.as_bytes().to_vec()))
}

fn prepare(session: &mut Session, args: &PrepareArgs) -> Result<()> {
    let store = session.host.store()?;
    let parent = parent(&store, args.parent.as_deref())?;
    let scratch = match args.scratch_size {
        Some(size) => Scratch::Image { size },
        None => Scratch::Directory,
    };
    store
        .prepare(args.key.as_bytes(), parent.as_deref(), labels(&args.labels), scratch)
        .with_context(|| format!("cannot prepare {}", args.key))?;
    drop(store);
    print_mounts(session, args)
}

fn view(session: &mut Session, args: &PrepareArgs) -> Result<()> {
    if args.scratch_size.is_some() {
        anyhow::bail!(Failure::new(Exit::Usage, "a view has no scratch to limit"));
    }
    let store = session.host.store()?;
    let parent = parent(&store, args.parent.as_deref())?;
    store
        .view(args.key.as_bytes(), parent.as_deref(), labels(&args.labels))
        .with_context(|| format!("cannot make the view {}", args.key))?;
    drop(store);
    print_mounts(session, args)
}

fn print_mounts(session: &mut Session, args: &PrepareArgs) -> Result<()> {
    if !args.mounts {
        return Ok(());
    }
    let args = SnapshotMountsArgs { key: args.key.clone(), target: "/mnt".into() };
    mounts(session, &args)
}

fn mounts(session: &mut Session, args: &SnapshotMountsArgs) -> Result<()> {
    require_root("mounting the layers of a snapshot")?;
    crate::container::refuse_in_vm(&session.host, &args.key)?;
    let chain = {
        let store = session.host.existing_store()?;
        store.chain(args.key.as_bytes()).with_context(|| format!("cannot describe {}", args.key))?
    };
    let registry = session.host.registry()?;
    let holder = Holder::new(HolderKind::Snapshot, &args.key);
    let described = registry
        .hold(&chain.layers, &holder)
        .and_then(|volumes| {
            let scratch = match chain.scratch {
                Some(_) => Some(registry.hold_scratch(&chain, &holder)?),
                None => None,
            };
            mount::describe(&chain, &volumes, scratch.as_ref(), &MountForm::default())
        })
        .with_context(|| format!("cannot describe the mounts of {}", args.key))?;
    for mount in described {
        if session.output.is_json() {
            session.output.json(&mount)?;
            continue;
        }
        let target = args.target.join(&mount.target);
        session.output.line(format!(
            "mount -t {} {} {} -o {}",
            mount.r#type,
            quoted(&mount.source.to_string_lossy()),
            quoted(&target.to_string_lossy()),
            quoted(&mount.options.join(",")),
        ))?;
    }
    Ok(())
}

/// As one word of a POSIX shell.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-=,:+@%".contains(&byte);
    match !text.is_empty() && text.bytes().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

fn commit(session: &mut Session, args: &CommitArgs) -> Result<()> {
    // What is written after the changes were read would be lost, and a container would lose its root.
    check_unused(&session.host, &args.key)?;
    let store = session.host.existing_store()?;
    let doing = || format!("cannot commit {}", args.key);
    let key = args.key.as_bytes();
    if let Some(Scratch::Image { .. }) = store.stat(key).with_context(doing)?.scratch {
        require_root("committing a scratch of a fixed size")?;
    }
    store.commit(args.name.as_bytes(), key, labels(&args.labels)).with_context(doing)?;
    drop(store);
    release(&session.host, &args.key)
}

/// Gives back the volumes that `snapshot mounts` mounted for a snapshot that is gone.
fn release(host: &Host, key: &str) -> Result<()> {
    if host.has_journal() && rustix::process::geteuid().is_root() {
        host.registry()?
            .release(&Holder::new(HolderKind::Snapshot, key))
            .with_context(|| format!("cannot release the volumes of {key}"))?;
    }
    Ok(())
}

fn remove(session: &mut Session, args: &SnapshotRemoveArgs) -> Result<()> {
    for key in &args.keys {
        check_unused(&session.host, key)?;
        let store = session.host.existing_store()?;
        let snapshot =
            store.stat(key.as_bytes()).with_context(|| format!("cannot remove {key}"))?;
        if snapshot.kind != Kind::Committed {
            // Before its files go: a scratch image may be mounted.
            release(&session.host, key)?;
        }
        store.remove(key.as_bytes()).with_context(|| format!("cannot remove {key}"))?;
    }
    Ok(())
}

/// Refuses to pull a snapshot from under a mount or a container.
fn check_unused(host: &Host, key: &str) -> Result<()> {
    crate::container::refuse_in_vm(host, key)?;
    if !host.has_journal() || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let mounts = host.registry()?.mounts().context("cannot list the mounts")?;
    match mounts.iter().find(|mount| mount.what == key) {
        Some(mount) => Err(Failure::new(
            Exit::Exists,
            format!("{key} is mounted at {} for {}", mount.target.display(), mount.holder),
        )
        .hint(match mount.holder.kind {
            HolderKind::Container => "wait until the container has ended, or stop it".to_owned(),
            _ => format!("plywood umount {}", mount.target.display()),
        })
        .into()),
        None => Ok(()),
    }
}

fn info(session: &mut Session, args: &SnapshotKeyArgs) -> Result<()> {
    let store = session.host.store_to_read()?;
    let snapshot = store.stat(args.key.as_bytes())?;
    let chain = store.chain(args.key.as_bytes()).ok();
    if session.output.is_json() {
        return session.output.json(&document(&snapshot));
    }
    let name = |key: &[u8]| escape::name(key);
    let mut lines = vec![
        ("key", name(&snapshot.key)),
        ("kind", snapshot.kind.to_string()),
        ("parent", snapshot.parent.as_deref().map_or_else(|| "-".to_owned(), name)),
        ("number", snapshot.id.to_string()),
        ("created", output::time(snapshot.created.nanoseconds().into())),
        ("updated", output::time(snapshot.updated.nanoseconds().into())),
    ];
    // Top first, as they are mounted.
    lines.extend(snapshot.layers.iter().map(|layer| ("layer", layer.to_string())));
    if let Some(deferred) = &snapshot.deferred {
        lines.push(("deferred", format!("{} of {}", deferred.diff_id, deferred.digest)));
    }
    if snapshot.origin != Origin::Local {
        lines.push(("origin", snapshot.origin.to_string()));
    }
    match chain.as_ref().map(|Chain { scratch, .. }| scratch) {
        Some(Some(ScratchPaths::Directory { upper, .. })) => {
            lines.push(("scratch", upper.display().to_string()));
        }
        Some(Some(ScratchPaths::Image { path, size })) => {
            lines.push(("scratch", format!("{} ({})", path.display(), output::size(*size))));
        }
        _ => {}
    }
    for (key, value) in &snapshot.labels {
        lines.push(("label", format!("{}={}", name(key.as_bytes()), name(value.as_bytes()))));
    }
    for (name, value) in lines {
        session.output.line(format!("{name:<8} {value}"))?;
    }
    Ok(())
}

fn document(snapshot: &Snapshot) -> Value {
    let name = |key: &[u8]| match std::str::from_utf8(key) {
        Ok(text) => text.to_owned(),
        Err(_) => escape::name(key),
    };
    let mut document = json!({
        "key": name(&snapshot.key),
        "kind": snapshot.kind,
        "parent": snapshot.parent.as_deref().map(name),
        "number": snapshot.id,
        "created": output::time(snapshot.created.nanoseconds().into()),
        "updated": output::time(snapshot.updated.nanoseconds().into()),
        "labels": snapshot.labels,
        "layers": snapshot.layers,
        "deferred": snapshot.deferred,
        "origin": snapshot.origin,
    });
    if std::str::from_utf8(&snapshot.key).is_err() {
        document["key_hex"] = json!(output::hex(&snapshot.key));
    }
    document
}

fn usage(session: &mut Session, args: &SnapshotUsageArgs) -> Result<()> {
    let store = session.host.store_to_read()?;
    let keys: Vec<Vec<u8>> = match args.keys.is_empty() {
        true => store.list(&[])?.into_iter().map(|snapshot| snapshot.key).collect(),
        false => args.keys.iter().map(|key| key.clone().into_bytes()).collect(),
    };
    let mut rows = Vec::new();
    for key in keys {
        let usage = store.usage(&key)?;
        if session.output.is_json() {
            let name = escape::name(&key);
            let value = json!({ "key": name, "size": usage.size, "inodes": usage.inodes });
            session.output.json(&value)?;
        }
        rows.push(vec![escape::name(&key), output::size(usage.size), usage.inodes.to_string()]);
    }
    match session.output.is_json() {
        true => Ok(()),
        false => session.output.table(&["KEY", "SIZE", "INODES"], &rows),
    }
}

fn label(session: &mut Session, args: &LabelArgs) -> Result<()> {
    let store = session.host.existing_store()?;
    let mask: Vec<String> = args.labels.iter().map(|(key, _)| format!("labels.{key}")).collect();
    let mask: Vec<&str> = mask.iter().map(String::as_str).collect();
    store
        .update(args.key.as_bytes(), labels(&args.labels), &mask)
        .with_context(|| format!("cannot label {}", args.key))?;
    Ok(())
}

fn list(session: &mut Session, args: &FilterArgs) -> Result<()> {
    let store = session.host.store_to_read()?;
    let filters: Vec<&str> = args.filters.iter().map(String::as_str).collect();
    let snapshots = store.list(&filters).context("cannot list the snapshots")?;
    if session.output.is_json() {
        return snapshots.iter().try_for_each(|snapshot| session.output.json(&document(snapshot)));
    }
    if args.quiet {
        return snapshots.iter().try_for_each(|s| session.output.line(escape::name(&s.key)));
    }
    let rows: Vec<Vec<String>> = snapshots
        .iter()
        .map(|snapshot| {
            vec![
                escape::name(&snapshot.key),
                snapshot.parent.as_deref().map_or_else(|| "-".to_owned(), escape::name),
                snapshot.kind.to_string(),
                output::age(super::image::since(snapshot.created)),
            ]
        })
        .collect();
    session.output.table(&["KEY", "PARENT", "KIND", "AGE"], &rows)
}

fn tree(session: &mut Session) -> Result<()> {
    let store = session.host.store_to_read()?;
    let snapshots = store.list(&[])?;
    let known: BTreeMap<&[u8], &Snapshot> =
        snapshots.iter().map(|snapshot| (&*snapshot.key, snapshot)).collect();
    let mut children: BTreeMap<Option<&[u8]>, Vec<&Snapshot>> = BTreeMap::new();
    for snapshot in &snapshots {
        // One whose parent is missing (fsck reports it) is shown at the top rather than not at all.
        let parent = snapshot.parent.as_deref().filter(|parent| known.contains_key(parent));
        children.entry(parent).or_default().push(snapshot);
    }
    let none = Vec::new();
    let mut open: Vec<(usize, &Snapshot)> =
        children.get(&None).unwrap_or(&none).iter().rev().map(|root| (0, *root)).collect();
    while let Some((depth, snapshot)) = open.pop() {
        if session.output.is_json() {
            let mut value = document(snapshot);
            value["depth"] = json!(depth);
            session.output.json(&value)?;
        } else {
            let kind = match snapshot.kind {
                Kind::Committed => "",
                Kind::Active => " (active)",
                Kind::View => " (view)",
            };
            let indent = "  ".repeat(depth);
            session.output.line(format!("{indent}{}{kind}", escape::name(&snapshot.key)))?;
        }
        let below = children.get(&Some(&*snapshot.key)).unwrap_or(&none);
        open.extend(below.iter().rev().map(|child| (depth + 1, *child)));
    }
    Ok(())
}

fn labels(pairs: &[(String, String)]) -> Labels {
    pairs.iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn shell_words() {
        for (text, word) in [
            ("/run/plywood/v/0a", "/run/plywood/v/0a"),
            ("", "''"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("a;rm -rf /", "'a;rm -rf /'"),
        ] {
            assert_eq!(quoted(text), word);
        }
    }
}
