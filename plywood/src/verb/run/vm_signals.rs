//! Signals of a container in a virtual machine.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use signal_hook::consts::{SIGKILL, SIGWINCH};

use super::signals::Recipient;
use crate::vm::RawTerminal;
use crate::vm::protocol::{self, Tell};

/// A container in a virtual machine, behind the machine's owner.
pub(super) struct InVm {
    pub(super) teller: UnixStream,
    pub(super) stop_signal: i32,
    pub(super) patience: Duration,
    pub(super) tty: bool,
}

impl InVm {
    fn tell(&self, what: Tell) {
        // If the owner is gone, so is the container.
        let _ = protocol::send(&self.teller, &what);
    }
}

impl Recipient for InVm {
    fn pass(&self, signal: i32) {
        if signal != SIGWINCH {
            self.tell(Tell::Signal(signal));
        } else if self.tty
            && let Some((rows, columns)) = RawTerminal::size()
        {
            self.tell(Tell::Size(rows, columns));
        }
    }

    fn stop(&self) {
        self.tell(Tell::Signal(self.stop_signal));
    }

    fn kill(&self) {
        self.tell(Tell::Signal(SIGKILL));
    }

    fn patience(&self) -> Duration {
        self.patience
    }
}

/// A signal's number, from its name with or without `SIG`, or from its number.
pub(super) fn number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse() {
        return (1..=64).contains(&number).then_some(number);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    // glibc's real-time signals: it keeps the first two for itself.
    let real_time = |rest: &str, base: i32, step: i32| match rest {
        "" => Some(base),
        rest => rest[1..].parse::<i32>().ok().map(|number| base + step * number),
    };
    if let Some(rest) =
        name.strip_prefix("RTMIN").filter(|rest| rest.is_empty() || rest.starts_with('+'))
    {
        return real_time(rest, 34, 1).filter(|number| (34..=64).contains(number));
    }
    if let Some(rest) =
        name.strip_prefix("RTMAX").filter(|rest| rest.is_empty() || rest.starts_with('-'))
    {
        return real_time(rest, 64, -1).filter(|number| (34..=64).contains(number));
    }
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let place = NAMES.iter().position(|known| *known == name)?;
    i32::try_from(place + 1).ok()
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn signal_names() {
        for (text, signal) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGWINCH", Some(28)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMIN", Some(34)),
            ("SIGRTMAX-1", Some(63)),
            ("SIGRTMIN+99", None),
            ("0", None),
            ("65", None),
            ("", None),
            ("SIGRTMINx", None),
            ("NONSENSE", None),
        ] {
            assert_eq!(number(text), signal, "{text}");
        }
    }
}
