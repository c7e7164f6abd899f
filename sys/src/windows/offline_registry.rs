//! `offreg.dll`: registry hives as files, never loaded into the running registry.

use std::path::Path;

use super::{Hive, Result};

/// The offline registry (regf.md 16.4 for the undocumented merge).
pub trait OfflineRegistry: Send + Sync {
    /// `ORCreateHive`: an empty hive in memory.
    fn create_hive(&self) -> Result<Hive>;

    /// `OROpenHive`.
    fn open_hive(&self, path: &Path) -> Result<Hive>;

    /// `ORMergeHives`: a new hive of `hives`, the base first.
    fn merge_hives(&self, hives: &[&Hive]) -> Result<Hive>;

    /// `ORSaveHive` for Windows `major`.`minor`; the file must not exist.
    fn save_hive(&self, hive: &Hive, path: &Path, major: u32, minor: u32) -> Result<()>;
}
