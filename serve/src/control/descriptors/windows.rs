//! The files of whoever asks for an operation, by name: who may use the pipe is an administrator, and may open what the
//! daemon may.

use std::convert::Infallible;
use std::io;

use layer::Cancel;
use store::import::Source;

use crate::control::{Fault, Input};

/// Whose files an operation names.
#[derive(Debug)]
pub enum Descriptors {
    /// This process's own.
    Own,
    /// Those of the process at the other end of the pipe.
    Peer,
}

impl Descriptors {
    /// No files.
    pub fn none() -> Self {
        Self::Peer
    }

    /// Those of whoever sent a request.
    pub(in crate::control) fn of_caller(_extensions: &http::Extensions) -> Self {
        Self::Peer
    }

    /// What an import reads; nothing has to stay open meanwhile.
    pub(in crate::control) fn source(
        &self,
        input: &Input,
        _cancel: &Cancel,
    ) -> Result<(Source, Option<Infallible>), Fault> {
        let refused =
            |message: &str| Err(io::Error::new(io::ErrorKind::Unsupported, message).into());
        match (input.is_stream, self) {
            (true, Self::Own) => {
                let name = input.name.display().to_string();
                Ok((Source::Reader { name, reader: Box::new(io::stdin()) }, None))
            }
            (true, Self::Peer) => {
                refused("the daemon on Windows cannot read a command's standard input; name a file")
            }
            (false, _) if !input.name.is_absolute() => refused("the path is not absolute"),
            (false, _) => Ok((Source::Path(input.name.clone()), None)),
        }
    }
}
