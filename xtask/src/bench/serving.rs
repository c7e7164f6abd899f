//! Rows about giving containers their root filesystems.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Bench;
use super::data::DEPTH;
use super::measure::{Contender, Series, drop_caches, empty, silently, take_turns};
use super::peers::Containerd;
use super::report::Row;
use crate::program;

const IMAGE: &str = "bench:1";

/// Mounting one image, against the bare system call.
pub(super) fn mount(bench: &Bench) -> Result<Row> {
    empty(&bench.work)?;
    let image = bench.work.join("image.erofs");
    let mut mkfs = Command::new(&bench.mkfs_erofs);
    silently(mkfs.args(["--quiet", "--tar=f"]).arg(&image).arg(&bench.data.base))?;
    let mut probe = Command::new(&bench.probe);
    probe.arg("mount").arg(&image).arg(bench.work.join("target")).arg("500");
    let series = answers(
        bench,
        &mut probe,
        &[
            ("plywood's mount crate", "image"),
            ("mount(2) in a loop", "bare"),
            ("plywood, journaled", "journal"),
        ],
    )?;
    let mut row = Row {
        id: "mount",
        same_work: true,
        title: "Mount, stat and unmount one image".to_owned(),
        unit: "µs",
        series,
        bar: "at most 1.1 × a bare `mount(2)` loop",
        verdict: None,
        note: "500 rounds a run in which the three take turns, one process, the same image of 890 MB; the median of the \
               rounds is a run's value. The journaled form is what a command does: \
               it also takes the journal's lock and writes down what it is about to do and what it did."
            .to_owned(),
    };
    row.judge_ratio(1.1);
    Ok(row)
}

/// The root filesystem of an image with as many layers as Docker allows, nearly.
pub(super) fn rootfs(bench: &Bench) -> Result<Row> {
    const CASES: [(&str, &str); 4] = [
        ("cold: no volume is mounted", "cold"),
        ("warm: all volumes are", "warm"),
        ("cold, with store and new snapshot", "cold_all"),
        ("warm, with store and new snapshot", "warm_all"),
    ];
    fresh_import(bench, &bench.data.deep)?;
    let mut probe = Command::new(&bench.probe);
    probe.arg("rootfs").arg(bench.work.join("root")).arg(bench.work.join("run"));
    probe.arg(IMAGE).arg(bench.work.join("target"));
    let series = answers(bench, &mut probe, &CASES)?;
    let (cold, warm) = (series[0].median(), series[1].median());
    Ok(Row {
        id: "rootfs",
        same_work: false,
        title: format!("Root filesystem of {DEPTH} layers"),
        unit: "ms",
        series,
        bar: "ready under 100 ms cold, under 5 ms with its volumes mounted",
        verdict: Some((cold < 100.0 && warm < 5.0, format!("{cold:.1} ms cold, {warm:.2} ms warm"))),
        note: "In one process: from a prepared snapshot to the mounted overlay, opening and writing the journal \
               included; cold is also after drop_caches. The last two begin with opening the store and preparing the \
               snapshot, which waits for the disk to make it durable."
            .to_owned(),
    })
}

/// What a second root filesystem on the same image adds to the page cache and to the volumes.
pub(super) fn second(bench: &Bench) -> Result<Row> {
    fresh_import(bench, &bench.data.base)?;
    let targets = ["first", "second"].map(|name| bench.work.join(name));
    let mut series = ["second", "first"]
        .map(|name| Series { name: format!("{name} root filesystem"), values: Vec::new() });
    let mut volumes_added = 0;
    for run in 0..bench.runs {
        drop_caches()?;
        let mut volumes = Vec::new();
        let mut missing = Vec::new();
        for target in &targets {
            std::fs::create_dir_all(target)?;
            let directory = target.to_str().context("the data's path is not UTF-8")?;
            silently(&mut bench.plywood(&["mount", "--rw", IMAGE, directory]))?;
            let list = program::output(&mut bench.plywood(&["--format", "json", "mount", "ls"]))?;
            volumes.push(list.lines().filter(|line| line.contains(r#""kind":"volume""#)).count());
            missing.push(number(Command::new(&bench.probe).arg("not-cached").arg(target))? / 1e6);
            silently(Command::new(&bench.probe).arg("read-tree").arg(target))?;
        }
        for target in &targets {
            let directory = target.to_str().context("the data's path is not UTF-8")?;
            silently(&mut bench.plywood(&["umount", directory]))?;
        }
        println!("  {:>2}/{} to read: {missing:?} MB, volumes: {volumes:?}", run + 1, bench.runs);
        ensure!(volumes[0] > 0, "the first root filesystem has no volume");
        volumes_added = volumes_added.max(volumes[1] - volumes[0]);
        series[0].values.push(missing[1]);
        series[1].values.push(missing[0]);
    }
    let most = series[0].maximum();
    Ok(Row {
        id: "second",
        same_work: false,
        title: "Page cache that a second container must fill".to_owned(),
        unit: "MB",
        series: series.into(),
        bar: "+0 volumes, +0 page cache for the same reads",
        verdict: Some((
            most == 0.0 && volumes_added == 0,
            format!("+{volumes_added} volumes, +{most} MB"),
        )),
        note: "Two writable root filesystems on one image, one after the other; the whole tree is read in each. \
               What mincore says is not in the page cache before a root filesystem's first read."
            .to_owned(),
    })
}

/// Snapshots through the libraries and through containerd's socket.
pub(super) fn snapshots(bench: &Bench) -> Result<Row> {
    const SECONDS: &str = "3";
    fresh_import(bench, &bench.data.deep)?;
    let containerd = Containerd::start(&bench.containerd, &bench.work.join("containerd"))?;
    let mut import = containerd.ctr(&["image", "import", "--snapshotter", "overlayfs"]);
    silently(import.arg(&bench.data.deep))?;
    let list = program::output(&mut containerd.ctr(&["snapshots", "ls"]))?;
    let parent = top_of(&list).context("containerd has no snapshot without a child")?;
    let series = take_turns(
        bench.runs,
        vec![
            Contender::new("plywood's store and mount crates", || {
                let mut probe = Command::new(&bench.probe);
                probe.arg("snapshots").arg(bench.work.join("root")).arg(bench.work.join("run"));
                number(probe.args([IMAGE, SECONDS]))
            }),
            Contender::new("containerd's overlayfs, by gRPC", || {
                let mut probe = Command::new(&bench.probe);
                probe.arg("calls").arg(containerd.socket()).args(["overlayfs", "1", SECONDS]);
                let answer = program::output(probe.args(["--parent", &parent]))?;
                let answer: Value = serde_json::from_str(&answer)?;
                // Three calls are a round.
                Ok(answer["rate"].as_f64().context("no `rate`")? / 3.0)
            }),
        ],
    )?;
    let ratio = series[0].median() / series[1].median();
    Ok(Row {
        id: "snapshots",
        same_work: true,
        title: "Prepare, mounts and remove".to_owned(),
        unit: "rounds/s",
        series,
        bar: "beside containerd's overlayfs snapshotter over its socket",
        verdict: None,
        note: format!(
            "One caller, on an image of {DEPTH} layers; {ratio:.2} × containerd's rate. Ours is a library call and \
             containerd's a gRPC round trip through its metadata layer, so this compares what a caller gets, not \
             equal work. Both are durable."
        ),
    })
}

/// Runs a probe that answers with an object of numbers, each time without anything cached.
pub(super) fn answers(
    bench: &Bench,
    probe: &mut Command,
    names: &[(&str, &str)],
) -> Result<Vec<Series>> {
    let mut series: Vec<Series> = names
        .iter()
        .map(|(name, _)| Series { name: (*name).to_owned(), values: Vec::new() })
        .collect();
    for run in 0..bench.runs {
        drop_caches()?;
        let answer: Value = serde_json::from_str(&program::output(probe)?)?;
        for (series, (name, key)) in series.iter_mut().zip(names) {
            let value = answer[key].as_f64().with_context(|| format!("no `{key}`"))?;
            println!("  {:>2}/{} {name:<40} {value:.3}", run + 1, bench.runs);
            series.values.push(value);
        }
    }
    Ok(series)
}

/// A store with one image in it.
fn fresh_import(bench: &Bench, archive: &Path) -> Result<()> {
    empty(&bench.work)?;
    let archive = archive.to_str().context("the data's path is not UTF-8")?;
    silently(&mut bench.plywood(&["image", "import", "--ref", IMAGE, archive])).map(drop)
}

/// The snapshot that no other has as its parent. Lines are `KEY [PARENT] KIND`.
fn top_of(list: &str) -> Option<String> {
    let rows: Vec<Vec<&str>> =
        list.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    let parents: Vec<&str> = rows.iter().filter(|row| row.len() == 3).map(|row| row[1]).collect();
    let top = rows.iter().filter_map(|row| row.first()).find(|key| !parents.contains(key))?;
    Some((*top).to_owned())
}

fn number(command: &mut Command) -> Result<f64> {
    let text = program::output(command)?;
    text.trim().parse().with_context(|| format!("`{}` is no number", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::top_of;

    #[test]
    fn the_top_snapshot_is_nobodys_parent() {
        let list = "KEY PARENT KIND\nb a Committed\na  Committed\nc b Committed\n";
        assert_eq!(top_of(list).as_deref(), Some("c"));
        assert_eq!(top_of("KEY PARENT KIND\n"), None);
    }
}
