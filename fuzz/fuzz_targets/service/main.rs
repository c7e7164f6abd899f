//! Any bytes as requests to the daemon's services: the answers are those of a small model of containerd's error table,
//! nothing changes but what the model says, and nothing panics.
//!
//! Mounts are described in EROFS form, so that none is performed, and the process gives its capabilities up, so that none
//! can be. Inputs share a store, which each of them leaves empty: making one takes longer than all of an input's requests.

#![no_main]

mod channel;
mod model;
mod request;

use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};

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
        // A panic ends the process, so nobody finds the lock poisoned.
        let mut channel = SERVICES.lock().expect("one thread");
        let mut model = Model::default();
        let mut input = Input::new(bytes);
        for _ in 0..STEPS {
            match input.step() {
                Some(Step::Snapshots(request)) => model.call(&mut channel, &request),
                Some(Step::Bytes { method, body }) => model.send(&mut channel, method, body),
                Some(Step::Apply { of, request }) => model.apply(&mut channel, &of, request),
                Some(Step::Diff { left, right, request }) => {
                    model.diff(&mut channel, [&left, &right], request);
                }
                Some(Step::Mounts { method, body }) => model.mounts(&mut channel, method, body),
                None => break,
            }
        }
        model.remove_all(&mut channel);
    }
);

/// All services on a new store.
static SERVICES: LazyLock<Mutex<Channel>> = LazyLock::new(|| {
    let directory = directory();
    let mut config = Config::default();
    config.root = directory.join("root");
    config.run = directory.join("run");
    config.mounts = MountForm::Erofs;
    config.containerd_address = directory.join("nobody");
    Mutex::new(Channel::new(serve::in_process(config).expect("a new store opens")))
});

/// A new directory, in memory where there is such a place: a store waits for its disk. Nobody can remove it at the end of
/// a fuzzer, so the next one removes those of processes that are gone.
fn directory() -> PathBuf {
    const PREFIX: &str = "plywood-fuzz-";
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    for entry in std::fs::read_dir(&parent).expect("a directory for temporary files").flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    parent.join(format!("{PREFIX}{}", std::process::id()))
}
