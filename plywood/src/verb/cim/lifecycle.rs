//! `usage`, `destroy`

use anyhow::{Context as _, Result};
use cimfs::{Image, WritableSet as _};
use serde_json::json;

use super::existing;
use crate::Session;
use crate::cli::{CimDestroyArgs, CimFileArgs};
use crate::escape;
use crate::exit::{Exit, Failure};
use crate::output;

pub(crate) fn usage(session: &mut Session, args: &CimFileArgs) -> Result<()> {
    let (set, name) = existing(&args.file)?;
    let usage = cimfs::usage(&set, name)
        .with_context(|| format!("cannot measure {}", args.file.display()))?;
    let own = usage.regions + usage.filesystem;
    let total = own + usage.parents;
    if session.output.is_json() {
        return session.output.json(&json!({
            "regions": usage.regions,
            "filesystem": usage.filesystem,
            "own": own,
            "parents": usage.parents,
            "total": total,
            "missing": usage.missing,
        }));
    }
    for (name, bytes, about) in [
        ("regions", usage.regions, "own region and object-ID files: what hcsshim counts"),
        ("filesystem", usage.filesystem, "the filesystem file"),
        ("own", own, "both: what destroying it frees"),
        ("parents", usage.parents, "parents' files, which others may share"),
        ("total", total, "everything that is needed to read it"),
    ] {
        session
            .output
            .line(format!("{name:<10} {bytes:>14} {:>8}  {about}", output::size(bytes)))?;
    }
    match usage.missing {
        0 => Ok(()),
        missing => session.output.line(format!("{missing} files are missing")),
    }
}

pub(crate) fn destroy(session: &mut Session, args: &CimDestroyArgs) -> Result<()> {
    let (set, name) = existing(&args.file)?;
    let doing = || format!("cannot destroy {}", args.file.display());
    let forks = cimfs::forks(&set, name).with_context(doing)?;
    if !forks.is_empty() {
        anyhow::bail!(
            Failure::new(Exit::Exists, format!("{} has forks that need it", args.file.display()))
                .hint(format!("destroy them first: {}", forks.join(" ")))
        );
    }
    // Which files these are is known as long as the image exists.
    let mut deleted = cimfs::files(&set, name).with_context(doing)?;
    if !args.dry_run {
        cimfs::destroy(&set, name).with_context(doing)?;
    }
    if args.orphans {
        let mut orphans = cimfs::orphans(&set).context("cannot look for orphans")?;
        if args.dry_run {
            // Some that are no orphans yet would be then.
            orphans.extend(cimfs::orphans_without(&set, name).context("cannot look for orphans")?);
            orphans.sort_unstable();
            orphans.dedup();
            orphans.retain(|orphan| !deleted.contains(orphan));
        }
        for orphan in &orphans {
            if !args.dry_run {
                set.remove(orphan).with_context(|| format!("cannot remove {orphan}"))?;
            }
        }
        deleted.extend(orphans);
    }
    for file in deleted {
        if session.output.is_json() {
            session.output.json(&json!({ "file": file, "deleted": !args.dry_run }))?;
        } else {
            let verb = if args.dry_run { "would delete" } else { "deleted" };
            session.output.line(format!("{verb} {}", escape::name(file.as_bytes())))?;
        }
    }
    Ok(())
}

/// Whether an image can be opened, for those who change it.
pub(super) fn check_openable(set: &cimfs::DirectorySet, name: &str) -> Result<()> {
    Image::open(set, name).map(drop).with_context(|| format!("cannot read {name}"))
}
