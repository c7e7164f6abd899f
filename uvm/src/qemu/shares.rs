//! Directories for the guest: a 9P server behind one of the host's ports, with a share for each directory.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread;

use super::config::{SHARES_SOCKET, VSOCK};
use crate::plan9::{Export, Limits, Server};
use crate::{Error, ErrorKind, Result, Share};

/// The server and the thread that accepts. Dropping it ends all connections.
#[derive(Debug)]
pub(super) struct Shares {
    server: Arc<Server>,
    paths: Vec<PathBuf>,
    ended: Arc<AtomicBool>,
}

impl Drop for Shares {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        for path in &self.paths {
            // Wakes the thread that accepts.
            let _ = UnixStream::connect(path);
            let _ = std::fs::remove_file(path);
        }
        self.server.close();
    }
}

impl Shares {
    /// With a socket for the guest's connections, and one for QEMU if there are channels.
    pub(super) fn open(run: &Path, channels: u8) -> Result<Self> {
        let server = Arc::new(Server::new(Limits::default()).map_err(of_server)?);
        let mut shares = Self { server, paths: Vec::new(), ended: Arc::default() };
        shares.listen(run.join(format!("{VSOCK}_{}", bridge::PLAN9_PORT)), |server, stream| {
            let _ = server.serve(stream);
        })?;
        if channels > 0 {
            let next = AtomicU8::new(0);
            shares.listen(run.join(SHARES_SOCKET), move |server, stream| {
                let _ = server.serve_channel(&stream, &tag(next.fetch_add(1, Ordering::SeqCst)));
            })?;
        }
        Ok(shares)
    }

    /// Serves each connection to a socket by a thread. One that ends badly concerns the guest alone.
    fn listen(
        &mut self,
        path: PathBuf,
        serve: impl Fn(&Server, UnixStream) + Send + Sync + 'static,
    ) -> Result<()> {
        let failed = |error| Error::io(format!("cannot listen on {}", path.display()), error);
        let listener = UnixListener::bind(&path).map_err(failed)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let (server, ended) = (Arc::clone(&self.server), Arc::clone(&self.ended));
        let serve = Arc::new(serve);
        thread::Builder::new()
            .name("9p-accept".to_owned())
            .spawn(move || {
                while let Ok((stream, _)) = listener.accept() {
                    if ended.load(Ordering::SeqCst) {
                        return;
                    }
                    let (server, serve) = (Arc::clone(&server), Arc::clone(&serve));
                    // Without a thread the connection is closed; the guest's mount fails then.
                    let _ = thread::Builder::new()
                        .name("9p".to_owned())
                        .spawn(move || serve(&server, stream));
                }
            })
            .map_err(failed)?;
        self.paths.push(path);
        Ok(())
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

/// The name of a channel, by which the guest finds it.
pub(super) fn tag(channel: u8) -> String {
    format!("plywood{channel}")
}
