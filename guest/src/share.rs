//! Plan 9 shares of the host.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use bridge::MappedDirectory;

use crate::dial::Dial;
use crate::{Error, Result};

/// The largest message the client asks for; the server may answer with less.
const MESSAGE: u32 = 512 << 10;
/// What may be on its way to the client: a message, and the beginning of the next.
const BUFFER: u64 = 1 << 20;

/// Where the kernel shows the channels, virtio devices by which shares can be mounted.
const CHANNELS: &str = "/sys/bus/virtio/drivers/9pnet_virtio";
/// How the names of the host's begin.
const CHANNEL: &str = "plywood";

/// Mounts a share at `target`, which exists: by a channel if one is free, else by dialling the share's port. The kernel keeps
/// either.
pub(crate) fn mount(dial: &dyn Dial, share: &MappedDirectory, target: &Path) -> Result<()> {
    let port = u32::try_from(share.port)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| Error::invalid(format!("{} is no port", share.port)))?;
    // The name goes into a list of options.
    if share.share_name.contains([',', '\0']) {
        return Err(Error::invalid(format!("{:?} is no name of a share", share.share_name)));
    }
    // `cache=mmap` for programs that map files to write them; nothing else is kept, so what changes on the host is
    // seen at once.
    let mount = |source: &str, transport: &str| {
        let options = format!(
            "{transport},version=9p2000.L,msize={MESSAGE},cache=mmap,aname={}",
            share.share_name
        );
        let (source, read_only) = (Path::new(source), share.read_only);
        sys::mount_with_options(source, target, "9p", read_only, options.as_ref()).map_err(
            |error| {
                let (name, target) = (&share.share_name, target.display());
                (
                    error.errno(),
                    Error::failed(format!("mounting the share {name:?} at {target}"), error),
                )
            },
        )
    };
    for channel in channels(Path::new(CHANNELS)) {
        match mount(&channel, "trans=virtio") {
            // A channel serves one mount at a time.
            Err((Some(libc::EBUSY), _)) => {}
            mounted => return mounted.map_err(|(_, error)| error),
        }
    }
    let connection = dial.dial(port)?;
    // Faster with it, and no worse without.
    let _ = sys::set_vsock_buffer(&connection, BUFFER);
    let descriptor = connection.as_raw_fd();
    mount("plywood", &format!("trans=fd,rfdno={descriptor},wfdno={descriptor}"))
        .map_err(|(_, error)| error)
}

/// The names of the host's channels.
fn channels(directory: &Path) -> Vec<String> {
    let Ok(devices) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> = devices
        .flatten()
        .filter_map(|device| fs::read(device.path().join("mount_tag")).ok())
        // The kernel ends them with a NUL.
        .filter_map(|tag| String::from_utf8(tag.split(|byte| *byte == 0).next()?.to_vec()).ok())
        .filter(|name| {
            name.strip_prefix(CHANNEL).is_some_and(|number| number.parse::<u8>().is_ok())
        })
        .collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hosts_channels_are_taken() {
        let driver = tempfile::tempdir().unwrap();
        for (device, tag) in [
            ("virtio9", "plywood1\0"),
            ("virtio3", "plywood0"),
            ("virtio4", "somebody's\0"),
            ("virtio5", "plywood,trans=fd\0"),
            ("virtio6", ""),
        ] {
            fs::create_dir(driver.path().join(device)).unwrap();
            fs::write(driver.path().join(device).join("mount_tag"), tag).unwrap();
        }
        fs::write(driver.path().join("bind"), "").unwrap();
        assert_eq!(channels(driver.path()), ["plywood0", "plywood1"]);
        assert!(channels(&driver.path().join("none")).is_empty());
    }
}
