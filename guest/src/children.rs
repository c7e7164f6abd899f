//! The agent's child processes: those it waits for, and orphans that nobody waits for but the first process.

use std::collections::{BTreeSet, VecDeque};
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Error, ErrorKind, Result};

/// Where the programs of the initramfs are.
const PROGRAMS: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// How much of a tool's words is kept.
const WORDS: u64 = 64 << 10;
/// How many orphans are remembered for somebody who adopts them after they ended.
const REMEMBERED: usize = 256;
/// How long a machine without any child sleeps until it looks again.
const NO_CHILDREN: Duration = Duration::from_millis(100);

/// All children.
#[derive(Debug, Clone, Default)]
pub(crate) struct Children(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Those somebody waits for.
    waited: BTreeSet<u32>,
    /// Those that ended unexpected: process, exit code, when.
    ended: VecDeque<(u32, i32, Instant)>,
}

impl Children {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes orphans ours and takes their statuses, on a thread of its own, for as long as the agent runs.
    pub(crate) fn reap_orphans(&self) -> Result<()> {
        sys::adopt_orphans().map_err(|error| Error::failed("adopting orphans", error))?;
        let children = self.clone();
        let reap = move || {
            loop {
                match sys::peek_ended_child() {
                    Ok(Some(pid)) if children.lock().waited.contains(&pid) => {
                        // Its waiter takes it at once.
                        thread::sleep(Duration::from_millis(1));
                    }
                    Ok(Some(pid)) => children.reap(pid),
                    Ok(None) | Err(_) => thread::sleep(NO_CHILDREN),
                }
            }
        };
        thread::Builder::new()
            .name("reap".to_owned())
            .stack_size(128 << 10)
            .spawn(reap)
            .map(drop)
            .map_err(|error| Error::failed("starting a thread", error))
    }

    fn reap(&self, pid: u32) {
        // Under the lock, so that a process that is being started is not taken from who starts it.
        let mut state = self.lock();
        if state.waited.contains(&pid) {
            return;
        }
        if let Ok(Some(code)) = sys::reap_child(pid) {
            if state.ended.len() >= REMEMBERED {
                state.ended.pop_front();
            }
            state.ended.push_back((pid, code, Instant::now()));
        }
    }

    /// Starts a program that is waited for.
    pub(crate) fn start(&self, command: &mut Command) -> Result<Child> {
        let mut state = self.lock();
        let child = command.spawn().map_err(|error| {
            Error::failed(format!("running {}", command.get_program().display()), error)
        })?;
        state.waited.insert(child.id());
        Ok(child)
    }

    /// Waits for a process that was started or adopted.
    pub(crate) fn wait(&self, pid: u32) -> Result<i32> {
        let code = sys::wait_for_child(pid);
        self.lock().waited.remove(&pid);
        code.map_err(|error| Error::failed(format!("waiting for process {pid}"), error))
    }

    /// Waits for an orphan from now on; its exit code if it has ended since `since`.
    pub(crate) fn adopt(&self, pid: u32, since: Instant) -> Option<i32> {
        let mut state = self.lock();
        let found = state.ended.iter().position(|(ended, _, at)| *ended == pid && *at >= since);
        match found.and_then(|at| state.ended.remove(at)) {
            Some((_, code, _)) => Some(code),
            None => {
                state.waited.insert(pid);
                None
            }
        }
    }

    /// Nobody waits for a process that was started or adopted after all; it is killed and reaped as an orphan.
    pub(crate) fn abandon(&self, pid: u32) {
        let mut state = self.lock();
        // While it is on the list nobody else takes its status, so the number is still its own.
        if state.waited.remove(&pid) {
            let _ = sys::signal_process(Some(pid), sys::SIGNAL_KILL);
        }
    }

    /// Runs a tool to its end and gives its output.
    ///
    /// # Errors
    /// With the tool's words if it fails; [`ErrorKind::TimedOut`] after `limit`, when it is killed.
    pub(crate) fn run(&self, command: &mut Command, limit: Duration) -> Result<String> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let name = command.get_program().display().to_string();
        let mut child = self.start(command)?;
        let output = child.stdout.take().map(collect);
        let words = child.stderr.take().map(collect);
        let code = self.wait_within(child.id(), &name, limit);
        // Whoever the tool started may hold the pipes open.
        let take = |receiver: Option<mpsc::Receiver<String>>| {
            receiver
                .and_then(|receiver| receiver.recv_timeout(Duration::from_secs(1)).ok())
                .unwrap_or_default()
        };
        let (output, words) = (take(output), take(words));
        match code? {
            0 => Ok(output),
            code => {
                let words = words.trim();
                let message = format!("{name} failed with exit code {code}: {words}");
                Err(Error::new(ErrorKind::Failed, message))
            }
        }
    }

    /// Waits for a process that was started, and kills it after `limit`.
    pub(crate) fn wait_within(&self, pid: u32, name: &str, limit: Duration) -> Result<i32> {
        let until = Instant::now() + limit;
        let mut pause = Duration::from_micros(500);
        let outcome = loop {
            match sys::reap_child(pid) {
                Ok(Some(code)) => break Ok(code),
                Ok(None) if Instant::now() < until => {}
                Ok(None) => {
                    let _ = sys::signal_process(Some(pid), sys::SIGNAL_KILL);
                    let _ = sys::wait_for_child(pid);
                    let message = format!("{name} did not end within {} s", limit.as_secs());
                    break Err(Error::new(ErrorKind::TimedOut, message));
                }
                Err(error) => break Err(Error::failed(format!("waiting for {name}"), error)),
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        };
        self.lock().waited.remove(&pid);
        outcome
    }
}

fn collect(pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    let read = move || {
        let mut bytes = Vec::new();
        let mut pipe = pipe.take(WORDS);
        let _ = pipe.read_to_end(&mut bytes);
        // Beyond what is kept it is read all the same, or the tool would block.
        let _ = std::io::copy(&mut pipe.into_inner(), &mut std::io::sink());
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    };
    let spawned = thread::Builder::new().stack_size(128 << 10).spawn(read);
    drop(spawned);
    receiver
}

/// A program of the initramfs, as a command with nothing of our environment.
pub(crate) fn program(name: &str) -> Result<Command> {
    let path = PROGRAMS
        .iter()
        .map(|directory| PathBuf::from(directory).join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Error::new(ErrorKind::Failed, format!("this VM has no {name}: its initramfs lacks it"))
        })?;
    let mut command = Command::new(path);
    command.env_clear().env("PATH", PROGRAMS.join(":")).current_dir("/");
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECONDS: Duration = Duration::from_secs(20);

    #[test]
    fn a_tool_gives_its_output_its_words_or_runs_out_of_time() {
        let children = Children::default();
        let run =
            |script: &str, limit| children.run(program("sh").unwrap().args(["-c", script]), limit);
        assert_eq!(run("echo yes", SECONDS).unwrap(), "yes\n");
        let error = run("echo no >&2; exit 3", SECONDS).unwrap_err();
        assert!(error.to_string().ends_with("exit code 3: no"), "{error}");
        let error = run("sleep 1000", Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_eq!(run("head -c 1000000 /dev/zero", SECONDS).unwrap().len(), 64 << 10);
        assert!(children.lock().waited.is_empty());
        assert!(program("no-such-program").is_err());
    }
}
