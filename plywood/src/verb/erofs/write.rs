//! `erofs create` and `erofs merge`

use std::fs::File;
use std::io::{BufWriter, Read, Write as _};
use std::mem::offset_of;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use erofs::format::{self, LABEL_MAX, SuperBlock};
use erofs::{Image, ImageWriter, SeekSink, WriterOptions};
use layer::LayerOptions;
use serde_json::json;

use super::{open, open_file};
use crate::Session;
use crate::cli::{CreateArgs, MergeArgs};
use crate::exit::{Exit, Failure};
use crate::interrupt::{StandardInput, cancel_on_signal};
use crate::output;
use crate::output_file::OutputFile;

pub(crate) fn create(session: &mut Session, args: &CreateArgs) -> Result<()> {
    if args.label.len() > LABEL_MAX || args.label.contains('\0') {
        anyhow::bail!(Failure::new(Exit::Usage, format!("a label has at most {LABEL_MAX} bytes")));
    }
    let cancel = cancel_on_signal()?;
    let doing = || format!("cannot make an image of {}", args.from.display());
    if args.from.is_dir() {
        if args.max_size.is_some() {
            anyhow::bail!(Failure::new(Exit::Usage, "--max-size is for tars"));
        }
        let output = OutputFile::new(&args.output, args.force)?;
        let made =
            layer::write_directory_image(&args.from, output.file(), &cancel).with_context(doing)?;
        set_label(output.file(), &args.label)?;
        output.publish()?;
        return summary(session, args, made.image_size, made.entries, made.uuid, None);
    }
    let source: Box<dyn Read + Send> = match args.from.as_os_str() == "-" {
        true => Box::new(StandardInput::new(&cancel)),
        false => Box::new(open_file(&args.from)?),
    };
    let options = LayerOptions { max_size: args.max_size, ..LayerOptions::default() };
    let output = OutputFile::new(&args.output, args.force)?;
    let made = layer::write_layer_image(source, output.file(), &options, None, &(), &cancel)
        .with_context(doing)?;
    set_label(output.file(), &args.label)?;
    output.publish()?;
    let diff_id = Some(made.diff_id.to_string());
    summary(session, args, made.image_size, made.entries, made.uuid, diff_id)
}

/// Puts a label into a finished image's superblock, and its checksum right again.
fn set_label(file: &File, label: &str) -> Result<()> {
    const CHECKSUM: usize = offset_of!(SuperBlock, checksum);
    const NAME: usize = offset_of!(SuperBlock, volume_name);
    if label.is_empty() {
        return Ok(());
    }
    let image = Image::open(file).context("cannot read the new image")?;
    let range = format::superblock_checksum_range(image.block_size());
    let mut covered = vec![0; usize::try_from(range.end - range.start)?];
    let failed = "cannot set the label";
    file.read_exact_at(&mut covered, range.start).context(failed)?;
    covered[NAME..NAME + label.len()].copy_from_slice(label.as_bytes());
    if image.compat().contains(format::Compat::SB_CHKSUM) {
        covered[CHECKSUM..CHECKSUM + 4].fill(0);
        let checksum = format::superblock_checksum(&covered);
        covered[CHECKSUM..CHECKSUM + 4].copy_from_slice(&checksum.to_le_bytes());
    }
    file.write_all_at(&covered, range.start).context(failed)
}

fn summary(
    session: &mut Session,
    args: &CreateArgs,
    size: u64,
    entries: u64,
    uuid: [u8; 16],
    diff_id: Option<String>,
) -> Result<()> {
    let uuid = uuid::Uuid::from_bytes(uuid).to_string();
    if session.output.is_json() {
        return session.output.json(&json!({
            "image": args.output, "size": size, "entries": entries, "uuid": uuid, "diff_id": diff_id,
        }));
    }
    let about = diff_id.unwrap_or(uuid);
    session.output.line(format!("{entries} entries, {}, {about}", output::size(size)))
}

pub(crate) fn merge(session: &mut Session, args: &MergeArgs) -> Result<()> {
    let layers: Vec<_> = args.layers.iter().map(|path| open(path, &[])).collect::<Result<_>>()?;
    let merged = erofs::merge(&layers.iter().collect::<Vec<_>>()).context("cannot merge")?;
    let output = OutputFile::new(&args.output, false)?;
    let options = WriterOptions {
        block_size: merged.block_size,
        label: args.label.clone(),
        devices: merged.device_infos(),
        ..WriterOptions::default()
    };
    // The same layers in the same order are the same image.
    let uuids: Vec<u8> = layers.iter().flat_map(|layer| layer.uuid()).collect();
    let uuid = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, &uuids).into_bytes();
    let sink = SeekSink::new(BufWriter::with_capacity(1 << 20, output.file()));
    let (sink, made) = ImageWriter::new(sink, options)
        .and_then(|writer| writer.finish(&merged.tree, uuid))
        .context("cannot write the merged image")?;
    sink.into_inner().flush().context("cannot write the merged image")?;
    output.publish()?;
    let needed: Vec<&Path> =
        merged.devices.iter().map(|device| &*args.layers[device.layer]).collect();
    if session.output.is_json() {
        return session.output.json(&json!({
            "image": args.output,
            "size": made.length,
            "inodes": made.inodes,
            "devices": needed,
        }));
    }
    session.output.line(format!("{} inodes, {}", made.inodes, output::size(made.length)))?;
    for device in needed {
        session.output.line(format!("--device {}", device.display()))?;
    }
    Ok(())
}
