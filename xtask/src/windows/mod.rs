//! A Windows image as real as it gets without Windows: the executables of Debian's Wine packages, with the metadata,
//! links, streams and registry of a container's base layer around them, and two layers that change it.
//!
//! Microsoft's layers may not be had here; nothing of them is in it. The tars have the form that Microsoft's exporter
//! writes.

mod hives;
mod layers;
mod regf;
mod security;
mod small;
mod tar;
mod tree;
mod wine;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use self::tree::Tree;
use crate::oci_layout::{self, Compression, Layer, Platform};
use crate::packages::{self, Purpose};
use crate::workspace;

/// Part of the file name: another generator, another image.
const VERSION: u32 = 1;

/// The image's layers and its archive, all in one directory.
#[derive(Debug)]
pub(crate) struct WindowsImage {
    /// The layers' tars, base first.
    pub(crate) tars: [PathBuf; 3],
    /// OCI archive of the three, for windows/amd64.
    pub(crate) archive: PathBuf,
}

/// The archive's image.
pub(crate) const REFERENCE: &str = "plywood.example/windows:1";

/// `cargo xtask windows-image`: what the demo and the benchmarks build for themselves.
pub(crate) fn image() -> Result<()> {
    packages::set_up(Purpose::Windows)?;
    let image = build(&workspace::target().join("windows"))?;
    println!("{}", image.archive.display());
    Ok(())
}

/// Builds what is missing in `directory`.
pub(crate) fn build(directory: &Path) -> Result<WindowsImage> {
    let directory = directory.join(format!("windows-{VERSION}"));
    let at = |name: &str| directory.join(name);
    let image = WindowsImage {
        tars: ["base.tar", "first.tar", "second.tar"].map(at),
        archive: at("image.tar"),
    };
    if image.archive.is_file() {
        return Ok(image);
    }
    println!("building {}", directory.display());
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let wine = wine::unpacked(&directory)?;
    let trees = [layers::base(&wine, &directory)?, layers::first(&wine), layers::second(&wine)];
    assemble(&image.archive, &trees, &image.tars)?;
    for part in ["wine", "apt"] {
        std::fs::remove_dir_all(at(part))
            .with_context(|| format!("cannot remove {}", at(part).display()))?;
    }
    Ok(image)
}

/// An image of two small layers, in one archive. Needs no packages.
pub(crate) fn small(directory: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let archive = directory.join("windows.tar");
    let tars = ["windows-base.tar", "windows-top.tar"].map(|name| directory.join(name));
    assemble(&archive, &small::layers(), &tars)?;
    Ok(archive)
}

/// Writes layers to `tars` and an image of them to `archive`.
fn assemble(archive: &Path, trees: &[Tree], tars: &[PathBuf]) -> Result<()> {
    let mut layers = Vec::new();
    for (tree, tar) in trees.iter().zip(tars) {
        layers.push(pack(tree, tar)?);
    }
    let platform =
        Platform { os: "windows", architecture: "amd64", os_version: Some("10.0.20348.2849") };
    let config = json!({ "Cmd": ["c:\\windows\\system32\\cmd.exe"] });
    let created = "2025-01-01T00:00:00Z";
    oci_layout::write_archive_for(archive, REFERENCE, platform, &layers, &config, created)?;
    for layer in &layers {
        std::fs::remove_file(&layer.path)
            .with_context(|| format!("cannot remove {}", layer.path.display()))?;
    }
    Ok(())
}

fn pack(tree: &Tree, tar: &Path) -> Result<Layer> {
    let entries = tree.write(tar)?;
    let layer = oci_layout::pack_layer(tar, &tar.with_extension("tar.zst"), Compression::Zstd)?;
    println!(
        "{}: {entries} entries, {} MB, SHA-256 {}",
        tar.display(),
        layer.tar_size / 1_000_000,
        layer.diff_id
    );
    Ok(layer)
}
