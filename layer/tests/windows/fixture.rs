//! Tars of Windows layers, and what became of them.

use std::io::Read as _;

use cimfs::{Case, FileView, Image, MemoryFile, MemorySet};
use layer::windows::{Processing, WindowsLayer, WindowsOptions, write_windows_layer_to};
use layer::{Cancel, Error, write_windows_layer_tar};

use crate::support::{Header, Tar};

pub(crate) const HIVES: [&str; 5] = ["DEFAULT", "SAM", "SECURITY", "SOFTWARE", "SYSTEM"];

/// Any tree.
pub(crate) fn tree() -> WindowsOptions {
    WindowsOptions { processing: Processing::None, ..WindowsOptions::default() }
}

pub(crate) fn import(
    set: &MemorySet,
    tar: &[u8],
    name: &str,
    parent: Option<&str>,
    options: &WindowsOptions,
) -> Result<WindowsLayer, Error> {
    write_windows_layer_to(tar, set, name, parent, options, &(), &Cancel::new())
}

/// The image of a tree.
pub(crate) fn image(tar: Tar) -> (MemorySet, Image<MemoryFile>) {
    let set = MemorySet::new();
    import(&set, &tar.end(), "a.cim", None, &tree()).unwrap();
    sound(&set, "a.cim");
    let image = Image::open(&set, "a.cim").unwrap();
    (set, image)
}

/// Why a tree is refused. Nothing is left of it.
pub(crate) fn refused(tar: Tar) -> Error {
    let set = MemorySet::new();
    let error = import(&set, &tar.end(), "a.cim", None, &tree()).unwrap_err();
    assert!(cimfs::FileSet::names(&set).unwrap().is_empty(), "{error}");
    error
}

pub(crate) fn sound(set: &MemorySet, name: &str) {
    let report = cimfs::check(set, name).unwrap();
    // A file's directory is another than it says once the name in that one is gone.
    let bad = |it: &&cimfs::Finding| it.code != cimfs::Code::Parent;
    assert_eq!(report.findings.iter().find(bad), None);
    assert!(cimfs::orphans(set).unwrap().is_empty());
}

pub(crate) fn file(image: &Image<MemoryFile>, path: &str) -> FileView {
    image.resolve(&path.into(), Case::Exact).unwrap()
}

pub(crate) fn content(image: &Image<MemoryFile>, path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let file = file(image, path);
    image.open_stream(&file.data()).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// Names and bytes of alternate streams.
pub(crate) fn streams(image: &Image<MemoryFile>, path: &str) -> Vec<(String, Vec<u8>)> {
    let file = file(image, path);
    let streams = image.alternate_streams(&file).unwrap().map(|stream| {
        let stream = stream.unwrap();
        let mut bytes = Vec::new();
        image.open_stream(&stream.stream).unwrap().read_to_end(&mut bytes).unwrap();
        (stream.name.to_string(), bytes)
    });
    streams.collect()
}

pub(crate) fn paths(set: &MemorySet, name: &str) -> Vec<String> {
    let image = Image::open(set, name).unwrap();
    image.walk().skip(1).map(|entry| entry.unwrap().path().to_string()).collect()
}

pub(crate) fn export(set: &MemorySet, name: &str, parent: Option<&str>) -> Vec<u8> {
    let mut tar = Vec::new();
    let written = write_windows_layer_tar(set, name, parent, &mut tar, &Cancel::new()).unwrap();
    assert_eq!(written.size, tar.len() as u64);
    tar
}

/// What differs between two images.
pub(crate) fn differences(set: &MemorySet, a: &str, b: &str) -> Vec<String> {
    let [a, b] = [a, b].map(|name| Image::open(set, name).unwrap());
    let changes = cimfs::compare(&a, &b).unwrap();
    let shown = |change: &cimfs::Change| {
        let differences: Vec<_> = change.differences.iter().map(ToString::to_string).collect();
        format!("{:?} {}: {}", change.kind, change.path, differences.join(", "))
    };
    changes.iter().map(shown).collect()
}

/// Directories down to the hives of the registry, and these, without an end mark.
pub(crate) fn base() -> Tar {
    let mut tar = Tar::new();
    for directory in
        ["Files", "Files/Windows", "Files/Windows/System32", "Files/Windows/System32/config"]
    {
        tar = tar.pax(&[(b"MSWINDOWS.fileattr", b"16")]).dir(directory.as_bytes());
    }
    for (index, hive) in HIVES.iter().enumerate() {
        let path = format!("Files/Windows/System32/config/{hive}");
        let header = Header::new(path.as_bytes(), b'0', 5).mtime(1_705_320_000 + index as u64);
        tar = tar.pax(&[(b"MSWINDOWS.fileattr", b"32")]).add(header, b"hive ");
    }
    tar
}
