//! Paths in images, as users give them and as they are shown.

use std::fmt::Write as _;

use cimfs::{ImagePath, Name};
use serde::Serialize;

use crate::escape;

/// A path as text, with `/` before every name.
pub(super) fn shown(path: &ImagePath) -> String {
    match path.names() {
        [] => "/".to_owned(),
        names => names.iter().map(|name| format!("/{}", shown_name(name))).collect(),
    }
}

/// A name as text, in which nothing drives a terminal or looks like a separator.
pub(super) fn shown_name(name: &Name) -> String {
    let mut shown = String::new();
    for part in char::decode_utf16(name.units().iter().copied()) {
        match part {
            Ok('/') => shown.push_str("\\u{2f}"),
            Ok(character) => {
                shown.push_str(&escape::name(character.encode_utf8(&mut [0; 4]).as_bytes()));
            }
            Err(error) => {
                let unit = error.unpaired_surrogate();
                write!(shown, "\\u{{{unit:x}}}").expect("a String takes any text");
            }
        }
    }
    shown
}

/// A path in JSON: `path`, and the code units of its names beside it when the text is not the names.
#[derive(Debug, Clone, Serialize)]
pub(super) struct JsonImagePath {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_units: Option<Vec<Vec<u16>>>,
}

impl JsonImagePath {
    pub(super) fn new(path: &ImagePath) -> Self {
        let plain = |name: &Name| name.to_text().filter(|text| !text.contains(['/', '\\']));
        let texts: Option<Vec<String>> = path.names().iter().map(plain).collect();
        match texts {
            Some(texts) if texts.is_empty() => Self { path: "/".into(), path_units: None },
            Some(texts) => {
                let path = texts.iter().map(|text| format!("/{text}")).collect();
                Self { path, path_units: None }
            }
            None => {
                let units = path.names().iter().map(|name| name.units().to_vec()).collect();
                Self { path: shown(path), path_units: Some(units) }
            }
        }
    }
}

/// A path that a user gave, and the alternate stream behind a colon in its last name.
pub(super) fn with_stream(text: &str) -> (ImagePath, Option<Name>) {
    let name = text.rfind(['/', '\\']).map_or(0, |at| at + 1);
    match text[name..].split_once(':') {
        Some((file, stream)) => {
            let stream = stream.strip_suffix(":$DATA").unwrap_or(stream);
            (format!("{}{file}", &text[..name]).as_str().into(), Some(stream.into()))
        }
        None => (text.into(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_as_one_line_and_one_name() {
        let path = ImagePath::from_names(vec![
            "Files".into(),
            Name::from_units("a/b\\c\n\u{202e}".encode_utf16().collect::<Vec<_>>()),
            Name::from_units([0xD800]),
        ]);
        assert_eq!(shown(&path), "/Files/a\\u{2f}b\\\\c\\n\\u{202e}/\\u{d800}");
        let json = JsonImagePath::new(&path);
        assert_eq!(json.path_units.map(|names| names[2].clone()), Some(vec![0xD800]));
        assert!(JsonImagePath::new(&"Files/x".into()).path_units.is_none());
        assert_eq!(shown(&ImagePath::ROOT), "/");
    }

    #[test]
    fn streams_are_behind_a_colon() {
        for (text, path, stream) in [
            ("/a/b", "a/b", None),
            ("a\\b:s", "a/b", Some("s")),
            ("b:s:$DATA", "b", Some("s")),
            ("c:/d", "c:/d", None),
        ] {
            assert_eq!(with_stream(text), (path.into(), stream.map(Name::from)), "{text}");
        }
    }
}
