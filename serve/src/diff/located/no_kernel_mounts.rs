//! Windows hosts, which have none of Linux' mounts.

use tonic::Status;

use super::{Located, Places, foreign};
use crate::api::types::Mount;

impl Places<'_> {
    /// Nothing: whoever made these mounts did not make them here.
    pub(super) fn kernel_mounts(&self, top: &Mount, _below: &[Mount]) -> Result<Located, Status> {
        Err(foreign(format!("a mount of the type {:?}", top.r#type)))
    }
}
