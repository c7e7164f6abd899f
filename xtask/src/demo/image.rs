//! The demo's image: a Debian root filesystem and three layers on it that use everything a layer can say.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tar::EntryType;

use crate::layer_tar::{EPOCH, LayerTar, Noise};
use crate::oci_layout::{self, Compression, Hashing, Layer};
use crate::{apt_sources, program};

/// Part of the cache's name: a change of what follows makes a new image.
const VERSION: u32 = 2;

/// Layers of the image.
pub(crate) const LAYERS: usize = 4;

const LARGE_SIZE: u64 = 192 << 20;
const LARGE_SEED: u64 = 0x506c_7977_6f6f_6421;

/// `cap_net_raw` permitted and effective, in the kernel's revision 2 form (`struct vfs_cap_data`).
const CAPABILITY: [u8; 20] = {
    let mut value = [0; 20];
    value[0] = 1;
    value[3] = 2;
    value[5] = 0x20;
    value
};

/// The archive, and what there is to say about how it came to be.
pub(crate) struct DemoImage {
    /// An OCI layout in a tar.
    pub(crate) archive: PathBuf,
    /// SHA-256 of the large file.
    pub(crate) large_digest: String,
}

/// Builds the image, or finds it in the cache.
pub(crate) fn build(directory: &Path, reference: &str) -> Result<DemoImage> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let archive = directory.join(format!("image-{VERSION}.tar"));
    let mut digest = Hashing::new(std::io::sink());
    std::io::copy(&mut Noise::new(LARGE_SEED, LARGE_SIZE), &mut digest)?;
    let (_, large_digest, _) = digest.finish();
    if archive.is_file() {
        println!("the image is in the cache: {}", archive.display());
        return Ok(DemoImage { archive, large_digest });
    }

    let base = debian(directory)?;
    let tar = directory.join("layer.tar");
    let mut layers = vec![pack(&base, directory, 1, Compression::Gzip)?];
    type Fill = fn(&mut LayerTar) -> Result<()>;
    let fills: [(Fill, Compression); 3] = [
        (platform, Compression::Zstd),
        (application, Compression::Gzip),
        (configuration, Compression::Plain),
    ];
    for (number, (fill, compression)) in (2..).zip(fills) {
        let mut layer = LayerTar::create(&tar)?;
        fill(&mut layer)?;
        layer.finish()?;
        layers.push(pack(&tar, directory, number, compression)?);
    }
    let config = json!({
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "DEMO=plywood"],
        "Cmd": ["/usr/local/bin/hello"],
        "WorkingDir": "/opt/demo",
    });
    oci_layout::write_archive(&archive, reference, &layers, &config, "2025-01-01T00:00:00Z")?;
    for file in layers.iter().map(|layer| &layer.path).chain([&tar]) {
        std::fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))?;
    }
    Ok(DemoImage { archive, large_digest })
}

fn pack(tar: &Path, directory: &Path, number: u32, compression: Compression) -> Result<Layer> {
    let blob = directory.join(format!("layer-{number}.blob"));
    let layer = oci_layout::pack_layer(tar, &blob, compression)?;
    println!(
        "layer {number}: {:>6.1} MB of tar, {:>6.1} MB as {compression:?}, sha256:{}…",
        layer.tar_size as f64 / 1e6,
        layer.size as f64 / 1e6,
        &layer.digest[..12]
    );
    Ok(layer)
}

/// Debian's smallest root filesystem, from the mirrors of this host. Kept: it is the slow part.
fn debian(directory: &Path) -> Result<PathBuf> {
    let tar = directory.join("minbase.tar");
    if tar.is_file() {
        return Ok(tar);
    }
    let part = directory.join("minbase.part.tar");
    let sources = apt_sources::of_suite(&apt_sources::of_host()?, "bookworm")?;
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap
        .env("SOURCE_DATE_EPOCH", EPOCH.to_string())
        // The tree is unpacked before it is packed, and /tmp may be a small tmpfs.
        .env("TMPDIR", directory)
        .args(["--quiet", "--variant=minbase", "--include=attr", "bookworm"])
        .arg(&part)
        .args(sources);
    program::run(&mut mmdebstrap)?;
    std::fs::rename(&part, &tar).with_context(|| format!("cannot create {}", tar.display()))?;
    Ok(tar)
}

/// The second layer: large, with every kind of entry.
fn platform(layer: &mut LayerTar) -> Result<()> {
    layer.directory("opt", 0o755)?;
    layer.directory("opt/demo", 0o755)?;
    layer.file("opt/demo/version", 0o644, b"1\n")?;
    layer.stream("opt/demo/large", 0o644, LARGE_SIZE, Noise::new(LARGE_SEED, LARGE_SIZE))?;
    layer.file("opt/demo/obsolete", 0o644, b"the next layer removes this\n")?;
    layer.file("etc/motd", 0o644, b"platform\n")?;
    // Replaces what the base has there with two files of our own.
    layer.opaque("etc/cron.daily", 0o755)?;
    layer.file("etc/cron.daily/first", 0o755, b"#!/bin/sh\n")?;
    layer.file("etc/cron.daily/second", 0o755, b"#!/bin/sh\n")?;
    // A directory and a file of the base that are gone from here on.
    layer.whiteout("usr/share", "doc")?;
    layer.whiteout("etc", "debian_version")?;
    // Hard links: within this layer, and to a file of the base.
    layer.file("opt/demo/one", 0o644, b"two names, one file\n")?;
    layer.hard_link("opt/demo/two", "opt/demo/one")?;
    layer.hard_link("opt/demo/perl", "usr/bin/perl")?;
    layer.symlink("opt/demo/relative", "../demo/one")?;
    layer.symlink("opt/demo/absolute", "/etc/motd")?;
    layer.symlink("opt/demo/dangling", "nowhere")?;
    layer.xattrs(&[("user.demo", b"a value"), ("security.capability", &CAPABILITY)])?;
    layer.file("opt/demo/capable", 0o755, b"#!/bin/sh\n")?;
    layer.xattrs(&[("user.kept", b"of a directory")])?;
    layer.directory("opt/demo/sticky", 0o1777)?;
    layer.file("opt/demo/setuid", 0o4755, b"#!/bin/sh\n")?;
    layer.file("opt/demo/setgid", 0o2755, b"#!/bin/sh\n")?;
    layer.device("opt/demo/null", EntryType::Char, (1, 3))?;
    layer.device("opt/demo/loop", EntryType::Block, (7, 0))?;
    layer.fifo("opt/demo/fifo")?;
    layer.file(&format!("opt/demo/{}", "n".repeat(255)), 0o644, b"the longest name\n")?;
    // What a package manager leaves: many small files in many directories.
    for directory in 0..100 {
        layer.directory(&format!("opt/demo/many/{directory:02}"), 0o755)?;
        for file in 0..50 {
            let text = format!("{directory} {file}\n").repeat(1 + (directory * file) % 40);
            let name = format!("opt/demo/many/{directory:02}/{file:02}");
            layer.file(&name, 0o644, text.as_bytes())?;
        }
    }
    Ok(())
}

/// The third layer: changes what the second brought.
fn application(layer: &mut LayerTar) -> Result<()> {
    layer.directory("opt/demo", 0o755)?;
    layer.file("opt/demo/version", 0o644, b"2\n")?;
    layer.whiteout("opt/demo", "obsolete")?;
    layer.whiteout("opt/demo/many", "42")?;
    layer.hard_link("opt/demo/three", "opt/demo/one")?;
    layer.file(
        "usr/local/bin/hello",
        0o755,
        b"#!/bin/sh\necho \"hello from $DEMO, version $(cat /opt/demo/version), $(cat /etc/motd)\"\n",
    )?;
    // A directory of the base becomes a symbolic link.
    layer.whiteout("var", "opt")?;
    layer.symlink("var/opt", "/opt")
}

/// The fourth layer: one file. It describes the directory, as image builders do, so it depends on no other layer.
fn configuration(layer: &mut LayerTar) -> Result<()> {
    layer.directory("etc", 0o755)?;
    layer.file("etc/motd", 0o644, b"configured\n")
}

/// What a container must see, checked one by one on a root filesystem. Returns how many facts held.
pub(crate) fn verify(root: &Path) -> Result<usize> {
    let mut facts = 0;
    let mut fact = |what: &str, holds: bool| {
        facts += 1;
        ensure!(holds, "{what} is not so in {}", root.display());
        Ok(())
    };
    let at = |name: &str| root.join(name);
    let read = |name: &str| {
        std::fs::read(at(name)).with_context(|| format!("cannot read {}", at(name).display()))
    };
    let stat = |name: &str| {
        rustix::fs::lstat(at(name)).with_context(|| format!("cannot stat {}", at(name).display()))
    };
    let absent = |name: &str| matches!(rustix::fs::lstat(at(name)), Err(rustix::io::Errno::NOENT));
    let xattr = |name: &str, attribute: &str| {
        let mut value = vec![0; 256];
        let length = rustix::fs::lgetxattr(at(name), attribute, &mut value)
            .with_context(|| format!("cannot read {attribute} of {}", at(name).display()))?;
        value.truncate(length);
        anyhow::Ok(value)
    };

    fact("the replaced version", read("opt/demo/version")? == b"2\n")?;
    fact("the twice replaced motd", read("etc/motd")? == b"configured\n")?;
    fact("the base below", read("etc/passwd")?.starts_with(b"root:"))?;
    fact("a removed directory", absent("usr/share/doc"))?;
    fact("a removed file of the base", absent("etc/debian_version"))?;
    fact("a removed file of the layer below", absent("opt/demo/obsolete"))?;
    fact("a removed directory of the layer below", absent("opt/demo/many/42"))?;
    fact("its neighbour", read("opt/demo/many/41/00")? == b"41 0\n")?;
    fact(
        "an opaque directory",
        names(&at("etc/cron.daily"))? == [b"first".as_slice(), b"second".as_slice()],
    )?;
    let (one, two) = (stat("opt/demo/one")?, stat("opt/demo/two")?);
    fact("a hard link", one.st_ino == two.st_ino && one.st_nlink == 2)?;
    fact("a hard link to a lower layer", read("opt/demo/three")? == b"two names, one file\n")?;
    fact("a hard link to the base", read("opt/demo/perl")? == read("usr/bin/perl")?)?;
    fact("its mode", stat("opt/demo/perl")?.st_mode == stat("usr/bin/perl")?.st_mode)?;
    for (name, target) in [
        ("opt/demo/relative", "../demo/one"),
        ("opt/demo/absolute", "/etc/motd"),
        ("opt/demo/dangling", "nowhere"),
        ("var/opt", "/opt"),
    ] {
        fact(name, std::fs::read_link(at(name)).is_ok_and(|link| link == Path::new(target)))?;
    }
    fact("a user attribute", xattr("opt/demo/capable", "user.demo")? == b"a value")?;
    fact("a capability", xattr("opt/demo/capable", "security.capability")? == CAPABILITY)?;
    fact("a directory's attribute", xattr("opt/demo/sticky", "user.kept")? == b"of a directory")?;
    for (name, mode) in [
        ("opt/demo/setuid", 0o104_755),
        ("opt/demo/setgid", 0o102_755),
        ("opt/demo/sticky", 0o041_777),
        ("opt/demo/fifo", 0o010_600),
        ("opt/demo/null", 0o020_660),
        ("opt/demo/loop", 0o060_660),
    ] {
        let found = stat(name)?;
        fact(name, found.st_mode == mode && found.st_mtime == EPOCH.cast_signed())?;
    }
    fact("a character device", stat("opt/demo/null")?.st_rdev == rustix::fs::makedev(1, 3))?;
    fact("a block device", stat("opt/demo/loop")?.st_rdev == rustix::fs::makedev(7, 0))?;
    fact("the longest name", !absent(&format!("opt/demo/{}", "n".repeat(255))))?;
    fact("the large file's size", stat("opt/demo/large")?.st_size == LARGE_SIZE.cast_signed())?;
    Ok(facts)
}

fn names(directory: &Path) -> Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)
        .with_context(|| format!("cannot list {}", directory.display()))?
    {
        names.push(entry?.file_name().as_bytes().to_vec());
    }
    names.sort();
    Ok(names)
}
