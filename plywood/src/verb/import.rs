//! `plywood image import`

#[cfg(target_os = "linux")]
#[path = "import/descriptors.rs"]
mod inputs;
#[cfg(windows)]
#[path = "import/names.rs"]
mod inputs;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use serve::control::{CauseKind, Event, Import, Progress};
use store::import::{ImportOptions, ImportedImage};

use crate::Session;
use crate::cli::ImageImportArgs;
use crate::escape;
use crate::exit::{Exit, Failure};
use crate::interrupt::cancel_on_signal;
use crate::output;

pub(crate) fn import(session: &mut Session, args: &ImageImportArgs) -> Result<()> {
    let platform = match &args.platform {
        Some(text) => Some(text.parse().map_err(|error: layer::Error| {
            Failure::new(Exit::Usage, "the platform cannot be understood").because(error)
        })?),
        None => None,
    };
    let options = ImportOptions {
        references: args.references.clone(),
        platform,
        base: args.base.clone(),
        max_size: args.max_size,
        jobs: args.jobs,
        verity: args.verity,
        ..ImportOptions::default()
    };
    let cancel = cancel_on_signal()?;
    let (inputs, descriptors) = inputs::inputs(args)?;
    let import = Import { inputs, options };
    let bars = Bars::new(!session.output.is_json());
    let imported = session
        .host
        .import(import, descriptors, &cancel, &bars)
        .map_err(|error| with_way_out(error, args));
    bars.clear();
    imported?.iter().try_for_each(|image| show(session, image))
}

/// A source that is missing says so in the cause, so what the store itself does not find is the base.
fn with_way_out(error: anyhow::Error, args: &ImageImportArgs) -> anyhow::Error {
    let missing = CauseKind::Store(store::ErrorKind::NotFound);
    let is_base = CauseKind::of(error.root_cause()) == missing && error.chain().count() == 1;
    match &args.base {
        Some(_) if is_base => Failure::new(Exit::NotFound, "cannot import")
            .hint("`plywood image list` shows what --base can name")
            .because(error)
            .into(),
        _ => error.context("cannot import"),
    }
}

fn show(session: &mut Session, image: &ImportedImage) -> Result<()> {
    if session.output.is_json() {
        let layers: Vec<_> = image
            .layers
            .iter()
            .map(|layer| {
                json!({
                    "label": layer.label,
                    "id": layer.id,
                    "diff_id": layer.diff_id,
                    "digest": layer.digest,
                    "size": layer.size,
                    "tar_size": layer.tar_size,
                    "image_size": layer.image_size,
                    "reused": layer.reused,
                    "seconds": layer.elapsed.as_secs_f64(),
                })
            })
            .collect();
        return session.output.json(&json!({
            "references": image.references,
            "digest": image.digest,
            "config": image.config,
            "platform": image.platform.to_string(),
            "chain": image.chain,
            "layers": layers,
        }));
    }
    for layer in &image.layers {
        let diff_id: String = layer.diff_id.to_string().chars().take(19).collect();
        let image_size = output::size(layer.image_size);
        let how = match layer.reused {
            true => format!("already there, image {image_size}"),
            false => {
                let blob = layer.size.unwrap_or(layer.tar_size);
                format!(
                    "{} read, tar {}, image {image_size}, {:.2} s, {}/s of tar",
                    output::size(blob),
                    output::size(layer.tar_size),
                    layer.elapsed.as_secs_f64(),
                    output::size(rate(layer.tar_size, layer.elapsed)),
                )
            }
        };
        session.output.line(format!("layer {diff_id}  {how}"))?;
    }
    for reference in &image.references {
        session.output.line(format!(
            "image {}  {}",
            escape::name(reference.as_bytes()),
            image.digest
        ))?;
    }
    Ok(())
}

/// Bytes a second.
fn rate(bytes: u64, elapsed: Duration) -> u64 {
    let nanoseconds = elapsed.as_nanos().max(1);
    u64::try_from(u128::from(bytes) * 1_000_000_000 / nanoseconds).unwrap_or(u64::MAX)
}

/// A bar a layer on a terminal; nothing elsewhere.
struct Bars {
    all: MultiProgress,
    layers: Mutex<HashMap<usize, ProgressBar>>,
}

impl Bars {
    fn new(wanted: bool) -> Self {
        // indicatif draws nothing by itself where standard error is not a terminal.
        let target = match wanted {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        Self { all: MultiProgress::with_draw_target(target), layers: Mutex::default() }
    }

    fn clear(&self) {
        // Failing to tidy a terminal is not worth an error.
        let _ = self.all.clear();
    }

    fn with(&self, layer: usize, act: impl FnOnce(&ProgressBar)) {
        let layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = layers.get(&layer) {
            act(bar);
        }
    }
}

impl fmt::Debug for Bars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bars")
    }
}

impl Progress for Bars {
    fn report(&self, event: Event) {
        match event {
            Event::Planned(layers) => {
                let style = |template| ProgressStyle::with_template(template);
                let known = style(
                    "{prefix:19} {wide_bar} {binary_bytes:>11}/{binary_total_bytes} {binary_bytes_per_sec:>13} {msg}",
                );
                let unknown = style(
                    "{prefix:19} {spinner} {binary_bytes:>11} {binary_bytes_per_sec:>13} {msg}",
                );
                let mut bars = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
                for (number, layer) in layers.iter().enumerate().filter(|(_, layer)| !layer.reused)
                {
                    let bar = match layer.size {
                        Some(size) => ProgressBar::new(size),
                        None => ProgressBar::no_length(),
                    };
                    let style = if layer.size.is_some() { &known } else { &unknown };
                    if let Ok(style) = style {
                        bar.set_style(style.clone());
                    }
                    let label: String =
                        escape::name(layer.label.as_bytes()).chars().take(19).collect();
                    bar.set_prefix(label);
                    bars.insert(number, self.all.add(bar));
                }
            }
            Event::Advanced { layer, bytes } => self.with(layer, |bar| bar.inc(bytes)),
            Event::Converted { layer } => {
                self.with(layer, |bar| bar.finish_with_message("done"));
            }
            Event::Reused { layer } => {
                self.with(layer, |bar| bar.finish_with_message("already there"));
            }
        }
    }
}
