//! `plywood image export`

use std::io::{BufWriter, Write as _};

use anyhow::{Context as _, Result};
use layer::Compression;
use serde_json::json;

use crate::Session;
use crate::cli::ImageExportArgs;
use crate::interrupt::cancel_on_signal;
use crate::output;
use crate::output_file::OutputFile;

pub(crate) fn export(session: &mut Session, args: &ImageExportArgs) -> Result<()> {
    let cancel = cancel_on_signal()?;
    let to_stdout = args.output.as_os_str() == "-";
    if to_stdout {
        session.output.must_not_be_terminal("an archive")?;
    }
    let export = {
        let store = session.host.store_to_read()?;
        let image = super::image::find(&store, &args.reference)?;
        store.export(&image.reference)?
    };
    let doing = || format!("cannot export {}", args.reference);
    let compression = match (args.gzip, args.zstd) {
        (true, _) => Compression::Gzip,
        (_, true) => Compression::Zstd,
        _ => Compression::None,
    };
    if to_stdout {
        return match export.write(session.output.stream(), compression, &cancel) {
            Err(error) if output::is_closed(&error) => Err(crate::exit::OutputClosed.into()),
            other => other.map(drop).with_context(doing),
        };
    }
    let file = OutputFile::new(&args.output, false)?;
    let mut writer = BufWriter::with_capacity(1 << 20, file.file());
    let written = export.write(&mut writer, compression, &cancel).with_context(doing)?;
    writer.flush().with_context(doing)?;
    drop(writer);
    file.publish()?;
    if session.output.is_json() {
        return session.output.json(&json!({
            "archive": args.output,
            "manifest": written.manifest,
            "config": written.config,
            "layers": written.layers.len(),
            "size": written.size,
        }));
    }
    session.output.line(format!(
        "{} layers, {}, {}",
        written.layers.len(),
        output::size(written.size),
        written.manifest
    ))
}
