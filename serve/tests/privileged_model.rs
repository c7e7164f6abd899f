//! Random requests, good and bad, against a model of what containerd expects: codes and the whole state after each.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serve::api::snapshots::{Info, Kind};
use support::{Bench, Labels, code};
use tonic::Code;

type Key = Vec<u8>;

#[derive(Debug, Clone)]
enum Request {
    Make { view: bool, key: Key, parent: Key, labels: Labels },
    Commit { name: Key, key: Key, parent: Key, labels: Labels },
    Remove { key: Key },
    Mounts { key: Key },
    Stat { key: Key },
    Usage { key: Key },
    Update { key: Key, labels: Labels, mask: Vec<&'static str> },
    List { kind: &'static str },
    Cleanup,
    Restart,
}

/// Few, so that requests meet.
fn key() -> impl Strategy<Value = Key> {
    let keys: [&[u8]; 6] = [b"", b"a", b"b", b"default/1/c d:e", b"\xff\0", b"/"];
    proptest::sample::select(keys.map(<[u8]>::to_vec).to_vec())
}

fn labels() -> impl Strategy<Value = Labels> {
    let key = proptest::sample::select(vec!["l", "m", "containerd.io/gc.root"]);
    let value = proptest::sample::select(vec!["", "1", "2"]);
    proptest::collection::btree_map(
        key.prop_map(str::to_owned),
        value.prop_map(str::to_owned),
        0..3,
    )
}

fn request() -> impl Strategy<Value = Request> {
    let mask = proptest::sample::select(vec![
        "labels",
        "labels.l",
        "labels.m",
        "labels.containerd.io/gc.root",
        "labels.",
        "parent",
        "",
    ]);
    prop_oneof![
        8 => (any::<bool>(), key(), key(), labels())
            .prop_map(|(view, key, parent, labels)| Request::Make { view, key, parent, labels }),
        6 => (key(), key(), key(), labels())
            .prop_map(|(name, key, parent, labels)| Request::Commit { name, key, parent, labels }),
        4 => key().prop_map(|key| Request::Remove { key }),
        2 => key().prop_map(|key| Request::Mounts { key }),
        1 => key().prop_map(|key| Request::Stat { key }),
        1 => key().prop_map(|key| Request::Usage { key }),
        3 => (key(), labels(), proptest::collection::vec(mask, 0..3))
            .prop_map(|(key, labels, mask)| Request::Update { key, labels, mask }),
        1 => proptest::sample::select(vec!["active", "view", "committed"])
            .prop_map(|kind| Request::List { kind }),
        1 => Just(Request::Cleanup),
        1 => Just(Request::Restart),
    ]
}

#[derive(Debug, Clone, PartialEq)]
struct Snapshot {
    kind: Kind,
    parent: Key,
    labels: Labels,
}

#[derive(Debug, Default, PartialEq)]
struct Model(BTreeMap<Key, Snapshot>);

fn cleaned(mut labels: Labels) -> Labels {
    labels.retain(|_, value| !value.is_empty());
    labels
}

impl Model {
    fn make(&mut self, view: bool, key: Key, parent: Key, labels: Labels) -> Code {
        if key.is_empty() {
            return Code::InvalidArgument;
        }
        match self.0.get(&parent).map(|parent| parent.kind) {
            _ if parent.is_empty() => {}
            None => return Code::NotFound,
            Some(Kind::Committed) => {}
            Some(_) => return Code::InvalidArgument,
        }
        if self.0.contains_key(&key) {
            return Code::AlreadyExists;
        }
        let kind = if view { Kind::View } else { Kind::Active };
        self.0.insert(key, Snapshot { kind, parent, labels: cleaned(labels) });
        Code::Ok
    }

    fn commit(&mut self, name: Key, key: &Key, parent: Key, labels: Labels) -> Code {
        let Some(active) = self.0.get(key).cloned() else { return Code::NotFound };
        if active.kind != Kind::Active {
            return Code::FailedPrecondition;
        }
        if name.is_empty() {
            return Code::InvalidArgument;
        }
        if self.0.contains_key(&name) {
            return Code::AlreadyExists;
        }
        if !parent.is_empty() {
            if !active.parent.is_empty() && active.parent != parent {
                return Code::InvalidArgument;
            }
            match self.0.get(&parent).filter(|_| parent != *key).map(|parent| parent.kind) {
                None => return Code::NotFound,
                Some(Kind::Committed) => {}
                Some(_) => return Code::FailedPrecondition,
            }
        }
        let parent = if parent.is_empty() { active.parent } else { parent };
        self.0.remove(key);
        self.0.insert(name, Snapshot { kind: Kind::Committed, parent, labels: cleaned(labels) });
        Code::Ok
    }

    fn remove(&mut self, key: &Key) -> Code {
        if !self.0.contains_key(key) {
            return Code::NotFound;
        }
        if self.0.values().any(|snapshot| snapshot.parent == *key) {
            return Code::FailedPrecondition;
        }
        self.0.remove(key);
        Code::Ok
    }

    fn update(&mut self, key: &Key, labels: &Labels, mask: &[&str]) -> Code {
        let Some(snapshot) = self.0.get_mut(key) else { return Code::NotFound };
        let mut updated = if mask.is_empty() { labels.clone() } else { snapshot.labels.clone() };
        for path in mask {
            match (*path, path.strip_prefix("labels.")) {
                ("labels", _) => updated = labels.clone(),
                (_, None | Some("")) => return Code::InvalidArgument,
                (_, Some(label)) => {
                    updated
                        .insert(label.to_owned(), labels.get(label).cloned().unwrap_or_default());
                }
            }
        }
        snapshot.labels = cleaned(updated);
        Code::Ok
    }

    fn existing(&self, key: &Key) -> Code {
        if self.0.contains_key(key) { Code::Ok } else { Code::NotFound }
    }
}

/// What the daemon says.
fn state(bench: &Bench, filters: &[&str]) -> Model {
    let infos = bench.list(filters).unwrap().into_iter().map(|info| {
        assert_eq!(bench.stat(&info.name).unwrap(), info);
        let kind = info.kind();
        (info.name, Snapshot { kind, parent: info.parent, labels: info.labels })
    });
    Model(infos.collect())
}

/// Sends one request; the daemon's code and the model's.
fn send(bench: &mut Bench, model: &mut Model, request: Request) -> (Code, Code) {
    let pairs = |labels: &Labels| -> Vec<(String, String)> {
        labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    match request {
        Request::Make { view, key, parent, labels } => {
            let labels = if view { Labels::new() } else { labels };
            let pairs = pairs(&labels);
            let pairs: Vec<(&str, &str)> =
                pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            let answer = match view {
                true => bench.view(&key, &parent),
                false => bench.prepare_with(&key, &parent, &pairs),
            };
            (code(answer), model.make(view, key, parent, labels))
        }
        Request::Commit { name, key, parent, labels } => {
            let pairs = pairs(&labels);
            let pairs: Vec<(&str, &str)> =
                pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            let answer = bench.commit_with(&name, &key, &parent, &pairs);
            (code(answer), model.commit(name, &key, parent, labels))
        }
        Request::Remove { key } => (code(bench.remove(&key)), model.remove(&key)),
        Request::Mounts { key } => {
            let expected = match model.0.get(&key).map(|snapshot| snapshot.kind) {
                None => Code::NotFound,
                Some(Kind::Committed) => Code::FailedPrecondition,
                Some(_) => Code::Ok,
            };
            (code(bench.mounts(&key)), expected)
        }
        Request::Stat { key } => (code(bench.stat(&key)), model.existing(&key)),
        Request::Usage { key } => (code(bench.usage(&key)), model.existing(&key)),
        Request::Update { key, labels, mask } => {
            let info = Info { name: key.clone(), labels: labels.clone(), ..Info::default() };
            (code(bench.update(info, &mask)), model.update(&key, &labels, &mask))
        }
        Request::List { kind } => {
            let found = state(bench, &[&format!("kind=={kind}")]);
            let wanted = model
                .0
                .iter()
                .filter(|(_, snapshot)| format!("{:?}", snapshot.kind).to_lowercase() == kind);
            assert!(found.0.iter().eq(wanted));
            (Code::Ok, Code::Ok)
        }
        Request::Cleanup => (code(bench.cleanup()), Code::Ok),
        Request::Restart => {
            bench.kill();
            bench.start();
            (Code::Ok, Code::Ok)
        }
    }
}

/// Removes everything, children first, and checks that nothing is left.
fn empty(bench: &Bench) {
    loop {
        let left = bench.list(&[]).unwrap();
        if left.is_empty() {
            break;
        }
        for info in left {
            let _ = bench.remove(&info.name);
        }
    }
    bench.cleanup().unwrap();
    let names = |path: &str| std::fs::read_dir(bench.path().join(path)).map_or(0, Iterator::count);
    assert_eq!((names("run/v"), names("store/layers"), names("store/snapshots")), (0, 0, 0));
}

privileged! {
    fn privileged_the_daemon_does_as_the_model() {
        let bench = RefCell::new(Bench::new(""));
        let config = Config { cases: 48, failure_persistence: None, ..Config::default() };
        TestRunner::new(config)
            .run(&proptest::collection::vec(request(), 1..40), |requests| {
                let bench = &mut *bench.borrow_mut();
                let mut model = Model::default();
                for request in requests {
                    let shown = format!("{request:?}");
                    let (answer, expected) = send(bench, &mut model, request);
                    prop_assert_eq!(answer, expected, "{}", shown);
                    prop_assert_eq!(&state(bench, &[]), &model, "after {}", shown);
                }
                empty(bench);
                Ok(())
            })
            .unwrap();
    }
}
