//! Whether QEMU can have virtio devices that another process serves whatever their kind.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// QEMU's device of which the kind, the configuration and the queues are told to it. Those before 10.2 have it, by another name, but
/// do not let anybody create it.
pub(super) const DEVICE: &str = "vhost-user-test-device-pci";

/// Whether this QEMU can have channels of shares. It is asked once in a process; a program that cannot be run has none.
pub fn has_channels(qemu: &Path) -> bool {
    static KNOWN: Mutex<Option<HashMap<PathBuf, bool>>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    *known.entry(qemu.to_owned()).or_insert_with(|| ask(qemu))
}

fn ask(qemu: &Path) -> bool {
    let mut command = Command::new(qemu);
    command.arg("-device").arg(format!("{DEVICE},help")).stdin(Stdio::null());
    let Ok(output) = command.output() else { return false };
    output.status.success() && can_be_told(&String::from_utf8_lossy(&output.stdout))
}

/// Whether a device has the properties that make it one of any kind.
fn can_be_told(properties: &str) -> bool {
    ["virtio-id=", "num_vqs=", "vq_size=", "config_size=", "chardev="]
        .iter()
        .all(|name| properties.lines().any(|line| line.trim_start().starts_with(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_device_that_can_be_told_its_kind_will_do() {
        let properties = "options:\n  chardev=<str> - ID\n  config_size=<uint32>\n  num_vqs=<uint32>\n  virtio-id=<uint16>\n";
        assert!(can_be_told(&format!("{properties}  vq_size=<uint32> -  (default: 64)\n")));
        assert!(!can_be_told(properties));
        assert!(!has_channels(Path::new("/no/such/qemu")));
        // A program that knows no devices.
        assert!(!has_channels(Path::new("/bin/false")));
    }
}
