//! Random calls on an image and its forks against a model: a map from paths.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::BTreeMap;

use cimfs::{Case, Image, ImageWriter, MemoryFile, MemorySet, WriterOptions};
use proptest::prelude::*;
use support::{guid, metadata, open, path};

#[derive(Debug, Clone)]
enum Call {
    Directory(String),
    File(String, usize),
    Link(String, String),
    Remove(String),
    Commit,
}

/// Paths of few names, some of which differ in case only.
fn some_path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "A", "b", "ä", "Ä", "c.txt", "😀"]);
    prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"))
}

fn some_call() -> impl Strategy<Value = Call> {
    // Lengths around the limit between small and large data.
    let length = prop::sample::select(vec![0, 1, 7, 4095, 4096, 9000]);
    prop_oneof![
        4 => some_path().prop_map(Call::Directory),
        6 => (some_path(), length).prop_map(|(path, length)| Call::File(path, length)),
        2 => (some_path(), some_path()).prop_map(|(new, old)| Call::Link(new, old)),
        2 => some_path().prop_map(Call::Remove),
        1 => Just(Call::Commit),
    ]
}

/// What a path leads to: a directory, or a file with its content.
#[derive(Debug, Clone, PartialEq)]
enum Thing {
    Directory,
    File(Vec<u8>),
}

/// Folded path to the path as given and the thing.
type Model = BTreeMap<String, (String, Thing)>;

fn fold(path: &str) -> String {
    path.replace('a', "A").replace('b', "B").replace('ä', "Ä").replace("c.txt", "C.TXT")
}

fn parent_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn is_directory(model: &Model, path: &str) -> bool {
    path.is_empty() || matches!(model.get(&fold(path)), Some((_, Thing::Directory)))
}

fn remove(model: &mut Model, path: &str) -> bool {
    let folded = fold(path);
    let below = format!("{folded}/");
    let found = model.remove(&folded).is_some();
    model.retain(|other, _| !other.starts_with(&below));
    found
}

/// The name as given, below its directory as the model has it.
fn placed(model: &Model, path: &str) -> String {
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    match model.get(&fold(parent_of(path))) {
        Some((parent, _)) => format!("{parent}/{name}"),
        None => name.to_string(),
    }
}

/// What the call does to the model; `None` if it is refused.
fn apply(model: &mut Model, call: &Call) -> Option<()> {
    let (path, thing) = match call {
        Call::Commit => return Some(()),
        Call::Remove(path) => {
            let possible = is_directory(model, parent_of(path)) && remove(model, path);
            return possible.then_some(());
        }
        Call::Directory(path) if is_directory(model, path) => return Some(()),
        Call::Directory(path) => (path, Thing::Directory),
        Call::File(path, length) => (path, Thing::File(content(path, *length))),
        Call::Link(path, existing) => match model.get(&fold(existing)) {
            Some((_, thing @ Thing::File(_))) => (path, thing.clone()),
            _ => return None,
        },
    };
    if !is_directory(model, parent_of(path)) {
        return None;
    }
    let placed = placed(model, path);
    remove(model, path);
    model.insert(fold(path), (placed, thing));
    Some(())
}

fn content(path: &str, length: usize) -> Vec<u8> {
    path.bytes().cycle().take(length).collect()
}

fn read(image: &Image<MemoryFile>) -> Model {
    let mut model = Model::new();
    for entry in image.walk().skip(1) {
        let entry = entry.unwrap();
        let names: Vec<_> = entry.path().names().iter().map(|n| n.to_text().unwrap()).collect();
        let name = names.join("/");
        let found = image.resolve(&path(&fold(&name)), Case::Ignored).unwrap();
        assert_eq!(found.id, entry.file.id, "{name}");
        let thing = match entry.file.is_dir() {
            true => Thing::Directory,
            false => {
                let stream = entry.file.data();
                let mut bytes = vec![0; usize::try_from(stream.length()).unwrap()];
                let read = image.read_at(&stream, &mut bytes, 0).unwrap();
                assert_eq!(read, bytes.len());
                Thing::File(bytes)
            }
        };
        assert!(model.insert(fold(&name), (name, thing)).is_none());
    }
    model
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn forks_are_what_the_model_is(calls in prop::collection::vec(some_call(), 1..60)) {
        let set = MemorySet::new();
        let options = WriterOptions::default();
        let mut model = Model::new();
        let mut states = Vec::new();
        let mut writer =
            ImageWriter::create(set.clone(), "0", guid("0"), options.clone()).unwrap();
        for call in calls.iter().chain([&Call::Commit]) {
            let done = match call {
                Call::Commit => {
                    writer.commit().unwrap();
                    states.push(model.clone());
                    let (parent, name) = ((states.len() - 1).to_string(), states.len().to_string());
                    let fork = ImageWriter::fork(
                        set.clone(), &parent, &name, guid(&name), options.clone(),
                    );
                    writer = fork.unwrap();
                    Ok(())
                }
                Call::Directory(name) => writer.add_directory(&path(name), &metadata(1)),
                Call::File(name, length) => {
                    writer.add_file(&path(name), &metadata(2), &content(name, *length))
                }
                Call::Link(name, existing) => writer.add_link(&path(name), &path(existing)),
                Call::Remove(name) => writer.remove(&path(name)),
            };
            prop_assert_eq!(done.is_ok(), apply(&mut model, call).is_some(), "{:?}", call);
        }
        drop(writer);
        for (number, state) in states.iter().enumerate() {
            let image = open(&set, &number.to_string());
            prop_assert_eq!(&read(&image), state);
        }
    }
}
