//! Rows about CIMs: Windows layers on a host that is none.

use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Bench;
use super::measure::{Series, drop_caches, empty};
use super::report::Row;
use super::serving::answers;
use crate::program;

/// Opening an image of very many files and looking at one of them.
pub(super) fn open(bench: &Bench) -> Result<Row> {
    let many = &bench.many;
    let mut probe = Command::new(&bench.probe);
    probe.arg("open-cim").arg(&many.directory).args([many.name, &many.path]);
    let mut series = answers(
        bench,
        &mut probe,
        &[("plywood, page cache empty", "microseconds"), ("memory", "grown")],
    )?;
    let memory = series.remove(1).maximum();
    let time = series[0].maximum() / 1e3;
    Ok(Row {
        id: "cim-open",
        same_work: false,
        title: format!("Open a CIM of {} files and stat one path", many.count),
        unit: "µs",
        series,
        bar: "under 1 ms, under 5 MiB of memory",
        verdict: Some((
            time < 1.0 && memory < 5.0 * 1024.0,
            format!("{time:.2} ms and {memory:.0} KiB at most"),
        )),
        note: "In one process, after drop_caches: opening, a lookup without regard to case over five directories, metadata \
               and security descriptor. The memory is by how much the process's peak grew."
            .to_owned(),
    })
}

/// The EROFS view of an image of very many files.
pub(super) fn view(bench: &Bench) -> Result<Row> {
    let many = &bench.many;
    let mut series = vec![
        Series { name: "plywood, made".to_owned(), values: Vec::new() },
        Series { name: "plywood, found again".to_owned(), values: Vec::new() },
    ];
    let cache = bench.work.join("views");
    for run in 0..bench.runs {
        empty(&cache)?;
        drop_caches()?;
        let mut probe = Command::new(&bench.probe);
        probe.arg("view-cim").arg(&many.directory).arg(many.name).arg(&cache);
        let answer: Value = serde_json::from_str(&program::output(&mut probe)?)?;
        for (series, key) in series.iter_mut().zip(["made", "found"]) {
            let value = answer[key].as_f64().with_context(|| format!("no `{key}`"))?;
            println!("  {:>2}/{} {:<40} {value:.2}", run + 1, bench.runs, series.name);
            series.values.push(value);
        }
    }
    let (made, found) = (series[0].median(), series[1].median());
    Ok(Row {
        id: "cim-view",
        same_work: false,
        title: format!("EROFS view of a CIM of {} files", many.count),
        unit: "ms",
        series,
        bar: "under 1 s; a second mount reuses it",
        verdict: Some((
            made < 1000.0 && found < made / 10.0,
            format!("{made:.0} ms, found again in {found:.1} ms"),
        )),
        note: "In one process, after drop_caches; the view is durable when it is there.".to_owned(),
    })
}

/// A fork that changes ten files of very many.
pub(super) fn fork(bench: &Bench) -> Result<Row> {
    let many = &bench.many;
    let mut probe = Command::new(&bench.probe);
    probe.arg("fork-cim").arg(&many.directory).arg(many.name);
    let mut series =
        answers(bench, &mut probe, &[("plywood, durable", "milliseconds"), ("bytes", "beyond")])?;
    let beyond = series.remove(1).maximum() / 1024.0;
    let time = series[0].median();
    Ok(Row {
        id: "cim-fork",
        same_work: false,
        title: format!("Fork a CIM of {} files with ten files changed", many.count),
        unit: "ms",
        series,
        bar: "under 100 ms and under 1 MiB written beyond the data",
        verdict: Some((
            time < 100.0 && beyond < 1024.0,
            format!("{time:.1} ms and {beyond:.0} KiB beyond the data"),
        )),
        note: "In one process, after drop_caches, the ten files in ten directories; the fork is on the disk when it ends."
            .to_owned(),
    })
}
