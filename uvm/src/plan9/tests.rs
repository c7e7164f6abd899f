//! The server without a virtual machine: by a client that says exactly what is wanted.

mod channel;
mod client;
mod confinement;
mod files;
mod hostile;
