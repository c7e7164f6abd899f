//! A failed Windows function, shown with its arguments, its code, and what the code means.

use std::fmt;
use std::path::Path;

use super::HResult;

/// Result of every Windows function.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed call: the function, what it was called on, and its HRESULT; or a function this Windows lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(Box<Inner>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Inner {
    function: &'static str,
    subject: String,
    code: HResult,
    detail: Option<String>,
    missing: Option<Missing>,
}

/// A DLL or an entry point that this Windows does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The DLL's file name.
    pub dll: &'static str,
    /// The entry point; `None` when the whole DLL is missing.
    pub entry: Option<&'static str>,
    /// The first Windows build known to have it.
    pub needs_build: u32,
}

impl Error {
    /// The failure of `function` on `subject`, a path, a volume or an identifier.
    pub fn new(function: &'static str, subject: impl Into<String>, code: HResult) -> Self {
        let subject = subject.into();
        Self(Box::new(Inner { function, subject, code, detail: None, missing: None }))
    }

    /// The failure of `function` on a path.
    pub fn at(function: &'static str, path: &Path, code: HResult) -> Self {
        Self::new(function, path.to_string_lossy(), code)
    }

    /// `function` cannot be called, because this Windows lacks it.
    pub fn missing(function: &'static str, missing: Missing) -> Self {
        let code = match missing.entry {
            Some(_) => HResult::PROCEDURE_NOT_FOUND,
            None => HResult::MODULE_NOT_FOUND,
        };
        let subject = String::new();
        Self(Box::new(Inner { function, subject, code, detail: None, missing: Some(missing) }))
    }

    /// Adds what the function said beyond its code: the result document of the compute service.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// The DLL's name of the function that failed.
    pub fn function(&self) -> &'static str {
        self.0.function
    }

    /// What it was called on; empty for a missing function.
    pub fn subject(&self) -> &str {
        &self.0.subject
    }

    /// What it returned.
    pub fn code(&self) -> HResult {
        self.0.code
    }

    /// What the function said beyond its code.
    pub fn detail(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    /// What this Windows lacks, when that is why.
    pub fn missing_binding(&self) -> Option<&Missing> {
        self.0.missing.as_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { function, subject, code, detail, missing } = &*self.0;
        if let Some(missing) = missing {
            return write!(f, "{function}: {missing}");
        }
        write!(f, "{function}({subject}): {code}: {}", code.sentence())?;
        detail.as_ref().map_or(Ok(()), |detail| write!(f, "; {detail}"))
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dll, entry, needs_build } = self;
        match entry {
            Some(entry) => {
                write!(f, "this Windows lacks {entry} in {dll} (needs build {needs_build})")
            }
            None => write!(f, "this Windows lacks {dll} (needs build {needs_build})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_function_path_code_and_meaning() {
        let error = Error::at("PrepareLayer", Path::new(r"C:\layers\7"), HResult::NOT_READY);
        assert_eq!(
            error.to_string(),
            r"PrepareLayer(C:\layers\7): ERROR_NOT_READY (0x80070015): the scratch disk has not arrived yet"
        );
    }

    #[test]
    fn a_missing_binding_names_the_build_that_has_it() {
        let dll = Missing { dll: "cimfs.dll", entry: None, needs_build: 19041 };
        let error = Error::missing("CimMountImage", dll);
        assert_eq!(
            error.to_string(),
            "CimMountImage: this Windows lacks cimfs.dll (needs build 19041)"
        );
        assert_eq!(error.code(), HResult::MODULE_NOT_FOUND);
        let entry = Missing {
            dll: "computestorage.dll",
            entry: Some("HcsAttachOverlayFilter"),
            needs_build: 20348,
        };
        assert_eq!(
            Error::missing("HcsAttachOverlayFilter", entry).to_string(),
            "HcsAttachOverlayFilter: this Windows lacks HcsAttachOverlayFilter in computestorage.dll \
             (needs build 20348)"
        );
    }
}
