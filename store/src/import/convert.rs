//! Converting the layers that the store lacks, several at a time.

use std::fs::File;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use erofs::Image;
use layer::archive::ArchiveLayer;
use layer::{Cancel, ImageSource, LayerImage, LayerOptions, Parents};

use super::plan::{Existing, Node, Plan, chain_id};
use super::{Event, ImportOptions, Progress};
use crate::error::{Error, ErrorKind, Result};
use crate::layers::{LayerId, LayerRecord};
use crate::staging::Staging;

/// How often a thread that waits for a layer below looks whether it should stop.
const PATIENCE: Duration = Duration::from_millis(50);

/// A layer that is there: in the store or in the staging directory.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub(super) existing: Existing,
    /// Name of its file in the staging directory, if it was converted.
    pub(super) staged: Option<String>,
    pub(super) image: Option<LayerImage>,
    pub(super) reused: bool,
    pub(super) elapsed: Duration,
}

enum State {
    Waiting,
    Ready(Box<Layer>),
    Failed(Option<Error>),
}

/// One import's layers and the threads that work on them.
struct Work<'a> {
    plan: &'a Plan,
    staging: &'a Staging,
    max_size: Option<u64>,
    progress: &'a dyn Progress,
    /// The caller's flag.
    cancel: &'a Cancel,
    /// Our own: raised with the caller's, or when a layer fails.
    stop: Cancel,
    /// The next node to take.
    next: Mutex<usize>,
    states: Mutex<Vec<State>>,
    changed: Condvar,
}

/// Makes all layers of the plan be there, in the plan's order.
pub(super) fn convert(
    plan: &Plan,
    staging: &Staging,
    options: &ImportOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Vec<Layer>> {
    let state = |node: &Node| match &node.existing {
        Some(existing) => State::Ready(Box::new(Layer {
            existing: existing.clone(),
            staged: None,
            image: None,
            reused: true,
            elapsed: Duration::ZERO,
        })),
        None => State::Waiting,
    };
    let missing = plan.nodes.iter().filter(|node| node.existing.is_none()).count();
    let work = Work {
        plan,
        staging,
        max_size: options.max_size,
        progress,
        cancel,
        stop: Cancel::new(),
        next: Mutex::new(0),
        states: Mutex::new(plan.nodes.iter().map(state).collect()),
        changed: Condvar::new(),
    };
    let jobs = options.jobs.or_else(|| thread::available_parallelism().ok());
    let jobs = jobs.map_or(1, std::num::NonZeroUsize::get).min(missing);
    thread::scope(|scope| {
        // The calling thread is one of the workers.
        for _ in 1..jobs {
            scope.spawn(|| work.run());
        }
        if jobs > 0 {
            work.run();
        }
    });
    work.result()
}

impl Work<'_> {
    fn run(&self) {
        while let Some(node) = self.take() {
            // Even a panic must not leave others waiting.
            let mut outcome = Outcome { work: self, node, result: None };
            outcome.result = Some(self.make(node));
        }
    }

    fn take(&self) -> Option<usize> {
        let mut next = locked(&self.next);
        while !self.stopped() && *next < self.plan.nodes.len() {
            let node = *next;
            *next += 1;
            if self.plan.nodes[node].existing.is_none() {
                return Some(node);
            }
        }
        None
    }

    fn stopped(&self) -> bool {
        if self.cancel.is_cancelled() {
            self.stop.cancel();
        }
        self.stop.is_cancelled()
    }

    fn make(&self, index: usize) -> Result<Layer> {
        let node = &self.plan.nodes[index];
        if let Some(twin) = node.twin {
            let twin = self.wait(twin)?;
            // An image that took something from its parents is right on its own chain only.
            if node.diff_id.is_some_and(|diff_id| twin.existing.id == LayerId::of_diff(&diff_id)) {
                self.progress.report(&Event::LayerReused { layer: index });
                return Ok(Layer { reused: true, elapsed: Duration::ZERO, ..twin });
            }
        }
        let Some(source) = &node.source else {
            return Err(Error::corrupt(format!("layer {} of the base is missing", node.label)));
        };
        let doing = || format!("importing layer {}", node.label);
        let failed = |error: layer::Error| match error.kind() {
            layer::ErrorKind::MissingParent if node.diff_id.is_none() && node.parent.is_none() => {
                Error::caused(ErrorKind::NeedsBase, doing(), error)
            }
            _ => Error::layer(doing(), error),
        };
        self.progress.report(&Event::LayerStarted { layer: index });
        let start = Instant::now();
        if node.windows {
            return self.make_cim(index, node, source);
        }
        let name = format!("layer-{index}");
        let file = self.staging.create(&name)?;
        let options = LayerOptions {
            compression: None,
            digest: source.digest,
            size: source.size,
            diff_id: source.diff_id,
            max_size: self.max_size,
        };
        let advance = |bytes| {
            self.stopped();
            self.progress.report(&Event::LayerAdvanced { layer: index, bytes });
        };
        let below = Below { work: self, parent: node.parent };
        let parents = node.parent.is_some().then_some(&below as &dyn Parents);
        let reader = source.open().map_err(failed)?;
        let image =
            layer::write_layer_image(reader, &file, &options, parents, &advance, &self.stop)
                .map_err(failed)?;
        let path = self.staging.path().join(&name);
        sys::failpoint::hit("import-converted");
        // Here, and not at the end, so that it overlaps with the conversion of other layers.
        sys::file::sync_file(&file, &path).map_err(|error| Error::sys(doing(), error))?;
        let below = node.parent.and_then(|parent| self.plan.nodes[parent].chain);
        let id = if image.depends_on_parents {
            LayerId::of_chain(&chain_id(below, image.diff_id))
        } else {
            LayerId::of_diff(&image.diff_id)
        };
        let elapsed = start.elapsed();
        self.progress.report(&Event::LayerConverted { layer: index, image: &image, elapsed });
        let record = LayerRecord::of(&image);
        let existing = Existing { id, record, path };
        Ok(Layer { existing, staged: Some(name), image: Some(image), reused: false, elapsed })
    }

    /// As [`make`](Self::make), for a layer of a Windows image.
    fn make_cim(&self, index: usize, node: &Node, source: &ArchiveLayer) -> Result<Layer> {
        let doing = || format!("importing layer {}", node.label);
        let mut below = Vec::new();
        let mut next = node.parent;
        while let Some(parent) = next {
            let Existing { id, record, path } = self.wait(parent)?.existing;
            below.push(crate::Layer { id, record, path });
            next = self.plan.nodes[parent].parent;
        }
        // Without what it took to wait for the layer below.
        let start = Instant::now();
        let options = LayerOptions {
            compression: None,
            digest: source.digest,
            size: source.size,
            diff_id: source.diff_id,
            max_size: self.max_size,
        };
        let advance = |bytes| {
            self.stopped();
            self.progress.report(&Event::LayerAdvanced { layer: index, bytes });
        };
        let reader = source.open().map_err(|error| Error::layer(doing(), error))?;
        let below = crate::Below::of(below);
        let name = format!("layer-{index}.cim");
        let made =
            crate::make_cim(reader, self.staging, &name, &below, &options, &advance, &self.stop)
                .map_err(|error| Error::caused(error.kind(), doing(), error))?;
        sys::failpoint::hit("import-converted");
        let elapsed = start.elapsed();
        self.progress.report(&Event::LayerConverted { layer: index, image: &made.image, elapsed });
        let path = self.staging.cims().join(made.id.file_name());
        let existing = Existing { id: made.id, record: made.record, path };
        // Its files are known by its record.
        let staged = Some(String::new());
        Ok(Layer { existing, staged, image: Some(made.image), reused: false, elapsed })
    }

    /// Waits until a layer is there. Its index is lower than the caller's, so somebody has taken it.
    fn wait(&self, node: usize) -> Result<Layer> {
        let mut states = locked(&self.states);
        loop {
            match &states[node] {
                State::Ready(layer) => return Ok(Layer::clone(layer)),
                State::Failed(_) => return Err(self.cut(node)),
                State::Waiting if self.stopped() => return Err(self.cut(node)),
                State::Waiting => {}
            }
            let waited = self.changed.wait_timeout(states, PATIENCE);
            states = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The error of who waited for a layer that will not come. That layer's own error is the one to show.
    fn cut(&self, node: usize) -> Error {
        let label = &self.plan.nodes[node].label;
        Error::new(ErrorKind::Cancelled, format!("layer {label} was not converted"))
    }

    /// All layers, or the error of the lowest that failed for a reason of its own.
    fn result(self) -> Result<Vec<Layer>> {
        let states = self.states.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut layers = Vec::new();
        let mut error: Option<Error> = None;
        for state in states {
            match state {
                State::Ready(layer) => layers.push(*layer),
                State::Waiting | State::Failed(None) => {}
                State::Failed(Some(other)) => match &error {
                    Some(first) if first.kind() != ErrorKind::Cancelled => {}
                    Some(_) if other.kind() == ErrorKind::Cancelled => {}
                    _ => error = Some(other),
                },
            }
        }
        if self.cancel.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "the import was cancelled"));
        }
        match error {
            Some(error) => Err(error),
            None if layers.len() == self.plan.nodes.len() => Ok(layers),
            None => Err(Error::new(ErrorKind::Cancelled, "the import was stopped")),
        }
    }
}

/// Writes down how a node ended, whatever happens.
struct Outcome<'a> {
    work: &'a Work<'a>,
    node: usize,
    result: Option<Result<Layer>>,
}

impl Drop for Outcome<'_> {
    fn drop(&mut self) {
        let state = match self.result.take() {
            Some(Ok(layer)) => State::Ready(Box::new(layer)),
            Some(Err(error)) => State::Failed(Some(error)),
            None => State::Failed(None),
        };
        if matches!(state, State::Failed(_)) {
            self.work.stop.cancel();
        }
        locked(&self.work.states)[self.node] = state;
        self.work.changed.notify_all();
    }
}

/// The layers below a node.
struct Below<'a> {
    work: &'a Work<'a>,
    parent: Option<usize>,
}

impl Parents for Below<'_> {
    fn layers(&self) -> layer::Result<Vec<Arc<Image<ImageSource>>>> {
        let unavailable = |error: Error| {
            let kind = match error.kind() {
                ErrorKind::Cancelled => layer::ErrorKind::Cancelled,
                _ => layer::ErrorKind::Io,
            };
            layer::Error::outside(kind, "cannot read the layers below", error)
        };
        let mut images = Vec::new();
        let mut next = self.parent;
        while let Some(node) = next {
            let layer = self.work.wait(node).map_err(unavailable)?;
            let path = &layer.existing.path;
            let doing = || format!("opening {}", path.display());
            let file = File::open(path).map_err(|error| unavailable(Error::io(doing(), error)))?;
            let image = Image::open(Box::new(file) as ImageSource)
                .map_err(|error| unavailable(Error::caused(ErrorKind::Corrupt, doing(), error)))?;
            images.push(Arc::new(image));
            next = self.work.plan.nodes[node].parent;
        }
        Ok(images)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
