//! The host's own folders.

use std::path::Path;

use mount::Result;
use mount::windows::{Folders, WindowsPath};

pub(super) fn places(run: &Path) -> Result<(Folders, WindowsPath)> {
    let links = WindowsPath::from_os(run.as_os_str())?.join("t")?;
    Ok((Folders::of_host(), links))
}
