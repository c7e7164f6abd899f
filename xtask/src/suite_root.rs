//! Packages of another suite of Debian with all that they depend on, unpacked into a directory of their own and not
//! installed.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{apt_sources, program};

/// Unpacks `packages` into `root`, which does not exist, from `suite` and those that are added to it. `options` are
/// mmdebstrap's.
pub(crate) fn unpack(
    root: &Path,
    (suite, added): (&str, &[&str]),
    packages: &str,
    options: &[&str],
) -> Result<()> {
    let directory = root.parent().context("the directory has no parent")?;
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let part = root.with_extension("part");
    if part.exists() {
        std::fs::remove_dir_all(&part)
            .with_context(|| format!("cannot remove {}", part.display()))?;
    }
    let mirror = apt_sources::of_host()?
        .into_iter()
        .find(|source| source.suite == "bookworm")
        .context("the apt sources of this host have no `bookworm`")?;
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap
        .env("TMPDIR", directory)
        .args(["--quiet", "--variant=extract", &format!("--include={packages}")])
        .args(options)
        .arg(r#"--aptopt=APT::Install-Recommends "false""#)
        .arg(r#"--aptopt=Acquire::Retries "3""#)
        .arg(suite)
        .arg(&part)
        .arg(mirror.line("deb", suite))
        .args(added.iter().map(|suite| mirror.line("deb", suite)));
    program::run(&mut mmdebstrap)?;
    std::fs::rename(&part, root).with_context(|| format!("cannot create {}", root.display()))
}
