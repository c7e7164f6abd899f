use super::ErrorKind;

pub(super) fn kind_of(errno: Option<i32>, kind: std::io::ErrorKind) -> ErrorKind {
    match errno {
        Some(libc::EBUSY) => ErrorKind::Busy,
        Some(libc::ENOENT) => ErrorKind::NotFound,
        Some(libc::ENOSPC | libc::EDQUOT) => ErrorKind::NoSpace,
        Some(libc::EPERM | libc::EACCES) => ErrorKind::NotPermitted,
        Some(libc::EOPNOTSUPP | libc::ENODEV | libc::ENOSYS) => ErrorKind::NotSupported,
        Some(libc::EUCLEAN | libc::EBADMSG) => ErrorKind::Corrupt,
        _ if kind == std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        _ => ErrorKind::Io,
    }
}
