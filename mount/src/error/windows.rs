use std::io;

use super::ErrorKind;

/// `ERROR_SHARING_VIOLATION`, which the standard library has no kind for.
const SHARING_VIOLATION: i32 = 32;

pub(super) fn kind_of(code: Option<i32>, kind: io::ErrorKind) -> ErrorKind {
    use io::ErrorKind as Kind;
    match kind {
        _ if code == Some(SHARING_VIOLATION) => ErrorKind::Busy,
        Kind::ResourceBusy | Kind::ExecutableFileBusy => ErrorKind::Busy,
        Kind::NotFound => ErrorKind::NotFound,
        Kind::StorageFull | Kind::QuotaExceeded => ErrorKind::NoSpace,
        Kind::PermissionDenied => ErrorKind::NotPermitted,
        Kind::Unsupported => ErrorKind::NotSupported,
        _ => ErrorKind::Io,
    }
}
