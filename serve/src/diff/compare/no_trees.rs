//! Windows hosts, which have no trees that could be compared: theirs are CIMs, or folders of Windows' own tools.

use std::convert::Infallible;
use std::io::Write;
use std::marker::PhantomData;

use layer::{Cancel, Digest};
use tonic::Status;

use super::Wanted;
use crate::diff::Job;

/// None.
pub(super) struct Trees<'j> {
    never: Infallible,
    job: PhantomData<&'j Job>,
}

impl<'j> Trees<'j> {
    pub(super) fn of(_job: &'j Job, _wanted: &Wanted) -> Result<Self, Status> {
        Err(Status::unimplemented("only layers of Windows images are compared on Windows"))
    }

    pub(super) fn key(&self) -> Option<&[u8]> {
        match self.never {}
    }

    pub(super) fn write(
        &self,
        _source_date_epoch: Option<erofs::Timestamp>,
        _output: &mut dyn Write,
        _cancel: &Cancel,
    ) -> layer::Result<(Digest, u64)> {
        match self.never {}
    }
}
