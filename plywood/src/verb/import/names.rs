//! Files by name, which a daemon on Windows opens itself.

use std::io::IsTerminal as _;

use anyhow::{Context as _, Result};
use serve::control::{Descriptors, Input};

use crate::cli::ImageImportArgs;
use crate::exit::{Exit, Failure};

pub(super) fn inputs(args: &ImageImportArgs) -> Result<(Vec<Input>, Descriptors)> {
    let mut inputs = Vec::new();
    for path in &args.sources {
        let is_stream = path.as_os_str() == "-";
        if is_stream && inputs.iter().any(|input: &Input| input.is_stream) {
            anyhow::bail!(Failure::new(Exit::Usage, "standard input can be read only once"));
        }
        if is_stream && std::io::stdin().is_terminal() {
            let message = "standard input is a terminal, not an archive";
            anyhow::bail!(Failure::new(Exit::Usage, message));
        }
        let name = match is_stream {
            true => "standard input".into(),
            false => std::path::absolute(path)
                .with_context(|| format!("no such path: {}", path.display()))?,
        };
        inputs.push(Input { name, descriptor: -1, is_stream });
    }
    Ok((inputs, Descriptors::Own))
}
