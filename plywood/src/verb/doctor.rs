//! `plywood doctor`: what this host can do, and what follows from it.

#[cfg(target_os = "linux")]
mod cim;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
mod vm;
#[cfg(any(windows, test))]
mod windows;

#[cfg(target_os = "linux")]
use linux as imp;
#[cfg(windows)]
use windows as imp;

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use crate::Session;
use crate::cli::DoctorArgs;
use crate::exit::Exit;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ok,
    /// Something works in another way, or not at all without harm to the rest.
    Note,
    /// `run` or `mount` does not work without it.
    Missing,
    Unknown,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        }
    }
}

struct Check {
    name: String,
    state: State,
    evidence: String,
    /// What will be used, or what to do.
    consequence: String,
}

pub(crate) fn doctor(session: &mut Session, args: &DoctorArgs) -> Result<ExitCode> {
    let checks = imp::checks(session, args);
    for check in &checks {
        if session.output.is_json() {
            session.output.json(&json!({
                "check": check.name,
                "state": check.state.name(),
                "evidence": check.evidence,
                "consequence": check.consequence,
            }))?;
            continue;
        }
        session.output.line(format!("{:<8} {}", check.state.name(), check.name))?;
        for text in [&check.evidence, &check.consequence] {
            if !text.is_empty() {
                session.output.line(format!("           {}", crate::escape::message(text)))?;
            }
        }
    }
    let missing = checks.iter().any(|check| check.state == State::Missing);
    Ok(if missing { ExitCode::from(Exit::SetUp as u8) } else { ExitCode::SUCCESS })
}
