//! Plan 9 shares of the host.

use std::os::fd::AsRawFd as _;
use std::path::Path;

use bridge::MappedDirectory;

use crate::dial::Dial;
use crate::{Error, Result};

/// The largest message the client asks for; the server may answer with less.
const MESSAGE: u32 = 512 << 10;
/// What may be on its way to the client: a message, and the beginning of the next.
const BUFFER: u64 = 1 << 20;

/// Dials the share's port and mounts it at `target`, which exists. The kernel keeps the connection.
pub(crate) fn mount(dial: &dyn Dial, share: &MappedDirectory, target: &Path) -> Result<()> {
    let port = u32::try_from(share.port)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| Error::invalid(format!("{} is no port", share.port)))?;
    // The name goes into a list of options.
    if share.share_name.contains([',', '\0']) {
        return Err(Error::invalid(format!("{:?} is no name of a share", share.share_name)));
    }
    let connection = dial.dial(port)?;
    // Faster with it, and no worse without.
    let _ = sys::set_vsock_buffer(&connection, BUFFER);
    let descriptor = connection.as_raw_fd();
    // `cache=mmap` for programs that map files to write them; nothing else is kept, so what changes on the host is
    // seen at once.
    let options = format!(
        "trans=fd,rfdno={descriptor},wfdno={descriptor},version=9p2000.L,msize={MESSAGE},cache=mmap,aname={}",
        share.share_name
    );
    sys::mount_with_options(Path::new("plywood"), target, "9p", share.read_only, options.as_ref())
        .map_err(|error| {
            let (name, target) = (&share.share_name, target.display());
            Error::failed(format!("mounting the share {name:?} at {target}"), error)
        })
}
