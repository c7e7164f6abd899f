//! `plywood erofs …`: looking at image files without mounting them.

mod show;

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use erofs::Image;

use crate::exit::{Exit, Failure};

pub(crate) use show::{cat, info, ls, stat};

/// Opens an image with its devices.
fn open(path: &Path, devices: &[PathBuf]) -> Result<Image<File>> {
    let image = open_file(path)?;
    let devices: Vec<File> = devices.iter().map(|path| open_file(path)).collect::<Result<_>>()?;
    Image::open_with_devices(image, devices)
        .with_context(|| format!("cannot read {}", path.display()))
}

fn open_file(path: &Path) -> Result<File> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let kind = file.metadata().with_context(|| format!("cannot examine {}", path.display()))?;
    if kind.is_dir() {
        anyhow::bail!(Failure::new(Exit::Usage, format!("{} is a directory", path.display())));
    }
    Ok(file)
}
