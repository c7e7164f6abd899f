//! Layers for containers in user namespaces: the same files with other owners.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use store::{Chain, Labels};
use sys::{DetachedMount, UserNamespace};

use crate::{Error, ErrorKind, Result};

/// Label with the user ids of a snapshot's container (containerd's `LabelSnapshotUIDMapping`).
pub const UIDS: &str = "containerd.io/snapshot/uidmapping";
/// Label with its group ids.
pub const GIDS: &str = "containerd.io/snapshot/gidmapping";

/// A range of ids in a container and what they are on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "(u32, u32, u32)", into = "(u32, u32, u32)")]
pub struct IdRange {
    /// First id in the container.
    pub container: u32,
    /// First id on the host.
    pub host: u32,
    /// Number of ids.
    pub size: u32,
}

/// How the ids of a user namespace lie on the host's: never empty, without overlaps, with the container's root.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IdMapping {
    uids: Vec<IdRange>,
    gids: Vec<IdRange>,
}

/// What else leads to a container with mapped owners.
const WAY_OUT: &str =
    "without the capability remap-ids in its configuration, containerd changes the owners itself";

/// Most ranges of one map (the kernel's `UID_GID_MAP_MAX_EXTENTS`).
const MAX_RANGES: usize = 340;

impl IdMapping {
    /// The mapping that a snapshot's labels ask for; `None` without them, or if they are empty.
    ///
    /// # Errors
    /// `Invalid` if one of the two is missing, is no list of `container:host:size`, or if the kernel would refuse
    /// it: overlapping or empty ranges, too many, ids that do not exist. Also if it leaves root out.
    pub fn from_labels(labels: &Labels) -> Result<Option<Self>> {
        // An empty value is what removes a label.
        let label = |name| labels.get(name).filter(|text| !text.is_empty());
        let (uids, gids) = match (label(UIDS), label(GIDS)) {
            (None, None) => return Ok(None),
            (Some(uids), Some(gids)) => (uids, gids),
            (uids, _) => {
                let (given, missing) = if uids.is_some() { (UIDS, GIDS) } else { (GIDS, UIDS) };
                let message = format!("there is a label {given}, but no {missing}");
                return Err(Error::new(ErrorKind::Invalid, message));
            }
        };
        let named = |label: &str, text: &str| {
            let invalid = |why: &str| {
                Error::new(ErrorKind::Invalid, format!("label {label}={text:?}: {why}"))
            };
            parse(text).map_err(|why| invalid(&why))
        };
        Ok(Some(Self { uids: named(UIDS, uids)?, gids: named(GIDS, gids)? }))
    }

    /// User and group on the host of the container's root.
    pub fn root(&self) -> (u32, u32) {
        // Both maps have root, or there would be no mapping.
        let host = |ranges: &[IdRange]| to_host(ranges, 0).unwrap_or(0);
        (host(&self.uids), host(&self.gids))
    }

    /// User and group on the host of `uid` and `gid` in the container; `None` if one has no place there.
    pub fn to_host(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        Some((to_host(&self.uids, uid)?, to_host(&self.gids, gid)?))
    }

    /// User and group in the container of `uid` and `gid` on the host, as they stand in an upper directory;
    /// `None` if one is unknown there.
    pub fn to_container(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        Some((to_container(&self.uids, uid)?, to_container(&self.gids, gid)?))
    }

    /// Ranges of user ids.
    pub fn uids(&self) -> &[IdRange] {
        &self.uids
    }

    /// Ranges of group ids.
    pub fn gids(&self) -> &[IdRange] {
        &self.gids
    }

    /// Whether the layers of `chain` have the container's owners already, as those on the host: then they must not be
    /// mapped once more. containerd's client copies and changes every file where the snapshotter does not have the
    /// capability `remap-ids`, and passes the labels all the same. The root directory, which it changes like all others,
    /// tells one from the other.
    ///
    /// # Errors
    /// `Corrupt` and `Io` for a layer file that cannot be read.
    pub fn is_done(&self, chain: &Chain) -> Result<bool> {
        let root = self.root();
        let Some(top) = chain.layers.first() else { return Ok(false) };
        if root == (0, 0) {
            return Ok(false);
        }
        let reading = || format!("cannot read layer image {}", top.path.display());
        let file = File::open(&top.path).map_err(|error| Error::io(reading(), error))?;
        let owner = erofs::Image::open(file)
            .and_then(|image| image.inode(image.root()))
            .map_err(|error| Error::caused(ErrorKind::Corrupt, reading(), error))?;
        Ok((owner.uid, owner.gid) == root)
    }

    /// A mount of what is at `mount_point` with the container's owners, attached nowhere.
    pub(crate) fn clone_of(&self, mount_point: &Path) -> Result<DetachedMount> {
        let doing = || format!("cannot map the owners of {}", mount_point.display());
        let lines = |ranges: &[IdRange]| {
            let line =
                |range: &IdRange| format!("{} {} {}\n", range.container, range.host, range.size);
            ranges.iter().map(line).collect::<String>()
        };
        let namespace = UserNamespace::new(&lines(&self.uids), &lines(&self.gids));
        let namespace = namespace.map_err(|error| match error.errno() {
            Some(libc::EPERM) => Error::caused(
                ErrorKind::NotSupported,
                format!(
                    "user namespaces cannot be made from here, which mapped owners need: the daemon runs in a \
                     chroot, or something forbids it; {WAY_OUT}"
                ),
                error,
            ),
            Some(libc::ENOSPC | libc::EINVAL | libc::EUSERS) => Error::caused(
                ErrorKind::NotSupported,
                format!(
                    "user namespaces cannot be made here, which mapped owners need; see the sysctl \
                     user.max_user_namespaces; {WAY_OUT}"
                ),
                error,
            ),
            _ => Error::sys(doing(), error),
        })?;
        let mount = DetachedMount::copy_of(mount_point, false)
            .map_err(|error| Error::sys(doing(), error))?;
        match mount.map_ids(&namespace) {
            Ok(()) => Ok(mount),
            Err(error) if matches!(error.errno(), Some(libc::EINVAL | libc::ENOSYS)) => {
                Err(Error::caused(
                    ErrorKind::NotSupported,
                    format!(
                        "this kernel cannot map the owners of EROFS files (Linux 5.19 and newer can); {WAY_OUT}"
                    ),
                    error,
                ))
            }
            Err(error) => Err(Error::sys(doing(), error)),
        }
    }
}

/// As in the labels, user ids first.
impl fmt::Display for IdMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |ranges: &[IdRange]| {
            ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        };
        write!(f, "uids {} gids {}", list(&self.uids), list(&self.gids))
    }
}

impl fmt::Display for IdRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.container, self.host, self.size)
    }
}

impl From<(u32, u32, u32)> for IdRange {
    fn from((container, host, size): (u32, u32, u32)) -> Self {
        Self { container, host, size }
    }
}

impl From<IdRange> for (u32, u32, u32) {
    fn from(range: IdRange) -> Self {
        (range.container, range.host, range.size)
    }
}

fn to_host(ranges: &[IdRange], id: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let offset = id.checked_sub(range.container)?;
        (offset < range.size).then(|| range.host + offset)
    })
}

fn to_container(ranges: &[IdRange], id: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let offset = id.checked_sub(range.host)?;
        (offset < range.size).then(|| range.container + offset)
    })
}

/// The ranges of a label, in order of the container's ids, so that one mapping has one form.
fn parse(text: &str) -> Result<Vec<IdRange>, String> {
    let mut ranges = Vec::new();
    for part in text.split(',') {
        let numbers: Vec<Option<u32>> = part.split(':').map(number).collect();
        let [Some(container), Some(host), Some(size)] = numbers[..] else {
            return Err(format!("{part:?} is not container:host:size"));
        };
        // The last id, 4294967295, stands for none.
        if size == 0 || container.checked_add(size).is_none() || host.checked_add(size).is_none() {
            return Err(format!("{part:?} is not a range of ids"));
        }
        ranges.push(IdRange { container, host, size });
        if ranges.len() > MAX_RANGES {
            return Err(format!("there are more than {MAX_RANGES} ranges"));
        }
    }
    ranges.sort_unstable();
    let mut by_host = ranges.clone();
    by_host.sort_unstable_by_key(|range| range.host);
    let overlaps = |ranges: &[IdRange], first: fn(&IdRange) -> u32| {
        ranges.windows(2).any(|pair| first(&pair[0]) + pair[0].size > first(&pair[1]))
    };
    if overlaps(&ranges, |range| range.container) || overlaps(&by_host, |range| range.host) {
        return Err("ranges overlap".to_owned());
    }
    if to_host(&ranges, 0).is_none() {
        return Err("the container's root (id 0) has no place in it".to_owned());
    }
    Ok(ranges)
}

/// Digits only: no sign, no space.
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| u32::from_str(text).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(uids: Option<&str>, gids: Option<&str>) -> Labels {
        let given = [(UIDS, uids), (GIDS, gids)].into_iter();
        let given = given.filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned())));
        given.collect()
    }

    #[test]
    fn labels_become_a_mapping() {
        assert_eq!(IdMapping::from_labels(&Labels::new()).unwrap(), None);
        assert_eq!(IdMapping::from_labels(&labels(Some(""), Some(""))).unwrap(), None);
        let labels = labels(Some("1000:500:10,0:100000:1000"), Some("0:200000:65536"));
        let mapping = IdMapping::from_labels(&labels).unwrap().unwrap();
        assert_eq!(mapping.root(), (100_000, 200_000));
        assert_eq!(mapping.to_host(1003, 7), Some((503, 200_007)));
        assert_eq!(mapping.to_host(1010, 7), None);
        assert_eq!(mapping.to_container(503, 200_007), Some((1003, 7)));
        assert_eq!(mapping.to_container(0, 200_007), None);
        assert_eq!(mapping.to_string(), "uids 0:100000:1000,1000:500:10 gids 0:200000:65536");
        let text = serde_json::to_string(&mapping).unwrap();
        assert_eq!(serde_json::from_str::<IdMapping>(&text).unwrap(), mapping);
    }

    #[test]
    fn the_last_ids_have_a_place() {
        let all = Some("0:0:4294967295");
        let mapping = IdMapping::from_labels(&labels(all, all)).unwrap().unwrap();
        assert_eq!(mapping.to_host(4_294_967_294, 0), Some((4_294_967_294, 0)));
        assert_eq!(mapping.to_host(4_294_967_295, 0), None);
    }

    #[test]
    fn bad_labels_are_invalid() {
        let good = "0:100000:65536";
        let many = (0..341).map(|i| format!("{i}:{i}:1")).collect::<Vec<_>>().join(",");
        let cases = [
            "",
            ",",
            "0",
            "0:1",
            "0:1:2:3",
            "a:b:c",
            "-1:-1:-2",
            "0:0:0",
            "+0:1:1",
            " 0:1:1",
            "0:1:1 ",
            "0:1:1,",
            "1:1:1,-1:-1:-2",
            "0:4294967295:1",
            "1:0:4294967295",
            "0:0:4294967296",
            "0:100:10,5:200:10",
            "0:100:10,10:105:10",
            "1:100:10",
            &many,
        ];
        for bad in cases {
            for labels in [labels(Some(bad), Some(good)), labels(Some(good), Some(bad))] {
                let error = IdMapping::from_labels(&labels).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Invalid, "{bad}");
            }
        }
        for labels in [labels(Some(good), None), labels(None, Some(good))] {
            let error = IdMapping::from_labels(&labels).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains("but no"), "{error}");
        }
    }
}
