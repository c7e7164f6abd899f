//! Base layers and layers on top of them.

use cimfs::{Image, MemorySet};
use layer::hive::{Hive, Key, Value};
use layer::windows::{SecurityDescriptor, WindowsOptions};
use layer::{Compression, Compressor, ErrorKind};

use crate::fixture::{HIVES, base, content, differences, export, file, import, paths, sound, tree};
use crate::support::Tar;

fn layer() -> WindowsOptions {
    WindowsOptions::default()
}

fn base_set() -> MemorySet {
    let set = MemorySet::new();
    let tar = base().file(b"Files/a", b"a").dir(b"Files/d").file(b"Files/d/x", b"x");
    let tar =
        tar.dir(b"UtilityVM").dir(b"UtilityVM/Files").hard_link(b"UtilityVM/Files/a", b"Files/a");
    import(&set, &tar.end(), "base.cim", None, &layer()).unwrap();
    set
}

#[test]
fn a_base_layer_gets_the_bases_of_its_hives() {
    let set = base_set();
    sound(&set, "base.cim");
    let image = Image::open(&set, "base.cim").unwrap();
    for hive in HIVES {
        let base = if hive == "DEFAULT" { "DEFAULTUSER" } else { hive };
        let config = file(&image, &format!("Files/Windows/System32/config/{hive}"));
        assert_eq!(file(&image, &format!("Hives/{base}_BASE")).id, config.id);
    }
    assert_eq!(content(&image, "layout"), b"vhd-with-hives\n");
    assert_eq!(file(&image, "layout").attributes(), 0x80);
    assert_eq!(file(&image, "UtilityVM/Files/a").id, file(&image, "Files/a").id);

    // As a tree there is nothing but what the tar has.
    let plain = MemorySet::new();
    import(&plain, &base().end(), "a.cim", None, &tree()).unwrap();
    assert!(paths(&plain, "a.cim").iter().all(|path| path.starts_with(r"\Files")));
}

#[test]
fn what_is_no_base_layer_is_refused() {
    let refused = |tar: Tar| {
        let set = MemorySet::new();
        let error = import(&set, &tar.end(), "a.cim", None, &layer()).unwrap_err();
        assert!(cimfs::FileSet::names(&set).unwrap().is_empty());
        assert_eq!(error.kind(), ErrorKind::Invalid);
        error.to_string()
    };
    let tar = Tar::new().dir(b"usr").dir(b"usr/bin").file(b"usr/bin/true", b"");
    assert!(refused(tar).contains("no layer for Windows"));
    assert!(refused(Tar::new().dir(b"Files")).contains(r"Files\Windows\System32\config\SYSTEM"));
    assert!(refused(base().file(b"Files/.wh.x", b"")).starts_with("Files/.wh.x: a base layer"));
}

#[test]
fn whiteouts_delete_what_the_layers_below_have() {
    let set = base_set();
    let before = paths(&set, "base.cim");
    let tar = Tar::new().dir(b"Files").dir(b"Hives").file(b"Files/.wh.a", b"a body");
    // A directory that comes back with other files.
    let tar = tar.dir(b"Files/.wh.d").dir(b"Files/d").file(b"Files/d/new", b"n");
    let tar =
        tar.file(b"Files/.wh.not there", b"").file(b"Files/.WH.up", b"").dir(b"Files/.wh.odd x");
    let result = import(&set, &tar.end(), "child.cim", Some("base.cim"), &layer()).unwrap();
    sound(&set, "child.cim");
    assert_eq!((result.whiteouts, result.entries), (4, 9));
    let after = paths(&set, "child.cim");
    let gone: Vec<_> = before.iter().filter(|path| !after.contains(path)).collect();
    assert_eq!(gone, [r"\Files\a", r"\Files\d\x"]);
    let came: Vec<_> = after.iter().filter(|path| !before.contains(path)).collect();
    assert_eq!(came, [r"\Files\.WH.up", r"\Files\d\new"]);

    for (bad, kind) in [
        ("Files/.wh.", ErrorKind::Invalid),
        ("Files/sub/.wh.", ErrorKind::Invalid),
        (".wh.Files", ErrorKind::Invalid),
        (".wh.top", ErrorKind::Invalid),
        ("Hives/.wh.x", ErrorKind::Invalid),
        ("UtilityVM/.wh.Files", ErrorKind::Invalid),
        ("Files/.wh..wh..opq", ErrorKind::Unsupported),
    ] {
        let tar = Tar::new().dir(b"Files").file(bad.as_bytes(), b"").end();
        let error = import(&set, &tar, "bad.cim", Some("base.cim"), &layer()).unwrap_err();
        assert_eq!(error.kind(), kind, "{bad}: {error}");
    }
    for path in ["Files/d", "Files/d/y"] {
        let tar = Tar::new().dir(b"Files").dir(b"Files/d").file(b"Files/d/y", b"");
        let whiteout = path.replace("Files/", "Files/.wh.").replace(".wh.d/", "d/.wh.");
        let tar = tar.file(whiteout.as_bytes(), b"").end();
        let error = import(&set, &tar, "bad.cim", Some("base.cim"), &layer()).unwrap_err();
        assert!(error.to_string().contains("added before"), "{error}");
    }
}

#[test]
fn a_layer_may_add_to_and_link_to_what_lies_below() {
    let set = base_set();
    let tar = Tar::new().file(b"Files/d/y", b"y").hard_link(b"Files/link", b"Files/a");
    let tar = tar.dir(b"Files/Windows").file(b"Files/a:stream", b"");
    let error =
        import(&set, &tar.clone().end(), "child.cim", Some("base.cim"), &layer()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "a stream of a file that the layer does not have");
    let tar = Tar::new().file(b"Files/d/y", b"y").hard_link(b"Files/link", b"Files/a");
    import(&set, &tar.end(), "child.cim", Some("base.cim"), &layer()).unwrap();
    let image = Image::open(&set, "child.cim").unwrap();
    assert_eq!(file(&image, "Files/link").id, file(&image, "Files/a").id);
    assert_eq!(content(&image, "Files/d/y"), b"y");

    // A directory that is said again without a security descriptor keeps its own.
    let sddl = b"O:SYG:SYD:(A;;FA;;;SY)";
    let tar = Tar::new().dir(b"Files").pax(&[(b"MSWINDOWS.sd", sddl)]).dir(b"Files/own").end();
    import(&set, &tar, "own.cim", Some("base.cim"), &layer()).unwrap();
    let tar = Tar::new().dir(b"Files/own").file(b"Files/own/f", b"").end();
    import(&set, &tar, "again.cim", Some("own.cim"), &layer()).unwrap();
    let [own, again] = ["own.cim", "again.cim"].map(|name| {
        let image = Image::open(&set, name).unwrap();
        image.security_descriptor(&file(&image, "Files/own")).unwrap()
    });
    assert_eq!(own, again);
}

#[test]
fn the_same_layer_gives_the_same_bytes_however_it_is_compressed() {
    let tar = base().file(b"Files/large", &[5; 300_000]).end();
    let mut expected = None;
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let mut compressor = Compressor::new(Vec::new(), compression).unwrap();
        std::io::Write::write_all(&mut compressor, &tar).unwrap();
        let blob = compressor.finish().unwrap();
        let set = MemorySet::new();
        let result = import(&set, &blob, "a.cim", None, &layer()).unwrap();
        assert_eq!(result.blob.compression, compression);
        assert_eq!(result.blob.digest, layer::Digest::of(&blob));
        assert_eq!(result.blob.diff_id, layer::Digest::of(&tar));
        let mut names = cimfs::FileSet::names(&set).unwrap();
        names.sort();
        let bytes: Vec<_> = names.into_iter().map(|name| (set.bytes(&name), name)).collect();
        assert!(expected.get_or_insert_with(|| bytes.clone()) == &bytes);
    }
}

#[test]
fn images_of_one_layer_in_one_directory_need_variants() {
    let set = MemorySet::new();
    let tar = base().end();
    import(&set, &tar, "a.cim", None, &layer()).unwrap();
    let error = import(&set, &tar, "b.cim", None, &layer()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let other = WindowsOptions { variant: "b".into(), ..layer() };
    import(&set, &tar, "b.cim", None, &other).unwrap();
    sound(&set, "a.cim");
    sound(&set, "b.cim");
    let error = import(&set, &tar, "c.cim", Some("none.cim"), &layer()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

/// A hive with keys below its root.
fn hive(layered: bool, keys: &[&str]) -> Vec<u8> {
    let security =
        SecurityDescriptor::from_sddl("O:BAG:SYD:(A;;KA;;;BA)").unwrap().write().unwrap();
    let mut hive = Hive::new(Key::new("ROOT", security.clone().into()));
    hive.set_layered(layered);
    for name in keys {
        let key = hive.add_key(hive.root(), Key::new(*name, security.clone().into())).unwrap();
        hive.values_mut(key).push(Value::new("value", 4, vec![1, 0, 0, 0]));
    }
    hive.write().unwrap()
}

fn keys(set: &MemorySet, image: &str, path: &str) -> Vec<bool> {
    let bytes = content(&Image::open(set, image).unwrap(), path);
    let hive = Hive::read(&bytes).unwrap();
    ["one", "two", "three"].iter().map(|name| hive.find(name).is_some()).collect()
}

#[test]
fn changes_of_the_registry_are_merged_with_the_nearest_base() {
    let set = MemorySet::new();
    let mut tar = Tar::new();
    for directory in ["Files", "Files/Windows", "Files/Windows/System32"] {
        tar = tar.dir(directory.as_bytes());
    }
    tar = tar.dir(b"Files/Windows/System32/config");
    for name in HIVES {
        let path = format!("Files/Windows/System32/config/{name}");
        tar = tar.file(path.as_bytes(), &hive(false, &["one"]));
    }
    let options = layer();
    import(&set, &tar.end(), "0.cim", None, &options).unwrap();
    let child = || Tar::new().dir(b"Files").dir(b"Hives");
    let first = child().file(b"Hives/System_Delta", &hive(true, &["two"]));
    let first = first.file(b"Hives/DefaultUser_Delta", &hive(true, &["two"])).end();
    let layer = import(&set, &first, "1.cim", Some("0.cim"), &options).unwrap();
    assert_eq!((layer.merged_hives, layer.hive_warnings), (2, 0));
    // hcsshim cannot go on from a layer without changes.
    let second = child().file(b"Files/x", b"x").end();
    import(&set, &second, "2.cim", Some("1.cim"), &options).unwrap();
    let third = child().file(b"Hives/SYSTEM_DELTA", &hive(true, &["three"])).end();
    import(&set, &third, "3.cim", Some("2.cim"), &options).unwrap();
    let base = r"Hives\SYSTEM_BASE";
    assert_eq!(keys(&set, "0.cim", base), [true, false, false]);
    assert_eq!(keys(&set, "1.cim", base), [true, true, false]);
    assert_eq!(keys(&set, "2.cim", base), [true, true, false]);
    assert_eq!(keys(&set, "3.cim", base), [true, true, true]);
    assert_eq!(keys(&set, "3.cim", r"Hives\DEFAULTUSER_BASE"), [true, true, false]);
    assert_eq!(keys(&set, "3.cim", r"Files\Windows\System32\config\SYSTEM"), [true, false, false]);
    for name in ["1.cim", "3.cim"] {
        sound(&set, name);
    }

    for (child, parent) in [("1.cim", "0.cim"), ("3.cim", "2.cim"), ("3.cim", "0.cim")] {
        let tar = export(&set, child, Some(parent));
        let text = String::from_utf8_lossy(&tar);
        let variant = WindowsOptions { variant: format!("{child} {parent}"), ..options.clone() };
        let name = format!("{child} on {parent}");
        let again = import(&set, &tar, &name, Some(parent), &variant).unwrap();
        // Changes of two layers at once have no form but their result.
        let steps = child.as_bytes()[0] - parent.as_bytes()[0];
        assert_eq!(text.contains("SYSTEM_BASE"), steps > 1, "an importer makes it");
        assert!(again.merged_hives > 0);
        assert_eq!(differences(&set, child, &name), [""; 0]);
    }

    for (path, bytes, kind) in [
        ("Hives/System_Delta", b"garbage".to_vec(), ErrorKind::Corrupt),
        ("Hives/SAM_DELTA", hive(true, &[])[..5000].to_vec(), ErrorKind::Corrupt),
    ] {
        let tar = child().file(path.as_bytes(), &bytes).end();
        let error = import(&set, &tar, "bad.cim", Some("0.cim"), &options).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains("_DELTA"), "{error}");
    }
    import(&set, &child().end(), "tree.cim", None, &tree()).unwrap();
    let tar = child().file(b"Hives/System_Delta", &hive(true, &[])).end();
    let error = import(&set, &tar, "bad.cim", Some("tree.cim"), &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MissingParent);
}
