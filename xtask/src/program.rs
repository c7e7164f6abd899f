//! Programs run as a person would run them: shown before they start, timed, a failure naming the command.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The command line as it could be pasted into a shell.
pub(crate) fn command_line(command: &Command) -> String {
    let mut text = String::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            text.push_str(&format!("{}={} ", name.to_string_lossy(), quoted(value)));
        }
    }
    text.push_str(&quoted(command.get_program()));
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&quoted(argument));
    }
    text
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Shows the command, runs it with our standard streams and returns how long it took.
pub(crate) fn run(command: &mut Command) -> Result<Duration> {
    println!("$ {}", command_line(command));
    quietly(command)
}

/// Runs the command with our standard streams without showing it.
pub(crate) fn quietly(command: &mut Command) -> Result<Duration> {
    let start = Instant::now();
    let status =
        command.status().with_context(|| format!("cannot start `{}`", command_line(command)))?;
    if !status.success() {
        bail!("`{}` ended with {status}", command_line(command));
    }
    Ok(start.elapsed())
}

/// Lines of failing tests that the error of a run repeats.
const REPEATED_LINES: usize = 80;

/// Shows and runs a command that runs tests. Its error repeats what libtest said of the tests that failed, which
/// otherwise is far up in the output of a long run.
pub(crate) fn run_tests(command: &mut Command) -> Result<()> {
    println!("$ {}", command_line(command));
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", command_line(command)))?;
    let mut failures = Vec::new();
    let mut inside = false;
    for line in BufReader::new(child.stdout.take().context("no standard output")?).split(b'\n') {
        let line = line.context("cannot read what the tests print")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        inside = (inside || line == "failures:") && !line.starts_with("test result:");
        if inside && !line.is_empty() && failures.len() < REPEATED_LINES {
            failures.push(line.into_owned());
        }
    }
    let status = child.wait().context("cannot wait for the tests")?;
    if !status.success() {
        bail!("`{}` ended with {status}\n{}", command_line(command), failures.join("\n"));
    }
    Ok(())
}

/// Standard output of a command that must succeed; its standard error goes to ours.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{}`", command_line(command)))?;
    if !output.status.success() {
        bail!("`{}` ended with {}", command_line(command), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether `PATH` holds an executable of this name.
pub(crate) fn exists(name: &str) -> bool {
    use rustix::fs::{Access, access};
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| {
        let file = directory.join(name);
        Path::is_file(&file) && access(&file, Access::EXEC_OK).is_ok()
    })
}

/// `cargo`, the one that started us, in the repository's root.
pub(crate) fn cargo<I: AsRef<OsStr>>(arguments: impl IntoIterator<Item = I>) -> Command {
    // The variable carries an absolute path inside one toolchain, which is what a nested call wants, but it
    // reads badly in what we print; the name on PATH is the same program for everyone who started us so.
    let mut command = Command::new("cargo");
    command.args(arguments).current_dir(crate::workspace::root());
    command
}
