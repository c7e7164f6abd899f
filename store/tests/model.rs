//! Random operations on a store and on a model of what containerd's reference says; both must agree on every result
//! and, after every step, on every snapshot and every directory.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "in a test")]

mod fixture;

use std::collections::{BTreeMap, BTreeSet};

use fixture::{Fixture, labels};
use layer::{Compression, Digest};
use proptest::prelude::*;
use store::{
    CommitOptions, DeferredLayer, ErrorKind, FsckOptions, Kind, Labels, LayerId, Origin, Scratch,
    Staging, Store,
};

#[derive(Debug, Clone)]
enum Op {
    Prepare { key: u8, parent: Option<u8>, label: Option<u8> },
    View { key: u8, parent: Option<u8> },
    Write { key: u8 },
    Apply { key: u8, layer: u8, known: bool },
    Defer { key: u8 },
    Commit { name: u8, key: u8, parent: Option<u8>, label: Option<u8> },
    Remove { key: u8 },
    Update { key: u8, label: Option<u8>, masked: bool },
    Usage { key: u8 },
    Chain { key: u8 },
    List,
    Cleanup,
    Collect,
    Gc,
    Reopen,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    id: u64,
    kind: Kind,
    parent: Option<u8>,
    labels: Labels,
    origin: Origin,
    /// What its layers are, top first: equal names for equal layers.
    layers: Vec<String>,
    deferred: bool,
}

#[derive(Debug, Default)]
struct Model {
    nodes: BTreeMap<u8, Node>,
    last: u64,
    /// Active snapshots with something in their scratch.
    written: BTreeSet<u64>,
    /// Which layer id each name turned out to be.
    ids: BTreeMap<String, LayerId>,
    /// The caller sees what this origin made; all of it, if none.
    caller: Option<Origin>,
}

type Outcome = Result<(), ErrorKind>;

impl Model {
    fn seen(&self, key: u8) -> Option<&Node> {
        self.nodes.get(&key).filter(|node| self.caller.is_none_or(|origin| node.origin == origin))
    }

    fn existing(&self, key: u8) -> Result<&Node, ErrorKind> {
        self.seen(key).ok_or(ErrorKind::NotFound)
    }

    fn parent(&self, parent: Option<u8>, wrong: ErrorKind) -> Outcome {
        match parent.map(|parent| self.seen(parent)) {
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
        let origin = self.caller.unwrap_or_default();
        let (layers, deferred) = (Vec::new(), false);
        let node = Node { id: self.last, kind, parent, labels, origin, layers, deferred };
        self.nodes.insert(key, node);
        Ok(())
    }

    fn appliable(&mut self, key: u8) -> Result<&mut Node, ErrorKind> {
        let node = self.existing(key)?;
        if node.kind != Kind::Active || node.deferred || self.written.contains(&node.id) {
            return Err(ErrorKind::FailedPrecondition);
        }
        self.nodes.get_mut(&key).ok_or(ErrorKind::NotFound)
    }

    fn apply(&mut self, key: u8, layer: u8) -> Outcome {
        let node = self.appliable(key)?;
        let layer = format!("applied {layer}");
        if node.layers.first() != Some(&layer) {
            node.layers.insert(0, layer);
        }
        Ok(())
    }

    fn defer(&mut self, key: u8) -> Outcome {
        if self.existing(key)?.deferred {
            return Ok(());
        }
        self.appliable(key)?.deferred = true;
        Ok(())
    }

    fn commit(&mut self, name: u8, key: u8, parent: Option<u8>, labels: Labels) -> Outcome {
        let node = self.existing(key)?.clone();
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
        if parent.is_some() {
            self.parent(parent, ErrorKind::FailedPrecondition)?;
        }
        self.nodes.remove(&key);
        let parent = parent.or(node.parent);
        let mut layers = node.layers.clone();
        if node.deferred {
            let below = self.chain(&Node { parent, ..node.clone() });
            layers.insert(0, format!("deferred on {below:?}"));
        }
        if self.written.remove(&node.id) || layers.is_empty() {
            layers.insert(0, format!("written {}", node.id));
        }
        let node = Node { kind: Kind::Committed, parent, labels, layers, deferred: false, ..node };
        self.nodes.insert(name, node);
        Ok(())
    }

    fn remove(&mut self, key: u8) -> Outcome {
        self.existing(key)?;
        if self.nodes.values().any(|node| node.parent == Some(key)) {
            return Err(ErrorKind::FailedPrecondition);
        }
        self.nodes.remove(&key);
        Ok(())
    }

    /// All layers from a node down.
    fn chain(&self, node: &Node) -> Vec<String> {
        let mut layers = node.layers.clone();
        let mut next = node.parent;
        while let Some(parent) = next {
            layers.extend_from_slice(&self.nodes[&parent].layers);
            next = self.nodes[&parent].parent;
        }
        layers
    }

    /// Equal names stand for equal layers, different ones for different layers.
    fn identify(&mut self, names: &[String], ids: &[LayerId]) {
        assert_eq!(names.len(), ids.len(), "{names:?} {ids:?}");
        for (name, id) in names.iter().zip(ids) {
            assert_eq!(self.ids.entry(name.clone()).or_insert_with(|| id.clone()), id, "{name}");
        }
        let different: BTreeSet<_> = self.ids.values().collect();
        assert_eq!(different.len(), self.ids.len(), "{:?}", self.ids);
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

/// A layer that has a file in a directory that it does not describe, so that it depends on its parents.
fn deferred_layer(store: &Store) -> (Staging, DeferredLayer) {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(3);
    header.set_mode(0o644);
    tar.append_data(&mut header, "directory/new", &b"new"[..]).unwrap();
    let tar = tar.into_inner().unwrap();
    let staging = Staging::new(store.root()).unwrap();
    std::io::Write::write_all(&mut staging.create("blob").unwrap(), &tar).unwrap();
    let digest = Digest::of(&tar);
    let size = tar.len() as u64;
    let compression = Compression::None;
    (staging, DeferredLayer { digest, size, diff_id: digest, tar_size: size, compression })
}

fn apply(store: &Store, model: &mut Model, op: &Op) -> (Outcome, Outcome) {
    let all = store;
    let store = match model.caller {
        Some(origin) => all.scope(origin),
        None => all.everything(),
    };
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
            let expected = model.existing(key).map(drop);
            if let (Ok(()), Some(node)) = (expected, model.nodes.get_mut(&key)) {
                node.labels = stored(label);
            }
            (kind(store.update(&name(key), label_of(label), mask).map(drop)), expected)
        }
        Op::Usage { key } => {
            let expected = model.existing(key).map(drop);
            (kind(store.usage(&name(key)).map(drop)), expected)
        }
        Op::Chain { key } => {
            let expected = match model.seen(key) {
                None => Err(ErrorKind::NotFound),
                Some(node) if node.kind == Kind::Committed => Err(ErrorKind::FailedPrecondition),
                Some(node) => Ok(model.chain(node)),
            };
            let chain = store.chain(&name(key));
            if let (Ok(chain), Ok(layers)) = (&chain, &expected) {
                let mut seen = BTreeSet::new();
                let mut layers = layers.clone();
                layers.retain(|layer| seen.insert(layer.clone()));
                let ids: Vec<LayerId> = chain.layers.iter().map(|layer| layer.id.clone()).collect();
                model.identify(&layers, &ids);
                assert!(chain.layers.iter().all(|layer| layer.path.is_file()));
            }
            (kind(chain.map(drop)), expected.map(drop))
        }
        Op::Write { key } => {
            if let Some(node) = model.nodes.get(&key).filter(|node| node.kind == Kind::Active) {
                let upper = all.root().join(format!("snapshots/{}/fs", node.id));
                std::fs::write(upper.join("file"), "written").unwrap();
                model.written.insert(node.id);
            }
            (Ok(()), Ok(()))
        }
        Op::Apply { key, layer, known } => {
            let content = format!("layer {layer}");
            let id = LayerId::of_diff(&Digest::of(content.as_bytes()));
            let there = all.has_layer(&id).unwrap();
            let applied = if known && there {
                store.apply_known_layer(&name(key), &id)
            } else {
                let (staging, id, record) = fixture::staged_layer(all, content.as_bytes());
                store.apply_layer(&name(key), &staging, "image", &id, &record)
            };
            (kind(applied.map(drop)), model.apply(key, layer))
        }
        Op::Defer { key } => {
            let (staging, layer) = deferred_layer(all);
            let deferred = store.defer_layer(&name(key), &staging, "blob", layer);
            (kind(deferred.map(drop)), model.defer(key))
        }
        Op::List => {
            let listed = store.list(&[]).unwrap();
            let listed: Vec<Vec<u8>> = listed.into_iter().map(|found| found.key).collect();
            let seen = model.nodes.keys().filter(|key| model.seen(**key).is_some());
            assert_eq!(listed, seen.map(|key| name(*key)).collect::<Vec<_>>());
            (Ok(()), Ok(()))
        }
        Op::Collect => {
            let collected = all.collect(&|_| false).unwrap();
            assert!(collected.kept.is_empty() && collected.swept.is_empty(), "{collected:?}");
            let needed: BTreeSet<&String> =
                model.nodes.values().flat_map(|node| &node.layers).collect();
            assert_eq!(all.layers().unwrap().len(), needed.len(), "{needed:?}");
            (Ok(()), Ok(()))
        }
        Op::Cleanup => {
            assert!(all.cleanup().unwrap().is_empty(), "no operation leaves anything over");
            (Ok(()), Ok(()))
        }
        Op::Gc => {
            // Layers of removed snapshots go; nothing of a user does.
            all.gc(store::GcOptions::default(), &|_| false).unwrap();
            (Ok(()), Ok(()))
        }
        Op::Reopen => {
            // Opened by the caller.
            assert!(all.swept().is_empty(), "{:?}", all.swept());
            (Ok(()), Ok(()))
        }
    }
}

fn check(store: &Store, model: &mut Model) {
    let mut found: BTreeMap<Vec<u8>, Node> = BTreeMap::new();
    let mut directories = BTreeSet::new();
    for snapshot in store.list(&[]).unwrap() {
        assert_eq!(store.stat(&snapshot.key).unwrap(), snapshot);
        assert!(snapshot.created <= snapshot.updated);
        if snapshot.kind == Kind::Active
            || (snapshot.kind == Kind::View && snapshot.parent.is_none())
        {
            directories.insert(snapshot.id.to_string());
        }
        // Layers have no names of their own: those of the model must fit.
        let layers = model.nodes.get(&snapshot.key[1]).map(|node| node.layers.clone());
        let layers = layers.unwrap_or_default();
        model.identify(&layers, &snapshot.layers);
        let node = Node {
            id: snapshot.id,
            kind: snapshot.kind,
            parent: snapshot.parent.as_ref().map(|parent| parent[1]),
            labels: snapshot.labels,
            origin: snapshot.origin,
            layers,
            deferred: snapshot.deferred.is_some(),
        };
        found.insert(snapshot.key, node);
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
        3 => key().prop_map(|key| Op::Write { key }),
        4 => (key(), 0..3u8, any::<bool>()).prop_map(|(key, layer, known)| Op::Apply { key, layer, known }),
        3 => key().prop_map(|key| Op::Defer { key }),
        3 => key().prop_map(|key| Op::Remove { key }),
        2 => (key(), label(), any::<bool>()).prop_map(|(key, label, masked)| Op::Update { key, label, masked }),
        1 => key().prop_map(|key| Op::Usage { key }),
        2 => key().prop_map(|key| Op::Chain { key }),
        1 => Just(Op::List),
        1 => Just(Op::Cleanup),
        1 => Just(Op::Collect),
        1 => Just(Op::Gc),
        1 => Just(Op::Reopen),
    ]
}

/// A user, who sees all; containerd; and what a scope of the local ones shows.
fn caller() -> impl Strategy<Value = Option<Origin>> {
    prop_oneof![
        2 => Just(None),
        2 => Just(Some(Origin::Containerd)),
        1 => Just(Some(Origin::Local)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn random_operations_agree_with_the_model(
        ops in proptest::collection::vec((caller(), op()), 1..40),
    ) {
        let Fixture { store, directory } = Fixture::fast();
        let root = directory.path().join("root");
        let mut store = Some(store);
        let mut model = Model::default();
        for (caller, op) in &ops {
            model.caller = *caller;
            let mut current = store.take().unwrap();
            if matches!(op, Op::Reopen) {
                drop(current);
                current = fixture::open(&root).unwrap();
            }
            let (actual, expected) = apply(&current, &mut model, op);
            prop_assert_eq!(actual, expected, "{:?}", op);
            check(&current, &mut model);
            store = Some(current);
        }
        let report = store.unwrap().fsck(FsckOptions { deep: true, ..FsckOptions::default() }).unwrap();
        prop_assert_eq!(report.findings, []);
    }
}
