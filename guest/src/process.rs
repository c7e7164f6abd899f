//! Processes that a host runs and waits for.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bridge::ProcessParameters;

use crate::children::{Children, program};
use crate::stdio::{Flow, Streams, use_terminal};
use crate::{Error, ErrorKind, Result};

/// From so many processes on, those whose end was told are forgotten.
const REMEMBERED: usize = 256;

/// A process, running or ended.
#[derive(Debug)]
pub(crate) struct Process {
    /// Its id in the agent's process namespace.
    pub(crate) pid: u32,
    /// Closed when it ends.
    terminal: Mutex<Option<File>>,
    /// Its end was told to somebody who waited.
    told: AtomicBool,
    exit: Mutex<Option<i32>>,
    ended: Condvar,
}

impl Process {
    /// Follows a child process: waits for it on a thread, ends its flow, then calls `after` with its exit code.
    /// `already` is the code of one that has ended.
    pub(crate) fn follow(
        children: &Children,
        pid: u32,
        already: Option<i32>,
        terminal: Option<File>,
        flow: Flow,
        after: impl FnOnce(i32) + Send + 'static,
    ) -> Result<Arc<Self>> {
        let process = Arc::new(Self {
            pid,
            terminal: Mutex::new(terminal),
            told: AtomicBool::new(false),
            exit: Mutex::new(None),
            ended: Condvar::new(),
        });
        let (followed, waiting) = (process.clone(), children.clone());
        let follow = move || {
            // A child that cannot be waited for is lost; 255 is what shells say of such.
            let code = already.unwrap_or_else(|| waiting.wait(pid).unwrap_or(255));
            flow.end();
            followed.terminal.lock().unwrap_or_else(PoisonError::into_inner).take();
            *followed.exit.lock().unwrap_or_else(PoisonError::into_inner) = Some(code);
            followed.ended.notify_all();
            after(code);
        };
        thread::Builder::new()
            .name(format!("wait-{pid}"))
            .stack_size(256 << 10)
            .spawn(follow)
            .map_err(|error| {
                children.abandon(pid);
                Error::failed("starting a thread", error)
            })?;
        Ok(process)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// [`ErrorKind::TimedOut`] after `limit`.
    pub(crate) fn wait(&self, limit: Option<Duration>) -> Result<i32> {
        let until = limit.and_then(|limit| Instant::now().checked_add(limit));
        let mut exit = self.exit.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(code) = *exit {
                self.told.store(true, Ordering::Release);
                return Ok(code);
            }
            let left = match until {
                Some(until) => until.saturating_duration_since(Instant::now()),
                None => Duration::from_secs(3600),
            };
            if left.is_zero() {
                let message = format!("process {} still runs", self.pid);
                return Err(Error::new(ErrorKind::TimedOut, message));
            }
            let (next, _) =
                self.ended.wait_timeout(exit, left).unwrap_or_else(PoisonError::into_inner);
            exit = next;
        }
    }

    /// Signals it.
    pub(crate) fn signal(&self, signal: i32) -> Result<()> {
        // The lock keeps its number from being given away between the look and the signal.
        let exit = self.exit.lock().unwrap_or_else(PoisonError::into_inner);
        if exit.is_some() {
            let message = format!("process {} has ended", self.pid);
            return Err(Error::new(ErrorKind::NoProcess, message));
        }
        let signal = if signal == 0 { sys::SIGNAL_KILL } else { signal };
        sys::signal_process(Some(self.pid), signal)
            .map_err(|error| Error::failed(format!("signalling process {}", self.pid), error))
    }

    /// Tells its terminal its size.
    pub(crate) fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let terminal = self.terminal.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(terminal) = &*terminal else {
            return Err(Error::invalid(format!("process {} has no terminal", self.pid)));
        };
        sys::set_window_size(terminal, rows, columns)
            .map_err(|error| Error::failed("resizing a terminal", error))
    }
}

/// Remembers a process, and forgets some whose end was told when there are many.
pub(crate) fn remember(processes: &mut HashMap<u32, Arc<Process>>, process: Arc<Process>) {
    if processes.len() >= REMEMBERED {
        processes.retain(|_, process| !process.told.load(Ordering::Acquire));
    }
    processes.insert(process.pid, process);
}

/// Program and arguments, from a list or from a line that is split at spaces.
pub(crate) fn words(parameters: &ProcessParameters) -> Result<Vec<String>> {
    let words: Vec<String> = match parameters.command_args.is_empty() {
        false => parameters.command_args.clone(),
        true => parameters.command_line.split_whitespace().map(str::to_owned).collect(),
    };
    match words.first() {
        Some(first) if !first.is_empty() => Ok(words),
        _ => Err(Error::invalid("there is no program to run")),
    }
}

/// Runs a process in the VM, beside all containers.
pub(crate) fn run_in_vm(
    children: &Children,
    parameters: &ProcessParameters,
    streams: Streams,
) -> Result<Arc<Process>> {
    let words = words(parameters)?;
    let (name, arguments) = words.split_first().map_or(("", &[][..]), |(name, rest)| (name, rest));
    let mut command = match name.contains('/') {
        true => {
            let mut command = std::process::Command::new(name);
            command.env_clear();
            command
        }
        false => program(name)?,
    };
    command.args(arguments).envs(&parameters.environment);
    match parameters.working_directory.as_str() {
        "" => command.current_dir("/"),
        directory => command.current_dir(directory),
    };
    let mut terminal = None;
    let flow = if parameters.emulate_console {
        let (ours, theirs) =
            sys::open_terminal().map_err(|error| Error::failed("opening a terminal", error))?;
        if let [rows, columns, ..] = *parameters.console_size {
            sys::set_window_size(&ours, rows, columns)
                .map_err(|error| Error::failed("resizing a terminal", error))?;
        }
        use_terminal(&mut command, theirs)?;
        let flow = streams.connect_terminal(&ours)?;
        terminal = Some(ours);
        flow
    } else {
        streams.connect_pipes(&mut command)?
    };
    let child = children.start(&mut command);
    // The command holds our copies of the process's ends, which would keep its streams open.
    drop(command);
    let child = match child {
        Ok(child) => child,
        Err(error) => {
            flow.end();
            return Err(error);
        }
    };
    Process::follow(children, child.id(), None, terminal, flow, |_| {})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_a_list_or_a_line() {
        let line =
            |text: &str| ProcessParameters { command_line: text.to_owned(), ..Default::default() };
        assert_eq!(words(&line(" sleep  100 ")).unwrap(), ["sleep", "100"]);
        assert!(words(&line("  ")).is_err());
        let list = ProcessParameters { command_args: vec!["a b".to_owned()], ..line("x") };
        assert_eq!(words(&list).unwrap(), ["a b"]);
    }

    #[test]
    fn processes_are_forgotten_when_their_end_was_told() {
        let children = Children::default();
        let process =
            Process::follow(&children, 1, Some(0), None, Flow::default(), |_| {}).unwrap();
        process.wait(None).unwrap();
        let mut processes: HashMap<_, _> =
            (0..300).map(|number| (number + 2, process.clone())).collect();
        let other = Process::follow(&children, 1, Some(0), None, Flow::default(), |_| {}).unwrap();
        remember(&mut processes, other);
        assert_eq!(processes.keys().collect::<Vec<_>>(), [&1]);
    }

    #[test]
    fn a_process_ends_once_and_is_waited_for_often() {
        let children = Children::default();
        let run = |script: &str| {
            let parameters = ProcessParameters {
                command_args: ["sh", "-c", script].map(str::to_owned).into(),
                ..Default::default()
            };
            run_in_vm(&children, &parameters, Streams::default()).unwrap()
        };
        let process = run("exit 7");
        assert_eq!(process.wait(None).unwrap(), 7);
        assert_eq!(process.wait(Some(Duration::ZERO)).unwrap(), 7);
        assert_eq!(process.signal(15).unwrap_err().kind(), ErrorKind::NoProcess);
        let process = run("exec sleep 1000");
        let error = process.wait(Some(Duration::from_millis(10))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(process.resize(1, 1).is_err());
        assert!(process.signal(4711).is_err(), "no such signal");
        process.signal(0).unwrap();
        assert_eq!(process.wait(Some(Duration::from_secs(20))).unwrap(), 137);
    }
}
