//! A run in named stages, with a table of results and times at its end.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Stages run so far.
#[derive(Default)]
pub(crate) struct Stages {
    rows: Vec<Row>,
}

struct Row {
    name: String,
    took: Duration,
    failure: Option<String>,
}

impl Stages {
    /// Runs one stage. A failure is kept for the table, so that one run shows everything that is wrong.
    pub(crate) fn run(&mut self, name: &str, stage: impl FnOnce() -> Result<()>) {
        println!("\n== {name}");
        let start = Instant::now();
        let failure = stage().err().map(|error| format!("{error:#}"));
        if let Some(line) = failure.as_deref().and_then(|failure| failure.lines().next()) {
            eprintln!("error: {line}");
        }
        self.rows.push(Row { name: name.to_owned(), took: start.elapsed(), failure });
    }

    /// Prints what failed and the table; an error when a stage failed.
    pub(crate) fn finish(self) -> Result<()> {
        for row in &self.rows {
            if let Some(failure) = &row.failure {
                println!("\n== {} failed\n{failure}", row.name);
            }
        }
        let width = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
        println!();
        for row in &self.rows {
            let result = if row.failure.is_some() { "FAILED" } else { "ok" };
            println!("{:width$}  {:>7.1} s  {result}", row.name, row.took.as_secs_f64());
        }
        let total: Duration = self.rows.iter().map(|row| row.took).sum();
        println!("{:width$}  {:>7.1} s", "total", total.as_secs_f64());
        let failed = self.rows.iter().filter(|row| row.failure.is_some()).count();
        if failed > 0 {
            bail!("{failed} of {} stages failed", self.rows.len());
        }
        Ok(())
    }
}
