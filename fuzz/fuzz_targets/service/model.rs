//! What containerd's error table says of every request, and what the snapshots are after it.

use std::collections::BTreeMap;

use mount::IdMapping;
use prost::Message;
use prost_types::Timestamp;
use serve::api::diff::{ApplyRequest, DiffRequest};
use serve::api::snapshots::{
    CommitSnapshotRequest, Info, Kind, ListSnapshotsRequest, ListSnapshotsResponse, MountsRequest,
    MountsResponse, PrepareSnapshotRequest, PrepareSnapshotResponse, RemoveSnapshotRequest,
    StatSnapshotRequest, StatSnapshotResponse, UpdateSnapshotRequest, UpdateSnapshotResponse,
    UsageRequest, UsageResponse, ViewSnapshotRequest,
};
use serve::api::types::Mount;
use tonic::Code;

use crate::channel::Channel;
use crate::request::Request;

type Labels = BTreeMap<String, String>;

/// Filters whose matches are known; `None`: they do not parse.
pub(crate) const FILTERS: &[(&str, Option<fn(&[u8], &Snapshot) -> bool>)] = &[
    ("", Some(|_, _| true)),
    ("kind==active", Some(|_, snapshot| snapshot.kind == Kind::Active)),
    ("kind!=committed", Some(|_, snapshot| snapshot.kind != Kind::Committed)),
    ("name==a", Some(|key, _| key == b"a")),
    ("name~=/^[ab]$/", Some(|key, _| key == b"a" || key == b"b")),
    ("parent==b", Some(|_, snapshot| snapshot.parent == b"b")),
    ("parent!=\"\"", Some(|_, snapshot| !snapshot.parent.is_empty())),
    ("labels.a", Some(|_, snapshot| snapshot.labels.contains_key("a"))),
    (
        "labels.a==1,kind==view",
        Some(|_, snapshot| {
            snapshot.labels.get("a").is_some_and(|value| value == "1")
                && snapshot.kind == Kind::View
        }),
    ),
    ("id==1", Some(|_, _| false)),
    ("labels.a==1,", None),
    ("labels.containerd.io/gc.root==x", None),
    ("kind=active", None),
    ("name==a ", None),
];

/// A snapshot as the model knows it.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    kind: Kind,
    parent: Vec<u8>,
    labels: Labels,
    created: Timestamp,
    updated: Timestamp,
    mounts: Vec<Mount>,
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    snapshots: BTreeMap<Vec<u8>, Snapshot>,
}

const SERVICE: &str = "containerd.services.snapshots.v1.Snapshots";

impl Model {
    /// A body of any bytes: what decodes is a request as any other; what does not is refused.
    pub(crate) fn send(&mut self, channel: &mut Channel, method: &str, body: &[u8]) {
        let name = method.rsplit('/').next().unwrap_or_default();
        match decoded(name, body) {
            Some(request) => self.call(channel, &request),
            None => {
                let answer = channel.call(method, body.to_vec());
                assert!(answer.is_err(), "{method} took {body:?}");
                self.compare(channel);
            }
        }
    }

    /// Sends a request, compares the answer's code, and takes note of what it changed.
    pub(crate) fn call(&mut self, channel: &mut Channel, request: &Request) {
        if takes_rights(request) {
            return;
        }
        let mut call =
            |method: &str, body: Vec<u8>| channel.call(&format!("{SERVICE}/{method}"), body);
        match request {
            Request::Prepare(request) => {
                let wanted = self.makeable(&request.key, &request.parent, &request.labels, true);
                let answer =
                    one::<PrepareSnapshotResponse>(call("Prepare", request.encode_to_vec()));
                if agree("Prepare", wanted, &answer, request) {
                    let mounts = answer.expect("agreed").mounts;
                    self.made(&request.key, Kind::Active, &request.parent, &request.labels, mounts);
                }
            }
            Request::View(request) => {
                let wanted = self.makeable(&request.key, &request.parent, &request.labels, false);
                let answer = one::<PrepareSnapshotResponse>(call("View", request.encode_to_vec()));
                if agree("View", wanted, &answer, request) {
                    let mounts = answer.expect("agreed").mounts;
                    self.made(&request.key, Kind::View, &request.parent, &request.labels, mounts);
                }
            }
            Request::Mounts(request) => {
                let wanted = match self.snapshots.get(&request.key) {
                    None => Code::NotFound,
                    Some(snapshot) if snapshot.kind == Kind::Committed => Code::FailedPrecondition,
                    // An update set these.
                    Some(snapshot) => match IdMapping::from_labels(&snapshot.labels) {
                        Err(_) => Code::InvalidArgument,
                        Ok(None) => Code::Ok,
                        Ok(Some(_)) => return,
                    },
                };
                let answer = one::<MountsResponse>(call("Mounts", request.encode_to_vec()));
                if agree("Mounts", wanted, &answer, request) {
                    let mounts = answer.expect("agreed").mounts;
                    assert_eq!(mounts, self.snapshots[&request.key].mounts, "mounts are stable");
                }
            }
            Request::Commit(request) => {
                let wanted = self.committable(request);
                let answer = one::<()>(call("Commit", request.encode_to_vec()));
                if agree("Commit", wanted, &answer, request) {
                    let old = self.snapshots.remove(&request.key).expect("it was committable");
                    let parent =
                        if old.parent.is_empty() { request.parent.clone() } else { old.parent };
                    self.made(&request.name, Kind::Committed, &parent, &request.labels, Vec::new());
                }
            }
            Request::Remove(request) => {
                let wanted = match self.kind(&request.key) {
                    None => Code::NotFound,
                    Some(_) if self.has_children(&request.key) => Code::FailedPrecondition,
                    Some(_) => Code::Ok,
                };
                let answer = call("Remove", request.encode_to_vec());
                if let Err(status) = &answer
                    && status.code() == Code::FailedPrecondition
                {
                    assert!(status.message().contains("remove"), "{status:?}");
                }
                if agree("Remove", wanted, &one::<()>(answer), request) {
                    self.snapshots.remove(&request.key);
                }
            }
            Request::Stat(request) => {
                let wanted = self.kind(&request.key).map_or(Code::NotFound, |_| Code::Ok);
                let answer = one::<StatSnapshotResponse>(call("Stat", request.encode_to_vec()));
                if agree("Stat", wanted, &answer, request) {
                    let info = answer.expect("agreed").info.expect("an info");
                    self.expect(&request.key, &info);
                }
            }
            Request::Update(request) => {
                let wanted = self.updatable(request);
                let answer = one::<UpdateSnapshotResponse>(call("Update", request.encode_to_vec()));
                if agree("Update", wanted, &answer, request) {
                    let info = answer.expect("agreed").info.expect("an info");
                    let name = &request.info.as_ref().expect("updatable").name;
                    let labels = self.updated_labels(request).expect("updatable");
                    let snapshot = self.snapshots.get_mut(name).expect("updatable");
                    snapshot.labels = labels;
                    let updated = info.updated_at.expect("a time");
                    assert!(time(&updated) >= time(&snapshot.updated), "time goes on");
                    snapshot.updated = updated;
                    self.expect(name, &info);
                }
            }
            Request::List(request) => return self.list(channel, request),
            Request::Usage(request) => {
                let wanted = self.kind(&request.key).map_or(Code::NotFound, |_| Code::Ok);
                let answer = one::<UsageResponse>(call("Usage", request.encode_to_vec()));
                if agree("Usage", wanted, &answer, request) {
                    let usage = answer.expect("agreed");
                    assert!(usage.size >= 0 && usage.inodes >= 0);
                    if self.kind(&request.key) == Some(Kind::View) {
                        assert_eq!((usage.size, usage.inodes), (0, 0), "a view costs nothing");
                    }
                }
            }
            Request::Cleanup(request) => {
                let answer = one::<()>(call("Cleanup", request.encode_to_vec()));
                agree("Cleanup", Code::Ok, &answer, request);
            }
        }
        self.compare(channel);
    }

    /// A layer. There is no content store to read it from, so there is always an error, and nothing changes.
    pub(crate) fn apply(&mut self, channel: &mut Channel, of: &[u8], mut request: ApplyRequest) {
        self.fill(&mut request.mounts, of);
        let answer =
            channel.call("containerd.services.diff.v1.Diff/Apply", request.encode_to_vec());
        assert!(answer.is_err(), "{request:?}");
        self.compare(channel);
    }

    /// A comparison, whose result has nowhere to go.
    pub(crate) fn diff(
        &mut self,
        channel: &mut Channel,
        sides: [&[u8]; 2],
        mut request: DiffRequest,
    ) {
        self.fill(&mut request.left, sides[0]);
        self.fill(&mut request.right, sides[1]);
        let answer = channel.call("containerd.services.diff.v1.Diff/Diff", request.encode_to_vec());
        assert!(answer.is_err(), "{request:?}");
        self.compare(channel);
    }

    /// Mounts change no snapshot, whatever is asked of them.
    pub(crate) fn mounts(&mut self, channel: &mut Channel, method: &str, body: Vec<u8>) {
        let _ = channel.call(&format!("containerd.services.mounts.v1.Mounts/{method}"), body);
        self.compare(channel);
    }

    /// The mounts of a snapshot in place of none.
    fn fill(&self, mounts: &mut Vec<Mount>, key: &[u8]) {
        if let (true, Some(snapshot)) = (mounts.is_empty(), self.snapshots.get(key)) {
            mounts.clone_from(&snapshot.mounts);
        }
    }

    /// Removes everything, children first: nothing may refuse that.
    pub(crate) fn remove_all(&mut self, channel: &mut Channel) {
        while let Some(key) = self.snapshots.keys().find(|key| !self.has_children(key)).cloned() {
            let request = RemoveSnapshotRequest { snapshotter: Vec::new(), key };
            self.call(channel, &Request::Remove(request));
        }
        assert!(self.snapshots.is_empty(), "snapshots go in circles: {:?}", self.snapshots);
        self.call(channel, &Request::Cleanup(Default::default()));
    }

    fn kind(&self, key: &[u8]) -> Option<Kind> {
        self.snapshots.get(key).map(|snapshot| snapshot.kind)
    }

    fn has_children(&self, key: &[u8]) -> bool {
        !key.is_empty() && self.snapshots.values().any(|snapshot| snapshot.parent == key)
    }

    /// Prepare and View. Values that make no sense come before what is there, whatever it is.
    fn makeable(&self, key: &[u8], parent: &[u8], labels: &Labels, active: bool) -> Code {
        let wrong_size = active && !is_unpacking(key) && size(labels).is_some();
        let wrong_owners = IdMapping::from_labels(labels).is_err();
        if wrong_size || wrong_owners || !is_key(key) || cleaned(labels).is_none() {
            return Code::InvalidArgument;
        }
        match self.kind(parent) {
            None if !parent.is_empty() => Code::NotFound,
            Some(Kind::Active | Kind::View) => Code::InvalidArgument,
            _ if self.kind(key).is_some() => Code::AlreadyExists,
            _ => Code::Ok,
        }
    }

    fn committable(&self, request: &CommitSnapshotRequest) -> Code {
        let Some(active) = self.snapshots.get(&request.key) else { return Code::NotFound };
        if active.kind != Kind::Active {
            return Code::FailedPrecondition;
        }
        if !is_key(&request.name) {
            return Code::InvalidArgument;
        }
        if self.kind(&request.name).is_some() {
            return Code::AlreadyExists;
        }
        if !request.parent.is_empty() {
            if !active.parent.is_empty() && active.parent != request.parent {
                return Code::InvalidArgument;
            }
            match self.kind(&request.parent) {
                _ if request.parent == request.key => return Code::NotFound,
                None => return Code::NotFound,
                Some(Kind::Committed) => {}
                Some(_) => return Code::FailedPrecondition,
            }
        }
        if cleaned(&request.labels).is_none() { Code::InvalidArgument } else { Code::Ok }
    }

    fn updatable(&self, request: &UpdateSnapshotRequest) -> Code {
        let Some(info) = &request.info else { return Code::InvalidArgument };
        if self.kind(&info.name).is_none() {
            return Code::NotFound;
        }
        self.updated_labels(request).map_or(Code::InvalidArgument, |_| Code::Ok)
    }

    /// The labels after an update; `None` if it is refused.
    fn updated_labels(&self, request: &UpdateSnapshotRequest) -> Option<Labels> {
        let info = request.info.as_ref()?;
        let paths = request.update_mask.as_ref().map_or(&[][..], |mask| &mask.paths);
        if paths.is_empty() {
            return cleaned(&info.labels);
        }
        let mut labels = self.snapshots.get(&info.name)?.labels.clone();
        for path in paths {
            if path == "labels" {
                labels.clone_from(&info.labels);
                continue;
            }
            let label = path.strip_prefix("labels.").filter(|label| !label.is_empty())?;
            match info.labels.get(label) {
                Some(value) => labels.insert(label.to_owned(), value.clone()),
                None => labels.remove(label),
            };
        }
        cleaned(&labels)
    }

    fn made(&mut self, key: &[u8], kind: Kind, parent: &[u8], labels: &Labels, mounts: Vec<Mount>) {
        assert!(kind == Kind::Committed || !mounts.is_empty(), "a snapshot has a mount");
        let labels = cleaned(labels).expect("it was checked");
        // The times are the store's; the next listing tells them, once and for all.
        let (created, updated) = (Timestamp::default(), Timestamp::default());
        let snapshot = Snapshot { kind, parent: parent.to_vec(), labels, created, updated, mounts };
        let old = self.snapshots.insert(key.to_vec(), snapshot);
        assert!(old.is_none());
    }

    fn list(&mut self, channel: &mut Channel, request: &ListSnapshotsRequest) {
        let answer = channel.call(&format!("{SERVICE}/List"), request.encode_to_vec());
        let tests: Vec<_> = request
            .filters
            .iter()
            .map(|filter| FILTERS.iter().find(|(known, _)| known == filter).map(|(_, test)| *test))
            .collect();
        if tests.contains(&Some(None)) {
            assert_eq!(code(&answer), Code::InvalidArgument, "{request:?}");
            return;
        }
        let all_known: Option<Vec<_>> = tests.into_iter().map(Option::flatten).collect();
        let Ok(messages) = answer else {
            assert!(all_known.is_none(), "{request:?}: {answer:?}");
            assert_eq!(code(&answer), Code::InvalidArgument, "{request:?}");
            return;
        };
        let infos = infos(messages);
        for info in &infos {
            self.expect(&info.name, info);
        }
        if let Some(tests) = all_known {
            let matches = |key: &[u8], snapshot: &Snapshot| {
                tests.is_empty() || tests.iter().any(|test| test(key, snapshot))
            };
            let wanted: Vec<_> =
                self.snapshots.iter().filter(|(key, snapshot)| matches(key, snapshot)).collect();
            let found: Vec<_> = infos.iter().map(|info| &info.name).collect();
            assert_eq!(
                found,
                wanted.iter().map(|(key, _)| *key).collect::<Vec<_>>(),
                "{request:?}"
            );
        }
    }

    /// The service's snapshots are the model's.
    fn compare(&mut self, channel: &mut Channel) {
        let request = ListSnapshotsRequest::default();
        let answer = channel.call(&format!("{SERVICE}/List"), request.encode_to_vec());
        let infos = infos(answer.expect("a list without filters"));
        let names: Vec<_> = infos.iter().map(|info| info.name.clone()).collect();
        assert_eq!(names, self.snapshots.keys().cloned().collect::<Vec<_>>());
        for info in infos {
            let snapshot = self.snapshots.get_mut(&info.name).expect("it was compared");
            if snapshot.created == Timestamp::default() {
                snapshot.created = info.created_at.expect("a time");
                snapshot.updated = info.updated_at.expect("a time");
                assert_eq!(snapshot.created, snapshot.updated, "made and updated at once");
            }
            self.expect(&info.name, &info);
        }
    }

    fn expect(&self, key: &[u8], info: &Info) {
        let snapshot = self.snapshots.get(key).expect("the model has it");
        assert_eq!(info.name, key);
        assert_eq!(info.kind(), snapshot.kind, "{info:?}");
        assert_eq!(info.parent, snapshot.parent, "{info:?}");
        assert_eq!(info.labels, snapshot.labels, "{info:?}");
        assert_eq!(info.created_at, Some(snapshot.created), "{info:?}");
        assert_eq!(info.updated_at, Some(snapshot.updated), "{info:?}");
    }
}

fn time(timestamp: &Timestamp) -> (i64, i32) {
    (timestamp.seconds, timestamp.nanos)
}

fn is_key(key: &[u8]) -> bool {
    (1..=store::KEY_LIMIT).contains(&key.len())
}

fn is_unpacking(key: &[u8]) -> bool {
    key.windows(7).any(|part| part == b"extract")
}

/// Labels as they are kept; `None` if they are refused.
fn cleaned(labels: &Labels) -> Option<Labels> {
    let mut kept = labels.clone();
    kept.retain(|_, value| !value.is_empty());
    let lengths = kept.iter().map(|(key, value)| key.len() + value.len());
    let total: usize = lengths.clone().map(|length| length + store::LABEL_OVERHEAD).sum();
    let fits = lengths.clone().all(|length| length <= store::LABEL_LIMIT);
    (!kept.contains_key("") && fits && total <= store::LABELS_LIMIT).then_some(kept)
}

/// The size that labels ask for; an error if it makes no sense. The first of them counts.
fn size(labels: &Labels) -> Option<Result<u64, ()>> {
    let names = [
        ("containerd.io/snapshot/max-size", 1),
        ("containerd.io/snapshot/windows/rootfs.sizebytes", 1),
        ("containerd.io/snapshot/io.microsoft.container.storage.rootfs.size-gb", 1 << 30),
    ];
    let (text, unit) = names.iter().find_map(|(name, unit)| {
        Some((labels.get(*name).filter(|text| !text.is_empty())?, *unit))
    })?;
    let size = text.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    Some(size.filter(|size| (store::SCRATCH_MINIMUM..=i64::MAX as u64).contains(size)).ok_or(()))
}

/// Whether a snapshot would be a disk image or have its owners mapped, which takes rights: left to other tests.
fn takes_rights(request: &Request) -> bool {
    let (key, labels) = match request {
        Request::Prepare(request) => (&request.key, &request.labels),
        Request::View(request) => (&request.key, &request.labels),
        _ => return false,
    };
    let is_mapped = matches!(IdMapping::from_labels(labels), Ok(Some(_)));
    is_mapped || (!is_unpacking(key) && matches!(size(labels), Some(Ok(_))))
}

/// The request that a body stands for.
fn decoded(method: &str, body: &[u8]) -> Option<Request> {
    Some(match method {
        "Prepare" => Request::Prepare(PrepareSnapshotRequest::decode(body).ok()?),
        "View" => Request::View(ViewSnapshotRequest::decode(body).ok()?),
        "Mounts" => Request::Mounts(MountsRequest::decode(body).ok()?),
        "Commit" => Request::Commit(CommitSnapshotRequest::decode(body).ok()?),
        "Remove" => Request::Remove(RemoveSnapshotRequest::decode(body).ok()?),
        "Stat" => Request::Stat(StatSnapshotRequest::decode(body).ok()?),
        "Update" => Request::Update(UpdateSnapshotRequest::decode(body).ok()?),
        "List" => Request::List(ListSnapshotsRequest::decode(body).ok()?),
        "Usage" => Request::Usage(UsageRequest::decode(body).ok()?),
        "Cleanup" => Request::Cleanup(Message::decode(body).ok()?),
        _ => return None,
    })
}

/// The answer of a call that is no stream.
fn one<T: Message + Default>(answer: crate::channel::Answer) -> Result<T, tonic::Status> {
    let messages = answer?;
    assert_eq!(messages.len(), 1, "one message");
    Ok(T::decode(messages[0].as_slice()).expect("an answer decodes"))
}

fn infos(messages: Vec<Vec<u8>>) -> Vec<Info> {
    let mut infos = Vec::new();
    for message in messages {
        let message = ListSnapshotsResponse::decode(message.as_slice()).expect("an answer decodes");
        assert!((1..=100).contains(&message.info.len()), "{} infos at once", message.info.len());
        infos.extend(message.info);
    }
    infos
}

fn code<T>(answer: &Result<T, tonic::Status>) -> Code {
    answer.as_ref().map_or_else(tonic::Status::code, |_| Code::Ok)
}

/// Whether the call was to succeed, and did; anything but what the model says is a find.
fn agree<T, R: std::fmt::Debug>(
    method: &str,
    wanted: Code,
    answer: &Result<T, tonic::Status>,
    request: &R,
) -> bool {
    let status = answer.as_ref().err();
    assert_eq!(code(answer), wanted, "{method} {request:?}: {status:?}");
    wanted == Code::Ok
}
