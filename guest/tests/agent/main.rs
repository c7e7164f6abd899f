//! The agent without a VM: the real program in namespaces of its own, its bridge on a socket. What needs devices is
//! tested in a VM; everything else of the tables of the genuine agent's answers is here.

#![expect(clippy::unwrap_used, reason = "tests may")]

mod containers;
mod host;
mod hostile;
mod layers;
mod protocol;
