//! Importing images from files that the caller has open.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use store::import::{Event as StoreEvent, ImportOptions, ImportedImage};

use super::Failed;
use crate::control::{Call, Event, Fault, Operation, Progress, Target};

/// How often a layer's advance is told.
const PERIOD: Duration = Duration::from_millis(100);

/// Imports images.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Import {
    /// Where they come from.
    pub inputs: Vec<Input>,
    /// How.
    pub options: ImportOptions,
}

/// A file or directory that the caller has opened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Input {
    /// What the caller calls it; on Windows its absolute path.
    #[serde(with = "store::name::path")]
    pub name: PathBuf,
    /// The number of its descriptor; on Windows, where files are opened by name, of no meaning.
    pub descriptor: i32,
    /// It is read once, from where it stands, whatever it is.
    pub is_stream: bool,
}

impl Operation for Import {
    type Answer = Vec<ImportedImage>;

    fn perform(self, call: &Call<'_>) -> Result<Vec<ImportedImage>, Fault> {
        let mut open = Vec::new();
        let mut sources = Vec::new();
        for input in &self.inputs {
            let (source, kept) = call.descriptors.source(input, call.cancel).map_err(|error| {
                Failed::because(format!("importing {}", input.name.display()), error)
            })?;
            sources.push(source);
            open.extend(kept);
        }
        let told = Told { to: call.progress, advances: Mutex::default() };
        let report = |event: &StoreEvent<'_>| told.report(event);
        let (options, cancel) = (&self.options, call.cancel);
        let imported = match call.target {
            Target::Open(store) => {
                store::import::import_into(store, sources, options, &report, cancel)
            }
            Target::Closed(root) => store::import::import(root, sources, options, &report, cancel),
        };
        // Until here layers were read through the paths of these.
        drop(open);
        Ok(imported?)
    }
}

/// Passes events on, small advances gathered.
struct Told<'a> {
    to: &'a dyn Progress,
    advances: Mutex<HashMap<usize, (Instant, u64)>>,
}

impl Told<'_> {
    fn report(&self, event: &StoreEvent<'_>) {
        match event {
            StoreEvent::Planned { layers } => self.to.report(Event::Planned(layers.to_vec())),
            StoreEvent::LayerAdvanced { layer, bytes } => {
                let ready = {
                    let mut advances = self.advances.lock().unwrap_or_else(PoisonError::into_inner);
                    let (since, gathered) = advances.entry(*layer).or_insert((Instant::now(), 0));
                    *gathered += bytes;
                    (since.elapsed() >= PERIOD).then(|| {
                        *since = Instant::now();
                        std::mem::take(gathered)
                    })
                };
                if let Some(bytes) = ready {
                    self.to.report(Event::Advanced { layer: *layer, bytes });
                }
            }
            StoreEvent::LayerConverted { layer, .. } => {
                self.to.report(Event::Converted { layer: *layer });
            }
            StoreEvent::LayerReused { layer } => self.to.report(Event::Reused { layer: *layer }),
            _ => {}
        }
    }
}
