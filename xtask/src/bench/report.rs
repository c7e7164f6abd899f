//! The report: one table a row of the benchmark, the machine, and a plot each.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::measure::Series;
use super::svg::{bars, short};
use crate::{program, workspace};

/// One question that the benchmark answers.
#[derive(Debug)]
pub(crate) struct Row {
    /// Names the plot's file and `--only`.
    pub(crate) id: &'static str,
    /// What is measured.
    pub(crate) title: String,
    /// The values' unit.
    pub(crate) unit: &'static str,
    /// Ours first.
    pub(crate) series: Vec<Series>,
    /// What was asked for.
    pub(crate) bar: &'static str,
    /// Whether it is met, and the figure that says so. `None` where the row is for comparison only.
    pub(crate) verdict: Option<(bool, String)>,
    /// Whether the series do the same thing, so that a ratio means something.
    pub(crate) same_work: bool,
    /// How it was measured, where the title does not say.
    pub(crate) note: String,
}

impl Row {
    /// Ours against the second series: `limit` is the greatest ratio that meets the bar.
    pub(crate) fn judge_ratio(&mut self, limit: f64) {
        let ratio = self.series[0].median() / self.series[1].median();
        self.verdict = Some((ratio <= limit, format!("{ratio:.2} of {}", self.series[1].name)));
    }
}

/// What is the same for all rows.
pub(crate) struct Circumstances {
    /// The command that made the report.
    pub(crate) command: String,
    /// Runs of every contender.
    pub(crate) runs: usize,
    /// SHA-256 of the big tar.
    pub(crate) data_digest: String,
    /// Names and versions of the peers.
    pub(crate) versions: Vec<String>,
}

/// Writes `docs/benchmarks.md` and `docs/benchmarks/*.svg`.
pub(crate) fn write(rows: &[Row], circumstances: &Circumstances) -> Result<()> {
    let docs = workspace::root().join("docs");
    let plots = docs.join("benchmarks");
    std::fs::create_dir_all(&plots)
        .with_context(|| format!("cannot create {}", plots.display()))?;
    let put = |path: &Path, text: &str| {
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    for row in rows {
        put(&plots.join(format!("{}.svg", row.id)), &bars(&row.title, row.unit, &row.series))?;
    }
    put(&docs.join("benchmarks.md"), &markdown(rows, circumstances))?;
    println!("wrote {}", docs.join("benchmarks.md").display());
    Ok(())
}

fn markdown(rows: &[Row], circumstances: &Circumstances) -> String {
    let mut text = String::from("# Benchmarks\n\n");
    // Writing to a String cannot fail.
    _ = writeln!(
        text,
        "Written by `{}`; every figure is the median of {} runs in which the contenders took turns.\n\
         Data: a tar of Debian packages, SHA-256 `{}`.\n",
        circumstances.command, circumstances.runs, circumstances.data_digest
    );
    for line in machine().iter().chain(&circumstances.versions) {
        _ = writeln!(text, "- {line}");
    }
    text.push_str("\n| what | bar | measured | met |\n| --- | --- | --- | --- |\n");
    for row in rows {
        let (measured, met) = match &row.verdict {
            Some((met, measured)) => (measured.as_str(), if *met { "yes" } else { "**no**" }),
            None => ("see below", "–"),
        };
        _ = writeln!(text, "| [{}](#{}) | {} | {measured} | {met} |", row.title, row.id, row.bar);
    }
    for row in rows {
        _ = writeln!(text, "\n<a id=\"{}\"></a>\n\n## {}\n", row.id, row.title);
        if !row.note.is_empty() {
            _ = writeln!(text, "{}\n", row.note);
        }
        let unit = row.unit;
        _ = writeln!(
            text,
            "| | median {unit} | least | most | ours is |\n| --- | --- | --- | --- | --- |"
        );
        let ours = row.series[0].median();
        for (index, series) in row.series.iter().enumerate() {
            let ratio = match index {
                0 => String::new(),
                _ if !row.same_work || series.median() == 0.0 => String::new(),
                _ => format!("{:.2} ×", ours / series.median()),
            };
            _ = writeln!(
                text,
                "| {} | {} | {} | {} | {ratio} |",
                series.name,
                short(series.median()),
                short(series.minimum()),
                short(series.maximum()),
            );
        }
        for series in row.series.iter().filter(|series| series.is_uneven()) {
            _ = writeln!(
                text,
                "\nUneven: {} varied from {} to {} {unit} between rounds; its median says little.",
                series.name,
                short(series.minimum()),
                short(series.maximum())
            );
        }
        _ = writeln!(text, "\n![{}](benchmarks/{}.svg)", row.title, row.id);
    }
    text
}

fn machine() -> Vec<String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let (cpu, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let model = field(&cpu, "model name").unwrap_or_else(|| "unknown processor".to_owned());
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let kibibytes: u64 = field(&memory, "MemTotal")
        .and_then(|value| value.split_whitespace().next()?.parse().ok())
        .unwrap_or(0);
    let release = read("/proc/sys/kernel/osrelease");
    vec![
        format!("machine: {model}, {cores} cores, {} GiB", (kibibytes + (1 << 19)) >> 20),
        format!("kernel: {}", release.trim()),
        format!("load when the report was written: {}", read("/proc/loadavg").trim()),
    ]
}

/// The first line of what a program says of its version.
pub(crate) fn version(command: &mut Command) -> String {
    let line = command.output().ok().and_then(|output| {
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).lines().next().map(|line| line.trim().to_owned())
    });
    line.unwrap_or_else(|| format!("{}: no version", program::command_line(command)))
}
