//! A daemon on Windows always has a Windows host's activations, and none of a kernel's.

use mount::{Activation, Mount, Result};
use store::Labels;

use crate::service::Service;

const NEVER: &str = "the daemon on Windows opens its store on a Windows host";

pub(super) fn activate(
    _service: &Service,
    _name: &str,
    _mounts: &[Mount],
    _labels: Labels,
    _temporary: bool,
) -> Result<Activation> {
    unreachable!("{NEVER}")
}

pub(super) fn deactivate(_service: &Service, _name: &str) -> Result<()> {
    unreachable!("{NEVER}")
}

pub(super) fn activation(_service: &Service, _name: &str) -> Result<Activation> {
    unreachable!("{NEVER}")
}

pub(super) fn activations(_service: &Service) -> Result<Vec<Activation>> {
    unreachable!("{NEVER}")
}
