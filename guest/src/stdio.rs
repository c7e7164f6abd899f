//! A process's standard streams: pipes or a terminal on its side, the host's ports on the other.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread;

use bridge::{ProcessParameters, StdioPorts};

use crate::dial::Dial;
use crate::{Error, Result};

/// The host's ends, dialled; nothing flows yet.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    input: Option<UnixStream>,
    output: Option<UnixStream>,
    error: Option<UnixStream>,
}

/// What ends with the process.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    input: Option<UnixStream>,
}

impl Flow {
    /// The process ended: what the host still says to it goes nowhere.
    pub(crate) fn end(&self) {
        if let Some(input) = &self.input {
            let _ = input.shutdown(Shutdown::Read);
        }
    }
}

impl Streams {
    /// Dials the ports of those streams the process wants as pipes.
    pub(crate) fn dial(
        dial: &dyn Dial,
        parameters: &ProcessParameters,
        ports: StdioPorts,
    ) -> Result<Self> {
        let one = |wanted: bool, port: u32| match wanted {
            true => dial.dial(port).map(Some),
            false => Ok(None),
        };
        Ok(Self {
            input: one(parameters.create_std_in_pipe, ports.std_in)?,
            output: one(parameters.create_std_out_pipe, ports.std_out)?,
            // With a terminal all output is one stream.
            error: one(
                parameters.create_std_err_pipe && !parameters.emulate_console,
                ports.std_err,
            )?,
        })
    }

    /// Gives `command` pipes and starts the flow. Pipes, and not the sockets themselves, because a program cannot
    /// open a socket as `/dev/stdout`.
    pub(crate) fn connect_pipes(self, command: &mut Command) -> Result<Flow> {
        let failed = |error| Error::failed("making a pipe", error);
        let mut flow = Flow::default();
        match self.input {
            Some(socket) => {
                let (reader, writer) = io::pipe().map_err(failed)?;
                command.stdin(Stdio::from(reader));
                flow.input = Some(socket.try_clone().map_err(failed)?);
                relay(socket, writer, |_| {})?;
            }
            None => {
                command.stdin(Stdio::null());
            }
        }
        for (socket, is_error) in [(self.output, false), (self.error, true)] {
            let stdio = match socket {
                Some(socket) => {
                    let (reader, writer) = io::pipe().map_err(failed)?;
                    relay(reader, socket, |socket| drop(socket.shutdown(Shutdown::Write)))?;
                    Stdio::from(writer)
                }
                None => Stdio::null(),
            };
            match is_error {
                false => command.stdout(stdio),
                true => command.stderr(stdio),
            };
        }
        Ok(flow)
    }

    /// Connects a terminal.
    pub(crate) fn connect_terminal(self, terminal: &File) -> Result<Flow> {
        let failed = |error| Error::failed("duplicating a terminal", error);
        let mut flow = Flow::default();
        if let Some(socket) = self.input {
            flow.input = Some(socket.try_clone().map_err(failed)?);
            relay(socket, terminal.try_clone().map_err(failed)?, |_| {})?;
        }
        if let Some(socket) = self.output {
            // The end of a terminal is an error (EIO), which ends the copying as an end does.
            let terminal = terminal.try_clone().map_err(failed)?;
            relay(terminal, socket, |socket| drop(socket.shutdown(Shutdown::Write)))?;
        }
        Ok(flow)
    }
}

/// Gives `command` the terminal.
pub(crate) fn use_terminal(command: &mut Command, terminal: OwnedFd) -> Result<()> {
    let failed = |error| Error::failed("duplicating a terminal", error);
    command.stdin(terminal.try_clone().map_err(failed)?);
    command.stdout(terminal.try_clone().map_err(failed)?);
    command.stderr(terminal);
    sys::lead_session(command);
    Ok(())
}

fn relay<R, W>(mut from: R, mut to: W, end: impl FnOnce(&W) + Send + 'static) -> Result<()>
where
    R: Read + Send + 'static,
    W: Write + Send + 'static,
{
    let copy = move || {
        let mut buffer = vec![0; 32 << 10];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => {
                    if to.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        end(&to);
    };
    thread::Builder::new()
        .name("stdio".to_owned())
        .stack_size(128 << 10)
        .spawn(copy)
        .map(drop)
        .map_err(|error| Error::failed("starting a thread", error))
}
