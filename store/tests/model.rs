//! Random operations on a store and on a model of what containerd's reference says; both must agree on every result
//! and, after every step, on every snapshot and every directory.

#![allow(clippy::unwrap_used, reason = "in a test")]

mod fixture;

use std::collections::{BTreeMap, BTreeSet};

use fixture::{Fixture, labels};
use proptest::prelude::*;
use store::{CommitOptions, ErrorKind, FsckOptions, Kind, Labels, Scratch, Store};

#[derive(Debug, Clone)]
enum Op {
    Prepare { key: u8, parent: Option<u8>, label: Option<u8> },
    View { key: u8, parent: Option<u8> },
    Commit { name: u8, key: u8, parent: Option<u8>, label: Option<u8> },
    Remove { key: u8 },
    Update { key: u8, label: Option<u8>, masked: bool },
    Usage { key: u8 },
    Chain { key: u8 },
    Cleanup,
    Gc,
    Reopen,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    id: u64,
    kind: Kind,
    parent: Option<u8>,
    labels: Labels,
}

#[derive(Debug, Default)]
struct Model {
    nodes: BTreeMap<u8, Node>,
    last: u64,
}

type Outcome = Result<(), ErrorKind>;

impl Model {
    fn parent(&self, parent: Option<u8>, wrong: ErrorKind) -> Outcome {
        match parent.map(|parent| self.nodes.get(&parent)) {
            None => Ok(()),
            Some(None) => Err(ErrorKind::NotFound),
            Some(Some(node)) if node.kind != Kind::Committed => Err(wrong),
            Some(Some(_)) => Ok(()),
        }
    }

    fn make(&mut self, key: u8, kind: Kind, parent: Option<u8>, labels: Labels) -> Outcome {
        self.parent(parent, ErrorKind::Invalid)?;
        if self.nodes.contains_key(&key) {
            return Err(ErrorKind::AlreadyExists);
        }
        self.last += 1;
        self.nodes.insert(key, Node { id: self.last, kind, parent, labels });
        Ok(())
    }

    fn commit(&mut self, name: u8, key: u8, parent: Option<u8>, labels: Labels) -> Outcome {
        let node = self.nodes.get(&key).ok_or(ErrorKind::NotFound)?.clone();
        if node.kind != Kind::Active {
            return Err(ErrorKind::FailedPrecondition);
        }
        if self.nodes.contains_key(&name) {
            return Err(ErrorKind::AlreadyExists);
        }
        if let (Some(wanted), Some(own)) = (parent, node.parent)
            && wanted != own
        {
            return Err(ErrorKind::Invalid);
        }
        if parent == Some(key) {
            return Err(ErrorKind::NotFound);
        }
        self.parent(parent, ErrorKind::FailedPrecondition)?;
        self.nodes.remove(&key);
        self.nodes.insert(
            name,
            Node { kind: Kind::Committed, parent: parent.or(node.parent), labels, ..node },
        );
        Ok(())
    }

    fn remove(&mut self, key: u8) -> Outcome {
        if !self.nodes.contains_key(&key) {
            return Err(ErrorKind::NotFound);
        }
        if self.nodes.values().any(|node| node.parent == Some(key)) {
            return Err(ErrorKind::FailedPrecondition);
        }
        self.nodes.remove(&key);
        Ok(())
    }

    fn depth(&self, key: u8) -> usize {
        let mut depth = 0;
        let mut next = self.nodes[&key].parent;
        while let Some(parent) = next {
            depth += 1;
            next = self.nodes[&parent].parent;
        }
        depth
    }
}

fn name(key: u8) -> Vec<u8> {
    vec![b'k', key, b'/']
}

fn label_of(label: Option<u8>) -> Labels {
    label.map(|label| labels(&[("label", &format!("{label}")), ("none", "")])).unwrap_or_default()
}

fn stored(label: Option<u8>) -> Labels {
    label.map(|label| labels(&[("label", &format!("{label}"))])).unwrap_or_default()
}

fn apply(store: &Store, model: &mut Model, op: &Op) -> (Outcome, Outcome) {
    let kind = |result: store::Result<()>| result.map_err(|error| error.kind());
    match *op {
        Op::Prepare { key, parent, label } => (
            kind(
                store
                    .prepare(
                        &name(key),
                        parent.map(name).as_deref(),
                        label_of(label),
                        Scratch::Directory,
                    )
                    .map(drop),
            ),
            model.make(key, Kind::Active, parent, stored(label)),
        ),
        Op::View { key, parent } => (
            kind(store.view(&name(key), parent.map(name).as_deref(), Labels::new()).map(drop)),
            model.make(key, Kind::View, parent, Labels::new()),
        ),
        Op::Commit { name: to, key, parent, label } => {
            let options = CommitOptions {
                labels: label_of(label),
                parent: parent.map(name),
                ..CommitOptions::default()
            };
            (
                kind(store.commit(&name(to), &name(key), &options).map(drop)),
                model.commit(to, key, parent, stored(label)),
            )
        }
        Op::Remove { key } => (kind(store.remove(&name(key))), model.remove(key)),
        Op::Update { key, label, masked } => {
            let mask: &[&str] = if masked { &["labels.label"] } else { &[] };
            let expected = match model.nodes.get_mut(&key) {
                Some(node) => {
                    node.labels = stored(label);
                    Ok(())
                }
                None => Err(ErrorKind::NotFound),
            };
            (kind(store.update(&name(key), label_of(label), mask).map(drop)), expected)
        }
        Op::Usage { key } => {
            let expected = model.nodes.get(&key).map(drop).ok_or(ErrorKind::NotFound);
            (kind(store.usage(&name(key)).map(drop)), expected)
        }
        Op::Chain { key } => {
            let expected = match model.nodes.get(&key) {
                None => Err(ErrorKind::NotFound),
                Some(node) if node.kind == Kind::Committed => Err(ErrorKind::FailedPrecondition),
                Some(_) => Ok(()),
            };
            let chain = store.chain(&name(key));
            if let Ok(chain) = &chain {
                assert_eq!(chain.layers.len(), model.depth(key));
                assert!(chain.layers.iter().all(|layer| layer.path.is_file()));
            }
            (kind(chain.map(drop)), expected)
        }
        Op::Cleanup => {
            assert!(store.cleanup().unwrap().is_empty(), "no operation leaves anything over");
            (Ok(()), Ok(()))
        }
        Op::Gc => {
            // Layers of removed snapshots go; nothing of a user does.
            store.gc(store::GcOptions::default(), &|_| false).unwrap();
            (Ok(()), Ok(()))
        }
        Op::Reopen => {
            // Opened by the caller.
            assert!(store.swept().is_empty(), "{:?}", store.swept());
            (Ok(()), Ok(()))
        }
    }
}

fn check(store: &Store, model: &Model) {
    let mut found: BTreeMap<Vec<u8>, Node> = BTreeMap::new();
    let mut directories = BTreeSet::new();
    for snapshot in store.list(&[]).unwrap() {
        assert_eq!(store.stat(&snapshot.key).unwrap(), snapshot);
        assert!(snapshot.created <= snapshot.updated);
        assert_eq!((!snapshot.layers.is_empty()), snapshot.kind == Kind::Committed);
        if snapshot.kind == Kind::Active
            || (snapshot.kind == Kind::View && snapshot.parent.is_none())
        {
            directories.insert(snapshot.id.to_string());
        }
        let parent = snapshot.parent.as_ref().map(|parent| parent[1]);
        found.insert(
            snapshot.key,
            Node { id: snapshot.id, kind: snapshot.kind, parent, labels: snapshot.labels },
        );
    }
    let expected: BTreeMap<Vec<u8>, Node> =
        model.nodes.iter().map(|(key, node)| (name(*key), node.clone())).collect();
    assert_eq!(found, expected);
    let on_disk: BTreeSet<String> = std::fs::read_dir(store.root().join("snapshots"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(on_disk, directories);
}

fn op() -> impl Strategy<Value = Op> {
    let key = || 0..6u8;
    let label = || proptest::option::of(0..3u8);
    let parent = || proptest::option::of(0..6u8);
    prop_oneof![
        5 => (key(), parent(), label()).prop_map(|(key, parent, label)| Op::Prepare { key, parent, label }),
        2 => (key(), parent()).prop_map(|(key, parent)| Op::View { key, parent }),
        6 => (key(), key(), prop_oneof![2 => Just(None), 1 => parent()], label())
            .prop_map(|(name, key, parent, label)| Op::Commit { name, key, parent, label }),
        3 => key().prop_map(|key| Op::Remove { key }),
        2 => (key(), label(), any::<bool>()).prop_map(|(key, label, masked)| Op::Update { key, label, masked }),
        1 => key().prop_map(|key| Op::Usage { key }),
        2 => key().prop_map(|key| Op::Chain { key }),
        1 => Just(Op::Cleanup),
        1 => Just(Op::Gc),
        1 => Just(Op::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn random_operations_agree_with_the_model(ops in proptest::collection::vec(op(), 1..40)) {
        let Fixture { store, directory } = Fixture::fast();
        let root = directory.path().join("root");
        let mut store = Some(store);
        let mut model = Model::default();
        for op in &ops {
            let mut current = store.take().unwrap();
            if matches!(op, Op::Reopen) {
                drop(current);
                current = fixture::open(&root).unwrap();
            }
            let (actual, expected) = apply(&current, &mut model, op);
            prop_assert_eq!(actual, expected, "{:?}", op);
            check(&current, &model);
            store = Some(current);
        }
        let report = store.unwrap().fsck(FsckOptions { deep: true, ..FsckOptions::default() }).unwrap();
        prop_assert_eq!(report.findings, []);
    }
}
