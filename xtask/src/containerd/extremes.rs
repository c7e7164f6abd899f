//! What is at a limit: the deepest image, a scratch that is full.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::image::{self, DEEP, Image};
use super::scenario::{IDLE, import, mounted, names};
use super::session::User;

/// Size of the scratch of a container that fills it.
const SCRATCH: &str = "containerd.io/snapshot/max-size=33554432";

/// An image of 128 layers: run, asked for its difference, and removed below the container.
pub(super) fn deep(user: &User, images: &Path) -> Result<()> {
    let deep = image::deep(images)?;
    import(user, &deep)?;
    user.run_detached(&deep.reference, "deep", IDLE)?;
    let last = DEEP - 1;
    let script = format!(
        "set -e; cat /etc/last; echo; ls /etc/layer-* | while read f; do echo .; done; rm /etc/layer-{last}; echo x > /etc/last"
    );
    let printed = user.exec("deep", "look", &script)?;
    let dots = printed.lines().filter(|line| *line == ".").count();
    ensure!(printed.starts_with(&format!("{last}\n")), "the container sees {printed:?}");
    ensure!(dots == DEEP / 2, "{dots} of the files that no layer has removed are there");
    let tar = "application/vnd.oci.image.layer.v1.tar";
    let words = ["snapshots", "diff", "--media-type", tar, "deep"];
    let mut found = names(&user.ctr_bytes(user.snapshotter, &words)?)?;
    found.retain(|name| !name.ends_with("etc"));
    found.sort();
    let wanted: [PathBuf; 2] =
        [format!("etc/.wh.layer-{last}"), "etc/last".to_owned()].map(Into::into);
    ensure!(found == wanted, "the difference names {found:?}");
    user.ctr(&["images", "rm", "--sync", &deep.reference])?;
    let printed = user.exec("deep", "after", "cat /etc/last /etc/layer-002")?;
    ensure!(printed == "x\n2", "without its image the container sees {printed:?}");
    user.remove_container("deep")
}

/// A container with a scratch of fixed size that writes until there is no room, and goes on with less.
pub(super) fn full(user: &User, image: &Image) -> Result<()> {
    import(user, image)?;
    let script = "cat /data/noise /data/noise > /big; while why=$(cat /big 2>&1 >> /fill); do :; done; rm /fill; \
                  echo kept > /kept; sync; echo $why; cat /kept";
    let words =
        ["run", "--detach", "--snapshotter-label", SCRATCH, &image.reference, "full", "sh", "-c"];
    user.ctr(&[&words[..], &[IDLE]].concat())?;
    let printed = user.exec("full", "fill", script)?;
    let wanted = "No space left on device\nkept\n";
    ensure!(printed.ends_with(wanted), "the container prints {printed:?}");
    let tar = "application/vnd.oci.image.layer.v1.tar";
    let words = ["snapshots", "diff", "--media-type", tar, "full"];
    let found = names(&user.ctr_bytes(user.snapshotter, &words)?)?;
    ensure!(found.iter().any(|name| name == Path::new("kept")), "the difference names {found:?}");
    user.ctr(&["tasks", "rm", "--force", "full"])?;
    user.ctr(&["snapshots", "commit", "filled", "full"])?;
    user.ctr(&["containers", "rm", "full"])?;
    user.ctr(&["snapshots", "prepare", "refilled", "filled"])?;
    let target = user.directory.join("mnt");
    mounted(user, user.snapshotter, "refilled", &target, || {
        ensure!(std::fs::read_to_string(target.join("kept"))? == "kept\n", "it was not committed");
        ensure!(!target.join("fill").exists(), "what was removed is back");
        Ok(())
    })?;
    user.ctr(&["snapshots", "rm", "refilled"])?;
    user.ctr(&["snapshots", "rm", "filled"])?;
    Ok(())
}
