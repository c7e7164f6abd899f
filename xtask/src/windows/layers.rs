//! What the three layers hold. Everything follows from the Wine packages' files and from names, so that the same
//! packages give the same bytes.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::hives;
use super::regf::{self, Key, layered};
use super::security::Descriptor;
use super::tar::{attribute, fnv};
use super::tree::{Data, Tree};
use super::wine::Wine;
use crate::layer_tar::Noise;

const SYSTEM32: &str = "Files/Windows/System32";
const SYSWOW64: &str = "Files/Windows/SysWOW64";
const WINSXS: &str = "Files/Windows/WinSxS";

/// Windows' own public key token, part of the names in its side-by-side store.
const TOKEN: &str = "31bf3856ad364e35";

/// Manifests of the side-by-side store: in real layers they are most of the files.
const MANIFESTS: usize = 9_000;

const LANGUAGES: [&str; 6] = ["ar-SA", "de-DE", "en-US", "fr-FR", "ja-JP", "zh-Hans-CN"];

/// The base layer. Hives are made in `scratch`.
pub(super) fn base(wine: &Wine, scratch: &Path) -> Result<Tree> {
    let mut tree = Tree::new(true);
    executables(&mut tree, SYSTEM32, "amd64", &wine.system32);
    executables(&mut tree, SYSWOW64, "x86", &wine.syswow64);
    for (name, path) in &wine.nls {
        let path = Data::File(path.clone());
        tree.file(&format!("{SYSTEM32}/{name}"), path, Descriptor::SystemFile);
    }
    side_by_side(&mut tree);
    resources(&mut tree, &wine.system32);
    drivers(&mut tree, &wine.system32);
    profiles(&mut tree);
    oddities(&mut tree, &wine.system32)?;
    let services = services(&wine.system32);
    for name in hives::NAMES {
        let path = format!("{SYSTEM32}/config/{name}");
        let hive = hives::full(name, &services, scratch)?;
        tree.file(&path, Data::Bytes(hive), Descriptor::Hive);
        tree.file(&format!("{path}.LOG1"), Data::Bytes(Vec::new()), Descriptor::Hive);
        tree.attributes(&format!("{path}.LOG1"), attribute::HIDDEN | attribute::SYSTEM);
    }
    utility_vm(&mut tree, wine, &services, scratch)?;
    Ok(tree)
}

/// The first child: what an update does, and an application.
pub(super) fn first(wine: &Wine) -> Tree {
    let mut tree = Tree::new(false);
    for (number, (name, path)) in (0..).zip(libraries(&wine.system32)) {
        let file = format!("{SYSTEM32}/{name}");
        match number % 40 {
            // A new version: the same library with something behind its last section.
            0 => tree.file(&file, Data::Bytes(patched(path, 1)), Descriptor::SystemFile),
            1 => tree.remove(&format!("{SYSWOW64}/{name}")),
            _ => {}
        }
    }
    tree.remove("Files/Windows/System32/DriverStore");
    tree.remove("Files/Users/Public/Downloads/setup.exe");
    tree.directory("Files/Plywood", Descriptor::Inherited);
    for number in 0..500 {
        let path = format!("Files/Plywood/wwwroot/static/{:02}/asset-{number:04}.js", number % 20);
        tree.file(&path, Data::Bytes(manifest(&path, 400)), Descriptor::Inherited);
    }
    tree.file(
        "Files/Plywood/agent.exe",
        Data::Bytes(noise("agent", 3 << 20)),
        Descriptor::Inherited,
    );
    tree.stream("Files/Plywood/agent.exe", "Zone.Identifier", ZONE);
    tree.hard_link("Files/Plywood/cmd.exe", "Files/Windows/System32/cmd.exe");
    tree.symlink("Files/Plywood/current", "wwwroot\\static", true);
    let service = services(&wine.system32).first().cloned().unwrap_or_default();
    hive_files(&mut tree, hives::first_deltas(&service));
    tree
}

/// The second child: changes what the first has brought, and what the base has.
pub(super) fn second(wine: &Wine) -> Tree {
    let mut tree = Tree::new(false);
    for (number, (name, path)) in (0..).zip(libraries(&wine.system32)) {
        if number % 80 == 0 {
            let bytes = Data::Bytes(patched(path, 2));
            tree.file(&format!("{SYSTEM32}/{name}"), bytes, Descriptor::SystemFile);
        }
    }
    tree.directory("Files/Plywood", Descriptor::Inherited);
    // A tree becomes a file, a link a directory.
    tree.remove("Files/Plywood/wwwroot/static/07");
    tree.file(
        "Files/Plywood/wwwroot/static/08",
        Data::Bytes(b"moved\r\n".to_vec()),
        Descriptor::Inherited,
    );
    tree.directory("Files/Plywood/current", Descriptor::Inherited);
    let settings = b"{ \"mode\": \"second\" }\r\n".to_vec();
    tree.file("Files/Plywood/current/settings.json", Data::Bytes(settings), Descriptor::Inherited);
    tree.remove("Files/Plywood/cmd.exe");
    tree.junction("Files/Plywood/data", "C:\\ProgramData\\Plywood");
    hive_files(&mut tree, hives::second_deltas());
    tree
}

const ZONE: &[u8] = b"[ZoneTransfer]\r\nZoneId=3\r\nHostUrl=about:internet\r\n";

fn hive_files(tree: &mut Tree, deltas: Vec<(&'static str, Vec<u8>)>) {
    tree.directory("Hives", Descriptor::Root);
    for (name, hive) in deltas {
        tree.file(&format!("Hives/{name}"), Data::Bytes(hive), Descriptor::Hive);
    }
}

fn libraries(files: &[(String, PathBuf)]) -> impl Iterator<Item = &(String, PathBuf)> {
    files.iter().filter(|(name, _)| name.ends_with(".dll"))
}

fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// Drivers' names, which are services in the registry.
fn services(files: &[(String, PathBuf)]) -> Vec<String> {
    let drivers = files.iter().filter(|(name, _)| name.ends_with(".sys"));
    drivers.map(|(name, _)| stem(name).to_owned()).collect()
}

/// A component's directory in the side-by-side store.
fn component(architecture: &str, name: &str) -> String {
    let stem = stem(name);
    let hash = fnv(&format!("{architecture}{name}"));
    format!(
        "{architecture}_microsoft-windows-{stem}_{TOKEN}_10.0.20348.{}_none_{hash:016x}",
        1 + hash % 2900
    )
}

/// The programs at their places. Every third library has a second name in the side-by-side store, and every fifth
/// carries the attributes that catalogs leave.
fn executables(tree: &mut Tree, directory: &str, architecture: &str, files: &[(String, PathBuf)]) {
    for (number, (name, path)) in (0_u32..).zip(files) {
        let driver = name.ends_with(".sys");
        let place = if driver { format!("{directory}/drivers") } else { directory.to_owned() };
        let file = format!("{place}/{name}");
        tree.file(&file, Data::File(path.clone()), Descriptor::SystemFile);
        if number.is_multiple_of(3) {
            tree.hard_link(&format!("{WINSXS}/{}/{name}", component(architecture, name)), &file);
        }
        if number.is_multiple_of(5) {
            let catalog =
                format!("Microsoft-Windows-{}-Package~{TOKEN}~{architecture}~~.cat", stem(name));
            let mut hint = vec![1, 0];
            hint.extend(u16::try_from(catalog.len()).unwrap_or(0).to_le_bytes());
            hint.extend(catalog.bytes());
            tree.ea(&file, "$CI.CATALOGHINT", &hint);
            tree.ea(&file, "$KERNEL.PURGE.ESBCACHE", &noise(&file, 64));
        }
    }
}

/// Manifests and catalogs: small files in large directories.
fn side_by_side(tree: &mut Tree) {
    for number in 0..MANIFESTS {
        let architecture = if number % 3 == 0 { "wow64" } else { "amd64" };
        let name = component(architecture, &format!("component-{number:05}.resources"));
        let path = format!("{WINSXS}/Manifests/{name}.manifest");
        let length = 300 + usize::try_from(fnv(&path) % 2700).unwrap_or(0);
        tree.file(&path, Data::Bytes(manifest(&name, length)), Descriptor::SystemFile);
    }
    for number in 0..400 {
        let name = format!("Package_{number}_for_KB5030216~{TOKEN}~amd64~~20348.1970.1.7.cat");
        let path = format!("{SYSTEM32}/CatRoot/{{F750E6C3-38EE-11D1-85E5-00C04FC295EE}}/{name}");
        tree.file(&path, Data::Bytes(noise(&name, 9_000)), Descriptor::SystemFile);
    }
}

/// Text of a length.
fn manifest(name: &str, length: usize) -> Vec<u8> {
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\" standalone=\"yes\"?>\r\n<assembly xmlns=\"urn:schemas-microsoft-com:asm.v3\" \
         manifestVersion=\"1.0\">\r\n  <assemblyIdentity name=\"{name}\" version=\"10.0.20348.1\" />\r\n"
    );
    let mut number = 0;
    while text.len() < length {
        number += 1;
        let hash = fnv(&format!("{name}{number}"));
        text.push_str(&format!("  <file name=\"part-{number}.dll\" hash=\"{hash:016x}\" />\r\n"));
    }
    text.push_str("</assembly>\r\n");
    text.into_bytes()
}

fn noise(seed: &str, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    // Reading noise into memory cannot fail.
    _ = Noise::new(fnv(seed), length as u64).read_to_end(&mut bytes);
    bytes
}

/// The library with a few bytes of `version` behind it; readers of executables do not mind. Missing files are
/// empty here and reported when the base layer is written.
fn patched(path: &Path, version: u8) -> Vec<u8> {
    let mut bytes = std::fs::read(path).unwrap_or_default();
    bytes.extend([version; 64]);
    bytes
}

/// Translated resources: the same names in several directories.
fn resources(tree: &mut Tree, files: &[(String, PathBuf)]) {
    for language in LANGUAGES {
        for (number, (name, _)) in (0_u32..).zip(libraries(files)) {
            if number.is_multiple_of(4) {
                let path = format!("{SYSTEM32}/{language}/{name}.mui");
                tree.file(&path, Data::Bytes(noise(&path, 2_560)), Descriptor::SystemFile);
            }
        }
    }
}

fn drivers(tree: &mut Tree, files: &[(String, PathBuf)]) {
    for service in services(files) {
        let hash = fnv(&service);
        let directory =
            format!("{SYSTEM32}/DriverStore/FileRepository/{service}.inf_amd64_{hash:016x}");
        let inf = format!("{directory}/{service}.inf");
        tree.file(&inf, Data::Bytes(manifest(&service, 3_000)), Descriptor::SystemFile);
        let source = format!("{SYSTEM32}/drivers/{service}.sys");
        tree.hard_link(
            &format!("{WINSXS}/{}/{service}.sys", component("amd64", &service)),
            &source,
        );
    }
}

/// `Users` and `ProgramData`, with the junctions and links that every Windows has.
fn profiles(tree: &mut Tree) {
    tree.directory("Files/ProgramData", Descriptor::Inherited);
    tree.attributes("Files/ProgramData", attribute::HIDDEN);
    for name in ["Application Data", "Desktop", "Documents", "Start Menu", "Templates"] {
        let target = if name == "Application Data" { "" } else { "\\Microsoft" };
        tree.junction(&format!("Files/ProgramData/{name}"), &format!("C:\\ProgramData{target}"));
    }
    tree.directory("Files/ProgramData/Microsoft", Descriptor::Inherited);
    tree.junction("Files/Documents and Settings", "C:\\Users");
    tree.directory("Files/Users", Descriptor::Profile);
    tree.symlink("Files/Users/All Users", "C:\\ProgramData", true);
    tree.junction("Files/Users/Default User", "C:\\Users\\Default");
    for user in ["Default", "Public", "ContainerAdministrator", "ContainerUser"] {
        let home = format!("Files/Users/{user}");
        for part in ["AppData/Local", "AppData/Roaming", "Desktop", "Documents", "Downloads"] {
            tree.directory(&format!("{home}/{part}"), Descriptor::Profile);
        }
        tree.directory(&format!("{home}/AppData/LocalLow"), Descriptor::Low);
        let ini = format!("{home}/Desktop/desktop.ini");
        let text = b"[.ShellClassInfo]\r\nLocalizedResourceName=@%SystemRoot%\\system32\\shell32.dll,-21769\r\n";
        tree.file(&ini, Data::Bytes(text.to_vec()), Descriptor::Profile);
        tree.attributes(&ini, attribute::HIDDEN | attribute::SYSTEM);
    }
    let setup = "Files/Users/Public/Downloads/setup.exe";
    tree.file(setup, Data::Bytes(noise(setup, 700_000)), Descriptor::Profile);
    tree.stream(setup, "Zone.Identifier", ZONE);
    tree.stream(setup, "SmartScreen", b"Anaheim");
}

/// What trees of this kind have here and there, and what readers get wrong.
fn oddities(tree: &mut Tree, files: &[(String, PathBuf)]) -> Result<()> {
    let (name, _) = libraries(files).next().context("the packages hold no library")?;
    // Deeper and longer than the classic limit of 260 units.
    let mut deep = "Files/ProgramData/Microsoft/Windows/AppRepository".to_owned();
    for level in 0..24 {
        deep.push_str(&format!("/{level:02}_cw5n1h2txyewy_neutral"));
    }
    tree.file(
        &format!("{deep}/ActivationStore.dat"),
        Data::Bytes(noise(&deep, 5_000)),
        Descriptor::Inherited,
    );
    // 255 units, the longest name of NTFS; and names that are not ASCII, by scripts.
    let longest = format!("Files/ProgramData/{}.txt", "n".repeat(251));
    tree.file(&longest, Data::Bytes(b"long\r\n".to_vec()), Descriptor::Inherited);
    let names = [
        "ＭＳ ゴシック.ttc",
        "楷体_GB2312.ttf",
        "Größe – Übersicht.txt",
        "Ελληνικά.nls",
        "عربى.dat",
        "Пример файла.txt",
        "I\u{307}stanbul ı.txt",
        "😀 emoji.png",
        "cafe\u{301}.txt",
        "café.txt",
    ];
    for name in names {
        let path = format!("Files/Windows/Fonts/{name}");
        tree.file(&path, Data::Bytes(noise(name, 12_000)), Descriptor::SystemFile);
    }
    let kanji = format!("Files/Windows/Fonts/{}.ttf", "漢字".repeat(40));
    tree.file(&kanji, Data::Bytes(noise("kanji", 300_000)), Descriptor::SystemFile);
    tree.file("Files/Windows/empty.log", Data::Bytes(Vec::new()), Descriptor::Inherited);
    tree.stream("Files/Windows/empty.log", "note", b"an empty file with a stream");
    tree.directory("Files/Windows/Temp", Descriptor::Profile);
    tree.stream("Files/Windows/Temp", "favicon", &noise("favicon", 6_000));
    tree.directory("Files/Windows/SystemTemp", Descriptor::Hive);
    tree.file("Files/License.txt", Data::Bytes(manifest("license", 2_000)), Descriptor::Inherited);
    tree.attributes("Files/License.txt", attribute::READONLY);
    tree.symlink("Files/Windows/notes.txt", "..\\License.txt", false);
    tree.symlink("Files/Windows/first.dll", &format!("C:\\Windows\\System32\\{name}"), false);
    tree.symlink("Files/Windows/share", "\\\\server\\share\\folder", true);
    tree.file("Files/Windows/zeros.bin", Data::Bytes(vec![0; 3 << 20]), Descriptor::Inherited);
    Ok(())
}

/// The utility VM: boot files of its own, libraries shared with `Files` by hard links.
fn utility_vm(tree: &mut Tree, wine: &Wine, services: &[String], scratch: &Path) -> Result<()> {
    const FILES: &str = "UtilityVM/Files";
    const BOOT: &str = "UtilityVM/Files/EFI/Microsoft/Boot";
    tree.directory("UtilityVM", Descriptor::Inherited);
    tree.directory(FILES, Descriptor::Root);
    let boot = Data::Bytes(noise("bootmgfw", 1_500_000));
    tree.file(&format!("{BOOT}/bootmgfw.efi"), boot, Descriptor::SystemFile);
    let objects = Key::new("Objects", layered::MERGE).number("Version", 1);
    let bcd = regf::write(&Key::new("NewStoreRoot", layered::MERGE).with(objects), false);
    tree.file(&format!("{BOOT}/BCD"), Data::Bytes(bcd), Descriptor::Hive);
    for name in ["SYSTEM", "SOFTWARE"] {
        let hive = hives::full(name, services, scratch)?;
        let path = format!("{FILES}/Windows/System32/config/{name}");
        tree.file(&path, Data::Bytes(hive), Descriptor::Hive);
    }
    for (number, (name, _)) in (0_u32..).zip(libraries(&wine.system32)) {
        if number.is_multiple_of(4) {
            let file = format!("{SYSTEM32}/{name}");
            tree.hard_link(&format!("{FILES}/Windows/System32/{name}"), &file);
        }
    }
    Ok(())
}
