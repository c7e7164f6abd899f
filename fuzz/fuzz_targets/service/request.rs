//! From a fuzzer's bytes to requests: few keys, so that requests meet each other, and every sort of hostile value.

use std::collections::BTreeMap;

use prost::Message;
use serve::api::diff::{ApplyRequest, DiffRequest};
use serve::api::mounts::{ActivateRequest, DeactivateRequest, InfoRequest, ListRequest};
use serve::api::snapshots::{
    CleanupRequest, CommitSnapshotRequest, Info, ListSnapshotsRequest, MountsRequest,
    PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest, UpdateSnapshotRequest,
    UsageRequest, ViewSnapshotRequest,
};
use serve::api::types::{Descriptor, Mount};

/// All methods, for bodies of any bytes.
pub(crate) const METHODS: &[&str] = &[
    "containerd.services.snapshots.v1.Snapshots/Prepare",
    "containerd.services.snapshots.v1.Snapshots/View",
    "containerd.services.snapshots.v1.Snapshots/Mounts",
    "containerd.services.snapshots.v1.Snapshots/Commit",
    "containerd.services.snapshots.v1.Snapshots/Remove",
    "containerd.services.snapshots.v1.Snapshots/Stat",
    "containerd.services.snapshots.v1.Snapshots/Update",
    "containerd.services.snapshots.v1.Snapshots/List",
    "containerd.services.snapshots.v1.Snapshots/Usage",
    "containerd.services.snapshots.v1.Snapshots/Cleanup",
    "containerd.services.snapshots.v1.Snapshots/Unheard",
    "containerd.services.diff.v1.Diff/Apply",
    "containerd.services.diff.v1.Diff/Diff",
];

/// What happens next.
pub(crate) enum Step<'a> {
    /// A request that makes sense as a message.
    Snapshots(Request),
    /// A body of any bytes.
    Bytes { method: &'static str, body: &'a [u8] },
    /// A layer for a snapshot, or for mounts that are none of ours.
    Apply { of: Vec<u8>, request: ApplyRequest },
    /// A comparison of two snapshots, or of other mounts.
    Diff { left: Vec<u8>, right: Vec<u8>, request: DiffRequest },
    /// A call of the mounts service.
    Mounts { method: &'static str, body: Vec<u8> },
}

/// A request to the snapshots service.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    Prepare(PrepareSnapshotRequest),
    View(ViewSnapshotRequest),
    Mounts(MountsRequest),
    Commit(CommitSnapshotRequest),
    Remove(RemoveSnapshotRequest),
    Stat(StatSnapshotRequest),
    Update(UpdateSnapshotRequest),
    List(ListSnapshotsRequest),
    Usage(UsageRequest),
    Cleanup(CleanupRequest),
}

/// The fuzzer's bytes, taken from the front.
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Zero at the end.
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// The next request; none at the end of the bytes.
    pub(crate) fn step(&mut self) -> Option<Step<'a>> {
        if self.0.is_empty() {
            return None;
        }
        let (key, parent, labels) = (Self::key, Self::parent, Self::labels);
        Some(Step::Snapshots(match self.byte() % 28 {
            0..5 => Request::Prepare(PrepareSnapshotRequest {
                snapshotter: Vec::new(),
                key: key(self),
                parent: parent(self),
                labels: labels(self),
            }),
            5..7 => Request::View(ViewSnapshotRequest {
                snapshotter: b"any".to_vec(),
                key: key(self),
                parent: parent(self),
                labels: labels(self),
            }),
            7 => Request::Mounts(MountsRequest { snapshotter: Vec::new(), key: key(self) }),
            8..12 => Request::Commit(CommitSnapshotRequest {
                snapshotter: Vec::new(),
                name: key(self),
                key: key(self),
                parent: parent(self),
                labels: labels(self),
            }),
            12..14 => {
                Request::Remove(RemoveSnapshotRequest { snapshotter: Vec::new(), key: key(self) })
            }
            14 => Request::Stat(StatSnapshotRequest { snapshotter: Vec::new(), key: key(self) }),
            15..17 => Request::Update(UpdateSnapshotRequest {
                snapshotter: Vec::new(),
                info: (self.byte() % 8 != 0).then(|| self.info()),
                update_mask: self.mask(),
            }),
            17..19 => Request::List(ListSnapshotsRequest {
                snapshotter: Vec::new(),
                filters: (0..self.byte() % 3).map(|_| self.filter()).collect(),
            }),
            19 => Request::Usage(UsageRequest { snapshotter: Vec::new(), key: key(self) }),
            20 => Request::Cleanup(CleanupRequest { snapshotter: Vec::new() }),
            24 => {
                let request = ApplyRequest {
                    diff: (self.byte() % 8 != 0).then(|| self.descriptor()),
                    mounts: self.mounts(),
                    sync_fs: false,
                    ..ApplyRequest::default()
                };
                return Some(Step::Apply { of: key(self), request });
            }
            25 => {
                let request = DiffRequest {
                    left: self.mounts(),
                    right: self.mounts(),
                    media_type: self.media_type(),
                    r#ref: key(self),
                    labels: labels(self),
                    source_date_epoch: (self.byte() % 4 == 0).then(|| prost_types::Timestamp {
                        seconds: i64::from(self.byte()) << (self.byte() % 64),
                        nanos: i32::from(self.byte()) << 24,
                    }),
                };
                return Some(Step::Diff { left: key(self), right: key(self), request });
            }
            26 => return Some(self.of_mounts()),
            _ => {
                let method = METHODS[usize::from(self.byte()) % METHODS.len()];
                let length = usize::from(self.byte());
                return Some(Step::Bytes { method, body: self.bytes(length) });
            }
        }))
    }

    /// Mostly one of a few that requests share.
    fn key(&mut self) -> Vec<u8> {
        match self.byte() % 32 {
            number @ 0..24 => vec![b'a' + number % 6],
            24 => Vec::new(),
            25 => b"default/1/extract-115-4Ma8 sha256:9e9c".to_vec(),
            26 => b"\xff\xfe/\0".to_vec(),
            27 => b"two\nlines\x1b[2J".to_vec(),
            28 => b"../../../etc".to_vec(),
            29 => vec![b'k'; store::KEY_LIMIT],
            30 => vec![b'k'; 64 << 10],
            _ => {
                let length = usize::from(self.byte());
                self.bytes(length).to_vec()
            }
        }
    }

    /// None, twice as often as any other.
    fn parent(&mut self) -> Vec<u8> {
        if self.byte() % 3 == 0 { Vec::new() } else { self.key() }
    }

    fn labels(&mut self) -> BTreeMap<String, String> {
        let count = self.byte();
        if count == 255 {
            return (0..10_000).map(|number| (format!("label-{number}"), "x".to_owned())).collect();
        }
        (0..count % 4).map(|_| self.label()).collect()
    }

    fn label(&mut self) -> (String, String) {
        let (key, value) = match self.byte() % 16 {
            0..3 => ("a", "1".to_owned()),
            3 => ("a", "2".to_owned()),
            4 => ("a", String::new()),
            5 => ("", "no key".to_owned()),
            6 => ("containerd.io/gc.root", "x".to_owned()),
            7 => ("containerd.io/snapshot.ref", "sha256:9e".to_owned()),
            8 => ("long", "v".repeat(store::LABEL_LIMIT)),
            9 => ("containerd.io/snapshot/max-size", self.text()),
            10 => ("containerd.io/snapshot/windows/rootfs.sizebytes", "1".to_owned()),
            11 => ("containerd.io/snapshot/max-size", "99999999999999999999".to_owned()),
            12 => ("containerd.io/snapshot/uidmapping", self.ids()),
            13 => ("containerd.io/snapshot/gidmapping", "0:100000:65536".to_owned()),
            14 => ("b.c", self.text()),
            _ => ("control\n\u{7f}", "\0".to_owned()),
        };
        (key.to_owned(), value)
    }

    fn text(&mut self) -> String {
        let length = usize::from(self.byte() % 16);
        String::from_utf8_lossy(self.bytes(length)).into_owned()
    }

    fn ids(&mut self) -> String {
        match self.byte() % 3 {
            0 => "0:100000:65536".to_owned(),
            1 => "0:1:1,1:1:1".to_owned(),
            _ => self.text(),
        }
    }

    fn info(&mut self) -> Info {
        let name = self.key();
        let labels = self.labels();
        let odd = self.byte();
        Info {
            name,
            // What is not in the mask is not looked at.
            parent: if odd & 1 == 0 { Vec::new() } else { b"elsewhere".to_vec() },
            kind: i32::from(odd),
            labels,
            ..Info::default()
        }
    }

    fn mask(&mut self) -> Option<prost_types::FieldMask> {
        let count = self.byte() % 5;
        let path = |input: &mut Self| match input.byte() % 16 {
            0..4 => "labels".to_owned(),
            4..7 => "labels.a".to_owned(),
            7 => "labels.containerd.io/gc.root".to_owned(),
            8 => "labels.".to_owned(),
            9 => "labels.b.c".to_owned(),
            10 => "name".to_owned(),
            11 => String::new(),
            12 => "Labels".to_owned(),
            13 => "labels..".to_owned(),
            14 => "kind".to_owned(),
            _ => input.text(),
        };
        (count > 0)
            .then(|| prost_types::FieldMask { paths: (1..count).map(|_| path(self)).collect() })
    }

    fn media_type(&mut self) -> String {
        const TYPES: [&str; 8] = [
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.erofs.layer.v1",
            "application/vnd.erofs.layer.v1.erofs+zstd",
            "",
            "text/plain; charset=\"",
        ];
        match usize::from(self.byte() % 12) {
            number if number < TYPES.len() => TYPES[number].to_owned(),
            _ => self.text(),
        }
    }

    fn descriptor(&mut self) -> Descriptor {
        let digest = match self.byte() % 6 {
            0 => format!("sha256:{}", "0".repeat(64)),
            1 => format!("sha256:{}", "0".repeat(63)),
            2 => format!("sha512:{}", "f".repeat(128)),
            3 => String::new(),
            4 => "sha256:../../etc/passwd".to_owned(),
            _ => self.text(),
        };
        let size = [0, 1, -1, i64::MAX, i64::MIN, 512][usize::from(self.byte() % 6)];
        let media_type = self.media_type();
        Descriptor { media_type, digest, size, annotations: self.labels() }
    }

    /// Mounts of somebody else's, or none: then those of a snapshot are meant. No path that anything exists at.
    fn mounts(&mut self) -> Vec<Mount> {
        const TYPES: [&str; 9] = [
            "bind",
            "overlay",
            "erofs",
            "format/mkdir/overlay",
            "mkfs/ext4",
            "format/bind",
            "",
            "tmpfs",
            "ext4/",
        ];
        const OPTIONS: [&str; 12] = [
            "rw",
            "ro",
            "rbind",
            "loop",
            "upperdir=/nonexistent/u",
            "workdir=/nonexistent/w",
            "lowerdir=/nonexistent/a:/nonexistent/b",
            "lowerdir={{ overlay 0 9 }}",
            "upperdir={{ mount 7 }}/upper",
            "X-containerd.mkdir.path=/nonexistent/d:0700:0:0",
            "X-containerd.mkfs.size=99999999999999999999",
            "{{",
        ];
        let count = self.byte();
        let mount = |input: &mut Self| Mount {
            r#type: TYPES[usize::from(input.byte()) % TYPES.len()].to_owned(),
            source: ["/nonexistent/s", "", "relative", "{{ mount 0 }}", "/nonexistent/\n"]
                [usize::from(input.byte() % 5)]
            .to_owned(),
            target: ["", "sub", "../up"][usize::from(input.byte() % 3)].to_owned(),
            options: (0..input.byte() % 5)
                .map(|_| OPTIONS[usize::from(input.byte()) % OPTIONS.len()].to_owned())
                .collect(),
        };
        match count {
            255 => vec![Mount::default(); 3000],
            _ => (0..(count % 8).saturating_sub(3)).map(|_| mount(self)).collect(),
        }
    }

    fn of_mounts(&mut self) -> Step<'a> {
        let name = self.key();
        let (method, body) = match self.byte() % 6 {
            0..3 => {
                let (mounts, labels) = (self.mounts(), self.labels());
                let temporary = self.byte() % 2 == 0;
                let request = ActivateRequest { name, mounts, labels, temporary };
                ("Activate", request.encode_to_vec())
            }
            3 => ("Deactivate", DeactivateRequest { name }.encode_to_vec()),
            4 => ("Info", InfoRequest { name }.encode_to_vec()),
            _ => ("List", ListRequest { filters: vec![self.filter()] }.encode_to_vec()),
        };
        Step::Mounts { method, body }
    }

    /// Known ones, which the model understands, or pieces of the grammar in any order.
    fn filter(&mut self) -> String {
        let known = super::model::FILTERS;
        let choice = usize::from(self.byte()) % (known.len() + 4);
        if let Some((filter, _)) = known.get(choice) {
            return (*filter).to_owned();
        }
        const PIECES: [&str; 16] = [
            "labels", "kind", "name", ".", ",", "==", "!=", "~=", "\"", "active", " ", "a", "/",
            "|", "\\", "\"b.c\"",
        ];
        let count = self.byte() % 12;
        let mut filter = String::new();
        for _ in 0..count {
            match usize::from(self.byte()) {
                number if number < 224 => filter.push_str(PIECES[number % PIECES.len()]),
                _ => filter.push_str(&self.text()),
            }
        }
        filter
    }
}
