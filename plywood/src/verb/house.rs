//! `plywood gc` and `plywood fsck`

#[cfg(target_os = "linux")]
mod mounts;
#[cfg(windows)]
#[path = "house/no_mounts.rs"]
mod mounts;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde_json::json;
use store::{FsckOptions, GcItem, GcObject, GcOptions, Severity};

use crate::Session;
use crate::cli::{FsckArgs, GcArgs};
use crate::escape;
use crate::exit::Exit;
use crate::output;

pub(crate) fn gc(session: &mut Session, args: &GcArgs) -> Result<()> {
    session.host.settle()?;
    let store = session.host.existing_store()?;
    if !args.dry_run {
        mounts::release_dead_snapshots(&session.host, &store)?;
    }
    let options = GcOptions { dry_run: args.dry_run };
    let items = store.gc(options).context("cannot collect garbage")?;
    let (mut count, mut bytes) = (0_u64, 0);
    for item in &items {
        if !item.kept {
            count += 1;
            bytes += item.bytes;
        }
        show(session, args, item)?;
    }
    if session.output.is_json() {
        return Ok(());
    }
    let verb = if args.dry_run { "would delete" } else { "deleted" };
    let freed = if args.dry_run { "to be freed" } else { "freed" };
    session.output.line(format!("{verb} {count} items, {} {freed}", output::size(bytes)))
}

fn show(session: &mut Session, args: &GcArgs, item: &GcItem) -> Result<()> {
    let (kind, name) = match &item.what {
        GcObject::Snapshot(key) => ("snapshot", escape::name(key)),
        GcObject::Layer(id) => ("layer", id.to_string()),
        GcObject::Blob(digest) => ("blob", digest.to_string()),
        GcObject::Leftover(path) => ("leftover", escape::name(path.as_os_str().as_encoded_bytes())),
    };
    if session.output.is_json() {
        return session.output.json(&json!({
            "kind": kind,
            "name": name,
            "why": item.why,
            "bytes": item.bytes,
            "kept": item.kept,
            "deleted": !item.kept && !args.dry_run,
        }));
    }
    let verb = match (item.kept, args.dry_run) {
        (true, _) => "keep",
        (false, true) => "would delete",
        (false, false) => "delete",
    };
    let why = escape::message(&item.why);
    session.output.line(format!("{verb} {kind} {name} ({}): {why}", output::size(item.bytes)))
}

pub(crate) fn fsck(session: &mut Session, args: &FsckArgs) -> Result<ExitCode> {
    // Mounts are brought in line below, and what was out of line is reported.
    session.host.settle_containers()?;
    let store = match args.repair {
        true => session.host.existing_store()?,
        false => session.host.store_to_read()?,
    };
    if args.repair {
        mounts::release_dead_snapshots(&session.host, &store)?;
    }
    let options = FsckOptions { repair: args.repair, ..FsckOptions::default() };
    let report = store.fsck(options).context("cannot check the store")?;
    let mounts_clean = mounts::check(session)?;
    for found in &report.findings {
        let severity = match found.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let repaired = found.repaired.as_deref();
        let advice = found.advice.as_deref();
        finding(session, severity, &found.code, &found.subject, &found.message, repaired, advice)?;
    }
    let clean = report.is_clean() && mounts_clean;
    if session.output.is_json() {
        session.output.json(&json!({
            "clean": clean,
            "snapshots": report.snapshots,
            "layers": report.layers,
            "bytes": report.bytes,
            "images": report.images,
            "blobs": report.blobs,
        }))?;
    } else {
        session.output.line(format!(
            "store: {} images, {} snapshots, {} layers ({} read), {} blobs",
            report.images,
            report.snapshots,
            report.layers,
            output::size(report.bytes),
            report.blobs,
        ))?;
        session.output.line(if clean { "clean" } else { "not clean" })?;
    }
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::from(Exit::Corrupt as u8) })
}

fn finding(
    session: &mut Session,
    severity: &str,
    code: &str,
    subject: &str,
    message: &str,
    repaired: Option<&str>,
    advice: Option<&str>,
) -> Result<()> {
    if session.output.is_json() {
        return session.output.json(&json!({
            "severity": severity,
            "code": code,
            "subject": subject,
            "message": message,
            "repaired": repaired,
            "advice": advice,
        }));
    }
    let mut line = format!("{severity}: {code}: {subject}: {message}");
    if let Some(repaired) = repaired {
        line.push_str(&format!(" (repaired: {repaired})"));
    }
    session.output.line(escape::message(&line))?;
    match advice {
        Some(advice) => session.output.line(format!("  {}", escape::message(advice))),
        None => Ok(()),
    }
}
