//! From an error to an exit code and to what is printed about it.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(windows)]
mod windows;

use std::error::Error;
use std::fmt;
use std::io;

use serve::{CauseKind, ConnectionError, ConnectionErrorKind};

use crate::escape;
#[cfg(target_os = "linux")]
use linux as imp;
#[cfg(windows)]
use windows as imp;

/// The exit codes that Plywood itself uses. `run` passes the container's own code through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Something else went wrong.
    Failed = 1,
    /// The command line, or a combination of its parts, makes no sense.
    Usage = 2,
    /// A program or kernel facility that can be installed or switched on is missing.
    SetUp = 3,
    /// An image, snapshot, file or container does not exist.
    NotFound = 4,
    /// It exists already, or is in use.
    Exists = 5,
    /// The input or the store is corrupt.
    Corrupt = 6,
    /// The system refuses it to this user.
    NotPermitted = 7,
    /// This host, kernel or version of Plywood cannot do it.
    NotSupported = 8,
    /// No space is left.
    NoSpace = 9,
}

impl Exit {
    /// The code's meaning; what is none of ours is a plain failure.
    pub(crate) fn from_code(code: u8) -> Self {
        const ALL: [Exit; 9] = [
            Exit::Failed,
            Exit::Usage,
            Exit::SetUp,
            Exit::NotFound,
            Exit::Exists,
            Exit::Corrupt,
            Exit::NotPermitted,
            Exit::NotSupported,
            Exit::NoSpace,
        ];
        ALL.into_iter().find(|exit| *exit as u8 == code).unwrap_or(Self::Failed)
    }
}

/// An error of the command line itself: its exit code, a message, the way out, and the cause.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
    hints: Vec<String>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hints: Vec::new(), source: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    pub(crate) fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// Standard output is closed: nobody wants the rest, which is no failure.
#[derive(Debug)]
pub(crate) struct OutputClosed;

impl fmt::Display for OutputClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output is closed")
    }
}

impl Error for OutputClosed {}

/// The exit code of an error: that of the first in the chain of causes that says more than "failed".
pub(crate) fn code(error: &anyhow::Error) -> Exit {
    error.chain().find_map(code_of).unwrap_or(Exit::Failed)
}

/// The hints of an error: the ones that were attached, and the ones that follow from its kind.
pub(crate) fn hints(error: &anyhow::Error) -> Vec<String> {
    let mut hints: Vec<String> = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<Failure>())
        .flat_map(|failure| failure.hints.iter().cloned())
        .collect();
    if hints.is_empty() {
        hints.extend(error.chain().find_map(way_out).map(str::to_owned));
    }
    if hints.is_empty() && code(error) == Exit::NotPermitted {
        hints.extend(imp::way_to_privileges().map(str::to_owned));
    }
    hints
}

const DAMAGED_STORE: &str = "`plywood fsck` says what is damaged; if it cannot open the store either, put a copy of the \
    store back, or import the images again into another --root";

/// What a user can do about errors of the libraries, where it is not plain from the message.
fn way_out(cause: &(dyn Error + 'static)) -> Option<&'static str> {
    if let Some(error) = cause.downcast_ref::<ConnectionError>() {
        return match error.kind() {
            ConnectionErrorKind::Lost => Some(
                "its log says why; nothing is half done: look at what is there, and repeat the command",
            ),
            ConnectionErrorKind::Incompatible => {
                Some("restart the daemon, for example with systemctl restart plywood")
            }
            _ => None,
        };
    }
    if let Some(error) = cause.downcast_ref::<cimfs::Error>() {
        let temporary = error.to_string().contains(".cimtmp");
        return (error.kind() == cimfs::ErrorKind::Exists && temporary).then_some(
            "if nobody is writing the image, that was cut: remove the files beside it that end with .cimtmp",
        );
    }
    match CauseKind::of(cause) {
        CauseKind::Store(kind) => match kind {
            store::ErrorKind::Busy => Some("try again when that process has ended"),
            store::ErrorKind::NewerVersion => {
                Some("use the version of plywood that wrote it, or another --root")
            }
            store::ErrorKind::NoSpace => {
                Some("`plywood gc` deletes what nothing needs; --root puts the store elsewhere")
            }
            store::ErrorKind::NeedsBase => Some("name the image below it with --base"),
            // Damaged input comes from the other crates, and says more itself.
            store::ErrorKind::Corrupt if !is_about_input(cause) => Some(DAMAGED_STORE),
            _ => None,
        },
        CauseKind::Layer(kind) => match kind {
            layer::ErrorKind::DigestMismatch => Some("the archive is damaged: fetch it again"),
            layer::ErrorKind::OtherPlatform => Some("choose one of its platforms with --platform"),
            _ => None,
        },
        CauseKind::Mount(kind) => way_out_of_mount(kind),
        _ => None,
    }
}

fn way_out_of_mount(kind: mount::ErrorKind) -> Option<&'static str> {
    match kind {
        mount::ErrorKind::TooManyLayers => {
            Some("merge some of its layers into one, as `plywood erofs merge` does with files")
        }
        mount::ErrorKind::NotSupported => Some("`plywood doctor` shows what this kernel can do"),
        mount::ErrorKind::ToolMissing => Some("`plywood doctor` shows what to install"),
        mount::ErrorKind::Corrupt => {
            Some("`plywood fsck` says which layers are damaged, and what to import again")
        }
        mount::ErrorKind::Busy => Some("`plywood mount ls` shows who uses what"),
        _ => None,
    }
}

fn is_about_input(cause: &(dyn Error + 'static)) -> bool {
    cause.source().is_some_and(|source| matches!(CauseKind::of(source), CauseKind::Layer(_)))
}

/// An error and its causes in one line: `…: cause`.
pub(crate) fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    let mut last = String::new();
    for cause in error.chain() {
        let message = cause.to_string();
        // Some errors of other crates repeat their cause; say it once.
        if message.is_empty() || last.ends_with(&message) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&message);
        last = message;
    }
    text
}

/// Prints `plywood: error: …: cause` and `hint: …` lines to standard error.
pub(crate) fn report(error: &anyhow::Error) {
    let text = chain(error);
    // A guest's console, where one is quoted, keeps its lines.
    let lines: Vec<String> = text.split('\n').map(escape::message).collect();
    eprintln!("plywood: error: {}", lines.join("\n"));
    for hint in hints(error) {
        eprintln!("hint: {}", escape::message(&hint));
    }
}

/// Prints what a user should know although the command goes on.
pub(crate) fn warn(text: &str) {
    eprintln!("plywood: warning: {}", escape::message(text));
}

fn code_of(cause: &(dyn Error + 'static)) -> Option<Exit> {
    if let Some(failure) = cause.downcast_ref::<Failure>() {
        return (failure.exit != Exit::Failed).then_some(failure.exit);
    }
    if let Some(error) = cause.downcast_ref::<ConnectionError>() {
        return (error.kind() == ConnectionErrorKind::Denied).then_some(Exit::NotPermitted);
    }
    if let Some(error) = cause.downcast_ref::<serve::Error>() {
        return serve_code(error.kind());
    }
    if let Some(error) = cause.downcast_ref::<cimfs::Error>() {
        return cim_code(error.kind());
    }
    if let Some(error) = cause.downcast_ref::<uvm::Error>() {
        return vm_code(error.kind());
    }
    if let Some(error) = cause.downcast_ref::<container::Error>() {
        return container_code(error.kind());
    }
    match CauseKind::of(cause) {
        // What makes no sense is an argument, unless it came out of a layer: then that says so itself.
        CauseKind::Store(store::ErrorKind::Invalid) if cause.source().is_some() => None,
        CauseKind::Store(kind) => store_code(kind),
        CauseKind::Layer(kind) => layer_code(kind),
        CauseKind::Mount(kind) => mount_code(kind),
        CauseKind::Erofs(kind) => erofs_code(kind),
        CauseKind::System(errno) => errno.and_then(imp::code_of_number),
        CauseKind::Io { errno, kind } => io_code(errno, kind),
        CauseKind::Other => None,
    }
}

fn serve_code(kind: serve::ErrorKind) -> Option<Exit> {
    match kind {
        serve::ErrorKind::Configuration => Some(Exit::Usage),
        serve::ErrorKind::AddressTaken => Some(Exit::Exists),
        _ => None,
    }
}

/// Whether some cause is the store's word that there is no such thing.
pub(crate) fn is_missing(error: &anyhow::Error) -> bool {
    let missing = CauseKind::Store(store::ErrorKind::NotFound);
    error.chain().any(|cause| CauseKind::of(cause) == missing)
}

fn erofs_code(kind: erofs::ErrorKind) -> Option<Exit> {
    use erofs::ErrorKind;
    match kind {
        ErrorKind::NotErofs | ErrorKind::Corrupt => Some(Exit::Corrupt),
        ErrorKind::Unsupported | ErrorKind::TooLarge => Some(Exit::NotSupported),
        ErrorKind::Invalid => Some(Exit::Usage),
        ErrorKind::NotFound => Some(Exit::NotFound),
        _ => None,
    }
}

fn cim_code(kind: cimfs::ErrorKind) -> Option<Exit> {
    use cimfs::ErrorKind;
    match kind {
        // Without one of its region files an image is damaged.
        ErrorKind::NotCim | ErrorKind::Corrupt | ErrorKind::Missing => Some(Exit::Corrupt),
        ErrorKind::Unsupported | ErrorKind::TooLarge => Some(Exit::NotSupported),
        ErrorKind::Invalid => Some(Exit::Usage),
        ErrorKind::NotFound => Some(Exit::NotFound),
        ErrorKind::Exists => Some(Exit::Exists),
        _ => None,
    }
}

fn vm_code(kind: uvm::ErrorKind) -> Option<Exit> {
    use uvm::ErrorKind;
    match kind {
        ErrorKind::NoAvailableLocation => Some(Exit::NoSpace),
        ErrorKind::NotAttached | ErrorKind::NotFound => Some(Exit::NotFound),
        ErrorKind::AlreadyExists | ErrorKind::AlreadyReleased | ErrorKind::Busy => {
            Some(Exit::Exists)
        }
        ErrorKind::TooLarge | ErrorKind::Unsupported => Some(Exit::NotSupported),
        ErrorKind::Invalid => Some(Exit::Usage),
        ErrorKind::Corrupt => Some(Exit::Corrupt),
        ErrorKind::ToolMissing => Some(Exit::SetUp),
        ErrorKind::NotPermitted => Some(Exit::NotPermitted),
        ErrorKind::NoSpace => Some(Exit::NoSpace),
        _ => None,
    }
}

fn container_code(kind: container::ErrorKind) -> Option<Exit> {
    use container::ErrorKind;
    match kind {
        ErrorKind::FailedPrecondition => Some(Exit::Exists),
        ErrorKind::Invalid => Some(Exit::Usage),
        ErrorKind::NotFound => Some(Exit::NotFound),
        ErrorKind::NotSupported => Some(Exit::NotSupported),
        ErrorKind::Corrupt => Some(Exit::Corrupt),
        ErrorKind::NoLocation => Some(Exit::NoSpace),
        _ => None,
    }
}

/// A layer is input: what cannot be stored of it counts as corrupt, as does one that is larger than allowed.
fn layer_code(kind: layer::ErrorKind) -> Option<Exit> {
    use layer::ErrorKind;
    match kind {
        ErrorKind::Corrupt
        | ErrorKind::DigestMismatch
        | ErrorKind::Invalid
        | ErrorKind::TooLarge
        | ErrorKind::MissingParent => Some(Exit::Corrupt),
        ErrorKind::Unsupported | ErrorKind::OtherPlatform => Some(Exit::NotSupported),
        ErrorKind::NotFound => Some(Exit::NotFound),
        ErrorKind::NoSpace => Some(Exit::NoSpace),
        _ => None,
    }
}

fn store_code(kind: store::ErrorKind) -> Option<Exit> {
    use store::ErrorKind;
    match kind {
        ErrorKind::NotFound => Some(Exit::NotFound),
        ErrorKind::AlreadyExists | ErrorKind::FailedPrecondition | ErrorKind::Busy => {
            Some(Exit::Exists)
        }
        ErrorKind::Corrupt | ErrorKind::TooLarge => Some(Exit::Corrupt),
        ErrorKind::NewerVersion | ErrorKind::Unsupported => Some(Exit::NotSupported),
        ErrorKind::ReadOnly => Some(Exit::NotPermitted),
        ErrorKind::Invalid => Some(Exit::Usage),
        ErrorKind::NoSpace => Some(Exit::NoSpace),
        _ => None,
    }
}

fn mount_code(kind: mount::ErrorKind) -> Option<Exit> {
    use mount::ErrorKind;
    match kind {
        ErrorKind::NotFound => Some(Exit::NotFound),
        ErrorKind::Busy | ErrorKind::AlreadyExists => Some(Exit::Exists),
        ErrorKind::Corrupt => Some(Exit::Corrupt),
        ErrorKind::TooManyLayers | ErrorKind::NotSupported | ErrorKind::NewerVersion => {
            Some(Exit::NotSupported)
        }
        ErrorKind::NotPermitted => Some(Exit::NotPermitted),
        ErrorKind::NoSpace => Some(Exit::NoSpace),
        ErrorKind::ToolMissing => Some(Exit::SetUp),
        ErrorKind::Invalid => Some(Exit::Usage),
        _ => None,
    }
}

fn io_code(errno: Option<i32>, kind: io::ErrorKind) -> Option<Exit> {
    match errno {
        Some(errno) => imp::code_of_number(errno),
        None => match kind {
            io::ErrorKind::NotFound => Some(Exit::NotFound),
            io::ErrorKind::AlreadyExists => Some(Exit::Exists),
            io::ErrorKind::PermissionDenied => Some(Exit::NotPermitted),
            io::ErrorKind::StorageFull => Some(Exit::NoSpace),
            io::ErrorKind::Unsupported => Some(Exit::NotSupported),
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Some(Exit::Corrupt),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_first_telling_cause_decides() {
        for (errno, exit) in [
            (libc_errno::ENOSPC, Exit::NoSpace),
            (libc_errno::EACCES, Exit::NotPermitted),
            (libc_errno::EPERM, Exit::NotPermitted),
            (libc_errno::EROFS, Exit::NotPermitted),
            (libc_errno::ENOENT, Exit::NotFound),
            (libc_errno::EBUSY, Exit::Exists),
            (libc_errno::EIO, Exit::Failed),
        ] {
            let error = Err::<(), _>(io::Error::from_raw_os_error(errno))
                .context("cannot write")
                .context("cannot import")
                .expect_err("built as an error");
            assert_eq!(code(&error), exit, "errno {errno}");
        }
        let failure = Failure::new(Exit::SetUp, "no runtime")
            .because(io::Error::from_raw_os_error(libc_errno::ENOENT));
        assert_eq!(code(&failure.into()), Exit::SetUp);
        let failure = Failure::new(Exit::Failed, "cannot start")
            .because(io::Error::from_raw_os_error(libc_errno::ENOSPC));
        assert_eq!(code(&failure.into()), Exit::NoSpace);
    }

    /// Error numbers as Linux has them on every architecture that Rust's std supports it on with 0..=34.
    #[cfg(target_os = "linux")]
    mod libc_errno {
        pub(super) const EPERM: i32 = 1;
        pub(super) const ENOENT: i32 = 2;
        pub(super) const EIO: i32 = 5;
        pub(super) const EACCES: i32 = 13;
        pub(super) const EBUSY: i32 = 16;
        pub(super) const ENOSPC: i32 = 28;
        pub(super) const EROFS: i32 = 30;
    }
}
