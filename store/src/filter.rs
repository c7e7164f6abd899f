//! containerd's filter language, over snapshots and whatever else has fields.
//!
//! ```text
//! filter    := selector { "," selector }          all must match
//! selector  := path [ op value ]                  no operator: is it there?
//! path      := field { "." field }
//! field     := [A-Za-z0-9_]+ | quoted
//! op        := "==" | "!=" | "~="                 ~= is a regular expression, found anywhere
//! value     := quoted | run of printable characters except comma and white space
//! quoted    := "…" | /…/ | |…|                    Go escapes; / and | only for the value of ~=
//! ```

use std::borrow::Cow;

use regex::bytes::Regex;

use crate::error::{Error, Result};
use crate::snapshot::Snapshot;

mod parse;

/// What a snapshot is compared with: any of several filters.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    any: Vec<Vec<Selector>>,
}

#[derive(Debug, Clone)]
struct Selector {
    path: Vec<Vec<u8>>,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    Present,
    Equal(Vec<u8>),
    NotEqual(Vec<u8>),
    /// `None`: an expression that does not compile matches nothing.
    Matches(Option<Regex>),
}

/// Something that filters can look at.
pub trait Fields {
    /// The value of a field, or `None` if it is absent.
    fn field(&self, path: &[Vec<u8>]) -> Option<Cow<'_, [u8]>>;
}

impl Filter {
    /// Reads several filters, of which one has to match. None at all match everything, and so does an empty one.
    ///
    /// # Errors
    /// `Invalid`, with the place in the text.
    pub fn parse_all(filters: &[&str]) -> Result<Self> {
        let parse = |text: &&str| {
            parse::filter(text).map_err(|error| {
                Error::invalid(format!("filter {text:?}, at byte {}: {}", error.at, error.what))
            })
        };
        Ok(Self { any: filters.iter().map(parse).collect::<Result<_>>()? })
    }

    /// Whether one of the filters matches `fields`.
    pub fn matches(&self, fields: &impl Fields) -> bool {
        self.any.is_empty()
            || self.any.iter().any(|all| all.iter().all(|selector| selector.matches(fields)))
    }
}

impl Selector {
    fn matches(&self, fields: &impl Fields) -> bool {
        let value = fields.field(&self.path);
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value.is_some_and(|value| *value == **wanted),
            // Absent counts as empty: `!=""` is "has a value".
            Test::NotEqual(unwanted) => *value.unwrap_or_default() != **unwanted,
            Test::Matches(Some(regex)) => regex.is_match(&value.unwrap_or_default()),
            Test::Matches(None) => false,
        }
    }
}

impl Fields for Snapshot {
    fn field(&self, path: &[Vec<u8>]) -> Option<Cow<'_, [u8]>> {
        let (first, rest) = path.split_first()?;
        // What follows the first three in a path is ignored, as containerd does.
        match first.as_slice() {
            b"name" => Some(Cow::Borrowed(&self.key)),
            b"parent" => Some(Cow::Borrowed(self.parent.as_deref().unwrap_or_default())),
            b"kind" => Some(Cow::Borrowed(self.kind.name().as_bytes())),
            b"labels" => {
                let key = rest.join(&b'.');
                let value = self.labels.get(std::str::from_utf8(&key).ok()?)?;
                Some(Cow::Borrowed(value.as_bytes()))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
