//! `plywood vm start`: a machine that stays until it is stopped.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::Session;
use crate::cli::VmStartArgs;
use crate::exit::{Exit, Failure};
use crate::vm;

/// How often the owner looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);
/// How long containers have to end when the owner is told to by a signal.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the owner says when the machine runs.
const READY: &str = "ready";

pub(super) fn start(session: &mut Session, args: &VmStartArgs) -> Result<()> {
    match args.foreground {
        true => own(session, args)?,
        false => detach(args)?,
    }
    match (args.foreground, session.output.is_json()) {
        (true, _) => Ok(()),
        (false, true) => session.output.json(&json!({ "started": args.name })),
        (false, false) => session.output.line(&args.name),
    }
}

/// Owns a machine until it is stopped.
fn own(session: &mut Session, args: &VmStartArgs) -> Result<()> {
    let host = &session.host;
    host.settle()?;
    if args.detach {
        // Terminals and their signals are the caller's.
        rustix::process::setsid().context("cannot start a session")?;
    }
    let interrupt = crate::interrupt::cancel_on_signal()?;
    let cancel = bridge::Cancel::shared(interrupt.flag());
    let owner = vm::boot(host, &args.name, &args.boot, &cancel, &mut |_| {})?;
    let said = session.output.line(READY).and_then(|()| session.output.flush());
    let served = said.and_then(|()| match args.detach {
        true => leave_streams(),
        false => Ok(()),
    });
    let lasted = served.and_then(|()| {
        while !cancel.is_cancelled() && !owner.is_over() {
            owner.check()?;
            std::thread::sleep(LOOK);
        }
        owner.stop(PATIENCE);
        Ok(())
    });
    let closed = owner.close();
    lasted?;
    closed
}

/// Nobody reads what this process says any more.
fn leave_streams() -> Result<()> {
    let doing = "cannot leave the streams of the caller";
    let nothing = std::fs::File::options().read(true).write(true).open("/dev/null");
    let nothing = nothing.context(doing)?;
    rustix::stdio::dup2_stdin(&nothing)
        .and_then(|()| rustix::stdio::dup2_stdout(&nothing))
        .and_then(|()| rustix::stdio::dup2_stderr(&nothing))
        .context(doing)
}

/// Lets another process own it, and waits until the machine runs.
fn detach(args: &VmStartArgs) -> Result<()> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(program);
    // The same words, and those that only the owner gets.
    let mut words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let options_end = words.iter().position(|word| word == "--").unwrap_or(words.len());
    words.splice(options_end..options_end, ["--foreground".into(), "--detach".into()]);
    command.args(words);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the owner of the virtual machine")?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut line).context("cannot read from the owner")?;
    }
    if line.trim() == READY {
        return Ok(());
    }
    // It has said why.
    let status = child.wait().context("cannot wait for the owner")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).map(Exit::from_code);
    let text = format!("the virtual machine {} was not started", args.name);
    Err(Failure::new(code.unwrap_or(Exit::Failed), text).into())
}
