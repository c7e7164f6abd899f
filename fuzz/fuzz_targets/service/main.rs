//! Any bytes as requests to the daemon's services: the answers are those of a small model of containerd's error table,
//! nothing changes but what the model says, and nothing panics.
//!
//! Mounts are described in EROFS form, so that none is performed, and the process gives its capabilities up, so that none
//! can be. Every input has a store of its own.

#![no_main]

mod channel;
mod model;
mod request;

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use serve::{Config, MountForm};

use crate::channel::Channel;
use crate::model::Model;
use crate::request::{Input, Step};

/// Requests of one input.
const STEPS: usize = 40;

fuzz_target!(
    init: {
        let none = rustix::thread::CapabilitySets {
            effective: rustix::thread::CapabilitySet::empty(),
            permitted: rustix::thread::CapabilitySet::empty(),
            inheritable: rustix::thread::CapabilitySet::empty(),
        };
        rustix::thread::set_capabilities(None, none).expect("capabilities can be given up");
    },
    |bytes: &[u8]| {
        let directory = directory();
        let mut config = Config::default();
        config.root = directory.path().join("root");
        config.run = directory.path().join("run");
        config.mounts = MountForm::Erofs;
        config.containerd_address = directory.path().join("nobody");
        let mut channel = Channel::new(serve::in_process(config).expect("a new store opens"));
        let mut model = Model::default();
        let mut input = Input::new(bytes);
        for _ in 0..STEPS {
            match input.step() {
                Some(Step::Snapshots(request)) => model.call(&mut channel, &request),
                Some(Step::Bytes { method, body }) => model.send(&mut channel, method, body),
                None => break,
            }
        }
        model.remove_all(&mut channel);
    }
);

/// In memory where there is such a place: a store waits for its disk.
fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let directory = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("plywood-fuzz").tempdir_in(directory).expect("a directory")
}
