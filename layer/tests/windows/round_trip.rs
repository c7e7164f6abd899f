//! Image to tar to image, whole and as differences.

use cimfs::{
    Case, FileFlags, FileTime, Guid, Image, ImagePath, ImageWriter, MemorySet, Metadata, Name,
    WriterOptions,
};
use layer::windows::{ReparsePoint, SecurityDescriptor, WindowsOptions, write_eas};
use proptest::prelude::*;

use crate::fixture::{base, differences, export, import, paths, sound};
use crate::support::Tar;

#[derive(Debug, Clone)]
enum Step {
    Directory(usize, usize, u8),
    File(usize, usize, u8, usize),
    Sparse(usize, usize),
    Link(usize, usize, usize),
    Stream(usize, u8, usize),
    Remove(usize),
}

const NAMES: [&str; 9] = ["a", "B", "b.txt", "語😀", "z z", "Ä", "a:", "long", "-"];

fn steps(length: usize) -> impl Strategy<Value = Vec<Step>> {
    let (place, name) = (0..64_usize, 0..NAMES.len());
    let step = prop_oneof![
        (place.clone(), name.clone(), any::<u8>()).prop_map(|(p, n, m)| Step::Directory(p, n, m)),
        (place.clone(), name.clone(), any::<u8>(), 0..9000_usize)
            .prop_map(|(p, n, m, s)| Step::File(p, n, m, s)),
        (place.clone(), name.clone()).prop_map(|(p, n)| Step::Sparse(p, n)),
        (place.clone(), name, place.clone()).prop_map(|(p, n, t)| Step::Link(p, n, t)),
        (place.clone(), 0..4_u8, 0..5000_usize).prop_map(|(p, n, s)| Step::Stream(p, n, s)),
        place.prop_map(Step::Remove),
    ];
    prop::collection::vec(step, 0..length)
}

fn metadata(seed: u8, directory: bool) -> Metadata {
    let has = |bit: u8| seed & bit != 0;
    let time = |offset: u64| FileTime(133_497_936_000_000_000 + offset * u64::from(seed % 16));
    let sddl = if has(1) { "O:BAG:SYD:(A;;FA;;;BA)" } else { "O:SYG:SYD:P(A;OICI;FA;;;SY)" };
    let security = SecurityDescriptor::from_sddl(sddl).unwrap().write().unwrap();
    let units: Vec<u16> = r"C:\x".encode_utf16().collect();
    let reparse = match seed % 8 {
        0 => ReparsePoint::symlink(&units).write().unwrap(),
        1 if directory => ReparsePoint::mount_point(&units).write().unwrap(),
        _ => Vec::new(),
    };
    let eas = if has(32) { write_eas([(&b"EA"[..], &b"v"[..])]).unwrap() } else { Vec::new() };
    Metadata {
        flags: FileFlags::from_bits_truncate(u16::from(seed) & 0xF),
        creation_time: time(1),
        last_write_time: time(10_000_000),
        change_time: time(3),
        last_access_time: FileTime(u64::from(seed % 4)),
        security,
        eas,
        reparse,
    }
}

/// Everything below `Files` that exists, directories first.
struct Known {
    directories: Vec<ImagePath>,
    files: Vec<ImagePath>,
}

fn known(set: &MemorySet, name: &str) -> Known {
    let image = Image::open(set, name).unwrap();
    let mut known = Known { directories: vec!["Files".into()], files: Vec::new() };
    for entry in image.walk() {
        let entry = entry.unwrap();
        let path = entry.path();
        if path.names().len() > 1 && path.names()[0] == Name::from("Files") {
            if entry.file.is_dir() { &mut known.directories } else { &mut known.files }.push(path);
        }
    }
    known
}

fn apply(writer: &mut ImageWriter<MemorySet>, known: &mut Known, steps: &[Step]) {
    let pick = |from: &[ImagePath], index: usize| from.get(index % from.len().max(1)).cloned();
    for step in steps {
        // Paths that are gone by now are errors, which change nothing.
        match step {
            Step::Directory(place, name, seed) => {
                let path = pick(&known.directories, *place).unwrap().join(NAMES[*name]);
                // A file's name in other letters would stay as it is.
                if writer.is_directory(&path).unwrap().is_none()
                    && writer.add_directory(&path, &metadata(*seed, true)).is_ok()
                {
                    known.directories.push(path);
                }
            }
            Step::File(place, name, seed, size) => {
                let path = pick(&known.directories, *place).unwrap().join(NAMES[*name]);
                let bytes = vec![*seed; *size];
                let seed = if *size > 0 && seed % 8 < 2 { seed | 2 } else { *seed };
                if writer.add_file(&path, &metadata(seed, false), &bytes).is_ok() {
                    known.files.push(path);
                }
            }
            Step::Sparse(place, name) => {
                let path = pick(&known.directories, *place).unwrap().join(NAMES[*name]);
                let flags = FileFlags::SPARSE;
                let metadata = Metadata { flags, reparse: Vec::new(), ..metadata(2, false) };
                if writer.add_sparse_file(&path, &metadata, 1 << 20).is_ok() {
                    known.files.push(path);
                }
            }
            Step::Link(place, name, target) => {
                let path = pick(&known.directories, *place).unwrap().join(NAMES[*name]);
                if let Some(target) = pick(&known.files, *target)
                    && writer.add_link(&path, &target).is_ok()
                {
                    known.files.push(path);
                }
            }
            Step::Stream(place, name, size) => {
                let all: Vec<_> = known.files.iter().chain(&known.directories).cloned().collect();
                let path = pick(&all, *place).unwrap();
                let stream = Name::from(format!("s{name}").as_str());
                if writer.begin_stream(&path, &stream, *size as u64).is_ok() {
                    writer.write_data(&vec![*name; *size]).unwrap();
                    writer.end().unwrap();
                }
            }
            Step::Remove(place) => {
                let all: Vec<_> =
                    known.files.iter().chain(&known.directories[1..]).cloned().collect();
                if let Some(path) = pick(&all, *place) {
                    let _ = writer.remove(&path);
                }
            }
        }
    }
}

fn guid(name: &str) -> Guid {
    Guid::for_content(name.as_bytes())
}

/// A base layer's image with random content.
fn base_image(set: &MemorySet, steps: &[Step]) {
    import(set, &base().end(), "start.cim", None, &WindowsOptions::default()).unwrap();
    fork(set, "start.cim", "a.cim", steps);
}

fn fork(set: &MemorySet, parent: &str, name: &str, steps: &[Step]) {
    let mut writer =
        ImageWriter::fork(set.clone(), parent, name, guid(name), WriterOptions::default()).unwrap();
    apply(&mut writer, &mut known(set, parent), steps);
    writer.commit().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_whole_image_comes_back(steps in steps(40)) {
        let set = MemorySet::new();
        base_image(&set, &steps);
        let tar = export(&set, "a.cim", None);
        import(&set, &tar, "b.cim", None, &WindowsOptions::default()).unwrap();
        sound(&set, "b.cim");
        prop_assert_eq!(differences(&set, "a.cim", "b.cim"), Vec::<String>::new());
        prop_assert!(export(&set, "b.cim", None) == tar);
    }

    #[test]
    fn a_difference_makes_of_the_parent_what_the_child_is(first in steps(30), second in steps(15)) {
        let set = MemorySet::new();
        base_image(&set, &first);
        fork(&set, "a.cim", "child.cim", &second);
        let tar = export(&set, "child.cim", Some("a.cim"));
        import(&set, &tar, "b.cim", Some("a.cim"), &WindowsOptions::default()).unwrap();
        sound(&set, "b.cim");
        prop_assert_eq!(differences(&set, "child.cim", "b.cim"), Vec::<String>::new());
        prop_assert!(export(&set, "b.cim", Some("a.cim")) == tar);
    }
}

#[test]
fn images_that_are_no_forks_of_each_other_have_a_difference_too() {
    let set = MemorySet::new();
    let one = base().file(b"Files/same", b"s").file(b"Files/gone", b"g").dir(b"Files/d");
    let one = one.file(b"Files/d/f", b"1").hard_link(b"Files/d/link", b"Files/same");
    let two = base().file(b"Files/same", b"s").file(b"Files/d", b"no directory");
    let two = two.dir(b"Files/gone").file(b"Files/GONE/f", b"2");
    for (name, tar) in [("a.cim", one), ("b.cim", two)] {
        import(&set, &tar.end(), name, None, &WindowsOptions::default()).unwrap();
    }
    let tar = export(&set, "b.cim", Some("a.cim"));
    import(&set, &tar, "c.cim", Some("a.cim"), &WindowsOptions::default()).unwrap();
    assert_eq!(differences(&set, "b.cim", "c.cim"), [""; 0]);
}

#[test]
fn a_difference_can_be_read_by_other_importers() {
    let set = MemorySet::new();
    let one =
        base().dir(b"Files/d").dir(b"Files/d/e").file(b"Files/d/e/x", b"x").file(b"Files/f", b"f");
    let one = one.dir(b"Files/gone").file(b"Files/gone/y", b"y");
    import(&set, &one.end(), "a.cim", None, &WindowsOptions::default()).unwrap();
    let two = Tar::new().file(b"Files/d/e/new", b"n").hard_link(b"Files/d/link", b"Files/f");
    let two = two.file(b"Files/.wh.gone", b"").file(b"Files/d/e/.wh.x", b"");
    import(&set, &two.end(), "b.cim", Some("a.cim"), &WindowsOptions::default()).unwrap();
    let tar = export(&set, "b.cim", Some("a.cim"));
    let mut archive = tar::Archive::new(tar.as_slice());
    let nothing = export(&set, "a.cim", Some("a.cim"));
    assert_eq!(nothing.len(), 4 * 1024, "Files, Hives, and the end");
    let names: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().to_str().unwrap().to_owned())
        .collect();
    let expected = [
        "Files",
        "Files/.wh.gone",
        "Files/d",
        "Files/d/e",
        "Files/d/e/.wh.x",
        "Files/d/e/new",
        "Files/d/link",
        "Hives",
    ];
    assert_eq!(names, expected);
}

#[test]
fn names_of_one_file_that_come_apart_and_others_that_come_together() {
    let linked = |groups: &str| {
        let mut tar = base();
        for group in groups.split(' ') {
            let path = |name| format!("Files/{name}").into_bytes();
            let names: Vec<_> = group.chars().map(path).collect();
            tar = tar.file(&names[0], b"the same");
            for name in &names[1..] {
                tar = tar.hard_link(name, &names[0]);
            }
        }
        tar.end()
    };
    let partitions = ["a b c d", "ab cd", "abcd", "bcd a", "ad bc", "bd", "cd b"];
    for before in partitions {
        for after in partitions {
            let set = MemorySet::new();
            let options = |variant: &str| WindowsOptions {
                variant: variant.into(),
                ..WindowsOptions::default()
            };
            import(&set, &linked(before), "a.cim", None, &options("a")).unwrap();
            import(&set, &linked(after), "b.cim", None, &options("b")).unwrap();
            let tar = export(&set, "b.cim", Some("a.cim"));
            import(&set, &tar, "c.cim", Some("a.cim"), &options("c")).unwrap();
            assert_eq!(differences(&set, "b.cim", "c.cim"), [""; 0], "{before} -> {after}");
        }
    }
}

#[test]
fn respelled_names_are_found() {
    let set = MemorySet::new();
    let one = base().file(b"Files/f", b"f").hard_link(b"Files/g", b"Files/f").dir(b"Files/d");
    import(&set, &one.end(), "a.cim", None, &WindowsOptions::default()).unwrap();
    let two = Tar::new().file(b"Files/F", b"f").file(b"Files/D", b"").end();
    import(&set, &two, "b.cim", Some("a.cim"), &WindowsOptions::default()).unwrap();
    assert!(paths(&set, "b.cim").contains(&r"\Files\F".to_owned()));
    let tar = export(&set, "b.cim", Some("a.cim"));
    import(&set, &tar, "c.cim", Some("a.cim"), &WindowsOptions::default()).unwrap();
    assert_eq!(differences(&set, "b.cim", "c.cim"), [""; 0]);

    let mut writer =
        ImageWriter::fork(set.clone(), "a.cim", "d.cim", guid("d"), WriterOptions::default())
            .unwrap();
    writer.remove(&"Files/d".into()).unwrap();
    writer.add_directory(&"Files/D".into(), &Metadata::default()).unwrap();
    writer.commit().unwrap();
    let cancel = layer::Cancel::new();
    let error =
        layer::write_windows_layer_tar(&set, "d.cim", Some("a.cim"), std::io::sink(), &cancel)
            .unwrap_err();
    assert_eq!(error.kind(), layer::ErrorKind::Unsupported);
    let image = Image::open(&set, "d.cim").unwrap();
    assert!(image.resolve(&"Files/D".into(), Case::Exact).unwrap().is_dir());
}
