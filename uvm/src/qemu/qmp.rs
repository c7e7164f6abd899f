//! QEMU's machine protocol: JSON lines over a unix socket. One thread reads; calls wait for the answer of their number.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Error, ErrorKind, Result};

/// No line of QEMU's comes near this.
const LONGEST_LINE: u64 = 4 << 20;
/// Deleted devices that nobody has waited for yet.
const MOST_DELETED: usize = 1024;

/// A line from QEMU: greeting, answer or event.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Line {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    id: Option<u64>,
    #[serde(rename = "return")]
    returned: Option<Value>,
    error: Option<Failure>,
    event: Option<String>,
    data: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Failure {
    class: String,
    desc: String,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// Calls that wait; `Some` once answered.
    calls: BTreeMap<u64, Option<Result<Value, Failure>>>,
    /// Ids of devices whose removal QEMU has reported.
    deleted: BTreeSet<String>,
    /// Why the guest stopped, as far as an event told.
    stopped: Option<String>,
    greeted: bool,
    ended: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Qmp {
    shared: Arc<Shared>,
    writer: Mutex<UnixStream>,
}

impl Drop for Qmp {
    fn drop(&mut self) {
        let writer = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = writer.shutdown(Shutdown::Both);
    }
}

impl Qmp {
    /// Takes up the conversation: greeting, then commands.
    pub(super) fn new(stream: UnixStream, time: Duration) -> Result<Self> {
        let failed = |error| Error::io("cannot talk to QEMU", error);
        let reader = stream.try_clone().map_err(failed)?;
        // A QEMU that does not read must not hold a caller for ever.
        stream.set_write_timeout(Some(time)).map_err(failed)?;
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("qmp".to_owned())
            .spawn(move || {
                read(BufReader::new(reader), &theirs);
                theirs.lock().ended = true;
                theirs.changed.notify_all();
            })
            .map_err(failed)?;
        let qmp = Self { shared, writer: Mutex::new(stream) };
        qmp.wait_for(time, "greet us", |state| state.greeted.then_some(()))?;
        qmp.execute("qmp_capabilities", json!({}), time)?;
        Ok(qmp)
    }

    /// Gives a command and waits for its answer.
    pub(super) fn execute(&self, command: &str, arguments: Value, time: Duration) -> Result<Value> {
        let id = {
            let mut state = self.shared.lock();
            let id = state.next;
            state.next += 1;
            state.calls.insert(id, None);
            id
        };
        let line = json!({ "execute": command, "arguments": arguments, "id": id });
        let sent = {
            let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            writer.write_all(format!("{line}\n").as_bytes())
        };
        let answer = match sent {
            Ok(()) => self
                .wait_for(time, command, |state| state.calls.get_mut(&id).and_then(Option::take)),
            Err(error) => Err(Error::io(format!("cannot send {command} to QEMU"), error)),
        };
        self.shared.lock().calls.remove(&id);
        answer?.map_err(|failure| {
            let kind = match failure.class.as_str() {
                "DeviceNotFound" => ErrorKind::NotAttached,
                "CommandNotFound" => ErrorKind::Unsupported,
                // QEMU has no class for these; the texts are from its sources.
                _ if failure.desc.contains("Failed to get") && failure.desc.contains("lock") => {
                    ErrorKind::Busy
                }
                _ if failure.desc.contains("No such file or directory") => ErrorKind::NotFound,
                _ if failure.desc.contains("Permission denied") => ErrorKind::NotPermitted,
                _ if failure.desc.contains("Failed to find node")
                    || failure.desc.contains("Cannot find device") =>
                {
                    ErrorKind::NotAttached
                }
                _ => ErrorKind::Io,
            };
            Error::new(kind, format!("QEMU refuses {command}: {}", failure.desc))
        })
    }

    /// Waits until QEMU has reported that a device is gone.
    pub(super) fn wait_deleted(&self, device: &str, time: Duration) -> Result<()> {
        self.wait_for(time, "remove a device", |state| state.deleted.remove(device).then_some(()))
    }

    /// Forgets an earlier device of that id.
    pub(super) fn forget_deleted(&self, device: &str) {
        self.shared.lock().deleted.remove(device);
    }

    /// Why the guest stopped, if an event has told.
    pub(super) fn stopped(&self) -> Option<String> {
        self.shared.lock().stopped.clone()
    }

    fn wait_for<T>(
        &self,
        time: Duration,
        doing: &str,
        mut look: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<T> {
        let until = Instant::now() + time;
        let mut state = self.shared.lock();
        loop {
            if let Some(found) = look(&mut state) {
                return Ok(found);
            }
            if state.ended {
                let message = format!("QEMU has ended and did not {doing}");
                return Err(Error::new(ErrorKind::Dead, message));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let message = format!("QEMU did not {doing} within {} s", time.as_secs());
                return Err(Error::new(ErrorKind::Deadline, message));
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Reads until the end, an error, or something that is not the protocol.
fn read(mut reader: impl BufRead, shared: &Shared) {
    loop {
        let mut text = Vec::new();
        let taken = reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut text);
        match taken {
            Ok(length) if length > 0 && text.ends_with(b"\n") => {}
            _ => return,
        }
        let Ok(line) = serde_json::from_slice::<Line>(&text) else { return };
        take_in(&mut shared.lock(), line);
        shared.changed.notify_all();
    }
}

fn take_in(state: &mut State, line: Line) {
    if line.greeting.is_some() {
        state.greeted = true;
    }
    if let Some(event) = line.event {
        let told = |name: &str| line.data.get(name).and_then(Value::as_str).map(str::to_owned);
        match event.as_str() {
            "DEVICE_DELETED" => {
                // Without an id it is a part of the device, such as its backend's bus.
                if let Some(device) = told("device")
                    && state.deleted.len() < MOST_DELETED
                {
                    state.deleted.insert(device);
                }
            }
            "SHUTDOWN" => state.stopped = told("reason"),
            "GUEST_PANICKED" => state.stopped = Some("guest-panic".to_owned()),
            _ => {}
        }
        return;
    }
    // An answer that nobody waits for any more is dropped.
    if let Some(call) = line.id.and_then(|id| state.calls.get_mut(&id)) {
        *call = Some(match (line.error, line.returned) {
            (Some(failure), _) => Err(failure),
            (None, returned) => Ok(returned.unwrap_or_default()),
        });
    }
}

/// Lets arbitrary bytes be QEMU's words. For the fuzz target.
#[doc(hidden)]
pub fn fuzz_answers(data: &[u8]) {
    let shared = Shared { state: Mutex::default(), changed: Condvar::new() };
    shared.lock().calls.insert(0, None);
    read(data, &shared);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A QEMU that says what it is told to after the commands of the connection's beginning.
    fn qemu(says: &'static str) -> Qmp {
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            let mut writer = theirs.try_clone().unwrap();
            let mut lines = BufReader::new(theirs).lines();
            writer.write_all(b"{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n").unwrap();
            lines.next().unwrap().unwrap();
            writer.write_all(b"{\"return\": {}, \"id\": 0}\r\n").unwrap();
            lines.next();
            writer.write_all(says.as_bytes()).unwrap();
        });
        Qmp::new(ours, Duration::from_secs(10)).unwrap()
    }

    #[test]
    fn answers_find_their_calls_among_events() {
        let qemu = qemu(concat!(
            "{\"event\": \"DEVICE_DELETED\", \"data\": {\"device\": \"a\", \"path\": \"/p\"}, \"timestamp\": {}}\r\n",
            "{\"return\": {\"late\": 1}, \"id\": 77}\r\n",
            "{\"return\": {\"x\": 5}, \"id\": 1}\r\n",
        ));
        let answer = qemu.execute("query", json!({}), Duration::from_secs(10)).unwrap();
        assert_eq!(answer, json!({"x": 5}));
        qemu.wait_deleted("a", Duration::from_secs(1)).unwrap();
        assert!(qemu.wait_deleted("a", Duration::from_millis(50)).is_err());
    }

    #[test]
    fn a_refusal_has_its_kind_and_text() {
        let qemu = qemu(
            "{\"error\": {\"class\": \"GenericError\", \"desc\": \"Failed to get shared \\\"write\\\" lock\"}, \"id\": 1}\r\n",
        );
        let error = qemu.execute("blockdev-add", json!({}), Duration::from_secs(10)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(error.to_string().contains("Failed to get shared"), "{error}");
    }

    #[test]
    fn rubbish_and_silence_end_calls() {
        for says in ["rubbish\r\n", "{\"id\": \"x\"}\r\n", ""] {
            let error =
                qemu(says).execute("query", json!({}), Duration::from_secs(10)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Dead, "{says}");
        }
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let error = Qmp::new(ours, Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Deadline);
    }
}
