//! `erofs create` and `erofs merge`

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use erofs::{ImageWriter, SeekSink, WriterOptions};
use layer::LayerOptions;
use rustix::fs::{CWD, RenameFlags};
use serde_json::json;

use super::{open, open_file};
use crate::Session;
use crate::cli::{CreateArgs, MergeArgs};
use crate::exit::{Exit, Failure};
use crate::interrupt::cancel_on_signal;
use crate::output;

pub(crate) fn create(session: &mut Session, args: &CreateArgs) -> Result<()> {
    let cancel = cancel_on_signal()?;
    let doing = || format!("cannot make an image of {}", args.from.display());
    if args.from.is_dir() {
        if args.max_size.is_some() {
            anyhow::bail!(Failure::new(Exit::Usage, "--max-size is for tars"));
        }
        let output = Output::new(&args.output, args.force)?;
        let made =
            layer::write_directory_image(&args.from, &output.file, &cancel).with_context(doing)?;
        output.publish()?;
        return summary(session, args, made.image_size, made.entries, made.uuid, None);
    }
    let source: Box<dyn Read + Send> = match args.from.as_os_str() == "-" {
        true => Box::new(std::io::stdin()),
        false => Box::new(open_file(&args.from)?),
    };
    let options = LayerOptions { max_size: args.max_size, ..LayerOptions::default() };
    let output = Output::new(&args.output, args.force)?;
    let made = layer::write_layer_image(source, &output.file, &options, None, &(), &cancel)
        .with_context(doing)?;
    output.publish()?;
    let diff_id = Some(made.diff_id.to_string());
    summary(session, args, made.image_size, made.entries, made.uuid, diff_id)
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
    let output = Output::new(&args.output, false)?;
    let options = WriterOptions {
        block_size: merged.block_size,
        label: args.label.clone(),
        devices: merged.device_infos(),
        ..WriterOptions::default()
    };
    // The same layers in the same order are the same image.
    let uuids: Vec<u8> = layers.iter().flat_map(|layer| layer.uuid()).collect();
    let uuid = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, &uuids).into_bytes();
    let sink = SeekSink::new(BufWriter::with_capacity(1 << 20, &output.file));
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

/// A file that gets its name when it is complete and on the disk.
struct Output {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    force: bool,
    published: bool,
}

impl Output {
    fn new(path: &Path, force: bool) -> Result<Self> {
        let taken = fs::symlink_metadata(path);
        if taken.as_ref().is_ok_and(fs::Metadata::is_dir) {
            anyhow::bail!(Failure::new(Exit::Exists, format!("{} is a directory", path.display())));
        }
        if taken.is_ok() && !force {
            anyhow::bail!(exists(path));
        }
        let Some(name) = path.file_name() else {
            anyhow::bail!(Failure::new(Exit::Usage, format!("{} is no file name", path.display())));
        };
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(OsStr::new("."));
        hidden.push(sys::file::random_name(6)?);
        let temporary = path.with_file_name(hidden);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&temporary)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { file, temporary, path: path.to_owned(), force, published: false })
    }

    fn publish(mut self) -> Result<()> {
        let writing = || format!("cannot write {}", self.path.display());
        self.file.sync_all().with_context(writing)?;
        let flags = if self.force { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        match rustix::fs::renameat_with(CWD, &self.temporary, CWD, &self.path, flags) {
            Err(rustix::io::Errno::EXIST) => anyhow::bail!(exists(&self.path)),
            other => other.with_context(writing)?,
        }
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        sys::file::sync_directory(parent.unwrap_or(Path::new(".")))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

fn exists(path: &Path) -> Failure {
    Failure::new(Exit::Exists, format!("{} exists already", path.display()))
        .hint("choose another name, or remove it first")
}
