//! The images of the containerd tests: small, with everything that a layer can say.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};
use tar::EntryType;

use crate::layer_tar::{EPOCH, LayerTar, Noise};
use crate::oci_layout::{self, Compression, Layer};

/// Layers of the deepest image.
pub(crate) const DEEP: usize = 128;

/// When all of it was made.
const CREATED: &str = "2025-01-01T00:00:00Z";

/// Applets of busybox that the containers use.
const APPLETS: [&str; 14] = [
    "sh", "cat", "chmod", "chown", "echo", "ln", "ls", "mkdir", "mv", "rm", "sleep", "sync",
    "touch", "true",
];

/// `cap_net_raw` permitted and effective, in the kernel's revision 2 form (`struct vfs_cap_data`).
const CAPABILITY: [u8; 20] = {
    let mut value = [0; 20];
    value[0] = 1;
    value[3] = 2;
    value[5] = 0x20;
    value
};

/// An image in an archive, and the layers it is made of.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) reference: String,
    pub(crate) archive: PathBuf,
    pub(crate) layers: Vec<Layer>,
}

impl Image {
    /// The name of its topmost snapshot: OCI's chain ID.
    pub(crate) fn chain_id(&self) -> String {
        let diff_ids = self.layers.iter().map(|layer| format!("sha256:{}", layer.diff_id));
        let chained = diff_ids.reduce(|chain, diff_id| {
            let digest = Sha256::digest(format!("{chain} {diff_id}"));
            format!("sha256:{}", oci_layout::hexadecimal(&digest))
        });
        chained.unwrap_or_default()
    }
}

/// How a layer is filled.
type Fill<'a> = &'a dyn Fn(&mut LayerTar) -> Result<()>;

/// Four layers that use everything, in every compression.
pub(crate) fn everything(directory: &Path) -> Result<Image> {
    build(
        directory,
        "everything",
        &[
            (&base, Compression::Gzip),
            (&changes, Compression::Zstd),
            (&more_changes, Compression::Gzip),
            (&configuration, Compression::Plain),
        ],
    )
}

/// A second layer with hard links to files of the first, which containerd's own differ cannot apply over overlayfs.
pub(crate) fn linked(directory: &Path) -> Result<Image> {
    build(directory, "linked", &[(&base, Compression::Gzip), (&links, Compression::Gzip)])
}

/// As many layers as images may have at most.
pub(crate) fn deep(directory: &Path) -> Result<Image> {
    let layers: Vec<_> = (1..DEEP).map(one_file).collect();
    let mut fills: Vec<(Fill<'_>, Compression)> = vec![(&base, Compression::Gzip)];
    let kinds = [Compression::Gzip, Compression::Zstd, Compression::Plain];
    fills.extend(
        layers.iter().zip(kinds.into_iter().cycle()).map(|(fill, kind)| (fill as Fill<'_>, kind)),
    );
    build(directory, "deep", &fills)
}

fn one_file(number: usize) -> impl Fn(&mut LayerTar) -> Result<()> {
    move |layer| {
        let text = number.to_string();
        layer.file(&format!("etc/layer-{number:03}"), 0o644, text.as_bytes())?;
        layer.file("etc/last", 0o644, text.as_bytes())?;
        // Every other one is removed by the next.
        if number.is_multiple_of(2) {
            layer.whiteout("etc", &format!("layer-{:03}", number - 1))
        } else {
            Ok(())
        }
    }
}

/// Three layers of many files and some megabytes, whose import takes a while.
pub(crate) fn large(directory: &Path) -> Result<Image> {
    let bulk = |number: u64| {
        move |layer: &mut LayerTar| {
            let size = 6 << 20;
            layer.directory("bulk", 0o755)?;
            let name = format!("bulk/noise-{number}");
            layer.stream(&name, 0o644, size, Noise::new(number + 77, size))?;
            for file in 0..200 {
                layer.file(&format!("bulk/{number}-{file:03}"), 0o640, b"one of many\n")?;
            }
            layer.whiteout("bulk", &format!("{}-000", number - 1))
        }
    };
    let (first, second) = (bulk(1), bulk(2));
    build(
        directory,
        "large",
        &[(&base, Compression::Gzip), (&first, Compression::Gzip), (&second, Compression::Zstd)],
    )
}

/// An image with one more layer: `tar`, as a difference of a container of `image`.
pub(crate) fn with_layer(image: &Image, name: &str, tar: &Path) -> Result<Image> {
    let directory = image.archive.parent().context("an archive is in a directory")?;
    let mut layers = image.layers.clone();
    let blob = directory.join(format!("{name}.blob"));
    layers.push(oci_layout::pack_layer(tar, &blob, Compression::Gzip)?);
    assemble(directory, name, layers)
}

fn build(directory: &Path, name: &str, fills: &[(Fill<'_>, Compression)]) -> Result<Image> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let mut layers = Vec::new();
    for (number, (fill, compression)) in fills.iter().enumerate() {
        let tar = directory.join(format!("{name}-{number}.tar"));
        let mut layer = LayerTar::create(&tar)?;
        fill(&mut layer)?;
        layer.finish()?;
        let blob = directory.join(format!("{name}-{number}.blob"));
        layers.push(oci_layout::pack_layer(&tar, &blob, *compression)?);
        std::fs::remove_file(&tar).with_context(|| format!("cannot remove {}", tar.display()))?;
    }
    assemble(directory, name, layers)
}

fn assemble(directory: &Path, name: &str, layers: Vec<Layer>) -> Result<Image> {
    let archive = directory.join(format!("{name}.tar"));
    let reference = format!("localhost/{name}:1");
    let config = json!({
        "Env": ["PATH=/bin", "KEPT=yes"],
        "Cmd": ["/bin/sh"],
    });
    oci_layout::write_archive(&archive, &reference, &layers, &config, CREATED)?;
    Ok(Image { reference, archive, layers })
}

fn base(layer: &mut LayerTar) -> Result<()> {
    layer.directory("./", 0o755)?;
    for name in ["bin", "dev", "etc", "proc", "run", "sys", "var", "var/log", "data", "data/old"] {
        layer.directory(name, 0o755)?;
    }
    layer.directory("tmp", 0o1777)?;
    layer.directory("root", 0o700)?;
    let busybox = std::fs::read("/bin/busybox").context("cannot read busybox-static's program")?;
    layer.file("bin/busybox", 0o755, &busybox)?;
    for applet in APPLETS {
        layer.symlink(&format!("bin/{applet}"), "busybox")?;
    }
    layer.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n")?;
    layer.file("etc/group", 0o644, b"root:x:0:\n")?;
    layer.file("etc/motd", 0o644, b"base\n")?;
    layer.file("data/version", 0o644, b"1\n")?;
    layer.file("data/old/file", 0o600, b"hidden by an opaque directory\n")?;
    layer.file("data/removed", 0o644, b"removed by the next layer\n")?;
    layer.file("data/to-directory", 0o644, b"becomes a directory\n")?;
    layer.directory("data/to-link", 0o755)?;
    layer.file("data/to-link/inside", 0o644, b"gone\n")?;
    layer.directory("data/removed-tree", 0o755)?;
    layer.file("data/removed-tree/file", 0o644, b"gone\n")?;
    layer.records(&[("uid", b"1000"), ("gid", b"70000"), ("mtime", b"1700000000.123456789")])?;
    layer.file("data/owned", 0o640, b"somebody's\n")?;
    layer.records(&[("uid", b"33"), ("gid", b"33")])?;
    layer.directory("data/owned-directory", 0o2775)?;
    layer.file("data/setuid", 0o4755, b"#!/bin/sh\n")?;
    layer.file("data/setgid", 0o2755, b"#!/bin/sh\n")?;
    layer.directory("data/sticky", 0o1777)?;
    layer.file("data/one", 0o644, b"two names, one file\n")?;
    layer.hard_link("data/two", "data/one")?;
    layer.symlink("data/relative", "../data/one")?;
    layer.symlink("data/dangling", "nowhere")?;
    layer.xattrs(&[("user.kept", b"a value"), ("security.capability", &CAPABILITY)])?;
    layer.file("data/capable", 0o755, b"#!/bin/sh\n")?;
    layer.xattrs(&[("user.kept", b"of a directory")])?;
    layer.directory("data/described", 0o711)?;
    layer.device("data/null", EntryType::Char, (1, 3))?;
    layer.device("data/loop", EntryType::Block, (7, 0))?;
    layer.fifo("data/fifo")?;
    layer.file("data/empty", 0o444, b"")?;
    layer.file(&format!("data/{}", "n".repeat(255)), 0o644, b"the longest name\n")?;
    let size = 3 << 20;
    layer.stream("data/noise", 0o644, size, Noise::new(EPOCH, size))?;
    layer.directory("data/many", 0o755)?;
    for directory in 0..10 {
        layer.directory(&format!("data/many/{directory:02}"), 0o755)?;
        for file in 0..20 {
            let text = format!("{directory} {file}\n").repeat(1 + directory * file);
            layer.file(&format!("data/many/{directory:02}/{file:02}"), 0o644, text.as_bytes())?;
        }
    }
    Ok(())
}

fn changes(layer: &mut LayerTar) -> Result<()> {
    layer.directory("data", 0o755)?;
    layer.file("data/version", 0o644, b"2\n")?;
    layer.whiteout("data", "removed")?;
    layer.whiteout("data", "removed-tree")?;
    layer.opaque("data/old", 0o750)?;
    layer.file("data/old/new", 0o644, b"instead\n")?;
    layer.whiteout("data", "to-directory")?;
    layer.directory("data/to-directory", 0o755)?;
    layer.file("data/to-directory/file", 0o644, b"inside\n")?;
    layer.whiteout("data", "to-link")?;
    layer.symlink("data/to-link", "many")?;
    // Neither directory is described by this layer: they keep what the base says of them.
    layer.file("data/owned-directory/added", 0o644, b"in a directory of another layer\n")?;
    layer.file("data/described/added", 0o644, b"in a directory of another layer\n")?;
    layer.whiteout("data/many/03", "05")?;
    layer.whiteout("data/many", "04")?;
    layer.file("data/three", 0o644, b"a second pair\n")?;
    layer.hard_link("data/four", "data/three")
}

fn more_changes(layer: &mut LayerTar) -> Result<()> {
    layer.directory("data", 0o755)?;
    // What a layer removed may come back.
    layer.file("data/removed", 0o600, b"back again\n")?;
    layer.directory("data/many", 0o755)?;
    layer.directory("data/many/04", 0o700)?;
    layer.file("data/many/04/fresh", 0o644, b"not the old ones\n")?;
    layer.whiteout("data/old", "new")?;
    layer.xattrs(&[("user.kept", b"another value")])?;
    layer.file("data/capable", 0o700, b"#!/bin/sh\n:\n")
}

fn configuration(layer: &mut LayerTar) -> Result<()> {
    layer.directory("etc", 0o755)?;
    layer.file("etc/motd", 0o644, b"configured\n")
}

fn links(layer: &mut LayerTar) -> Result<()> {
    layer.directory("data", 0o755)?;
    layer.hard_link("data/linked", "data/noise")?;
    layer.hard_link("data/linked-owned", "data/owned")
}
