//! A Windows image of a few files: for where it is about what becomes of layers, not of their content.

use super::hives;
use super::regf::{self, Key, layered};
use super::security::Descriptor;
use super::tree::{Data, Tree};

const CONFIG: &str = "Files/Windows/System32/config";

/// Replaced by the second layer.
pub(super) const REPLACED: &str = "Files/Windows/version.txt";

/// A base layer and one on top of it.
pub(super) fn layers() -> [Tree; 2] {
    let text = |text: &str| Data::Bytes(text.as_bytes().to_vec());
    let mut base = Tree::new(true);
    for name in hives::NAMES {
        let root = Key::new("ROOT", layered::MERGE)
            .with(Key::new("Select", layered::MERGE).number("Current", 1));
        let hive = Data::Bytes(regf::write(&root, false));
        base.file(&format!("{CONFIG}/{name}"), hive, Descriptor::Hive);
    }
    base.file(REPLACED, text("1\r\n"), Descriptor::SystemFile);
    base.file("Files/Windows/gone.txt", text("gone"), Descriptor::SystemFile);
    let large = Data::Bytes("0123456789abcdef".repeat(20_000).into_bytes());
    base.file("Files/Windows/System32/large.dll", large, Descriptor::SystemFile);
    base.hard_link("Files/Windows/large.dll", "Files/Windows/System32/large.dll");
    base.junction("Files/Documents and Settings", "C:\\Users");
    base.directory("Files/Users", Descriptor::Profile);

    let mut top = Tree::new(false);
    top.file(REPLACED, text("2\r\n"), Descriptor::SystemFile);
    top.remove("Files/Windows/gone.txt");
    top.file("Files/app/app.exe", text("app"), Descriptor::Inherited);
    top.stream("Files/app/app.exe", "Zone.Identifier", b"[ZoneTransfer]\r\nZoneId=3\r\n");
    top.directory("Hives", Descriptor::Root);
    let root = Key::new("ROOT", layered::MERGE)
        .with(Key::new("Select", layered::PROMOTED).number("Current", 2));
    let delta = Data::Bytes(regf::write(&root, true));
    top.file("Hives/System_Delta", delta, Descriptor::Hive);
    [base, top]
}
