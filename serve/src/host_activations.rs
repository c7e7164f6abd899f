//! What the mounts service performs on a Windows host, with its accounts in the run directory.

#[cfg(target_os = "linux")]
#[path = "host_activations/below_run.rs"]
mod places;
#[cfg(windows)]
#[path = "host_activations/of_host.rs"]
mod places;

use std::path::Path;
use std::time::Duration;

use mount::windows::{Activations, CimVolumes, Retry, Sharing, WindowsCims, WindowsLayers};
use store::WindowsHost;

use crate::error::{Error, ErrorKind, Result};

/// How long another process may keep an account.
const WAIT: Duration = Duration::from_secs(10);

/// Opens the accounts, and undoes what a daemon that was killed was at.
///
/// # Errors
/// `Mounts`.
pub(crate) fn open(run: &Path, host: &WindowsHost) -> Result<Activations> {
    let failed = |error| {
        Error::caused(ErrorKind::Mounts, "cannot open the accounts of what is mounted", error)
    };
    let api = host.interfaces();
    let (folders, links) = places::places(run).map_err(failed)?;
    let layers = WindowsLayers::open(api.clone(), folders, run, Retry::default(), WAIT);
    let cims = CimVolumes::open(WindowsCims::new(api), run, Sharing::default(), WAIT);
    let activations =
        Activations::open(layers.map_err(failed)?, cims.map_err(failed)?, links, run, WAIT)
            .map_err(failed)?;
    let report = activations.reconcile().map_err(failed)?;
    // Of others only what they never finished: containers belong to their own programs.
    let layers = activations.layers().reconcile(&|_| true).map_err(failed)?;
    let cims = activations.cims().reconcile(&|_| true).map_err(failed)?;
    let undone = report.undone.len() + layers.undone.len() + cims.undone.len();
    if undone + report.kept.len() + layers.kept.len() + cims.forgotten.len() > 0 {
        tracing::info!(
            undone,
            forgotten = cims.forgotten.len(),
            kept = ?(&report.kept, &layers.kept),
            "brought the mounts in line"
        );
    }
    Ok(activations)
}
