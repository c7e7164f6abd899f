use std::io::{Error, ErrorKind};

use super::Exit;

/// For a user whom the system refused something.
#[expect(clippy::unnecessary_wraps, reason = "Linux' counterpart knows whether it would help")]
pub(super) fn way_to_privileges() -> Option<&'static str> {
    Some("run it in a console of the administrator")
}

/// The standard library knows what Windows' numbers mean; `ERROR_SHARING_VIOLATION` has no kind there.
pub(super) fn code_of_number(number: i32) -> Option<Exit> {
    const SHARING_VIOLATION: i32 = 32;
    match Error::from_raw_os_error(number).kind() {
        _ if number == SHARING_VIOLATION => Some(Exit::Exists),
        ErrorKind::NotFound | ErrorKind::NotADirectory => Some(Exit::NotFound),
        ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty | ErrorKind::ResourceBusy => {
            Some(Exit::Exists)
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Some(Exit::NotPermitted),
        ErrorKind::Unsupported => Some(Exit::NotSupported),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some(Exit::NoSpace),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_windows_have_codes() {
        for (number, exit) in [
            (2, Some(Exit::NotFound)),
            (3, Some(Exit::NotFound)),
            (5, Some(Exit::NotPermitted)),
            (32, Some(Exit::Exists)),
            (80, Some(Exit::Exists)),
            (112, Some(Exit::NoSpace)),
            (183, Some(Exit::Exists)),
            (31, None),
        ] {
            assert_eq!(code_of_number(number), exit, "{number}");
        }
    }
}
