//! What is done to the store, and which states that may leave.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use anyhow::Result;
use serde_json::json;

use crate::layer_tar::{LayerTar, Noise};
use crate::oci_layout::{self, Compression};

/// The image's reference.
const REFERENCE: &str = "plywood.example/powercut:1";

/// Layers of the image that is imported.
const LAYERS: usize = 4;

/// What the store must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) images: BTreeSet<String>,
    /// Snapshots that the import made: they carry digests as keys.
    pub(super) imported: usize,
    /// Keys and kinds of all other snapshots.
    pub(super) snapshots: BTreeSet<(String, String)>,
    /// Files in `layers/`.
    pub(super) layers: usize,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (images, imported, layers) = (self.images.len(), self.imported, self.layers);
        write!(f, "{images} images, {layers} layers, {imported} imported snapshots")?;
        self.snapshots.iter().try_for_each(|(key, kind)| write!(f, ", {kind} {key}"))
    }
}

pub(super) enum Step {
    Run(Vec<String>),
    /// Fill the scratch of this active snapshot.
    Write(String),
}

/// Commands in their order, and the state before the first and after each.
pub(super) struct Operation {
    pub(super) name: &'static str,
    pub(super) steps: Vec<Step>,
    pub(super) states: Vec<State>,
}

impl Operation {
    pub(super) fn new(kind: usize, round: u32, state: &State) -> Self {
        let mut operation = Self { name: "", steps: Vec::new(), states: vec![state.clone()] };
        let run = |words: &[&str]| Step::Run(words.iter().map(|word| (*word).to_owned()).collect());
        match kind {
            0 => {
                operation.name = "image import";
                operation.then(run(&["image", "import", "image.tar"]), |state| {
                    state.images.insert(REFERENCE.to_owned());
                    state.imported = LAYERS;
                    state.layers += LAYERS;
                });
            }
            1 => {
                operation.name = "snapshot prepare, commit";
                let (key, name) = (format!("work-{round}"), format!("mine-{round}"));
                let active = (key.clone(), "active".to_owned());
                operation.then(run(&["snapshot", "prepare", &key, REFERENCE]), |state| {
                    state.snapshots.insert(active.clone());
                });
                operation.then(Step::Write(key.clone()), |_| ());
                operation.then(run(&["snapshot", "commit", &name, &key]), |state| {
                    state.snapshots.remove(&active);
                    state.snapshots.insert((name.clone(), "committed".to_owned()));
                    state.layers += 1;
                });
            }
            _ => {
                operation.name = "snapshot, image remove, gc";
                for (key, _) in &state.snapshots {
                    operation.then(run(&["snapshot", "remove", key]), |state| {
                        state.snapshots.retain(|(other, _)| other != key);
                    });
                }
                operation.then(run(&["image", "remove", REFERENCE]), |state| state.images.clear());
                operation.then(run(&["gc"]), |state| *state = State::default());
            }
        }
        operation
    }

    fn then(&mut self, step: Step, change: impl FnOnce(&mut State)) {
        let mut state = self.states[self.steps.len()].clone();
        change(&mut state);
        self.steps.push(step);
        self.states.push(state);
    }
}

/// An archive of all three compressions, one large file and many small ones a layer, and a hard link to a lower layer.
pub(super) fn build_image(directory: &Path, archive: &Path) -> Result<()> {
    let tar = directory.join("layer.part");
    let mut layers = Vec::new();
    for number in 0..LAYERS {
        let seed = number as u64;
        let mut layer = LayerTar::create(&tar)?;
        layer.stream(&format!("large-{number}"), 0o644, 12 << 20, Noise::new(seed, 12 << 20))?;
        // Without this entry a layer takes the directory from the layers below, as layer 3 does.
        if number < 3 {
            layer.directory(&format!("many-{number}"), 0o755)?;
        }
        for file in 0..400 {
            let text = format!("layer {number}, file {file}\n").repeat(100);
            layer.file(&format!("many-{number}/{file}"), 0o644, text.as_bytes())?;
        }
        if number == 2 {
            layer.hard_link("linked", "large-0")?;
        }
        layer.finish()?;
        let blob = directory.join(format!("layer-{number}.blob"));
        let compression = [Compression::Gzip, Compression::Zstd, Compression::Plain][number % 3];
        layers.push(oci_layout::pack_layer(&tar, &blob, compression)?);
    }
    oci_layout::write_archive(archive, REFERENCE, &layers, &json!({}), "2025-01-01T00:00:00Z")?;
    for file in layers.iter().map(|layer| &layer.path).chain([&tar]) {
        std::fs::remove_file(file)?;
    }
    Ok(())
}
