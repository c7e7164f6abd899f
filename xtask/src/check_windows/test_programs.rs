//! Test programs under Wine, against the list of what Wine cannot do.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::expectations::{Expectation, FAILS_UNDER_WINE};
use super::wine::Wine;
use crate::{program, workspace};

/// Longest run of one program; the slowest take a few seconds.
const TIME_LIMIT: Duration = Duration::from_secs(150);

/// One program of tests.
#[derive(Debug)]
pub(super) struct TestProgram {
    /// `CRATE` for the tests beside its code, `CRATE/NAME` for those in its `tests`.
    name: String,
    executable: PathBuf,
    /// Where cargo would run it.
    directory: PathBuf,
}

/// Runs cargo, whose messages must be JSON, and returns the test programs that it made.
pub(super) fn built_by(build: &mut Command) -> Result<Vec<TestProgram>> {
    println!("$ {}", program::command_line(build));
    let start = Instant::now();
    let mut child = build.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let mut programs = Vec::new();
    for line in BufReader::new(child.stdout.take().context("no standard output")?).lines() {
        let line = line.context("cannot read what cargo tells")?;
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        programs.extend(test_program(&message));
    }
    let status = child.wait().context("cannot wait for cargo")?;
    ensure!(status.success(), "`{}` ended with {status}", program::command_line(build));
    programs.sort_by(|left, right| left.name.cmp(&right.name));
    ensure!(!programs.is_empty(), "cargo built no tests");
    println!("lint and link: {:.1} s, {} programs", start.elapsed().as_secs_f64(), programs.len());
    Ok(programs)
}

/// The program of a `compiler-artifact` message, if it is one of tests.
fn test_program(message: &Value) -> Option<TestProgram> {
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let executable = PathBuf::from(message["executable"].as_str()?);
    let directory = Path::new(message["manifest_path"].as_str()?).parent()?.to_owned();
    let package = directory.file_name()?.to_str()?;
    let name = match message["target"]["kind"][0].as_str()? {
        "test" => format!("{package}/{}", message["target"]["name"].as_str()?),
        "lib" => package.to_owned(),
        other => format!("{package}/{other}-{}", message["target"]["name"].as_str()?),
    };
    Some(TestProgram { name, executable, directory })
}

/// Runs all of them, as many at a time as there are processors. What is not listed must pass, what is listed must be
/// there and fail.
pub(super) fn run(programs: &[TestProgram], wine: &Wine) -> Result<()> {
    let start = Instant::now();
    let mut listed: BTreeMap<&str, Vec<&Expectation>> = BTreeMap::new();
    for expectation in FAILS_UNDER_WINE {
        listed.entry(expectation.program).or_default().push(expectation);
    }
    for program in programs {
        if !listed.contains_key(program.name.as_str()) {
            listed.insert(&program.name, Vec::new());
        }
    }
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(|| {
                while let Some(program) = programs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let expected = listed.get(program.name.as_str()).map_or(&[][..], Vec::as_slice);
                    let outcome = judge(program, expected, wine);
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                }
            });
        }
    });
    let mut faults = Vec::new();
    let mut counts = Counts::default();
    for outcome in outcomes.into_inner().unwrap_or_else(PoisonError::into_inner) {
        let Outcome { name, took, counts: these, faults: new } = outcome?;
        println!("{name}: {} passed, {took:.1?}", these.passed);
        counts.add(&these);
        faults.extend(new);
    }
    for (program, expected) in listed {
        if !programs.iter().any(|it| it.name == program) {
            let count = expected.len();
            faults.push(format!("there is no program {program}, of which {count} are listed"));
        }
    }
    println!(
        "under Wine: {} tests passed, {} failed as listed, {} ignored, {:.1} s",
        counts.passed,
        counts.failed_as_listed,
        counts.ignored,
        start.elapsed().as_secs_f64()
    );
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    Ok(())
}

/// What came of one program.
struct Outcome {
    name: String,
    took: Duration,
    counts: Counts,
    faults: Vec<String>,
}

/// Runs a program without what is listed of it, and then that.
fn judge(program: &TestProgram, expected: &[&Expectation], wine: &Wine) -> Result<Outcome> {
    let start = Instant::now();
    let mut faults = Vec::new();
    let mut counts = Counts::default();
    let mut arguments = vec!["--exact"];
    for expectation in expected {
        arguments.extend(["--skip", expectation.test]);
    }
    let run = execute(program, wine, &arguments)?;
    counts.passed = run.passed;
    counts.ignored = run.ignored;
    if !run.success {
        faults.push(format!("{} under Wine:\n{}", program.name, run.told()));
    }
    for Expectation { test, .. } in expected {
        let run = execute(program, wine, &["--exact", test])?;
        counts.failed_as_listed += 1;
        if run.success && run.passed == 0 {
            faults.push(format!("{}: the list names {test}, which does not exist", program.name));
        } else if run.success {
            faults
                .push(format!("{}: {test} passes under Wine; take it from the list", program.name));
        }
    }
    Ok(Outcome { name: program.name.clone(), took: start.elapsed(), counts, faults })
}

#[derive(Default)]
struct Counts {
    passed: usize,
    ignored: usize,
    failed_as_listed: usize,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.ignored += other.ignored;
        self.failed_as_listed += other.failed_as_listed;
    }
}

/// What one run of a program told.
struct Run {
    success: bool,
    passed: usize,
    ignored: usize,
    text: String,
}

impl Run {
    /// What is worth to be repeated of a failure.
    fn told(&self) -> &str {
        match self.text.find("\nfailures:\n") {
            Some(at) => &self.text[at..],
            None => &self.text,
        }
    }
}

fn execute(program: &TestProgram, wine: &Wine, arguments: &[&str]) -> Result<Run> {
    let mut command = wine.command(&program.executable);
    command
        .args(arguments)
        .current_dir(&program.directory)
        .env("CARGO_MANIFEST_DIR", &program.directory)
        // Snapshots are found without cargo, which Wine cannot run, and never written.
        .env("INSTA_WORKSPACE_ROOT", workspace::root())
        .env("INSTA_UPDATE", "no")
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child =
        command.spawn().with_context(|| format!("cannot start Wine for {}", program.name))?;
    let readers = [child.stdout.take().map(text_of), child.stderr.take().map(text_of)];
    let deadline = Instant::now() + TIME_LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait().context("cannot wait for Wine")? {
            break Some(status);
        }
        if Instant::now() > deadline {
            child.kill().context("cannot end Wine")?;
            child.wait().context("cannot wait for Wine")?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let mut text = String::new();
    for reader in readers.into_iter().flatten() {
        text.push_str(&reader.join().unwrap_or_default());
    }
    if status.is_none() {
        text.push_str(&format!("\nended after {} s\n", TIME_LIMIT.as_secs()));
    }
    let (mut passed, mut ignored) = (0, 0);
    for line in text.lines() {
        let Some((_, result)) =
            line.strip_prefix("test ").and_then(|line| line.rsplit_once(" ... "))
        else {
            continue;
        };
        match result.split(',').next().unwrap_or_default() {
            "ok" => passed += 1,
            "ignored" => ignored += 1,
            _ => {}
        }
    }
    let success = status.is_some_and(|status| status.success());
    Ok(Run { success, passed, ignored, text })
}

fn text_of(mut stream: impl std::io::Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before a failure is told all the same.
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).replace('\r', "")
    })
}
