//! Linux has no layers of the Windows filter.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use layer::{Cancel, Compression, Compressor};
use sys::windows::Host;

use crate::Session;
use crate::cli::{CimImportArgs, WclayerExportArgs, WclayerImportArgs, WclayerVerb};
use crate::exit::{Exit, Failure};
use crate::interrupt::cancel_on_signal;
use crate::output_file::OutputFile;
use crate::verb::cim;

pub(super) fn run(session: &Session) -> &Path {
    session.host.run()
}

pub(super) fn cancel() -> Result<Cancel> {
    cancel_on_signal()
}

pub(super) fn transfer(session: &mut Session, verb: &WclayerVerb) -> Result<()> {
    match verb {
        WclayerVerb::Import(args) => import(session, args),
        WclayerVerb::Export(args) => export(session, args),
        _ => Ok(()),
    }
}

/// Says what does here what the verb does on Windows.
pub(super) fn host(verb: &WclayerVerb) -> Result<Arc<dyn Host>> {
    let (verb, instead) = match verb {
        WclayerVerb::Create(_) => ("create", "plywood snapshot prepare KEY PARENT"),
        WclayerVerb::Mount(_) => ("mount", "plywood mount LAYER.cim DIR"),
        WclayerVerb::Unmount(_) => ("unmount", "plywood umount DIR"),
        WclayerVerb::Remove(_) => ("remove", "plywood cim destroy LAYER.cim"),
        WclayerVerb::Import(_) => ("import", "plywood cim import TAR LAYER.cim"),
        WclayerVerb::Export(_) => ("export", "plywood cim export LAYER.cim TAR"),
    };
    let message = format!("`wclayer {verb}` takes Windows, with its Host Compute Service");
    Err(Failure::new(Exit::NotSupported, message).hint(format!("here: {instead}")).into())
}

/// A layer that is a CIM, which takes no Windows.
fn is_cim(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("cim"))
}

fn folder(path: &Path, what: &str) -> Failure {
    let message = format!("{} is no CIM: layer folders cannot be {what}", path.display());
    Failure::new(Exit::NotSupported, message)
        .hint("name a layer path that ends in .cim; layer folders take Windows")
}

fn import(session: &mut Session, args: &WclayerImportArgs) -> Result<()> {
    if !is_cim(&args.path) {
        return Err(folder(&args.path, "imported").into());
    }
    let args = CimImportArgs {
        parent: args.layers.first().cloned(),
        tar: args.input.clone().unwrap_or_else(|| "-".into()),
        output: args.path.clone(),
        tree: false,
        max_size: None,
    };
    cim::import(session, &args)
}

fn export(session: &mut Session, args: &WclayerExportArgs) -> Result<()> {
    if !is_cim(&args.path) {
        return Err(folder(&args.path, "exported").into());
    }
    let cancel = cancel_on_signal()?;
    let doing = || format!("cannot export {}", args.path.display());
    let (set, name, parent) =
        cim::with_parent(&args.path, args.layers.first().map(PathBuf::as_path))?;
    let compression = if args.gzip { Compression::Gzip } else { Compression::None };
    let write = |output: &mut dyn Write| -> Result<()> {
        let mut output = Compressor::new(output, compression).with_context(doing)?;
        layer::write_windows_layer_tar(&set, name, parent, &mut output, &cancel)
            .with_context(doing)?;
        output.finish().with_context(doing)?.flush().with_context(doing)
    };
    match &args.output {
        Some(output) => {
            let file = OutputFile::new(output, true)?;
            write(&mut BufWriter::with_capacity(1 << 20, file.file()))?;
            file.publish()
        }
        None => {
            session.output.must_not_be_terminal("a tar")?;
            write(&mut session.output.stream())
        }
    }
}
