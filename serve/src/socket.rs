//! The daemon's socket: ours alone, whatever lies at its path.

use std::io::ErrorKind as IoKind;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;
use tokio_stream::Stream;

use crate::error::{Error, ErrorKind, Result};

/// Who may use it: its owner.
const MODE: u32 = 0o600;

/// A listening socket, and what is to be removed when it is done with.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    /// Path and inode of a socket that we made; one that systemd gave us is systemd's.
    made: Option<Made>,
}

/// A socket file that this process made.
#[derive(Debug)]
pub(crate) struct Made {
    path: PathBuf,
    inode: u64,
}

impl Made {
    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // Unless another daemon has taken the name meanwhile. The next one replaces it in any case.
        if std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Most bytes of a socket's path: `sun_path` with its end (unix(7)).
const LONGEST: usize = 107;

/// Refuses a path where somebody answers, or that something else than a socket has, or that no socket can have.
/// Changes nothing.
///
/// # Errors
/// `Configuration`, `AddressTaken`, `Io`.
pub(crate) fn check_free(path: &Path) -> Result<()> {
    let longest = path.as_os_str().len().max(temporary(path).as_os_str().len());
    if longest > LONGEST {
        return Err(Error::configuration(format!(
            "the address {} is too long: a socket's path can have {LONGEST} bytes",
            path.display()
        )));
    }
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == IoKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io(format!("cannot look at {}", path.display()), error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(Error::new(
                ErrorKind::AddressTaken,
                format!("{} exists and is no socket; it stays as it is", path.display()),
            ));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(stream) => {
            let who = match rustix::net::sockopt::socket_peercred(&stream) {
                Ok(peer) => format!("process {}", peer.pid.as_raw_nonzero()),
                Err(_) => "another process".to_owned(),
            };
            let message = format!("{who} answers on {} already", path.display());
            Err(Error::new(ErrorKind::AddressTaken, message))
        }
        // Nobody listens any more, or somebody just removed it.
        Err(error) if matches!(error.kind(), IoKind::ConnectionRefused | IoKind::NotFound) => {
            Ok(())
        }
        Err(error) => Err(Error::caused(
            ErrorKind::AddressTaken,
            format!("cannot find out who listens on {}", path.display()),
            error,
        )),
    }
}

/// What a socket at `path` is called until it is ready: short, as there is not much room.
fn temporary(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{:x}", std::process::id()))
}

/// The socket that systemd passed to this process. Whoever asks first takes it.
///
/// # Errors
/// `Configuration` if there are several, `Io`.
pub(crate) fn passed() -> Result<Option<Socket>> {
    let mut passed = listenfd::ListenFd::from_env();
    if passed.len() > 1 {
        let message = format!(
            "{} sockets were passed, of which only one would be served: keep one ListenStream in the unit",
            passed.len()
        );
        return Err(Error::configuration(message));
    }
    let listener = passed
        .take_unix_listener(0)
        .map_err(|error| Error::io("the socket that was passed is of no use", error))?;
    Ok(listener.map(|listener| Socket { listener, made: None }))
}

impl Socket {
    /// Whether it is ours, and not systemd's.
    pub(crate) fn is_ours(&self) -> bool {
        self.made.is_some()
    }

    /// A new socket at `path`, in place of one that nobody listens on any more.
    ///
    /// # Errors
    /// `AddressTaken`, `Io`.
    pub(crate) fn bind(path: &Path) -> Result<Self> {
        check_free(path)?;
        // The name appears only once the socket has its mode, and replaces a stale one in one step.
        let failed = |error| Error::io(format!("cannot listen on {}", path.display()), error);
        let temporary = temporary(path);
        // Of a process that had our id and died here.
        let _ = std::fs::remove_file(&temporary);
        let listener = UnixListener::bind(&temporary).map_err(failed)?;
        let named = (|| {
            std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(MODE))?;
            let inode = std::fs::symlink_metadata(&temporary)?.ino();
            std::fs::rename(&temporary, path)?;
            Ok(Made { path: path.to_owned(), inode })
        })();
        match named {
            Ok(made) => Ok(Self { listener, made: Some(made) }),
            Err(error) => {
                let _ = std::fs::remove_file(&temporary);
                Err(failed(error))
            }
        }
    }

    /// Connections as they come, and the guard that removes the socket file.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn accept(self) -> Result<(Incoming, Option<Made>)> {
        let (listener, made) = self.into_parts()?;
        Ok((Incoming { listener, pause: None }, made))
    }

    /// The listener itself, and the guard that removes the socket file.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn into_parts(self) -> Result<(tokio::net::UnixListener, Option<Made>)> {
        let failed = |error| Error::io("cannot listen", error);
        self.listener.set_nonblocking(true).map_err(failed)?;
        let listener = tokio::net::UnixListener::from_std(self.listener).map_err(failed)?;
        Ok((listener, self.made))
    }
}

/// Connections. A failed accept (no descriptors are left) is no end: it is tried again a little later.
#[derive(Debug)]
pub(crate) struct Incoming {
    listener: tokio::net::UnixListener,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Stream for Incoming {
    type Item = std::io::Result<tokio::net::UnixStream>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                std::task::ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            match std::task::ready!(self.listener.poll_accept(context)) {
                Ok((stream, _)) => return Poll::Ready(Some(Ok(stream))),
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    self.pause = Some(Box::pin(tokio::time::sleep(Duration::from_millis(100))));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(path: &Path) -> ErrorKind {
        Socket::bind(path).unwrap_err().kind()
    }

    #[test]
    fn the_path_is_taken_over_only_from_the_dead() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let socket = Socket::bind(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert_eq!(refusal(&path), ErrorKind::AddressTaken);
        let told = check_free(&path).unwrap_err().to_string();
        assert!(told.contains(&format!("process {}", std::process::id())), "{told}");
        // Killed: the file stays, nobody listens.
        std::mem::forget(socket.made);
        drop(socket.listener);
        assert!(path.exists());
        let again = Socket::bind(&path).unwrap();
        drop(again);
        assert!(!path.exists(), "an orderly end removes it");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_socket_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(refusal(&path), ErrorKind::AddressTaken);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert_eq!(refusal(&path), ErrorKind::AddressTaken);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(refusal(&path), ErrorKind::AddressTaken);
        assert_eq!(refusal(&path.join("no/such")), ErrorKind::Io);
    }

    #[test]
    fn a_path_is_as_long_as_the_kernel_takes() {
        let directory = tempfile::tempdir().unwrap();
        let room = LONGEST - directory.path().as_os_str().len() - 1;
        drop(Socket::bind(&directory.path().join("s".repeat(room))).unwrap());
        let path = directory.path().join("s".repeat(room + 1));
        assert_eq!(refusal(&path), ErrorKind::Configuration);
    }

    #[test]
    fn a_successors_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let first = Socket::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let second = Socket::bind(&path).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }
}
