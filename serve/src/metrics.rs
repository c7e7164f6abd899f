//! What is counted, for Prometheus.

mod exporter;

use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

#[cfg(target_os = "linux")]
use mount::ReconcileReport;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use store::{Collected, Swept};
use tonic::Code;

pub(crate) use exporter::Exporter;

use crate::service::Service;

/// The journal of a Linux host's mounts, in the run directory.
const JOURNAL: &str = "mounts.journal";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCode {
    method: &'static str,
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByMethod {
    method: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByKind {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResult {
    result: &'static str,
}

type Latencies = Family<ByMethod, Histogram, fn() -> Histogram>;

/// The daemon's counters.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    calls: Family<ByCode, Counter>,
    seconds: Latencies,
    running: Gauge,
    layers: Family<ByKind, Counter>,
    layer_bytes: Family<ByKind, Counter>,
    swept: Family<ByResult, Counter>,
    reconciled: Family<ByResult, Counter>,
    volumes: Gauge,
    journal: Gauge<u64, AtomicU64>,
    snapshots: Family<ByKind, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("plywood");
        let latencies = || Histogram::new(BUCKETS);
        let metrics = Self {
            calls: Family::default(),
            seconds: Latencies::new_with_constructor(latencies),
            running: Gauge::default(),
            layers: Family::default(),
            layer_bytes: Family::default(),
            swept: Family::default(),
            reconciled: Family::default(),
            volumes: Gauge::default(),
            journal: Gauge::default(),
            snapshots: Family::default(),
            registry: Registry::default(),
        };
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The program", version);
        registry.register("calls", "Calls that ended, by method and code", metrics.calls.clone());
        registry.register_with_unit(
            "call_duration",
            "Time from a call's request to the end of its answer",
            Unit::Seconds,
            metrics.seconds.clone(),
        );
        registry.register("calls_running", "Calls not ended yet", metrics.running.clone());
        let help = "Layers that were applied, written by a diff, or made by a commit";
        registry.register("layers", help, metrics.layers.clone());
        registry.register_with_unit(
            "layer",
            "Bytes of layers: uncompressed of those applied or written by a diff, on disk of those made by a commit",
            Unit::Bytes,
            metrics.layer_bytes.clone(),
        );
        registry.register(
            "swept",
            "Layers deleted because nothing needed them; leftovers that a sweep removed or had to keep; scratches it \
             made again",
            metrics.swept.clone(),
        );
        registry.register(
            "reconciled",
            "Mounts undone, forgotten or kept busy, and holders released, when mounts were compared with the journal",
            metrics.reconciled.clone(),
        );
        registry.register(
            "volumes",
            "Layer images and scratches mounted now",
            metrics.volumes.clone(),
        );
        let help = "Length of the journal of mounts (of Linux hosts)";
        registry.register_with_unit("journal", help, Unit::Bytes, metrics.journal.clone());
        registry.register("snapshots", "Snapshots by kind", metrics.snapshots.clone());
        Self { registry, ..metrics }
    }
}

/// From half a millisecond, what a durable commit takes, to minutes, what a big layer takes.
const BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 20.0, 60.0, 300.0];

/// What was done with a layer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LayerWork {
    /// Converted into an image by the differ.
    Apply,
    /// Compared and written as a tar.
    Diff,
    /// Converted from a scratch by a commit.
    Commit,
}

impl Metrics {
    pub(crate) fn call_began(&self) {
        self.running.inc();
    }

    pub(crate) fn call_ended(&self, method: &'static str, code: Code, took: Duration) {
        self.running.dec();
        self.calls.get_or_create(&ByCode { method, code: format!("{code:?}") }).inc();
        self.seconds.get_or_create(&ByMethod { method }).observe(took.as_secs_f64());
    }

    /// Counts one layer of `bytes` uncompressed bytes.
    pub(crate) fn layer_done(&self, work: LayerWork, bytes: u64) {
        let kind = match work {
            LayerWork::Apply => "apply",
            LayerWork::Diff => "diff",
            LayerWork::Commit => "commit",
        };
        self.layers.get_or_create(&ByKind { kind }).inc();
        self.layer_bytes.get_or_create(&ByKind { kind }).inc_by(bytes);
    }

    /// Counts what a sweep of the store did.
    pub(crate) fn swept(&self, swept: &Swept) {
        let counts = [
            ("removed", swept.removed.len()),
            ("restored", swept.restored.len()),
            ("kept", swept.kept.len()),
        ];
        count(&self.swept, counts);
    }

    /// Counts what a clean-up did.
    pub(crate) fn collected(&self, collected: &Collected) {
        count(&self.swept, [("layers", collected.layers.len())]);
        self.swept(&collected.swept);
    }

    /// Counts what comparing mounts with the journal did.
    #[cfg(target_os = "linux")]
    pub(crate) fn reconciled(&self, report: &ReconcileReport) {
        let counts = [
            ("undone", report.undone.len()),
            ("forgotten", report.forgotten.len()),
            ("released", report.released.len()),
            ("kept_busy", report.kept_busy.len()),
        ];
        count(&self.reconciled, counts);
    }

    /// Everything in the text format, with what is not counted but looked up.
    fn text(&self, service: &Service) -> Result<String, std::fmt::Error> {
        let volumes = match service.activations() {
            Some(host) => host.volume_count(),
            None => service.registry().volumes().map(|volumes| volumes.len()),
        };
        if let Ok(volumes) = volumes {
            self.volumes.set(i64::try_from(volumes).unwrap_or(i64::MAX));
        }
        let run = service.config().run.clone();
        self.journal.set(length(&run.join(JOURNAL)));
        if let Ok(snapshots) = service.store().list(&[]) {
            for kind in [store::Kind::Active, store::Kind::View, store::Kind::Committed] {
                let number = snapshots.iter().filter(|snapshot| snapshot.kind == kind).count();
                let gauge = self.snapshots.get_or_create(&ByKind { kind: kind.name() });
                gauge.set(i64::try_from(number).unwrap_or(i64::MAX));
            }
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn count<const N: usize>(family: &Family<ByResult, Counter>, counts: [(&'static str, usize); N]) {
    for (result, number) in counts {
        family.get_or_create(&ByResult { result }).inc_by(number as u64);
    }
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}
