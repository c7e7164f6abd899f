//! Any bytes as a specification, or as a root filesystem's mount: refused, or allocated and given back without a rest.

#![no_main]

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bridge::Deadline;
use libfuzzer_sys::fuzz_target;
use uvm::Machine;
use uvm::recording::Recording;
use vm_container::{
    LayerOptions, LinuxRequest, Rootfs, RootfsMount, VmOptions, allocate_linux_resources,
    guest_spec, read_spec,
};

/// One directory for all inputs: a machine's journal, and things that a specification can name.
fn place() -> &'static Path {
    static PLACE: OnceLock<tempfile::TempDir> = OnceLock::new();
    PLACE
        .get_or_init(|| {
            let dir = tempfile::tempdir().expect("there is a place for temporary files");
            std::fs::create_dir(dir.path().join("d")).expect("a directory can be made");
            std::fs::write(dir.path().join("f"), "x").expect("a file can be written");
            dir
        })
        .path()
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        rootfs(text);
    }
    // `@` in a specification stands for the directory, and may not be known to the fuzzer.
    let at = place().to_str().expect("temporary files have plain names");
    let bytes: Vec<u8> = bytes
        .iter()
        .flat_map(|byte| if *byte == b'@' { at.as_bytes() } else { std::slice::from_ref(byte) })
        .copied()
        .collect();
    let Ok(spec) = read_spec(&bytes) else { return };
    if let Ok(reduced) = guest_spec(&spec) {
        let json = serde_json::to_vec(&reduced).expect("a specification can be written");
        let again = read_spec(&json).expect("what was written is read");
        assert_eq!(guest_spec(&again).expect("it was reduced before"), reduced);
    }
    let annotations = spec.annotations().clone().unwrap_or_default();
    if let Ok((options, _)) = VmOptions::from_annotations(&annotations) {
        assert!(options.processors > 0 && options.memory_mib % 2 == 0);
    }
    let run = tempfile::tempdir_in(place()).expect("a directory can be made");
    let vm = Arc::new(Recording::default());
    let (machine, _) = Machine::open(vm.clone(), run.path()).expect("an empty directory");
    let request = LinuxRequest {
        id: "fuzz",
        spec: &spec,
        layers: None,
        guest_root: "/run/gcs/c/fuzz",
        sandbox: false,
        options: LayerOptions {
            encrypted_scratch: false,
            physically_backed: false,
            deadline: Deadline::after(Duration::from_secs(10)),
        },
    };
    if let Ok(allocation) = allocate_linux_resources(&machine, &request) {
        let before = spec.mounts().as_ref().map_or(0, Vec::len);
        assert_eq!(allocation.spec.mounts().as_ref().map_or(0, Vec::len), before);
        // Dropped and not released: a specification can say that a file of this host is to go with its container.
        drop(allocation);
    }
    assert!(vm.held().is_empty(), "{:?}", vm.held());
    assert_eq!(vm.violations(), Vec::<String>::new());
});

/// Lines: type, source, target, options.
fn rootfs(text: &str) {
    let mut lines = text.lines().map(str::to_owned);
    let mut line = || lines.next().unwrap_or_default();
    let (kind, source, target) = (line(), line(), line());
    let mount = RootfsMount { kind, source, target, options: lines.collect() };
    if let Ok(Rootfs::BlockCim { parents, merged, .. }) = Rootfs::parse(&mount) {
        assert!(parents.len() == 1 || merged.is_some());
    }
}
