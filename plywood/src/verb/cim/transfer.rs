//! `import` and `export`: tars of Windows layers.

use std::io::{BufWriter, Read, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use layer::windows::Processing;
use layer::{Cancel, LayerOptions, WindowsOptions};
use serde_json::json;

use super::edit::{beside, new};
use super::existing;
use crate::Session;
use crate::cli::{CimCreateArgs, CimExportArgs, CimImportArgs};
use crate::interrupt::{StandardInput, cancel_on_signal};
use crate::output::{self, size};
use crate::output_file::OutputFile;

pub(crate) fn import(session: &mut Session, args: &CimImportArgs) -> Result<()> {
    let cancel = cancel_on_signal()?;
    let options = WindowsOptions {
        blob: LayerOptions { max_size: args.max_size, ..LayerOptions::default() },
        processing: if args.tree { Processing::None } else { Processing::Layer },
        ..WindowsOptions::default()
    };
    convert(session, &args.tar, &args.output, args.parent.as_deref(), &options, &cancel)
}

/// An image of any tar, as a tree.
pub(super) fn create(
    session: &mut Session,
    args: &CimCreateArgs,
    image: cimfs::WriterOptions,
    cancel: &Cancel,
) -> Result<()> {
    let (_, name) = new(&args.output)?;
    let options = WindowsOptions {
        image,
        processing: Processing::None,
        variant: name.to_owned(),
        ..WindowsOptions::default()
    };
    convert(session, &args.from, &args.output, args.parent.as_deref(), &options, cancel)
}

fn convert(
    session: &mut Session,
    tar: &Path,
    output: &Path,
    parent: Option<&Path>,
    options: &WindowsOptions,
    cancel: &Cancel,
) -> Result<()> {
    let doing = || format!("cannot make an image of {}", tar.display());
    let (set, name) = new(output)?;
    let parent = match parent {
        Some(parent) => Some(beside(parent, output)?.1),
        None => None,
    };
    let source: Box<dyn Read + Send> = match tar.as_os_str() == "-" {
        true => Box::new(StandardInput::new(cancel)),
        false => Box::new(std::fs::File::open(tar).with_context(doing)?),
    };
    let made = layer::write_windows_layer(source, &set, name, parent, options, &(), cancel)
        .with_context(doing)?;
    if session.output.is_json() {
        return session.output.json(&json!({
            "image": output,
            "guid": made.guid.to_string(),
            "diff_id": made.blob.diff_id,
            "digest": made.blob.digest,
            "size": made.image_size,
            "entries": made.entries,
            "streams": made.streams,
            "whiteouts": made.whiteouts,
            "merged_hives": made.merged_hives,
            "lost_attributes": made.lost_attributes,
            "without_security": made.without_security,
        }));
    }
    session.output.line(format!(
        "{}: {} entries, {} streams, {} whiteouts, {}, {}",
        output.display(),
        made.entries,
        made.streams,
        made.whiteouts,
        size(made.image_size),
        made.blob.diff_id
    ))?;
    // What the tar says and the image cannot, or the other way round.
    for (count, what) in [
        (made.merged_hives, "hives of the registry merged"),
        (made.lost_attributes, "entries with attributes that an image has no room for"),
        (made.without_security, "entries without a security descriptor, which got the usual one"),
    ] {
        if count > 0 {
            session.output.line(format!("  {count} {what}"))?;
        }
    }
    Ok(())
}

pub(crate) fn export(session: &mut Session, args: &CimExportArgs) -> Result<()> {
    let cancel = cancel_on_signal()?;
    let doing = || format!("cannot export {}", args.file.display());
    let (set, name) = existing(&args.file)?;
    let parent = match &args.parent {
        Some(parent) => Some(beside(parent, &args.file)?.1),
        None => None,
    };
    if args.output.as_os_str() == "-" {
        session.output.must_not_be_terminal("a tar")?;
        let stream = session.output.stream();
        return match layer::write_windows_layer_tar(&set, name, parent, stream, &cancel) {
            Err(error) if output::is_closed(&error) => Err(crate::exit::OutputClosed.into()),
            other => other.map(drop).with_context(doing),
        };
    }
    let file = OutputFile::new(&args.output, args.force)?;
    let mut writer = BufWriter::with_capacity(1 << 20, file.file());
    let written = layer::write_windows_layer_tar(&set, name, parent, &mut writer, &cancel)
        .with_context(doing)?;
    writer.flush().with_context(doing)?;
    drop(writer);
    file.publish()?;
    if session.output.is_json() {
        return session.output.json(&json!({
            "tar": args.output,
            "diff_id": written.diff_id,
            "size": written.size,
            "entries": written.entries,
            "whiteouts": written.whiteouts,
        }));
    }
    session.output.line(format!(
        "{}: {} entries, {} whiteouts, {}, {}",
        args.output.display(),
        written.entries,
        written.whiteouts,
        size(written.size),
        written.diff_id
    ))
}
