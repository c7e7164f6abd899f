use super::Exit;

/// For a user whom the system refused something.
pub(super) fn way_to_privileges() -> Option<&'static str> {
    (!rustix::process::geteuid().is_root()).then_some("run it as root, for example with sudo")
}

pub(super) fn code_of_number(errno: i32) -> Option<Exit> {
    use rustix::io::Errno;
    match Errno::from_raw_os_error(errno) {
        Errno::NOENT | Errno::NOTDIR => Some(Exit::NotFound),
        Errno::EXIST | Errno::BUSY | Errno::NOTEMPTY | Errno::TXTBSY => Some(Exit::Exists),
        Errno::ACCESS | Errno::PERM | Errno::ROFS => Some(Exit::NotPermitted),
        Errno::NOSYS | Errno::OPNOTSUPP | Errno::NODEV => Some(Exit::NotSupported),
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Some(Exit::NoSpace),
        _ => None,
    }
}
