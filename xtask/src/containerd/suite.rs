//! containerd's own snapshotter suite, from Debian's package of its sources, against `plywood serve`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{program, workspace};

/// Where Debian's packages of Go sources are.
const SOURCES: &str = "/usr/share/gocode";

/// Its tests.
const TESTS: usize = 21;

/// Builds and runs the suite, in the mount namespace that is there.
pub(super) fn run(plywood: &Path) -> Result<()> {
    let directory = workspace::target().join("containerd/suite");
    let temporary = directory.join("tmp");
    if temporary.exists() {
        std::fs::remove_dir_all(&temporary)
            .with_context(|| format!("cannot remove {}", temporary.display()))?;
    }
    std::fs::create_dir_all(&temporary)
        .with_context(|| format!("cannot create {}", temporary.display()))?;
    let overlay = unskipped(&directory)?;
    let suite = directory.join("suite.test");
    let mut build = Command::new("go");
    build
        .args(["test", "-c", "-overlay"])
        .arg(overlay)
        .arg("-o")
        .arg(&suite)
        .arg(".")
        .env("GO111MODULE", "off")
        .env("GOPATH", SOURCES)
        .env("GOFLAGS", "")
        .env("GOCACHE", directory.join("cache"))
        .current_dir(workspace::root().join("tests/containerd/suite"));
    program::run(&mut build)?;

    let mut run = Command::new(&suite);
    // Their flag for tests that mount; without it they are skipped.
    run.args(["-test.root", "-test.v", "-test.timeout=5m"])
        .env("PLYWOOD", plywood)
        .env("TMPDIR", &temporary)
        .current_dir(&temporary);
    let output = run.output().context("cannot start the suite")?;
    let log = directory.join("log");
    std::fs::write(&log, [output.stdout.as_slice(), &output.stderr].concat())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let results = text.lines().map(str::trim).filter(|line| line.starts_with("--- "));
    let mut passed = 0;
    for line in results.filter(|line| line.contains('/')) {
        println!("  {line}");
        passed += usize::from(line.starts_with("--- PASS"));
    }
    ensure!(
        output.status.success() && passed == TESTS,
        "{passed} of {TESTS} tests of containerd's snapshotter suite passed; see {}",
        log.display()
    );
    Ok(())
}

/// The suite skips its test of renames with every snapshotter, for the sake of old kernels. What Go's `-overlay` takes to
/// compile the file without that line, and, as later versions of the suite do for every snapshotter that is an overlay,
/// without the rename of a directory of a lower layer, which overlayfs answers with EXDEV.
fn unskipped(directory: &Path) -> Result<PathBuf> {
    let original =
        format!("{SOURCES}/src/github.com/containerd/containerd/snapshots/testsuite/issues.go");
    let mut text =
        std::fs::read_to_string(&original).with_context(|| format!("cannot read {original}"))?;
    for line in [
        "t.Skip(\"rename test still fails on some kernels with overlay\")",
        "fstest.Rename(\"/dir1\", \"/dir2\"),",
    ] {
        ensure!(text.matches(line).count() == 1, "the suite's test of renames has changed");
        text = text.replace(line, "");
    }
    let replacement = directory.join("issues.go");
    std::fs::write(&replacement, text)?;
    let overlay = directory.join("overlay.json");
    let replace = serde_json::json!({ "Replace": { original: replacement } });
    std::fs::write(&overlay, replace.to_string())?;
    Ok(overlay)
}
