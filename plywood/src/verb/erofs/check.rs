//! `erofs check`, `erofs dump` and `erofs diff`

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::open;
use crate::Session;
use crate::cli::{CheckArgs, DiffArgs, FileArgs};
use crate::escape;
use crate::exit::Exit;
use crate::output::{self, JsonPath};

pub(crate) fn check(session: &mut Session, args: &CheckArgs) -> Result<ExitCode> {
    let image = open(&args.file, &args.devices)?;
    let report = erofs::check(&image);
    for finding in &report.findings {
        if !session.output.is_json() {
            session.output.line(escape::message(&finding.to_string()))?;
            continue;
        }
        let mut value = json!({
            "severity": match finding.severity() {
                erofs::Severity::Error => "error",
                erofs::Severity::Unsupported => "unsupported",
                erofs::Severity::Warning => "warning",
            },
            "code": finding.code.as_str(),
            "message": finding.message,
            "offset": finding.offset,
            "nid": finding.nid.map(|nid| nid.0),
        });
        if let Some(path) = &finding.path {
            value["at"] = json!(JsonPath::new(path));
        }
        session.output.json(&value)?;
    }
    let counts = &report.counts;
    let sound = report.is_sound();
    if session.output.is_json() {
        session.output.json(&json!({
            "sound": sound,
            "unsupported": report.is_unsupported(),
            "errors": report.errors(),
            "omitted": report.omitted,
            "inodes": counts.inodes,
            "names": counts.names,
            "data_bytes": counts.data_bytes,
        }))?;
    } else {
        if report.omitted > 0 {
            session.output.line(format!("{} more findings are not shown", report.omitted))?;
        }
        session.output.line(format!(
            "{} inodes ({} directories, {} files, {} symlinks, {} others), {} names, {} of data",
            counts.inodes,
            counts.directories,
            counts.files,
            counts.symlinks,
            counts.specials,
            counts.names,
            output::size(counts.data_bytes),
        ))?;
        session.output.line(match (sound, report.is_unsupported()) {
            (true, _) => "sound",
            (false, true) => "unsupported: a part could not be checked",
            (false, false) => "not sound",
        })?;
    }
    Ok(match (sound, report.is_unsupported()) {
        (true, _) => ExitCode::SUCCESS,
        (false, true) => ExitCode::from(Exit::NotSupported as u8),
        (false, false) => ExitCode::from(Exit::Corrupt as u8),
    })
}

pub(crate) fn dump(session: &mut Session, args: &FileArgs) -> Result<()> {
    let image = open(&args.file, &args.devices)?;
    if session.output.is_json() {
        let mut text = Vec::new();
        erofs::dump(&image, &mut text)
            .with_context(|| format!("cannot dump {}", args.file.display()))?;
        for line in String::from_utf8_lossy(&text).lines() {
            session.output.json(&json!({ "line": line }))?;
        }
        return Ok(());
    }
    match erofs::dump(&image, session.output.stream()) {
        Err(error) if output::is_closed(&error) => Err(crate::exit::OutputClosed.into()),
        other => other.with_context(|| format!("cannot dump {}", args.file.display())),
    }
}

pub(crate) fn diff(session: &mut Session, args: &DiffArgs) -> Result<()> {
    let before = open(&args.before, &[])?;
    let after = open(&args.after, &[])?;
    let changes = erofs::diff(&before, &after).context("cannot compare the images")?;
    for change in changes {
        let (mark, kind) = match change.kind {
            erofs::ChangeKind::Added => ('+', "added"),
            erofs::ChangeKind::Removed => ('-', "removed"),
            erofs::ChangeKind::Modified => ('~', "modified"),
        };
        let details: Vec<String> = change.differences.iter().map(ToString::to_string).collect();
        if session.output.is_json() {
            let mut value = json!(JsonPath::new(&change.path));
            value["change"] = json!(kind);
            value["details"] = json!(details);
            session.output.json(&value)?;
            continue;
        }
        let mut line = format!("{mark} {}", escape::name(&change.path));
        if !details.is_empty() {
            line.push_str(&format!(" ({})", details.join(", ")));
        }
        session.output.line(escape::message(&line))?;
    }
    Ok(())
}
