//! Mounts that Linux' kernel performs.

use std::path::Path;

use mount::{ActivateOptions, Activation, Mount, Result};
use store::{Labels, Layer};

use crate::service::Service;

pub(super) fn activate(
    service: &Service,
    name: &str,
    mounts: &[Mount],
    labels: Labels,
    temporary: bool,
) -> Result<Activation> {
    let store = service.store();
    let layer_of = |path: &Path| -> Option<Layer> {
        // What cannot be looked up is mounted as any other file.
        store.layer_at(path).ok().flatten()
    };
    let roots = [store.root().to_owned()];
    let options = ActivateOptions { labels, temporary, roots: &roots, layer_of: &layer_of };
    service.registry().activate(name, mounts, &options)
}

pub(super) fn deactivate(service: &Service, name: &str) -> Result<()> {
    service.registry().deactivate(name)
}

pub(super) fn activation(service: &Service, name: &str) -> Result<Activation> {
    service.registry().activation(name)
}

pub(super) fn activations(service: &Service) -> Result<Vec<Activation>> {
    service.registry().activations()
}
