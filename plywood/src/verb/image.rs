//! `plywood image …`

#[cfg(target_os = "linux")]
use super::export as imp;
#[cfg(windows)]
use no_export as imp;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use store::ImageRecord;

use crate::Session;
use crate::cli::{ImageInspectArgs, ImageListArgs, ImageRemoveArgs, ImageVerb};
use crate::escape;
use crate::exit::{Exit, Failure};
use crate::output;
use crate::store_handle::StoreHandle;

pub(crate) fn image(session: &mut Session, verb: &ImageVerb) -> Result<()> {
    match verb {
        ImageVerb::Import(args) => super::import::import(session, args),
        ImageVerb::Export(args) => imp::export(session, args),
        ImageVerb::List(args) => list(session, args),
        ImageVerb::Inspect(args) => inspect(session, args),
        ImageVerb::Remove(args) => remove(session, args),
    }
}

/// Archives are not written on Windows.
#[cfg(windows)]
mod no_export {
    use crate::Session;
    use crate::cli::ImageExportArgs;

    pub(super) fn export(_session: &mut Session, _args: &ImageExportArgs) -> anyhow::Result<()> {
        crate::verb::only_on_linux("exporting an image")
    }
}

/// An image by its reference; a tag of `latest` may be left out.
pub(crate) fn find(store: &StoreHandle, reference: &str) -> Result<ImageRecord> {
    lookup(store, reference)?.ok_or_else(|| {
        Failure::new(Exit::NotFound, format!("there is no image {reference} in the store"))
            .hint("`plywood image list` shows what is there, `plywood image import` adds to it")
            .into()
    })
}

pub(crate) fn lookup(store: &StoreHandle, reference: &str) -> Result<Option<ImageRecord>> {
    // What cannot be an image's name names none.
    match store::canonical_reference(reference) {
        Ok(reference) => store.image(&reference),
        Err(_) => Ok(None),
    }
}

fn list(session: &mut Session, args: &ImageListArgs) -> Result<()> {
    let store = session.host.store_to_read()?;
    let images = store.images()?;
    if args.quiet && !session.output.is_json() {
        return images
            .iter()
            .try_for_each(|image| session.output.line(escape::name(image.reference.as_bytes())));
    }
    let mut rows = Vec::new();
    for image in &images {
        let mut bytes = 0;
        for id in &image.layers {
            bytes += store.layer(id)?.map_or(0, |layer| layer.record.image_size);
        }
        if session.output.is_json() {
            session.output.json(&json!({
                "reference": image.reference,
                "digest": image.manifest,
                "platform": image.platform,
                "layers": image.layers.len(),
                "size": bytes,
                "created": time(image),
            }))?;
            continue;
        }
        rows.push(vec![
            escape::name(image.reference.as_bytes()),
            image.manifest.to_string().chars().take(19).collect(),
            image.platform.clone(),
            image.layers.len().to_string(),
            output::size(bytes),
            output::age(since(image.created)),
        ]);
    }
    session.output.table(&["REFERENCE", "DIGEST", "PLATFORM", "LAYERS", "SIZE", "AGE"], &rows)
}

fn inspect(session: &mut Session, args: &ImageInspectArgs) -> Result<()> {
    let store = session.host.store_to_read()?;
    let image = find(&store, &args.reference)?;
    let config = store.blob(&image.config)?.ok_or_else(|| {
        Failure::new(Exit::Corrupt, format!("the config of {} is missing", image.reference))
    })?;
    if args.raw {
        return session.output.bytes(&config);
    }
    let config: Value = serde_json::from_slice(&config)
        .with_context(|| format!("the config of {} is damaged", image.reference))?;
    let mut layers = Vec::new();
    for (id, snapshot) in image.layers.iter().zip(&image.chain) {
        let record = store.layer(id)?.map(|layer| layer.record);
        layers.push((id, snapshot, record));
    }
    if session.output.is_json() {
        let layers: Vec<Value> = layers
            .iter()
            .map(|(id, snapshot, record)| {
                json!({
                    "id": id,
                    "snapshot": snapshot,
                    "diff_id": record.as_ref().and_then(|record| record.diff_id),
                    "image_size": record.as_ref().map(|record| record.image_size),
                    "tar_size": record.as_ref().map(|record| record.tar_size),
                    "entries": record.as_ref().map(|record| record.entries),
                })
            })
            .collect();
        return session.output.json(&json!({
            "reference": image.reference,
            "manifest": image.manifest,
            "config_digest": image.config,
            "platform": image.platform,
            "created": time(&image),
            "layers": layers,
            "config": config,
        }));
    }
    let mut lines = vec![
        ("reference", image.reference.clone()),
        ("manifest", image.manifest.to_string()),
        ("config", image.config.to_string()),
        ("platform", image.platform.clone()),
        ("imported", time(&image)),
    ];
    let run = &config["config"];
    let joined = |value: &Value| -> Option<String> {
        let words: Vec<&str> = value.as_array()?.iter().filter_map(Value::as_str).collect();
        (!words.is_empty()).then(|| words.join(" "))
    };
    for (name, key) in [("entrypoint", "Entrypoint"), ("command", "Cmd")] {
        lines.extend(joined(&run[key]).map(|text| (name, text)));
    }
    for (name, key) in [("user", "User"), ("workdir", "WorkingDir"), ("stop signal", "StopSignal")]
    {
        let text = run[key].as_str().filter(|text| !text.is_empty());
        lines.extend(text.map(|text| (name, text.to_owned())));
    }
    for variable in run["Env"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        lines.push(("env", variable.to_owned()));
    }
    for (name, text) in lines {
        session.output.line(format!("{name:<11} {}", escape::name(text.as_bytes())))?;
    }
    for (id, snapshot, record) in layers {
        let about = match record {
            Some(record) => {
                format!("{:>8}  {:>7} entries", output::size(record.image_size), record.entries)
            }
            None => "missing".to_owned(),
        };
        session.output.line(format!("layer       {about}  {id}"))?;
        session.output.line(format!("            snapshot {snapshot}"))?;
    }
    Ok(())
}

fn remove(session: &mut Session, args: &ImageRemoveArgs) -> Result<()> {
    let store = session.host.existing_store()?;
    let mut found = Vec::new();
    // All must exist before the first one goes.
    for reference in &args.references {
        found.push(find(&store, reference)?.reference);
    }
    found.dedup();
    for reference in found {
        store
            .remove_image(&reference)
            .with_context(|| format!("cannot remove image {reference}"))?;
    }
    Ok(())
}

fn time(image: &ImageRecord) -> String {
    output::time(image.created.nanoseconds().into())
}

/// How long ago that was; a moment in the future is now.
pub(super) fn since(time: store::Timestamp) -> std::time::Duration {
    std::time::SystemTime::from(time).elapsed().unwrap_or_default()
}
