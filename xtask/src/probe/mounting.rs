//! Mounting, timed inside one process.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mount::{Backing, Holder, HolderKind, MountForm, MountOptions, Registry, mount_image};
use rustix::mount::{MountFlags, UnmountFlags};
use serde_json::json;
use store::{Labels, OpenOptions, Store};

const WAIT: Duration = Duration::from_secs(10);

/// Mounts `image` at `target`, looks at its root and unmounts it, `count` times in each of three ways that take
/// turns; prints the median microseconds of each: `mount(2)` and nothing else, the mount crate without its journal, and
/// with it, which is what `plywood mount FILE DIR` does inside.
pub(crate) fn repeat(image: &Path, target: &Path, count: usize) -> Result<()> {
    std::fs::create_dir_all(target)
        .with_context(|| format!("cannot create {}", target.display()))?;
    let registry = Registry::open(&target.with_extension("run"), WAIT)?;
    let holder = Holder::new(HolderKind::User, "probe");
    let bare = || {
        rustix::mount::mount(image, target, "erofs", MountFlags::RDONLY, None)?;
        rustix::fs::stat(target)?;
        Ok(rustix::mount::unmount(target, UnmountFlags::empty())?)
    };
    let unjournaled = || {
        mount_image(image, &[], target, Backing::Auto)?;
        rustix::fs::stat(target)?;
        Ok(sys::unmount(target)?)
    };
    let journaled = || {
        registry.mount_image_file(image, &[], target, &holder)?;
        rustix::fs::stat(target)?;
        registry.unmount(target)?;
        registry.release(&holder)?;
        Ok(())
    };
    let ways: [(&str, &dyn Fn() -> Result<()>); 3] =
        [("bare", &bare), ("image", &unjournaled), ("journal", &journaled)];
    let mut times = ways.map(|_| Vec::with_capacity(count));
    for round in 0..=count {
        for (times, (_, way)) in times.iter_mut().zip(&ways) {
            let start = Instant::now();
            way()?;
            // The first round also reads the superblock from the disk.
            if round > 0 {
                times.push(start.elapsed().as_secs_f64() * 1e6);
            }
        }
    }
    let mut medians = serde_json::Map::new();
    for (mut times, (name, _)) in times.into_iter().zip(ways) {
        times.sort_by(f64::total_cmp);
        medians.insert(name.to_owned(), times[count / 2].into());
    }
    println!("{}", serde_json::Value::Object(medians));
    Ok(())
}

/// Milliseconds until the root filesystem of an image is there: with none of its volumes mounted, and with all of
/// them; of a snapshot that is there, and with opening the store and making a durable snapshot before that.
pub(crate) fn rootfs(root: &Path, run: &Path, reference: &str, target: &Path) -> Result<()> {
    let keeper = Holder::new(HolderKind::User, "keeper");
    let (cold, cold_all) = one_rootfs(root, run, reference, target, "cold", Some(&keeper))?;
    let (warm, warm_all) = one_rootfs(root, run, reference, target, "warm", None)?;
    Registry::open(run, WAIT)?.release(&keeper)?;
    println!(
        "{}",
        json!({ "cold": cold, "warm": warm, "cold_all": cold_all, "warm_all": warm_all })
    );
    Ok(())
}

fn one_rootfs(
    root: &Path,
    run: &Path,
    reference: &str,
    target: &Path,
    key: &str,
    keeper: Option<&Holder>,
) -> Result<(f64, f64)> {
    std::fs::create_dir_all(target)
        .with_context(|| format!("cannot create {}", target.display()))?;
    let start = Instant::now();
    let store = Store::open(root, OpenOptions { create: false, ..OpenOptions::default() })?;
    let parent = chain_of(&store, reference)?;
    store.prepare(
        key.as_bytes(),
        Some(parent.as_bytes()),
        Labels::new(),
        store::Scratch::Directory,
    )?;
    let prepared = Instant::now();
    let chain = store.chain(key.as_bytes())?;
    let registry = Registry::open(run, WAIT)?;
    let holder = Holder::new(HolderKind::Snapshot, key);
    registry.mount_chain(&chain, target, &holder, &MountOptions { read_only: false })?;
    let milliseconds = |since: Instant| since.elapsed().as_secs_f64() * 1e3;
    let took = (milliseconds(prepared), milliseconds(start));

    // The top layer is above, the bottom one is there.
    std::fs::metadata(target.join("top")).context("the root filesystem has no `top`")?;
    std::fs::metadata(target.join("of/000/0")).context("the bottom layer is not there")?;
    if let Some(keeper) = keeper {
        registry.hold(&chain.layers, keeper)?;
    }
    registry.unmount(target)?;
    registry.release(&holder)?;
    store.remove(key.as_bytes())?;
    Ok(took)
}

/// Rounds a second of prepare, mounts and remove through the libraries, on top of an image whose volumes are
/// mounted, as they are while any container of it runs.
pub(crate) fn snapshots(
    root: &Path,
    run: &Path,
    reference: &str,
    duration: Duration,
) -> Result<()> {
    let store = Store::open(root, OpenOptions { create: false, ..OpenOptions::default() })?;
    let registry = Registry::open(run, WAIT)?;
    let parent = chain_of(&store, reference)?;
    let keeper = Holder::new(HolderKind::User, "keeper");
    let layers = store.committed_layers(parent.as_bytes())?;
    registry.hold(&layers, &keeper)?;
    let rounds = snapshot_rounds(&store, &registry, &parent, duration);
    registry.release(&keeper)?;
    println!("{}", rounds?);
    Ok(())
}

fn snapshot_rounds(
    store: &Store,
    registry: &Registry,
    parent: &str,
    duration: Duration,
) -> Result<f64> {
    let start = Instant::now();
    let mut rounds = 0_u32;
    while start.elapsed() < duration {
        let key = format!("probe-{rounds}").into_bytes();
        let holder = Holder::new(HolderKind::Snapshot, format!("probe-{rounds}"));
        store.prepare(&key, Some(parent.as_bytes()), Labels::new(), store::Scratch::Directory)?;
        let chain = store.chain(&key)?;
        let volumes: Vec<PathBuf> = registry.hold(&chain.layers, &holder)?;
        let scratch = registry.hold_scratch(&chain, &holder)?;
        let mounts = mount::describe(&chain, &volumes, Some(&scratch), &MountForm::default())?;
        anyhow::ensure!(mounts.len() == 1, "{} mounts instead of one overlay", mounts.len());
        registry.release(&holder)?;
        store.remove(&key)?;
        rounds += 1;
    }
    Ok(f64::from(rounds) / start.elapsed().as_secs_f64())
}

fn chain_of(store: &Store, reference: &str) -> Result<String> {
    let reference = store::canonical_reference(reference)?;
    let image =
        store.image(&reference)?.with_context(|| format!("there is no image {reference}"))?;
    image.chain.last().cloned().context("the image has no layers")
}
