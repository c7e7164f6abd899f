//! An image for Windows, unpacked on Linux: its layers become CIMs. Nothing can run in them here.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::root::Version;
use super::session::Session;
use crate::windows::{self, REFERENCE};

/// Imports an image of two layers, looks at what became of it and removes it again.
pub(super) fn import(session: &Session, images: &Path) -> Result<()> {
    let Some(plywood) = &session.plywood else { return Ok(()) };
    let user = &session.user;
    let archive = windows::small(images)?;
    let archive = archive.to_str().context("the image's path is not UTF-8")?;
    let mut words = vec!["images", "import", "--platform", "windows/amd64"];
    // containerd's own unpacking is configured for the platform that it runs on.
    words.extend((user.root.version == Version::V2_1).then_some("--local"));
    words.push(archive);
    let before = plywood.layers("apply")?;
    user.ctr(&words)?;
    ensure!(plywood.layers("apply")? == before + 2, "not every layer came by our differ");

    let cims = |directory: &Path| -> Result<usize> {
        let names = std::fs::read_dir(directory)?.filter_map(Result::ok);
        Ok(names.filter(|name| name.path().extension().is_some_and(|end| end == "cim")).count())
    };
    let directory = plywood.store().join("cim-layers");
    ensure!(cims(&directory)? == 2, "there are not two CIMs in {}", directory.display());
    let committed = plywood.json(&["snapshot", "ls"])?;
    let of_cims = committed.iter().filter(|snapshot| {
        let layers = snapshot["layers"].as_array();
        let is_cim =
            |layer: &serde_json::Value| layer.as_str().is_some_and(|id| id.starts_with("cim:"));
        snapshot["kind"] == "committed"
            && layers.is_some_and(|layers| layers.len() == 1 && layers.iter().all(is_cim))
    });
    ensure!(of_cims.count() == 2, "the snapshots are {committed:#?}");
    let found = plywood.json(&["fsck"])?;
    ensure!(found.iter().all(|line| line["code"].is_null()), "fsck finds {found:#?}");

    // A container would have nothing to run on, and is told so instead of being shown an empty root.
    let top = user.snapshots()?;
    let parent = committed.iter().filter(|snapshot| !snapshot["parent"].is_null()).count();
    ensure!(top.len() >= 2 && parent >= 1, "the snapshots are {top:?}");

    user.ctr(&["images", "rm", "--sync", REFERENCE])?;
    user.poll("the CIMs are gone", || Ok(std::fs::read_dir(&directory)?.next().is_none()))
}
