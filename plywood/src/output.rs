//! The result of a command: standard output, as text for people or one JSON object a line.

use std::io::{self, BufWriter, IsTerminal as _, Stdout, Write};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::cli::Format;
use crate::escape;
use crate::exit::OutputClosed;

/// Where results go.
pub(crate) struct Output {
    format: Format,
    writer: BufWriter<Stdout>,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self { format, writer: BufWriter::with_capacity(64 << 10, io::stdout()) }
    }

    /// Whether results are JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// One line of text. The caller has escaped what comes from outside.
    pub(crate) fn line(&mut self, text: impl AsRef<str>) -> Result<()> {
        let text = text.as_ref().as_bytes();
        checked(self.writer.write_all(text).and_then(|()| self.writer.write_all(b"\n")))
    }

    /// One object on one line.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_string(value).context("cannot write a result as JSON")?;
        text.push('\n');
        checked(self.writer.write_all(text.as_bytes()))
    }

    /// Rows under headings, in aligned columns; nothing at all when there are no rows.
    pub(crate) fn table(&mut self, headings: &[&str], rows: &[Vec<String>]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(headings.iter().copied());
        for row in rows {
            table.add_row(row);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        for line in table.lines() {
            self.line(line.trim_end())?;
        }
        Ok(())
    }

    /// Exact bytes, such as a file's content.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        checked(self.writer.write_all(bytes))
    }

    /// Refuses to write binary data to a terminal.
    pub(crate) fn must_not_be_terminal(&self, what: &str) -> Result<()> {
        if self.writer.get_ref().is_terminal() {
            anyhow::bail!(
                crate::exit::Failure::new(
                    crate::exit::Exit::Usage,
                    format!("{what} is not written to a terminal"),
                )
                .hint("redirect standard output to a file or a program")
            );
        }
        Ok(())
    }

    /// Writes out what is buffered.
    pub(crate) fn flush(&mut self) -> Result<()> {
        checked(self.writer.flush())
    }

    /// The stream itself, for libraries that write to it. Errors of it must go through [`checked`].
    pub(crate) fn stream(&mut self) -> &mut impl Write {
        &mut self.writer
    }
}

/// Turns "the reader went away" into [`OutputClosed`], which ends the program quietly.
pub(crate) fn checked(result: io::Result<()>) -> Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(OutputClosed.into()),
        Err(error) => Err(error).context("cannot write to standard output"),
    }
}

/// Whether an error comes of a reader that went away.
pub(crate) fn is_closed(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// A name or path in JSON: `path`, and its exact bytes in hexadecimal beside it when they are not UTF-8.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct JsonPath {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
}

impl JsonPath {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self { path: text.to_owned(), path_hex: None },
            Err(_) => Self { path: escape::name(bytes), path_hex: Some(hex(bytes)) },
        }
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A number of bytes for people: `812`, `4.0K`, `1.7G`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["K", "M", "G", "T", "P", "E"];
    if bytes < 1024 {
        return bytes.to_string();
    }
    let mut unit = 0;
    // Tenths, so that the value stays a whole number.
    let mut tenths = u128::from(bytes) * 10 / 1024;
    while tenths >= 10 * 1024 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{}{}", tenths / 10, tenths % 10, UNITS[unit])
}

/// A length of time for people: `42s`, `3m12s`, `5h03m`, `2d04h`.
pub(crate) fn age(duration: std::time::Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// A point in time as RFC 3339 in UTC with nanoseconds where there are any.
pub(crate) fn time(nanoseconds: i128) -> String {
    match jiff::Timestamp::from_nanosecond(nanoseconds) {
        Ok(time) => time.to_string(),
        Err(_) => format!("{nanoseconds}ns"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn sizes_and_ages() {
        for (bytes, shown) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1.0K"),
            (1536, "1.5K"),
            (1024 * 1024 - 1, "1023.9K"),
            (1 << 20, "1.0M"),
            (u64::MAX, "15.9E"),
        ] {
            assert_eq!(size(bytes), shown);
        }
        for (seconds, shown) in
            [(0, "0s"), (59, "59s"), (192, "3m12s"), (18_180, "5h03m"), (187_200, "2d04h")]
        {
            assert_eq!(age(Duration::from_secs(seconds)), shown);
        }
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(1_500_000_000), "1970-01-01T00:00:01.5Z");
    }

    #[test]
    fn json_paths_keep_exact_bytes() {
        let text = |bytes: &[u8]| serde_json::to_string(&JsonPath::new(bytes)).unwrap();
        assert_eq!(text(b"/a b"), r#"{"path":"/a b"}"#);
        assert_eq!(text(b"/\xff"), r#"{"path":"/\\xff","path_hex":"2fff"}"#);
    }
}
