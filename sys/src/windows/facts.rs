//! What a Windows host is and can do: for diagnosis, and for refusing what it cannot.

use std::fmt;

use super::{Missing, Result};

/// The version of Windows as it runs, not as it tells old programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WindowsVersion {
    /// 10 since 2015.
    pub major: u32,
    /// 0 since 2015.
    pub minor: u32,
    /// The build: 20348 is Server 2022, 26100 Server 2025.
    pub build: u32,
    /// The update within the build; 0 where Windows does not tell.
    pub revision: u32,
}

impl fmt::Display for WindowsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { major, minor, build, revision } = self;
        write!(f, "{major}.{minor}.{build}.{revision}")
    }
}

/// One of the DLLs that the interfaces are bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LibraryFacts {
    /// The DLL's file name.
    pub dll: &'static str,
    /// What is missing: nothing, the DLL, or some of its entry points.
    pub missing: Vec<Missing>,
}

/// A privilege of the process's token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Privilege {
    /// Its name, `SeBackupPrivilege`.
    pub name: String,
    /// Whether it is in force now; one that is only held must be enabled first.
    pub enabled: bool,
}

impl Privilege {
    /// Opens every file for reading.
    pub const BACKUP: &str = "SeBackupPrivilege";
    /// Writes every file, with any owner.
    pub const RESTORE: &str = "SeRestorePrivilege";
    /// Works on volumes.
    pub const MANAGE_VOLUME: &str = "SeManageVolumePrivilege";
    /// Reads and writes auditing lists.
    pub const SECURITY: &str = "SeSecurityPrivilege";
    /// Makes symbolic links.
    pub const CREATE_SYMBOLIC_LINK: &str = "SeCreateSymbolicLinkPrivilege";
}

/// Questions to a Windows host.
pub trait HostFacts: Send + Sync {
    /// `RtlGetVersion`, and `UBR` of the registry.
    fn version(&self) -> Result<WindowsVersion>;

    /// Loads every DLL of the interfaces and looks for every entry point.
    fn libraries(&self) -> Vec<LibraryFacts>;

    /// `GetTokenInformation(TokenPrivileges)`: the privileges that this process holds.
    fn privileges(&self) -> Result<Vec<Privilege>>;

    /// `AdjustTokenPrivileges`: enables them for this process until it ends;
    /// [`HResult::PRIVILEGE_NOT_HELD`](super::HResult::PRIVILEGE_NOT_HELD) names the first that it does not hold.
    fn enable_privileges(&self, names: &[&str]) -> Result<()>;

    /// `GetTokenInformation(TokenElevation)`: whether the process runs elevated.
    fn is_elevated(&self) -> Result<bool>;

    /// `FilterFindFirst` and on: the file-system filters that are loaded, such as `wcifs` and `unionfs`. Wants
    /// administrator rights.
    fn filters(&self) -> Result<Vec<String>>;
}

/// The name in a `FILTER_FULL_INFORMATION` (fltUserStructures.h): its length in bytes at 12, itself at 14.
#[cfg(any(test, windows))]
pub(crate) fn filter_name(entry: &[u8]) -> Option<String> {
    let length = usize::from(u16::from_le_bytes(entry.get(12..14)?.try_into().ok()?));
    let units: Vec<u16> = entry
        .get(14..)?
        .get(..length)?
        .chunks_exact(2)
        .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
        .collect();
    Some(String::from_utf16_lossy(&units))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filters_name_is_read_within_its_entry() {
        let mut entry = [0; 12].to_vec();
        entry.extend([10, 0]);
        entry.extend("wcifs".encode_utf16().flat_map(u16::to_le_bytes));
        assert_eq!(filter_name(&entry).as_deref(), Some("wcifs"));
        for length in 0..entry.len() {
            assert_eq!(filter_name(&entry[..length]), None);
        }
    }

    #[test]
    fn versions_are_ordered_by_build_and_then_revision() {
        let version = |build, revision| WindowsVersion { major: 10, minor: 0, build, revision };
        assert!(version(20348, 2031) > version(20348, 2030));
        assert!(version(26100, 0) > version(20348, 9999));
        assert_eq!(version(20348, 2031).to_string(), "10.0.20348.2031");
    }
}
