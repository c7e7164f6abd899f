//! Directories for the guest: a 9P server behind one of the host's ports, with a share for each directory.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::config::VSOCK;
use crate::plan9::{Export, Limits, Server};
use crate::{Error, ErrorKind, Result, Share};

/// The server and the thread that accepts. Dropping it ends all connections.
#[derive(Debug)]
pub(super) struct Shares {
    server: Arc<Server>,
    path: PathBuf,
    ended: Arc<AtomicBool>,
}

impl Drop for Shares {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = UnixStream::connect(&self.path);
        let _ = std::fs::remove_file(&self.path);
        self.server.close();
    }
}

impl Shares {
    pub(super) fn open(run: &Path) -> Result<Self> {
        let path = run.join(format!("{VSOCK}_{}", bridge::PLAN9_PORT));
        let failed = |error| Error::io(format!("cannot listen on {}", path.display()), error);
        let server = Arc::new(Server::new(Limits::default()).map_err(of_server)?);
        let listener = UnixListener::bind(&path).map_err(failed)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let ended = Arc::new(AtomicBool::new(false));
        let (theirs, stop) = (Arc::clone(&server), Arc::clone(&ended));
        thread::Builder::new()
            .name("9p-accept".to_owned())
            .spawn(move || accept(&listener, &theirs, &stop))
            .map_err(failed)?;
        Ok(Self { server, path, ended })
    }

    pub(super) fn add(&self, share: &Share) -> Result<()> {
        let allowed = share.allowed.as_ref().map(|names| names.iter().cloned().collect());
        let export = Export::new(&share.path).read_only(share.read_only).allowed(allowed);
        self.server.share(&share.name, &export).map_err(of_server)
    }

    pub(super) fn remove(&self, name: &str) -> Result<()> {
        self.server.unshare(name).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Error::caused(ErrorKind::NotAttached, format!("there is no share {name}"), error)
            }
            _ => of_server(error),
        })
    }
}

fn accept(listener: &UnixListener, server: &Arc<Server>, ended: &AtomicBool) {
    while let Ok((stream, _)) = listener.accept() {
        if ended.load(Ordering::SeqCst) {
            return;
        }
        let server = Arc::clone(server);
        // Without a thread the connection is closed; the guest's mount fails then. One that ends badly concerns the
        // guest alone.
        let _ = thread::Builder::new().name("9p".to_owned()).spawn(move || server.serve(stream));
    }
}

fn of_server(error: crate::plan9::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        std::io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
        std::io::ErrorKind::PermissionDenied => ErrorKind::NotPermitted,
        std::io::ErrorKind::NotADirectory => ErrorKind::Invalid,
        _ => ErrorKind::Io,
    };
    Error::caused(kind, error.to_string(), error)
}
