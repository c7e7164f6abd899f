//! `plywood wclayer …`: hcsshim's tool of that name, for those who know it.
//!
//! What takes Windows goes through [`sys::windows`], over the account of `mount::windows`, so that `mount` and `unmount`
//! in two processes know of each other. **Never run on a real HCS host.** Import and export work with layer folders on
//! Windows, and with CIMs on Linux.

#[cfg(any(windows, test))]
mod folders;
#[cfg(target_os = "linux")]
#[path = "wclayer/linux.rs"]
mod imp;
#[cfg(windows)]
#[path = "wclayer/windows.rs"]
mod imp;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use layer::Cancel;
use mount::windows::{Folders, Retry, WindowsLayer, WindowsLayers, WindowsPath, layer_id};
use sys::windows::{Host, LayerDescriptor};

use crate::Session;
use crate::cli::{WclayerArgs, WclayerPathArgs, WclayerVerb};

/// In whose name layers are attached: nobody's process, since they stay when the command ends.
const OWNER: &str = "wclayer";
/// How long another command may keep the account of layers.
const WAIT: Duration = Duration::from_secs(10);

pub(crate) fn wclayer(session: &mut Session, verb: &WclayerVerb) -> Result<()> {
    if let WclayerVerb::Import(_) | WclayerVerb::Export(_) = verb {
        return imp::transfer(session, verb);
    }
    let host = imp::host(verb)?;
    let layers = WindowsLayers::open(
        Arc::clone(&host),
        Folders::of_host(),
        imp::run(session),
        Retry::default(),
        WAIT,
    )
    .context("cannot open the account of attached layers")?;
    if let Some(line) = perform(&layers, verb, &imp::cancel()?)? {
        session.output.line(line)?;
    }
    Ok(())
}

/// Does what takes Windows; what is to be printed.
fn perform(layers: &WindowsLayers, verb: &WclayerVerb, cancel: &Cancel) -> Result<Option<String>> {
    match verb {
        WclayerVerb::Create(args) => create(&**layers.host(), args).map(|()| None),
        WclayerVerb::Mount(args) => mount(layers, args, cancel).map(Some),
        WclayerVerb::Unmount(args) => unmount(layers, args).map(|()| None),
        WclayerVerb::Remove(args) => remove(layers, args).map(|()| None),
        WclayerVerb::Import(_) | WclayerVerb::Export(_) => Ok(None),
    }
}

fn path(path: &Path) -> Result<WindowsPath> {
    WindowsPath::from_os(path.as_os_str()).with_context(|| format!("{}", path.display()))
}

fn paths(layers: &[PathBuf]) -> Result<Vec<WindowsPath>> {
    layers.iter().map(|layer| path(layer)).collect()
}

fn create(host: &dyn Host, args: &WclayerArgs) -> Result<()> {
    let scratch = path(&args.path)?;
    let parents = paths(&args.layers)?;
    WindowsLayer { scratch: scratch.clone(), parents: parents.clone(), read_only: false }
        .check()?;
    let mut descriptors = Vec::new();
    for parent in &parents {
        let id = layer_id(host, parent)?;
        descriptors.push(LayerDescriptor { id, path: parent.to_string().into(), flags: 0 });
    }
    let doing = || format!("cannot create the layer {scratch}");
    host.create_scratch_layer(Path::new(&scratch.to_string()), &descriptors).with_context(doing)
}

fn mount(layers: &WindowsLayers, args: &WclayerArgs, cancel: &Cancel) -> Result<String> {
    let layer = WindowsLayer {
        scratch: path(&args.path)?,
        parents: paths(&args.layers)?,
        read_only: false,
    };
    let attached = layers.attach(&layer, OWNER, cancel)?;
    Ok(attached.volume)
}

fn unmount(layers: &WindowsLayers, args: &WclayerPathArgs) -> Result<()> {
    let scratch = path(&args.path)?;
    match layers.detach(&scratch)? {
        true => Ok(()),
        // Mounted by another tool, which keeps no account.
        false => {
            let (host, native) = (layers.host(), scratch.to_string());
            let doing = || format!("cannot unmount {scratch}, which Plywood did not mount");
            let filter = host.unprepare_layer(Path::new(&native));
            let disk = host.deactivate_layer(Path::new(&native));
            filter.and(disk).with_context(doing)
        }
    }
}

fn remove(layers: &WindowsLayers, args: &WclayerPathArgs) -> Result<()> {
    let layer = path(&args.path)?;
    layers.detach(&layer)?;
    let doing = || format!("cannot remove the layer {layer}");
    layers.host().destroy_layer(Path::new(&layer.to_string())).with_context(doing)
}
