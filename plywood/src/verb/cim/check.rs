//! `check`, `dump`, `diff`

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::path::{JsonImagePath, shown};
use super::{existing, open};
use crate::Session;
use crate::cli::{CimCheckArgs, CimDiffArgs, CimFileArgs};
use crate::escape;
use crate::exit::Exit;
use crate::output;

pub(crate) fn check(session: &mut Session, args: &CimCheckArgs) -> Result<ExitCode> {
    let (set, name) = existing(&args.file)?;
    let doing = || format!("cannot check {}", args.file.display());
    if args.repair {
        let repairing = || format!("cannot repair {}", args.file.display());
        for rebuilt in cimfs::repair(&set, name).with_context(repairing)? {
            if session.output.is_json() {
                session.output.json(&json!({
                    "rebuilt": rebuilt.name, "fault": rebuilt.fault, "objects": rebuilt.objects,
                }))?;
                continue;
            }
            let line = format!(
                "rebuilt {}, which {}: {} objects",
                rebuilt.name, rebuilt.fault, rebuilt.objects
            );
            session.output.line(escape::message(&line))?;
        }
    }
    let report = match args.data {
        true => cimfs::check_data(&set, name),
        false => cimfs::check(&set, name),
    }
    .with_context(doing)?;
    for finding in &report.findings {
        if !session.output.is_json() {
            session.output.line(escape::message(&finding.to_string()))?;
            continue;
        }
        let mut value = json!({
            "severity": match finding.code.severity() {
                cimfs::Severity::Error => "error",
                cimfs::Severity::Unsupported => "unsupported",
                cimfs::Severity::Warning => "warning",
            },
            "code": finding.code.as_str(),
            "message": finding.message,
            "offset": finding.offset.map(|offset| format!("{offset:?}")),
        });
        if let Some(path) = &finding.path {
            value["at"] = json!(JsonImagePath::new(path));
        }
        session.output.json(&value)?;
    }
    let counts = &report.counts;
    let sound = report.is_sound();
    let unsupported = !sound && report.errors() == 0 && report.omitted == 0;
    if session.output.is_json() {
        session.output.json(&json!({
            "sound": sound,
            "unsupported": unsupported,
            "errors": report.errors(),
            "omitted": report.omitted,
            "names": counts.names,
            "directories": counts.directories,
            "files": counts.files,
            "streams": counts.streams,
            "data_bytes": counts.data_bytes,
        }))?;
    } else {
        if report.omitted > 0 {
            session.output.line(format!("{} more findings are not shown", report.omitted))?;
        }
        session.output.line(format!(
            "{} directories, {} files, {} alternate streams, {} names, {} of data",
            counts.directories,
            counts.files,
            counts.streams,
            counts.names,
            output::size(counts.data_bytes),
        ))?;
        session.output.line(match (sound, unsupported) {
            (true, _) => "sound",
            (false, true) => "unsupported: a part could not be checked",
            (false, false) => "not sound",
        })?;
    }
    Ok(match (sound, unsupported) {
        (true, _) => ExitCode::SUCCESS,
        (false, true) => ExitCode::from(Exit::NotSupported as u8),
        (false, false) => ExitCode::from(Exit::Corrupt as u8),
    })
}

pub(crate) fn dump(session: &mut Session, args: &CimFileArgs) -> Result<()> {
    let image = open(&args.file)?;
    let doing = || format!("cannot dump {}", args.file.display());
    if session.output.is_json() {
        let mut text = Vec::new();
        cimfs::dump(&image, &mut text).with_context(doing)?;
        for line in String::from_utf8_lossy(&text).lines() {
            session.output.json(&json!({ "line": line }))?;
        }
        return Ok(());
    }
    match cimfs::dump(&image, session.output.stream()) {
        Err(error) if output::is_closed(&error) => Err(crate::exit::OutputClosed.into()),
        other => other.with_context(doing),
    }
}

pub(crate) fn diff(session: &mut Session, args: &CimDiffArgs) -> Result<()> {
    let before = open(&args.before)?;
    let after = open(&args.after)?;
    let changes = cimfs::compare(&before, &after).context("cannot compare the images")?;
    for change in changes {
        let (mark, kind) = match change.kind {
            cimfs::ChangeKind::Added => ('+', "added"),
            cimfs::ChangeKind::Removed => ('-', "removed"),
            cimfs::ChangeKind::Modified => ('~', "modified"),
        };
        let details: Vec<String> = change.differences.iter().map(ToString::to_string).collect();
        if session.output.is_json() {
            let mut value = json!(JsonImagePath::new(&change.path));
            value["change"] = json!(kind);
            value["type"] = json!(if change.is_dir { "directory" } else { "file" });
            value["details"] = json!(details);
            session.output.json(&value)?;
            continue;
        }
        let mut line = format!("{mark} {}", shown(&change.path));
        if !details.is_empty() {
            line.push_str(&format!(" ({})", details.join(", ")));
        }
        session.output.line(escape::message(&line))?;
    }
    Ok(())
}
