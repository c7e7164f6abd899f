//! `plywood vm`: the virtual machines that containers run in.

mod kit;
mod start;

use std::fs::File;
use std::io::{self, Read as _};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::Session;
use crate::cli::{VmAttachArgs, VmConsoleArgs, VmDetachArgs, VmStopArgs, VmVerb};
use crate::escape;
use crate::host::require_root;
use crate::vm::protocol::{Ask, AttachAsk};
use crate::vm::{self, Conversation};

pub(crate) fn vm(session: &mut Session, verb: &VmVerb) -> Result<()> {
    if !matches!(verb, VmVerb::MakeKit(_)) {
        require_root("looking after virtual machines")?;
    }
    match verb {
        VmVerb::MakeKit(args) => kit::make(session, args),
        VmVerb::Start(args) => start::start(session, args),
        VmVerb::Ls(_) => list(session),
        VmVerb::Inspect(args) => inspect(session, &args.name),
        VmVerb::Slots(args) => slots(session, &args.name),
        VmVerb::Console(args) => console(session, args),
        VmVerb::Attach(args) => attach(session, args),
        VmVerb::Detach(args) => detach(session, args),
        VmVerb::Stop(args) => stop(session, args),
    }
}

fn list(session: &mut Session) -> Result<()> {
    let machines = vm::list(&session.host)?;
    if session.output.is_json() {
        for machine in &machines {
            session.output.json(machine)?;
        }
        return Ok(());
    }
    let rows: Vec<Vec<String>> = machines
        .into_iter()
        .map(|machine| {
            vec![
                machine.name,
                machine.pid.to_string(),
                format!("{} MiB", machine.memory),
                machine.processors.to_string(),
                machine.accelerator,
                machine.kernel,
                machine.since,
            ]
        })
        .collect();
    session.output.table(&["NAME", "OWNER", "MEMORY", "CPUS", "ACCEL", "KERNEL", "SINCE"], &rows)
}

fn inspect(session: &mut Session, name: &str) -> Result<()> {
    let found = Conversation::with(&session.host, name)?.result(&Ask::Inspect)?;
    if session.output.is_json() {
        return session.output.json(&found);
    }
    for (title, key) in [
        ("name", "name"),
        ("owner", "pid"),
        ("qemu", "qemu"),
        ("memory (MiB)", "memory"),
        ("processors", "processors"),
        ("accelerator", "accelerator"),
        ("kernel", "kernel"),
        ("since", "since"),
        ("console", "console"),
    ] {
        session.output.line(format!("{title:<14}{}", shown(&found[key])))?;
    }
    for container in found["containers"].as_array().into_iter().flatten() {
        let process = match container["process"].as_u64() {
            Some(process) => format!("process {process} in the guest"),
            None => "starts or ends".to_owned(),
        };
        let name = shown(&container["name"]);
        session.output.line(format!("{:<14}{name} ({process})", "container"))?;
    }
    Ok(())
}

fn slots(session: &mut Session, name: &str) -> Result<()> {
    let found = Conversation::with(&session.host, name)?.result(&Ask::Slots)?;
    let found = found.as_array().map(Vec::as_slice).unwrap_or_default();
    if session.output.is_json() {
        for slot in found {
            session.output.json(slot)?;
        }
        return Ok(());
    }
    let mut rows = Vec::new();
    for slot in found {
        let mounts: Vec<String> = slot["mounts"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|mount| shown(&mount["path"]))
            .collect();
        let state = match (slot["read_only"].as_bool(), slot["stuck"].as_bool()) {
            (_, Some(true)) => "stuck",
            (Some(true), _) => "ro",
            _ => "rw",
        };
        rows.push(vec![
            shown(&slot["kind"]),
            shown(&slot["place"]),
            state.to_owned(),
            shown(&slot["users"]),
            mounts.join(" "),
            shown(&slot["path"]),
        ]);
    }
    session.output.table(&["KIND", "PLACE", "STATE", "USERS", "IN THE GUEST", "ON THE HOST"], &rows)
}

/// The text of a value, safe to print.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => escape::message(text),
        other => other.to_string(),
    }
}

fn console(session: &mut Session, args: &VmConsoleArgs) -> Result<()> {
    let directory = vm::find(&session.host, &args.name)?;
    let path = directory.console();
    let failed = || format!("cannot read {}", path.display());
    let mut log = File::open(&path).with_context(failed)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        // Looked at first, so that what is said last is still read.
        let running = args.follow && vm::find(&session.host, &args.name).is_ok();
        loop {
            let read = match log.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other.with_context(failed)?,
            };
            if read == 0 {
                break;
            }
            session.output.bytes(harmless(&buffer[..read]).as_bytes())?;
        }
        session.output.flush()?;
        if !running {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A guest's text, without what would drive a terminal.
fn harmless(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .filter(|character| matches!(character, '\n' | '\t') || !character.is_control())
        .collect()
}

fn attach(session: &mut Session, args: &VmAttachArgs) -> Result<()> {
    let path =
        args.path.canonicalize().with_context(|| format!("cannot find {}", args.path.display()))?;
    let ask = Ask::Attach(AttachAsk {
        path,
        read_only: args.read_only,
        pass_through: args.pass_through,
        mount: args.mount.is_some(),
        at: args.mount.clone().filter(|directory| !directory.is_empty()),
        format: args.mkfs,
    });
    let attached = Conversation::with(&session.host, &args.name)?.result(&ask)?;
    if session.output.is_json() {
        return session.output.json(&attached);
    }
    let mut line = shown(&attached["slot"]);
    if !attached["path"].is_null() {
        line.push_str(&format!(" {}", shown(&attached["path"])));
    }
    session.output.line(line)
}

fn detach(session: &mut Session, args: &VmDetachArgs) -> Result<()> {
    // Disks are known by their full paths; what is no file is a slot or a directory of the guest.
    let path = std::path::Path::new(&args.disk).canonicalize();
    let full =
        path.ok().filter(|path| path.is_file()).and_then(|path| path.to_str().map(str::to_owned));
    let what = full.unwrap_or_else(|| args.disk.clone());
    let detached = Conversation::with(&session.host, &args.name)?.result(&Ask::Detach { what })?;
    match session.output.is_json() {
        true => session.output.json(&detached),
        false => Ok(()),
    }
}

fn stop(session: &mut Session, args: &VmStopArgs) -> Result<()> {
    let directory = vm::find(&session.host, &args.name)?;
    let asked =
        Conversation::with(&session.host, &args.name)?.result(&Ask::Stop { seconds: args.time });
    // The owner ends the machine when it is empty, and may be gone before it has answered.
    for _ in 0..150 {
        if !directory.path().exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    if directory.path().exists() {
        asked?;
    }
    match session.output.is_json() {
        true => session.output.json(&json!({ "stopped": args.name })),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_console_drives_no_terminal() {
        assert_eq!(super::harmless(b"a\x1b[2J\r\n\tb\xff"), "a[2J\n\tb\u{fffd}");
    }
}
