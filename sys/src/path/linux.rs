use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

pub(super) fn bytes(path: &OsStr) -> Cow<'_, [u8]> {
    path.as_bytes().into()
}

#[expect(clippy::unnecessary_wraps, reason = "Windows' counterpart can fail")]
pub(super) fn from_bytes(bytes: Vec<u8>) -> Option<PathBuf> {
    Some(OsString::from_vec(bytes).into())
}
