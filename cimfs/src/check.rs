//! The checker: everything in an image that breaks a rule, or is not as writers are thought to do it.

mod digests;
mod extents;
mod files;
mod headers;

use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::{Error, ErrorKind, FileId, FileSet, Image, ImagePath, RegionOffset, Result};
use extents::Extents;
pub(crate) use headers::object_id_file;

/// Findings beyond this many are only counted.
const MAX_FINDINGS: usize = 10_000;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Not what a writer should do as far as it is known, but readers get by.
    Warning,
    /// Not read here, so that a part of the image was not checked.
    Unsupported,
    /// The image breaks the format's rules, or means different things to different readers.
    Error,
}

macro_rules! codes {
    ($($(#[$doc:meta])+ $name:ident, $severity:ident, $text:literal;)+) => {
        /// What a finding is about. Names are stable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Code { $($(#[$doc])+ $name,)+ }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The stable name, as in `link-order`.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// How bad findings of this code are.
            pub fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity,)+ }
            }
        }
    };
}

codes! {
    /// A header's length, minor version or reserved field is not as expected.
    Header, Warning, "header";
    /// A region's header says that it is another kind of file, or another region.
    RegionHeader, Error, "region-header";
    /// A region set is used twice.
    RegionSetTwice, Error, "region-set-twice";
    /// An object-ID file is missing or does not fit its region, so that forks store more than they need.
    ObjectIds, Warning, "object-ids";
    /// Objects are not what the digests of an object-ID file say. Only looked for by [`check_data`].
    Digest, Error, "digest";
    /// No object at all is what its digest says, as when another program wrote the image. Only looked for by [`check_data`].
    Digests, Warning, "digests";
    /// The upcase table cannot be read.
    Upcase, Error, "upcase";
    /// The upcase form of an upcase form is another one.
    UpcaseTwice, Warning, "upcase-twice";
    /// A file table cannot be read or holds more than 1024 entries.
    FileTable, Error, "file-table";
    /// A file table before the last one is not full.
    FileTableShort, Warning, "file-table-short";
    /// The root is not a directory or cannot be read.
    Root, Error, "root";
    /// A name or what it leads to cannot be read (a directory's table too), or it is a directory's second name.
    File, Error, "file";
    /// A file belongs to a merged image, so it was not checked.
    Merged, Unsupported, "merged";
    /// A file has flags or reserved bits that are not known.
    Flags, Warning, "flags";
    /// A file's directory is none that it is in.
    Parent, Warning, "parent";
    /// Names are not in order, so that some are not found.
    LinkOrder, Error, "link-order";
    /// Two names of a directory differ in case only, or not at all.
    NameTwice, Error, "name-twice";
    /// A name is empty, holds a separator or means a directory.
    Name, Error, "name";
    /// A name that Win32 programs cannot use.
    NameOdd, Warning, "name-odd";
    /// A file has no security descriptor.
    SecurityMissing, Warning, "security-missing";
    /// A security descriptor cannot be read or is none.
    Security, Error, "security";
    /// Extended attributes cannot be read or are malformed.
    Eas, Error, "eas";
    /// A reparse buffer cannot be read, or its tag is not that of the file.
    Reparse, Error, "reparse";
    /// The table of alternate streams is malformed.
    Streams, Error, "streams";
    /// A stream is of an unknown kind, so it was not checked.
    StreamKind, Unsupported, "stream-kind";
    /// Data lies outside its region or its executable.
    Data, Error, "data";
    /// Data is not at a multiple of 4096 in a region for such data, or an object not at one of 8.
    Alignment, Warning, "alignment";
    /// Metadata shares bytes with something else.
    Overlap, Error, "overlap";
    /// Data shares a part of its bytes with other data.
    DataOverlap, Warning, "data-overlap";
    /// Entries of an image without parents that no name leads to. Told once, with their number.
    Unreachable, Warning, "unreachable";
    /// Reading failed below us.
    Io, Error, "io";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which rule.
    pub code: Code,
    /// What is wrong, in words, with the values.
    pub message: String,
    /// Where in the image, where there is such a place.
    pub offset: Option<RegionOffset>,
    /// A path that leads there, where there is one.
    pub path: Option<ImagePath>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.code.severity() {
            Severity::Error => "error",
            Severity::Unsupported => "unsupported",
            Severity::Warning => "warning",
        };
        write!(f, "{severity}: {}: ", self.code)?;
        if let Some(path) = &self.path {
            write!(f, "{path}: ")?;
        }
        f.write_str(&self.message)?;
        match self.offset {
            Some(offset) => write!(f, " (at {offset})"),
            None => Ok(()),
        }
    }
}

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counts {
    /// Names, without the root's.
    pub names: u64,
    /// Directories among what they lead to, the root too.
    pub directories: u64,
    /// Files among what they lead to, each once.
    pub files: u64,
    /// Alternate streams of all these.
    pub streams: u64,
    /// Bytes of data, shared ones counted for every stream.
    pub data_bytes: u64,
}

/// The result of [`check`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// What is wrong, in the order found.
    pub findings: Vec<Finding>,
    /// Findings that were left out because there were too many.
    pub omitted: u64,
    /// What was looked at.
    pub counts: Counts,
}

impl Report {
    /// Findings of severity [`Severity::Error`].
    pub fn errors(&self) -> usize {
        self.count(Severity::Error)
    }

    /// Whether everything was checked and no rule is broken; there may be warnings.
    pub fn is_sound(&self) -> bool {
        self.errors() == 0 && self.omitted == 0 && self.count(Severity::Unsupported) == 0
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.code.severity() == severity).count()
    }
}

/// Checks everything that can be checked without reading file data: headers, tables, every file that a name
/// leads to, the order of names, where data lies, which bytes are used twice, and the object-ID files.
///
/// # Errors
/// As [`Image::open`]: if the image cannot even be opened, there is nothing to check.
pub fn check<S: FileSet>(set: &S, name: &str) -> Result<Report> {
    check_image(set, name, false)
}

/// Like [`check`], and reads all that the image's own object-ID files list, data too, to compare it with the digests:
/// the format has no other checksum. Regions of another image are found by this alone if they have the same form.
///
/// # Errors
/// As [`check`]; [`ErrorKind::Io`].
pub fn check_data<S: FileSet>(set: &S, name: &str) -> Result<Report> {
    check_image(set, name, true)
}

fn check_image<S: FileSet>(set: &S, name: &str, data: bool) -> Result<Report> {
    let image = Image::open(set, name)?;
    let mut checker = Checker {
        image: &image,
        report: Report::default(),
        extents: Extents::default(),
        seen: HashMap::new(),
        at_home: HashSet::new(),
    };
    checker.headers();
    checker.object_ids(set);
    checker.tables();
    checker.files();
    checker.overlaps();
    if data {
        checker.digests(set)?;
    }
    Ok(checker.report)
}

/// Where a finding is.
#[derive(Default, Clone, Copy)]
struct Place<'p> {
    offset: Option<RegionOffset>,
    path: Option<&'p ImagePath>,
}

struct Checker<'a, R> {
    image: &'a Image<R>,
    report: Report,
    extents: Extents,
    /// Files that names lead to, and the directory that each says it is in.
    seen: HashMap<FileId, Option<FileId>>,
    /// Files that were found where they say they are.
    at_home: HashSet<FileId>,
}

impl<R> Checker<'_, R> {
    fn find(&mut self, code: Code, place: Place<'_>, message: impl Into<String>) {
        if self.report.findings.len() >= MAX_FINDINGS {
            self.report.omitted += 1;
            return;
        }
        self.report.findings.push(Finding {
            code,
            message: message.into(),
            offset: place.offset,
            path: place.path.cloned(),
        });
    }

    /// A finding from an error; failing to read at all is never the image's fault.
    fn fail(&mut self, code: Code, place: Place<'_>, error: &Error) {
        let code = match error.kind() {
            ErrorKind::Io => Code::Io,
            _ => code,
        };
        // The error says where it is.
        self.find(code, Place { offset: None, ..place }, error.to_string());
    }
}
