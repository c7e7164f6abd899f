use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::windows::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use super::wtf8;

pub(super) fn bytes(path: &OsStr) -> Cow<'_, [u8]> {
    match path.to_str() {
        Some(text) => text.as_bytes().into(),
        None => wtf8::encode(path.encode_wide()).into(),
    }
}

pub(super) fn from_bytes(bytes: Vec<u8>) -> Option<PathBuf> {
    match String::from_utf8(bytes) {
        Ok(text) => Some(text.into()),
        Err(error) => {
            wtf8::decode(error.as_bytes()).map(|units| OsString::from_wide(&units).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpaired_surrogates_come_back() {
        let path = PathBuf::from(OsString::from_wide(&[0x43, 0x3a, 0x5c, 0xd800, 0x61, 0xdc00]));
        let there = bytes(path.as_os_str()).into_owned();
        assert_eq!(there, b"C:\\\xed\xa0\x80a\xed\xb0\x80");
        assert_eq!(from_bytes(there), Some(path));
        assert_eq!(from_bytes(vec![0xff]), None);
    }
}
