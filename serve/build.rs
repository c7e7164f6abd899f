//! Compiles `proto/` for client and server, without protoc.

use std::error::Error;
use std::path::Path;

const FILES: [&str; 6] = [
    "containerd/services/content.proto",
    "containerd/services/diff.proto",
    "containerd/services/leases.proto",
    "containerd/services/mounts.proto",
    "containerd/services/snapshots.proto",
    "plywood/control.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let directory = Path::new("proto");
    let set = protox::compile(FILES.iter().map(|file| directory.join(file)), [directory])?;
    tonic_prost_build::configure()
        .btree_map(".")
        .bytes(".containerd.services.content.v1")
        .compile_fds(set)?;
    println!("cargo::rerun-if-changed=proto");
    Ok(())
}
