//! Measuring: contenders take turns, medians are compared.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::program;

/// One thing that is measured against others.
pub(crate) struct Contender<'a> {
    name: String,
    run: Box<dyn FnMut() -> Result<f64> + 'a>,
}

impl<'a> Contender<'a> {
    /// `run` returns what it measured, in the row's unit; what it does to prepare and clean up is not in it.
    pub(crate) fn new(name: impl Into<String>, run: impl FnMut() -> Result<f64> + 'a) -> Self {
        Self { name: name.into(), run: Box::new(run) }
    }
}

/// All values of one contender.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    /// The contender's name.
    pub(crate) name: String,
    /// In the order of the runs.
    pub(crate) values: Vec<f64>,
}

impl Series {
    pub(crate) fn median(&self) -> f64 {
        let sorted = self.sorted();
        match sorted.len() {
            0 => f64::NAN,
            length if length % 2 == 1 => sorted[length / 2],
            length => (sorted[length / 2 - 1] + sorted[length / 2]) / 2.0,
        }
    }

    pub(crate) fn minimum(&self) -> f64 {
        self.sorted().first().copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn maximum(&self) -> f64 {
        self.sorted().last().copied().unwrap_or(f64::NAN)
    }

    /// These values divided by another's of the same turn.
    pub(crate) fn ratios(&self, other: &Self) -> Self {
        let values = self.values.iter().zip(&other.values).map(|(one, other)| one / other);
        Self { name: format!("{} / {}", self.name, other.name), values: values.collect() }
    }

    /// Where the median of all that could be measured lies, at 95 %: between values so far from the middle that as many
    /// tosses of a coin would hardly end there (the sign test's interval).
    pub(crate) fn interval(&self) -> (f64, f64) {
        let sorted = self.sorted();
        let count = sorted.len() as f64;
        let off = ((count - 1.96 * count.sqrt()) / 2.0).floor().max(0.0) as usize;
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        (at(off), at(sorted.len().saturating_sub(1 + off)))
    }

    /// Whether something else than the contender decided the values.
    pub(crate) fn is_uneven(&self) -> bool {
        self.maximum() > 1.5 * self.minimum()
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

/// Runs all contenders `runs` times. Each round starts with another one, so that none always follows the same.
pub(crate) fn take_turns(runs: usize, mut contenders: Vec<Contender<'_>>) -> Result<Vec<Series>> {
    let count = contenders.len();
    let mut series: Vec<Series> = contenders
        .iter()
        .map(|contender| Series { name: contender.name.clone(), values: Vec::new() })
        .collect();
    for round in 0..runs {
        for turn in 0..count {
            let index = (round + turn) % count;
            let contender = &mut contenders[index];
            let value = (contender.run)().with_context(|| contender.name.clone())?;
            println!("  {:>2}/{runs} {:<40} {value:.4}", round + 1, contender.name);
            series[index].values.push(value);
        }
    }
    Ok(series)
}

/// Seconds of the command and of making its writes in `directory`'s filesystem durable.
pub(crate) fn durable(command: &mut Command, directory: &Path) -> Result<f64> {
    let filesystem =
        File::open(directory).with_context(|| format!("cannot open {}", directory.display()))?;
    // What earlier runs left dirty is theirs to pay for.
    rustix::fs::syncfs(&filesystem)?;
    let start = Instant::now();
    silently(command)?;
    rustix::fs::syncfs(&filesystem)?;
    Ok(start.elapsed().as_secs_f64())
}

/// Runs a command whose output matters only when it fails.
pub(crate) fn silently(command: &mut Command) -> Result<Duration> {
    let start = Instant::now();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", program::command_line(command)))?;
    if !output.status.success() {
        bail!(
            "`{}` ended with {}: {}",
            program::command_line(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(start.elapsed())
}

/// Peak resident memory of a command in MiB, as wait4 reports it to time(1).
pub(crate) fn peak_memory(command: &Command) -> Result<f64> {
    let mut timed = Command::new("/usr/bin/time");
    timed.args(["-f", "%M", "--"]).arg(command.get_program()).args(command.get_args());
    let output = timed.output().context("cannot start time(1)")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("`{}` failed: {}", program::command_line(command), errors.trim());
    }
    let kilobytes: f64 = errors
        .lines()
        .last()
        .and_then(|line| line.trim().parse().ok())
        .with_context(|| format!("time(1) said {errors:?}"))?;
    Ok(kilobytes / 1024.0)
}

/// Reads a file once, so that no contender pays for the disk.
pub(crate) fn warm(path: &Path) -> Result<()> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    std::io::copy(&mut file, &mut std::io::sink())
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(())
}

/// Forgets all clean pages, directory entries and inodes.
pub(crate) fn drop_caches() -> Result<()> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("cannot drop the page cache")
}

/// Makes an empty directory of whatever is there.
pub(crate) fn empty(directory: &Path) -> Result<()> {
    if directory.exists() {
        std::fs::remove_dir_all(directory)
            .with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        let series = |values: &[f64]| Series { name: String::new(), values: values.to_vec() };
        assert_eq!(series(&[3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(series(&[4.0, 1.0, 2.0, 3.0]).median(), 2.5);
    }

    #[test]
    fn the_interval_narrows_with_more_values() {
        let series = |count: u32| Series {
            name: String::new(),
            values: (1..=count).map(f64::from).collect(),
        };
        assert_eq!(series(3).interval(), (1.0, 3.0));
        // Of a hundred, the 41st and the 60th.
        assert_eq!(series(100).interval(), (41.0, 60.0));
        let ratios = series(3).ratios(&Series { values: vec![2.0, 2.0, 2.0], ..series(0) });
        assert_eq!(ratios.values, [0.5, 1.0, 1.5]);
    }

    #[test]
    fn every_contender_has_every_run_and_the_first_changes() {
        let order = std::cell::RefCell::new(Vec::new());
        let contender = |name: &'static str| {
            let order = &order;
            Contender::new(name, move || {
                order.borrow_mut().push(name);
                Ok(1.0)
            })
        };
        let series = take_turns(2, vec![contender("a"), contender("b")]).unwrap();
        assert!(series.iter().all(|series| series.values.len() == 2));
        assert_eq!(*order.borrow(), ["a", "b", "b", "a"]);
    }
}
