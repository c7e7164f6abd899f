//! What the benchmarks run on: built once from Debian packages and kept.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read as _, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::json;

use crate::layer_tar::{EPOCH, LayerTar};
use crate::oci_layout::{self, Compression, Layer};
use crate::{apt_sources, program};

const PACKAGES: &str =
    "python3,build-essential,git,perl,nodejs,python3-numpy,openjdk-17-jre-headless";

/// Layers of the deep image.
pub(crate) const DEPTH: usize = 128;

/// The files, all under one directory.
pub(crate) struct Data {
    /// Where they are.
    pub(crate) directory: PathBuf,
    /// About 890 MB and 18,000 entries.
    pub(crate) base: PathBuf,
    /// The same, `gzip -6`.
    pub(crate) base_gzip: PathBuf,
    /// The same, `zstd -3`.
    pub(crate) base_zstd: PathBuf,
    /// A fifth of it, `gzip -6`.
    pub(crate) small_gzip: PathBuf,
    /// One file of 4 GiB, gzip: is memory flat?
    pub(crate) huge_gzip: PathBuf,
    /// OCI archive of three gzip layers, 1.8 GB together.
    pub(crate) three_layers: PathBuf,
    /// OCI archive of 128 small layers.
    pub(crate) deep: PathBuf,
    /// SHA-256 of `base`.
    pub(crate) digest: String,
}

impl Data {
    /// Builds what is missing.
    pub(crate) fn build(directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        let at = |name: &str| directory.join(name);
        let base = at("base.tar");
        make(&base, |part| debian(part, "apt", Some(PACKAGES)))?;
        let small = at("small.tar");
        make(&small, |part| debian(part, "minbase", None))?;
        let gzip = |from: &Path, part: &Path| filter(&["gzip", "-6", "-n", "-c"], from, part);
        let zstd = |from: &Path, part: &Path| filter(&["zstd", "-3", "-q", "-c"], from, part);
        make(&at("base.tar.gz"), |part| gzip(&base, part))?;
        make(&at("base.tar.zst"), |part| zstd(&base, part))?;
        make(&at("small.tar.gz"), |part| gzip(&small, part))?;
        make(&at("huge.tar.gz"), |part| huge(directory, part))?;
        make(&at("three.tar"), |part| three_layers(&base, directory, part))?;
        make(&at("deep.tar"), |part| deep(directory, part))?;
        let (digest, _) = oci_layout::digest_of(&base)?;
        Ok(Self {
            directory: directory.to_owned(),
            base_gzip: at("base.tar.gz"),
            base_zstd: at("base.tar.zst"),
            small_gzip: at("small.tar.gz"),
            huge_gzip: at("huge.tar.gz"),
            three_layers: at("three.tar"),
            deep: at("deep.tar"),
            digest,
            base,
        })
    }
}

/// An image of very many small files, in a directory of its own.
pub(crate) struct Many {
    /// Where it and its regions are.
    pub(crate) directory: PathBuf,
    /// Its file.
    pub(crate) name: &'static str,
    /// Its files.
    pub(crate) count: usize,
    /// One of them, in another case than it has.
    pub(crate) path: String,
}

impl Many {
    /// Builds it with the probe unless it is there.
    pub(crate) fn build(directory: &Path, probe: &Path) -> Result<Self> {
        let many = Self {
            directory: directory.join("many"),
            name: "many.cim",
            count: 500_000,
            path: r"FILES\Windows\WinSxS\amd64_component-04242_31bf3856ad364e35_10.0.20348.1_none\Part-424242.manifest"
                .to_owned(),
        };
        if !many.directory.join(many.name).is_file() {
            println!("building {}", many.directory.display());
            super::measure::empty(&many.directory)?;
            let mut make = Command::new(probe);
            make.arg("many-cim").arg(&many.directory).args([many.name, &many.count.to_string()]);
            program::quietly(&mut make)?;
        }
        Ok(many)
    }
}

/// Makes a file under a temporary name, unless it is already there.
fn make(path: &Path, build: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if path.is_file() {
        return Ok(());
    }
    println!("building {}", path.display());
    let part = path.with_extension("part");
    build(&part)?;
    std::fs::rename(&part, path).with_context(|| format!("cannot create {}", path.display()))
}

fn debian(part: &Path, variant: &str, include: Option<&str>) -> Result<()> {
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap
        .env("SOURCE_DATE_EPOCH", EPOCH.to_string())
        .env("TMPDIR", part.parent().unwrap_or(Path::new(".")))
        .args(["--quiet", "--format=tar"])
        .arg(format!("--variant={variant}"))
        .args(include.map(|packages| format!("--include={packages}")))
        .arg("bookworm")
        .arg(part)
        .args(apt_sources::of_suite(&apt_sources::of_host()?, "bookworm")?);
    program::run(&mut mmdebstrap).map(drop)
}

fn filter(words: &[&str], from: &Path, part: &Path) -> Result<()> {
    let doing = || format!("cannot compress {}", from.display());
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .stdin(File::open(from).with_context(doing)?)
        .stdout(Stdio::from(File::create(part).with_context(doing)?));
    program::quietly(&mut command).map(drop)
}

/// The base, and its two halves once more under other names: three layers of real files.
fn three_layers(base: &Path, directory: &Path, part: &Path) -> Result<()> {
    let halves = [
        ("srv/two", (|name: &str| name.starts_with("./usr/lib/")) as fn(&str) -> bool),
        ("srv/three", |name: &str| !name.starts_with("./usr/lib/")),
    ];
    let mut layers = vec![blob(base, directory, 1)?];
    for (number, (prefix, wanted)) in (2..).zip(halves) {
        let tar = directory.join("half.part");
        half(base, &tar, prefix, wanted)?;
        layers.push(blob(&tar, directory, number)?);
        std::fs::remove_file(&tar)?;
    }
    archive(part, "plywood.example/three:1", &layers)
}

fn half(base: &Path, out: &Path, prefix: &str, wanted: fn(&str) -> bool) -> Result<()> {
    let doing = || format!("cannot take apart {}", base.display());
    let mut tar = tar::Archive::new(BufReader::new(File::open(base).with_context(doing)?));
    let mut builder = tar::Builder::new(BufWriter::new(File::create(out).with_context(doing)?));
    for entry in tar.entries().with_context(doing)? {
        let mut entry = entry.with_context(doing)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if !wanted(&name) {
            continue;
        }
        let moved = |name: &str| format!("{prefix}/{}", name.trim_start_matches("./"));
        let mut header = entry.header().clone();
        match entry.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned()) {
            Some(link) if header.entry_type() == tar::EntryType::Link => {
                // A link out of this half would have no target.
                if wanted(&link) {
                    builder.append_link(&mut header, moved(&name), moved(&link))?;
                }
            }
            Some(link) => builder.append_link(&mut header, moved(&name), link)?,
            None => builder.append_data(&mut header, moved(&name), &mut entry)?,
        }
    }
    builder.into_inner().and_then(|mut out| out.flush()).with_context(doing)
}

/// A layer of one file. It deflates to almost nothing; what an import does with it does not depend on that.
fn huge(directory: &Path, part: &Path) -> Result<()> {
    let tar = directory.join("huge.part");
    let mut layer = LayerTar::create(&tar)?;
    let size = 4 << 30;
    layer.stream("huge", 0o644, size, std::io::repeat(0).take(size))?;
    layer.finish()?;
    filter(&["gzip", "-1", "-n", "-c"], &tar, part)?;
    std::fs::remove_file(&tar).with_context(|| format!("cannot remove {}", tar.display()))
}

/// Small layers, each with a few files of its own and one that the next replaces.
fn deep(directory: &Path, part: &Path) -> Result<()> {
    let tar = directory.join("deep-layer.part");
    let mut layers = Vec::new();
    for number in 0..DEPTH {
        let mut layer = LayerTar::create(&tar)?;
        layer.file("top", 0o644, format!("{number}\n").as_bytes())?;
        for file in 0..8 {
            let text = format!("layer {number} file {file}\n").repeat(20);
            layer.file(&format!("of/{number:03}/{file}"), 0o644, text.as_bytes())?;
        }
        layer.finish()?;
        layers.push(blob(&tar, directory, 1000 + number)?);
    }
    std::fs::remove_file(&tar)?;
    archive(part, "plywood.example/deep:1", &layers)
}

fn blob(tar: &Path, directory: &Path, number: usize) -> Result<Layer> {
    oci_layout::pack_layer(tar, &directory.join(format!("blob-{number}.part")), Compression::Gzip)
}

fn archive(part: &Path, reference: &str, layers: &[Layer]) -> Result<()> {
    let config = json!({ "Cmd": ["/bin/true"] });
    oci_layout::write_archive(part, reference, layers, &config, "2025-01-01T00:00:00Z")?;
    for layer in layers {
        std::fs::remove_file(&layer.path)
            .with_context(|| format!("cannot remove {}", layer.path.display()))?;
    }
    Ok(())
}
