//! The configuration file: TOML, unknown keys refused, errors with file, line and key.

use std::io::ErrorKind;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::settings::{self, SETTINGS, Setting};
use crate::error::{Error, Result};

/// One `key = value` of a file.
pub(super) struct Entry {
    pub(super) setting: &'static Setting,
    pub(super) value: String,
    /// Counted from one.
    pub(super) line: usize,
}

/// The text of `path`; `None` if there is none and need not be.
pub(super) fn read(path: &Path, must_exist: bool) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound && !must_exist => Ok(None),
        Err(error) => Err(Error::caused(
            crate::ErrorKind::Configuration,
            format!("cannot read the configuration {}", path.display()),
            error,
        )),
    }
}

/// What a file says, in its order.
pub(super) fn entries(path: &Path, text: &str) -> Result<Vec<Entry>> {
    let line = |offset: usize| text[..offset.min(text.len())].matches('\n').count() + 1;
    let wrong = |offset: usize, reason: String| {
        Error::configuration(format!("{}:{}: {reason}", path.display(), line(offset)))
    };
    let table = DeTable::parse(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        let place = text.lines().nth(line(offset) - 1).unwrap_or_default().trim();
        wrong(offset, format!("{} in {place:?}", error.message().trim_end()))
    })?;
    let mut entries = Vec::new();
    for (key, value) in table.get_ref() {
        match value.get_ref() {
            DeValue::Table(section) if is_section(key.get_ref()) => {
                for (name, value) in section {
                    let key_path = format!("{}.{}", key.get_ref(), name.get_ref());
                    entries.push(
                        entry(&key_path, name, value, &line)
                            .map_err(|(offset, reason)| wrong(offset, reason))?,
                    );
                }
            }
            _ => entries.push(
                entry(key.get_ref(), key, value, &line)
                    .map_err(|(offset, reason)| wrong(offset, reason))?,
            ),
        }
    }
    entries.sort_by_key(|entry| entry.line);
    Ok(entries)
}

fn is_section(name: &str) -> bool {
    SETTINGS
        .iter()
        .any(|setting| setting.key.split_once('.').is_some_and(|(section, _)| section == name))
}

fn entry(
    key_path: &str,
    key: &Spanned<DeString<'_>>,
    value: &Spanned<DeValue<'_>>,
    line: &impl Fn(usize) -> usize,
) -> Result<Entry, (usize, String)> {
    let offset = key.span().start;
    let setting = settings::find(key_path).ok_or_else(|| {
        let what = if is_section(key_path) { "is a table" } else { "is unknown" };
        (offset, format!("key {key_path} {what}"))
    })?;
    let value = match value.get_ref() {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Boolean(on) => on.to_string(),
        other => {
            return Err((offset, format!("key {key_path} cannot be of type {}", other.type_str())));
        }
    };
    Ok(Entry { setting, value, line: line(offset) })
}
