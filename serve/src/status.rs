//! From the libraries' errors to gRPC codes. containerd acts on the code alone: NotFound, AlreadyExists,
//! FailedPrecondition, InvalidArgument and Unimplemented mean something to it, the rest is "failed".

use std::error::Error;

use tonic::{Code, Status};

/// Most bytes of a message: it travels in a header, and keys that are repeated in it may be long.
const LONGEST: usize = 1024;

/// An error and its causes in one line.
pub(crate) fn line(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    if let Some(end) = (LONGEST..text.len()).find(|end| text.is_char_boundary(*end)) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The status of a failed store operation.
pub(crate) fn of_store(error: &store::Error) -> Status {
    use store::ErrorKind as Kind;
    let code = match error.kind() {
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::FailedPrecondition | Kind::NewerVersion | Kind::ReadOnly | Kind::NeedsBase => {
            Code::FailedPrecondition
        }
        Kind::Invalid | Kind::TooLarge => Code::InvalidArgument,
        Kind::Busy => Code::Unavailable,
        Kind::Corrupt => Code::DataLoss,
        Kind::NoSpace => Code::ResourceExhausted,
        Kind::Unsupported => Code::Unimplemented,
        Kind::Cancelled => Code::Cancelled,
        _ => Code::Internal,
    };
    Status::new(code, line(error))
}

/// The status of a failed removal. containerd's collector goes on after FailedPrecondition only, so that one snapshot
/// that cannot be removed does not keep all others; its tests look for the word "remove".
pub(crate) fn of_removal(key: &[u8], error: &store::Error) -> Status {
    use store::ErrorKind as Kind;
    match error.kind() {
        // A refusal of the store's says already what cannot be removed.
        Kind::NotFound | Kind::FailedPrecondition => of_store(error),
        _ => {
            let (key, text) = (crate::text::key(key), line(error));
            Status::failed_precondition(format!("cannot remove snapshot {key}: {text}"))
        }
    }
}

/// The status of a failed mount or of a failure of the journal.
pub(crate) fn of_mount(error: &mount::Error) -> Status {
    use mount::ErrorKind as Kind;
    let code = match error.kind() {
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::TooManyLayers | Kind::ToolMissing | Kind::NewerVersion => Code::FailedPrecondition,
        // Not Unimplemented: that would send the caller to somebody else, who cannot help.
        Kind::NotSupported => Code::FailedPrecondition,
        Kind::Invalid => Code::InvalidArgument,
        Kind::Busy => Code::Unavailable,
        Kind::Corrupt => Code::DataLoss,
        Kind::NoSpace => Code::ResourceExhausted,
        Kind::NotPermitted => Code::PermissionDenied,
        _ => Code::Internal,
    };
    Status::new(code, line(error))
}

/// The status of a layer that cannot be converted or compared.
#[allow(dead_code, reason = "the differ's")]
pub(crate) fn of_layer(error: &layer::Error) -> Status {
    use layer::ErrorKind as Kind;
    let code = match error.kind() {
        Kind::NotFound => Code::NotFound,
        Kind::Invalid | Kind::TooLarge => Code::InvalidArgument,
        Kind::MissingParent => Code::FailedPrecondition,
        Kind::Corrupt | Kind::DigestMismatch => Code::DataLoss,
        Kind::NoSpace => Code::ResourceExhausted,
        Kind::Unsupported | Kind::OtherPlatform => Code::Unimplemented,
        Kind::Cancelled => Code::Cancelled,
        _ => Code::Internal,
    };
    Status::new(code, line(error))
}
