//! Layer folders from tars and back, as `wclayer import` and `wclayer export` do it on Windows.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use layer::{Cancel, Compression, Compressor, LayerOptions};
use sys::windows::Host;

use crate::cli::{WclayerExportArgs, WclayerImportArgs};

/// A directory beside a path, for what comes in between; removed on drop.
struct Beside(PathBuf);

impl Beside {
    fn new(path: &Path) -> Result<Self> {
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().context("the layer's path has no name")?);
        name.push(".");
        name.push(sys::file::random_name(6)?);
        let beside = path.with_file_name(name);
        let doing = || format!("cannot make {}", beside.display());
        fs::create_dir(&beside).with_context(doing)?;
        Ok(Self(beside))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // What Windows does not let go of is named so that it is seen what it is.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Makes a layer folder of a tar, plain or compressed.
pub(super) fn import(host: &dyn Host, args: &WclayerImportArgs, cancel: &Cancel) -> Result<()> {
    let path = std::path::absolute(&args.path)?;
    let parents = absolute(&args.layers)?;
    let input: Box<dyn Read + Send> = match &args.input {
        Some(file) => {
            Box::new(File::open(file).with_context(|| format!("cannot open {}", file.display()))?)
        }
        None => Box::new(std::io::stdin()),
    };
    let temporary = Beside::new(&path)?;
    let existed = path.exists();
    let options = LayerOptions::default();
    store::import_layer_folder(host, input, &path, &parents, &temporary.0, &options, &(), cancel)
        .inspect_err(|_| {
            if !existed {
                // Empty, or somebody's.
                let _ = fs::remove_dir(&path);
            }
        })
        .with_context(|| format!("cannot import {}", args.path.display()))?;
    Ok(())
}

/// Writes a layer folder as a tar, to `standard_output` unless a file is named.
pub(super) fn export(
    host: &dyn Host,
    args: &WclayerExportArgs,
    standard_output: &mut dyn Write,
    cancel: &Cancel,
) -> Result<()> {
    let path = std::path::absolute(&args.path)?;
    let parents = absolute(&args.layers)?;
    let doing = || format!("cannot export {}", args.path.display());
    let compression = if args.gzip { Compression::Gzip } else { Compression::None };
    let temporary = Beside::new(&path)?;
    let write = |output: &mut dyn Write| -> Result<()> {
        let mut output = Compressor::new(output, compression).with_context(doing)?;
        store::export_layer_folder(host, &path, &parents, &temporary.0, &mut output, cancel)
            .with_context(doing)?;
        output.finish().with_context(doing)?.flush().with_context(doing)
    };
    let Some(output) = &args.output else { return write(standard_output) };
    let writing = || format!("cannot write {}", output.display());
    let beside = Beside::new(&std::path::absolute(output)?)?;
    let new = beside.0.join("tar");
    let file = File::create_new(&new).with_context(writing)?;
    write(&mut BufWriter::with_capacity(1 << 20, &file))?;
    file.sync_all().with_context(writing)?;
    drop(file);
    fs::rename(&new, output).with_context(writing)
}

fn absolute(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    paths.iter().map(|path| Ok(std::path::absolute(path)?)).collect()
}
