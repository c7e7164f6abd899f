//! Rows that need daemons: measured by a second xtask in namespaces of its own, so that nothing stays mounted or
//! running, and each version of containerd finds the same empty `/run`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::measure::{Series, empty};
use super::{Bench, calls, containers};
use crate::containerd::Version;
use crate::namespace;

/// What is measured in one go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Inside {
    /// Calls of the snapshots service, without containerd
    Calls,
    /// The daemon's memory
    Daemon,
    /// Starting containers
    Starts,
    /// Unpacking and removing under containerd 1.7
    #[value(name = "1.7")]
    V1_7,
    /// The same under containerd 2.1
    #[value(name = "2.1")]
    V2_1,
}

impl Inside {
    fn name(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::Daemon => "daemon",
            Self::Starts => "starts",
            Self::V1_7 => "1.7",
            Self::V2_1 => "2.1",
        }
    }
}

/// Measures inside; the series by the name of what they measure.
pub(super) fn enter(bench: &Bench, what: Inside) -> Result<Measured> {
    empty(&bench.work)?;
    let answer = bench.work.with_file_name("inside.json");
    let runs = bench.runs.to_string();
    let words = ["bench", "--as-built", "--inside", what.name(), "--runs", &runs, "--data"];
    let mut words: Vec<_> = words.iter().map(|word| (*word).into()).collect();
    words.push(bench.data.directory.clone().into());
    namespace::enter(words)?;
    let text = std::fs::read(&answer).context("the measurement has left no result")?;
    Ok(Measured(serde_json::from_slice(&text).context("the measurement's result is not JSON")?))
}

/// The other side of [`enter`].
pub(super) fn inside(bench: &Bench, what: Inside) -> Result<()> {
    let measured = match what {
        Inside::Calls => calls::calls(bench)?,
        Inside::Daemon => calls::daemon(bench)?,
        Inside::Starts => containers::measure_starts(bench)?,
        Inside::V1_7 => containers::measure(bench, Version::V1_7)?,
        Inside::V2_1 => containers::measure(bench, Version::V2_1)?,
    };
    let answer: PathBuf = bench.work.with_file_name("inside.json");
    write(&answer, &measured)
}

fn write(path: &Path, measured: &[(&str, Vec<Series>)]) -> Result<()> {
    let mut object = serde_json::Map::new();
    for (name, series) in measured {
        let series = series.iter().map(|one| json!({ "name": one.name, "values": one.values }));
        object.insert((*name).to_owned(), series.collect());
    }
    let text = Value::Object(object).to_string();
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// What came out.
#[derive(Debug)]
pub(super) struct Measured(pub(super) Value);

impl Measured {
    /// The series of one measurement.
    pub(super) fn series(&self, name: &str) -> Result<Vec<Series>> {
        let missing = || format!("the measurement has no {name}");
        let list = self.0[name].as_array().with_context(missing)?;
        list.iter()
            .map(|one| {
                let values = one["values"].as_array().with_context(missing)?;
                Ok(Series {
                    name: one["name"].as_str().with_context(missing)?.to_owned(),
                    values: values.iter().filter_map(Value::as_f64).collect(),
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_come_back() {
        let file = std::env::temp_dir().join(format!("plywood-bench-{}", std::process::id()));
        let series = Series { name: "ours".to_owned(), values: vec![1.0, 2.5] };
        write(&file, &[("start", vec![series])]).unwrap();
        let measured = Measured(serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap());
        std::fs::remove_file(&file).unwrap();
        let series = measured.series("start").unwrap();
        assert_eq!((series[0].name.as_str(), &series[0].values[..]), ("ours", &[1.0, 2.5][..]));
        assert!(measured.series("else").is_err());
    }
}
