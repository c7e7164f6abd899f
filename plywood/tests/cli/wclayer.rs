//! `plywood wclayer …` where there is no Windows: CIMs, and what is refused.

use std::fs;
use std::path::Path;

use crate::support::World;

/// A tar with directories and one file.
fn tar(path: &Path, file: &str, data: &[u8]) {
    let mut tar = tar::Builder::new(fs::File::create(path).unwrap());
    for directory in ["Files", "Files/Windows"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mtime(1_735_689_600);
        header.set_size(0);
        tar.append_data(&mut header, directory, &[][..]).unwrap();
    }
    let mut header = tar::Header::new_gnu();
    header.set_mtime(1_735_689_600);
    header.set_size(data.len() as u64);
    tar.append_data(&mut header, file, data).unwrap();
    tar.finish().unwrap();
}

fn names(tar: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap();
    entries.map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect()
}

#[test]
fn layers_are_imported_and_exported_as_cims() {
    let world = World::new();
    let path = |name: &str| world.path(name).display().to_string();
    tar(&world.path("base.tar"), "Files/Windows/old", b"old");
    tar(&world.path("layer.tar"), "Files/Windows/new", b"new");
    world.run(&["cim", "import", "--tree", &path("base.tar"), &path("base.cim")]).ok();
    let import = ["wclayer", "import", "-l", &path("base.cim"), "-i", &path("layer.tar")];
    world.run(&[&import[..], &[&path("layer.cim")]].concat()).ok();
    let shown = world.run(&["cim", "cat", &path("layer.cim"), "Files/Windows/old"]).ok();
    assert_eq!(shown, "old");

    let export = ["wclayer", "export", "--layer", &path("base.cim"), "--output", &path("out.tar")];
    world.run(&[&export[..], &[&path("layer.cim")]].concat()).ok();
    let found = names(&fs::read(world.path("out.tar")).unwrap());
    assert!(found.iter().any(|name| name == "Files/Windows/new"), "{found:?}");
    assert!(!found.iter().any(|name| name == "Files/Windows/old"), "{found:?}");
    // The whole of it, compressed, on standard output.
    let packed = world.plywood().args(["wclayer", "export", "-z", &path("layer.cim")]).output();
    fs::write(world.path("all.gz"), packed.unwrap().stdout).unwrap();
    let unpacked = std::process::Command::new("gzip").args(["-dc", &path("all.gz")]).output();
    let found = names(&unpacked.unwrap().stdout);
    for name in ["Files/Windows/new", "Files/Windows/old"] {
        assert!(found.iter().any(|found| found == name), "{found:?}");
    }
}

#[test]
fn what_takes_windows_says_what_to_do_instead() {
    let world = World::new();
    for (line, instead) in [
        (&["wclayer", "mount", "-l", "base", "scratch"][..], "plywood mount"),
        (&["wclayer", "create", "-l", "base", "scratch"], "plywood snapshot prepare"),
        (&["wclayer", "unmount", "scratch"], "plywood umount"),
        (&["wclayer", "remove", "scratch"], "plywood cim destroy"),
        (&["wclayer", "import", "folder"], ".cim"),
        (&["wclayer", "export", "folder"], ".cim"),
    ] {
        let told = world.run(line).fails(8);
        assert!(told.contains(instead), "{line:?}: {told}");
    }
}
