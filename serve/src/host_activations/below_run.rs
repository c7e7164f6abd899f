//! A double of a Windows host has its folders below the run directory.

use std::path::Path;

use mount::Result;
use mount::windows::{Folders, WindowsPath};

pub(super) fn places(run: &Path) -> Result<(Folders, WindowsPath)> {
    Ok((Folders::below(run.join("host")), WindowsPath::parse(r"C:\\run\\t")?))
}
