//! Files as open descriptors, which a daemon takes over.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::IsTerminal as _;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result};
use serve::control::{Descriptors, Input};

use crate::cli::ImageImportArgs;
use crate::exit::{Exit, Failure};

/// The files, opened here and as who the caller is, for whoever imports them.
pub(super) fn inputs(args: &ImageImportArgs) -> Result<(Vec<Input>, Descriptors)> {
    let standard_input = |path: &Path| path.as_os_str() == "-";
    if args.sources.iter().filter(|path| standard_input(path)).count() > 1 {
        anyhow::bail!(Failure::new(Exit::Usage, "standard input can be read only once"));
    }
    let mut inputs = Vec::new();
    let mut files = BTreeMap::new();
    for path in &args.sources {
        let is_stream = standard_input(path);
        let (name, file) = match is_stream {
            true => ("standard input".into(), own_standard_input()?),
            false => {
                let file = File::open(path)
                    .with_context(|| format!("opening {}", path.display()))
                    .with_context(|| format!("importing {}", path.display()))
                    .context("cannot import")?;
                (path.clone(), OwnedFd::from(file))
            }
        };
        let descriptor = file.as_raw_fd();
        inputs.push(Input { name, descriptor, is_stream });
        files.insert(descriptor, file);
    }
    Ok((inputs, Descriptors::Own(files)))
}

fn own_standard_input() -> Result<OwnedFd> {
    if std::io::stdin().is_terminal() {
        anyhow::bail!(
            Failure::new(Exit::Usage, "standard input is a terminal, not an archive")
                .hint("plywood image import - < archive.tar")
        );
    }
    std::io::stdin().as_fd().try_clone_to_owned().context("cannot read standard input")
}
