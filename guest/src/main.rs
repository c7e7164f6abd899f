//! `plywood-guest`: process 1 of a utility VM.
//!
//! With arguments it runs without a VM: `plywood-guest BRIDGE PORTS STATE` serves the bridge on the UNIX socket BRIDGE
//! (which it dials), reaches the host's port N as the socket `PORTS_N`, and keeps the runtime's state in STATE.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bridge::Connection;
use guest::init::{BRIDGE_WAIT, dial_bridge, say, set_up};
use guest::{Agent, AgentOptions, Dial, Nowhere, Sockets, Vsock};

/// A connection that ends sooner had no host.
const BRIEF: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if let ([bridge, ports, state], false) =
        (arguments.as_slice(), std::process::id() == 1 && is_machine())
    {
        return without_vm(&PathBuf::from(bridge), ports.into(), state.into());
    }
    if std::process::id() != 1 {
        say(
            "it is the first process of a utility VM, and runs otherwise with three arguments only",
        );
        return ExitCode::from(64);
    }
    machine();
    // The first process must not end: the kernel would panic.
    drop(sys::power_off());
    loop {
        std::thread::park();
    }
}

/// Whether this is a machine's first process and not that of a process namespace in a running system.
fn is_machine() -> bool {
    !std::path::Path::new("/proc/self").exists()
}

fn machine() {
    let line = match set_up() {
        Ok(line) => line,
        Err(error) => return say(&error.chain()),
    };
    let dial: Arc<dyn Dial> = if line.serial { Arc::new(Nowhere) } else { Arc::new(Vsock) };
    let agent = match Agent::new(AgentOptions { dial, ..AgentOptions::default() }) {
        Ok(agent) => agent,
        Err(error) => return say(&error.chain()),
    };
    // A host whose connection broke may come again; one that is gone does not, and then nobody needs the VM. A serial port
    // can be opened without a host, and then is at its end at once.
    let mut heard = Instant::now();
    say("ready");
    loop {
        match dial_bridge(&line) {
            Ok(connection) => {
                let started = Instant::now();
                let outcome = agent.serve(connection);
                if started.elapsed() > BRIEF {
                    heard = Instant::now();
                    match outcome {
                        Ok(()) => say("the host closed the bridge"),
                        Err(error) => say(&format!("the bridge broke: {error}")),
                    }
                } else if heard.elapsed() > BRIDGE_WAIT {
                    say("there is no host at the bridge");
                    return agent.shut_down();
                } else {
                    std::thread::sleep(BRIEF);
                }
            }
            Err(error) => {
                say(&error.chain());
                return agent.shut_down();
            }
        }
    }
}

fn without_vm(bridge: &std::path::Path, ports: PathBuf, state: PathBuf) -> ExitCode {
    let options = AgentOptions {
        dial: Arc::new(Sockets(ports)),
        runtime_state: state,
        // There are no devices, and none will come.
        device_wait: Duration::from_millis(100),
        power_off: Box::new(|| std::process::exit(0)),
        ..AgentOptions::default()
    };
    let served = Agent::new(options).map_err(|error| error.chain()).and_then(|agent| {
        let stream = UnixStream::connect(bridge).map_err(|error| error.to_string())?;
        let connection = Connection::unix(stream).map_err(|error| error.to_string())?;
        agent.serve(connection).map_err(|error| error.to_string())
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(words) => {
            say(&words);
            ExitCode::FAILURE
        }
    }
}
