//! Rows about getting a layer or an image in.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::Bench;
use super::measure::{Contender, Series, durable, empty, peak_memory, silently, take_turns, warm};
use super::peers::Containerd;
use super::report::Row;

/// The plain tar, durable and with both digests, against tools that do less.
pub(super) fn tar(bench: &Bench) -> Result<Row> {
    warm(&bench.data.base)?;
    let work = &bench.work;
    let image = work.join("image");
    let fresh = || empty(work);
    let mkfs = |kind: &'static str| {
        let image = image.clone();
        move || {
            fresh()?;
            let mut command = Command::new(&bench.mkfs_erofs);
            command.args(["--quiet", kind]).arg(&image).arg(&bench.data.base);
            durable(&mut command, work)
        }
    };
    let series = take_turns(
        bench.runs,
        vec![
            Contender::new("plywood image import", || import(bench, &bench.data.base)),
            Contender::new("mkfs.erofs --tar=f", mkfs("--tar=f")),
            Contender::new("mkfs.erofs --tar=i (index only)", mkfs("--tar=i")),
            Contender::new("tar x", || {
                fresh()?;
                let mut command = Command::new("tar");
                command.args(["--xattrs", "--xattrs-include=*", "-xpf"]).arg(&bench.data.base);
                durable(command.arg("-C").arg(work), work)
            }),
            Contender::new("sqfstar, uncompressed", || {
                fresh()?;
                let mut command = Command::new("sqfstar");
                command.args(["-quiet", "-no-progress", "-noD", "-noI", "-noF", "-noX"]);
                command.arg(&image).stdin(std::fs::File::open(&bench.data.base)?);
                durable_with_input(&mut command, work)
            }),
        ],
    )?;
    let mut row = Row {
        id: "import-tar",
        same_work: true,
        title: "Import of a plain layer tar".to_owned(),
        unit: "s",
        series,
        bar: "no slower than `mkfs.erofs --tar=f` + syncfs",
        verdict: None,
        note:
            "890 MB, 18,000 entries; all followed by syncfs. Only ours computes and checks digests."
                .to_owned(),
    };
    row.judge_ratio(1.0);
    Ok(row)
}

/// The gzip layer against inflating it and nothing else.
pub(super) fn gzip(bench: &Bench) -> Result<Row> {
    warm(&bench.data.base_gzip)?;
    warm(&bench.data.base_zstd)?;
    let inflate = || {
        let mut command = Command::new(&bench.probe);
        Ok(silently(command.arg("inflate").arg(&bench.data.base_gzip))?.as_secs_f64())
    };
    let series = take_turns(
        bench.runs,
        vec![
            Contender::new("plywood image import, gzip", || import(bench, &bench.data.base_gzip)),
            Contender::new("inflating only, same inflater", inflate),
            Contender::new("plywood image import, zstd", || import(bench, &bench.data.base_zstd)),
        ],
    )?;
    let mut row = Row {
        id: "import-gzip",
        same_work: true,
        title: "Import of a gzip layer".to_owned(),
        unit: "s",
        series,
        bar: "at most 1.15 × inflating it on one core",
        verdict: None,
        note: "The same layer, `gzip -6`; the import is durable. zstd for comparison.".to_owned(),
    };
    row.judge_ratio(1.15);
    Ok(row)
}

/// Three gzip layers against containerd's overlayfs unpack.
pub(super) fn image(bench: &Bench) -> Result<Row> {
    let archive = &bench.data.three_layers;
    warm(archive)?;
    let series = take_turns(
        bench.runs,
        vec![
            Contender::new("plywood image import", || import_archive(bench, archive)),
            Contender::new("ctr image import (overlayfs)", || {
                empty(&bench.work)?;
                let containerd =
                    Containerd::start(&bench.containerd, &bench.work.join("containerd"))?;
                let mut import = containerd.ctr(&["image", "import", "--snapshotter", "overlayfs"]);
                durable(import.arg(archive), &bench.work)
            }),
        ],
    )?;
    let ratio = series[1].median() / series[0].median();
    let best = series[1].minimum() / series[0].maximum();
    Ok(Row {
        id: "import-image",
        same_work: true,
        title: "Import of a three-layer gzip image".to_owned(),
        unit: "s",
        series,
        bar: "at least 4 × faster than containerd's overlayfs unpack",
        verdict: Some((ratio >= 4.0, format!("{ratio:.2} × faster; its best against our worst: {best:.2} ×"))),
        note: "1.8 GB uncompressed, one OCI archive; both are followed by syncfs. containerd also copies the \
               blobs into its content store, which `ctr image import` cannot leave out."
            .to_owned(),
    })
}

/// Peak memory of every kind of import.
pub(super) fn memory(bench: &Bench) -> Result<Row> {
    let data = &bench.data;
    let cases: [(&str, &Path); 6] = [
        ("890 MB layer, plain", &data.base),
        ("890 MB layer, gzip", &data.base_gzip),
        ("890 MB layer, zstd", &data.base_zstd),
        ("170 MB layer, gzip", &data.small_gzip),
        ("4 GiB layer of one file, gzip", &data.huge_gzip),
        ("image of three gzip layers", &data.three_layers),
    ];
    let contenders = cases
        .iter()
        .map(|(name, source)| {
            Contender::new(*name, move || {
                empty(&bench.work)?;
                peak_memory(&import_command(bench, source)?)
            })
        })
        .collect();
    let series = take_turns(bench.runs, contenders)?;
    let most = series.iter().map(Series::maximum).fold(0.0, f64::max);
    let growth = series[4].median() / series[3].median();
    Ok(Row {
        id: "memory",
        same_work: false,
        title: "Peak memory of an import".to_owned(),
        unit: "MiB",
        series,
        bar: "under 200 MiB, flat in the layer's size",
        verdict: Some((
            most < 200.0 && growth < 1.25,
            format!("{most:.0} MiB at most; × {growth:.2} for a layer of 25 times the size"),
        )),
        note: "Maximum resident set as wait4 reports it. Memory grows with the number of entries (the 890 MB layer has \
               18,000, the 170 MB one 9,000), not with their size; layers of an image convert at the same time."
            .to_owned(),
    })
}

fn import(bench: &Bench, source: &Path) -> Result<f64> {
    empty(&bench.work)?;
    durable(&mut import_command(bench, source)?, &bench.work)
}

fn import_archive(bench: &Bench, source: &Path) -> Result<f64> {
    import(bench, source)
}

fn import_command(bench: &Bench, source: &Path) -> Result<Command> {
    let source = source.to_str().context("the data's path is not UTF-8")?;
    Ok(bench.plywood(&["image", "import", "--ref", "bench:1", source]))
}

/// As [`durable`], for a command that reads the tar from standard input.
fn durable_with_input(command: &mut Command, work: &Path) -> Result<f64> {
    let filesystem = std::fs::File::open(work)?;
    rustix::fs::syncfs(&filesystem)?;
    let start = std::time::Instant::now();
    // sqfstar names every entry that it does not keep.
    let null = std::process::Stdio::null;
    let status = command.stdout(null()).stderr(null()).status()?;
    anyhow::ensure!(status.success(), "it ended with {status}");
    rustix::fs::syncfs(&filesystem)?;
    Ok(start.elapsed().as_secs_f64())
}
