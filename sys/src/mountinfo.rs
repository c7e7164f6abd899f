//! The mount table of the own mount namespace, from `/proc/self/mountinfo` (proc_pid_mountinfo(5)).

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// One line of the mount table, with the kernel's octal escapes resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Id of the mount, reused after its end.
    pub id: u64,
    /// Id of the mount that it is attached to.
    pub parent: u64,
    /// Major and minor number of the superblock.
    pub device: (u32, u32),
    /// The directory of the file system that is shown.
    pub root: PathBuf,
    /// Where it is attached, seen from the process's root.
    pub mount_point: PathBuf,
    /// Options of the mount, separated by commas.
    pub options: OsString,
    /// Optional fields: `shared:N`, `master:N`, ….
    pub propagation: Vec<String>,
    /// `ext4`, `overlay`, ….
    pub file_system: String,
    /// What was mounted, as the file system tells.
    pub source: OsString,
    /// Options of the superblock, separated by commas; commas inside a value stay `\054`.
    pub super_options: OsString,
}

impl MountEntry {
    /// Nothing can be written through this mount.
    pub fn is_read_only(&self) -> bool {
        let ro =
            |options: &OsStr| options.as_bytes().split(|byte| *byte == b',').any(|o| o == b"ro");
        ro(&self.options) || ro(&self.super_options)
    }

    /// Values of an option of the superblock that may come more than once (`lowerdir+`, `device`).
    pub fn super_option_values(&self, key: &str) -> Vec<OsString> {
        let options = self.super_options.as_bytes().split(|byte| *byte == b',');
        let values = options.filter_map(|option| {
            let value = option.strip_prefix(key.as_bytes())?.strip_prefix(b"=")?;
            Some(OsString::from_vec(unescape(value)))
        });
        values.collect()
    }
}

/// The mount table at one moment.
#[derive(Debug, Clone, Default)]
pub struct MountTable {
    entries: Vec<MountEntry>,
}

impl MountTable {
    /// Reads the table of the calling thread's mount namespace.
    ///
    /// # Errors
    /// Those of reading the file; `InvalidData` if a line is not of the documented form.
    pub fn read() -> Result<Self> {
        const PATH: &str = "/proc/thread-self/mountinfo";
        let text =
            std::fs::read(PATH).map_err(|source| Error::new(format!("read({PATH})"), source))?;
        Self::parse(&text)
    }

    /// Parses the text of a mountinfo file.
    ///
    /// # Errors
    /// `InvalidData`, with the line.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let entries = lines.map(|line| {
            parse_line(line).ok_or_else(|| {
                let line = String::from_utf8_lossy(line).into_owned();
                let cause = std::io::Error::from(std::io::ErrorKind::InvalidData);
                Error::new(format!("parse mountinfo line «{line}»"), cause)
            })
        });
        Ok(Self { entries: entries.collect::<Result<_>>()? })
    }

    /// All entries in the kernel's order.
    pub fn entries(&self) -> &[MountEntry] {
        &self.entries
    }

    /// The mount that a process sees at exactly `path`: the topmost if several are stacked there.
    pub fn at(&self, path: &Path) -> Option<&MountEntry> {
        let depths = self.depths();
        let here = self.entries.iter().filter(|entry| entry.mount_point == path);
        here.max_by_key(|entry| depths.get(&entry.id).copied().unwrap_or(0))
    }

    /// Mounts at or below `path`, in an order in which they can be unmounted: each after those that are mounted
    /// on it, and what covers another one before that.
    pub fn tree(&self, path: &Path) -> Vec<&MountEntry> {
        let inside = |entry: &&MountEntry| entry.mount_point.starts_with(path);
        let ids: HashSet<u64> = self.entries.iter().filter(inside).map(|entry| entry.id).collect();
        let mut children: HashMap<Option<u64>, Vec<&MountEntry>> = HashMap::new();
        for entry in self.entries.iter().filter(inside) {
            let parent = Some(entry.parent).filter(|id| ids.contains(id) && *id != entry.id);
            children.entry(parent).or_default().push(entry);
        }
        // Of two mounts on the same one, that with the shorter path can only have come later, because it covers
        // the other; of equal ones the newer goes first. The list is made in the opposite order and turned.
        let mut reversed = Vec::with_capacity(ids.len());
        let mut pending = vec![None];
        while let Some(next) = pending.pop() {
            let parent = next.map(|entry: &MountEntry| {
                reversed.push(entry);
                entry.id
            });
            let Some(mut group) = children.remove(&parent) else { continue };
            group.sort_by_key(|entry| (entry.mount_point.as_os_str().len(), Reverse(entry.id)));
            pending.extend(group.into_iter().map(Some));
        }
        reversed.reverse();
        reversed
    }

    /// Mounts of the superblock with this device number.
    pub fn by_device(&self, device: (u32, u32)) -> impl Iterator<Item = &MountEntry> {
        self.entries.iter().filter(move |entry| entry.device == device)
    }

    /// Whether an overlay mount of this table has a layer at or below `path`. The overlay keeps a private copy
    /// of the layer's mount, so the kernel would let that be unmounted.
    pub fn overlay_uses(&self, path: &Path) -> bool {
        let overlays = self.entries.iter().filter(|entry| entry.file_system == "overlay");
        overlays.into_iter().any(|entry| {
            let added = ["lowerdir+", "datadir+", "upperdir"].into_iter();
            let added = added.flat_map(|key| entry.super_option_values(key));
            let joined = entry.super_option_values("lowerdir");
            let joined =
                joined.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b':'));
            let joined = joined.map(|part| OsStr::from_bytes(part).to_owned());
            added.chain(joined).any(|layer| is_at_or_below(Path::new(&layer), path))
        })
    }

    /// Overlay mounts that write to the directory `upper`, or to one below it.
    pub fn overlays_writing_to(&self, upper: &Path) -> impl Iterator<Item = &MountEntry> {
        let overlays = self.entries.iter().filter(|entry| entry.file_system == "overlay");
        overlays.filter(move |entry| {
            let values = entry.super_option_values("upperdir");
            values.iter().any(|value| is_at_or_below(Path::new(value), upper))
        })
    }

    /// Mounts that show the directory `path` or something below it at another place: bind mounts of it.
    pub fn binds_of(&self, path: &Path) -> Vec<&MountEntry> {
        // The mount that the directory is on: the topmost of the deepest.
        let around = self.entries.iter().filter(|entry| path.starts_with(&entry.mount_point));
        let Some(mount) = around.max_by_key(|entry| entry.mount_point.as_os_str().len()) else {
            return Vec::new();
        };
        let Ok(rest) = path.strip_prefix(&mount.mount_point) else { return Vec::new() };
        let inside = match rest.as_os_str().is_empty() {
            true => mount.root.clone(),
            false => mount.root.join(rest),
        };
        let shows = |entry: &&MountEntry| {
            entry.device == mount.device
                && entry.root.starts_with(&inside)
                && !path.starts_with(&entry.mount_point)
        };
        self.entries.iter().filter(shows).collect()
    }

    /// Distance of every mount from the root of the table.
    fn depths(&self) -> HashMap<u64, usize> {
        let parents: HashMap<u64, u64> =
            self.entries.iter().map(|entry| (entry.id, entry.parent)).collect();
        let depth = |id: u64| {
            let mut steps = 0;
            let mut current = id;
            while let Some(&parent) = parents.get(&current) {
                // The root is its own parent in some namespaces, and no chain is longer than the table.
                if parent == current || steps > parents.len() {
                    break;
                }
                current = parent;
                steps += 1;
            }
            steps
        };
        parents.keys().map(|&id| (id, depth(id))).collect()
    }
}

/// Whether an overlay's directory, as the kernel shows what it was given, is `path` or below it. By `mount(2)`
/// it was given with backslashes before separators, which some kernels keep; and relative to a directory that
/// nobody knows, where containerd has shortened the names: then its name has to suffice.
fn is_at_or_below(given: &Path, path: &Path) -> bool {
    if given.is_relative() {
        return path.ends_with(given);
    }
    if given.starts_with(path) {
        return true;
    }
    let mut plain = Vec::with_capacity(given.as_os_str().len());
    let mut bytes = given.as_os_str().as_bytes().iter();
    while let Some(&byte) = bytes.next() {
        plain.push(if byte == b'\\' { *bytes.next().unwrap_or(&byte) } else { byte });
    }
    Path::new(OsStr::from_bytes(&plain)).starts_with(path)
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse().ok();
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let device = fields.next()?;
    let colon = device.iter().position(|byte| *byte == b':')?;
    let device = (
        u32::try_from(number(&device[..colon])?).ok()?,
        u32::try_from(number(&device[colon + 1..])?).ok()?,
    );
    let root = PathBuf::from(OsString::from_vec(unescape(fields.next()?)));
    let mount_point = PathBuf::from(OsString::from_vec(unescape(fields.next()?)));
    let options = OsString::from_vec(fields.next()?.to_vec());
    let mut propagation = Vec::new();
    loop {
        match fields.next()? {
            b"-" => break,
            field => propagation.push(String::from_utf8_lossy(field).into_owned()),
        }
    }
    let file_system = String::from_utf8(unescape(fields.next()?)).ok()?;
    let source = OsString::from_vec(unescape(fields.next()?));
    // Absent only in a damaged line; an empty source makes two spaces, which split keeps as an empty field.
    let super_options = OsString::from_vec(fields.next()?.to_vec());
    Some(MountEntry {
        id,
        parent,
        device,
        root,
        mount_point,
        options,
        propagation,
        file_system,
        source,
        super_options,
    })
}

/// Resolves `\NNN` (three octal digits); anything else stays.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'\\' && tail.len() >= 3 && tail[..3].iter().all(|b| (b'0'..=b'7').contains(b))
        {
            let value = tail[..3].iter().fold(0_u32, |sum, byte| sum * 8 + u32::from(byte - b'0'));
            // Three digits reach 0o777; the kernel writes at most 0o377.
            plain.push(u8::try_from(value & 0xff).unwrap_or_default());
            rest = &tail[3..];
        } else {
            plain.push(first);
            rest = tail;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
30 27 0:27 / /tmp rw shared:7 master:2 - tmpfs tmp\\040fs rw
65 30 0:39 / /tmp/m\\040x rw,relatime - overlay none rw,lowerdir+=/a:b,lowerdir+=/c\\054d,upperdir=/u,workdir=/w
66 65 0:40 /sub /tmp/m\\040x/in ro - erofs  ro
64 66 0:41 / /tmp/m\\040x/in/er rw - tmpfs t rw
67 65 0:42 / /tmp/m\\040x/in rw - tmpfs t rw
68 27 0:43 / /o rw - overlay overlay rw,lowerdir=/run/v/1:/run/v/2
";

    #[test]
    fn fields_are_taken_apart_and_unescaped() {
        let table = MountTable::parse(TABLE).unwrap();
        let entry = &table.entries()[2];
        assert_eq!(entry.mount_point, Path::new("/tmp/m x"));
        assert_eq!(entry.device, (0, 39));
        assert_eq!(entry.super_option_values("lowerdir+"), ["/a:b", "/c,d"]);
        let tmp = &table.entries()[1];
        assert_eq!(tmp.propagation, ["shared:7", "master:2"]);
        assert_eq!(tmp.source, "tmp fs");
        let erofs = &table.entries()[3];
        assert_eq!(
            (erofs.root.as_path(), erofs.source.as_os_str()),
            (Path::new("/sub"), OsStr::new(""))
        );
        assert!(erofs.is_read_only());
        assert!(!tmp.is_read_only());
    }

    #[test]
    fn a_tree_is_listed_so_that_it_can_be_unmounted() {
        let table = MountTable::parse(TABLE).unwrap();
        let ids: Vec<u64> =
            table.tree(Path::new("/tmp/m x")).iter().map(|entry| entry.id).collect();
        assert_eq!(ids, [67, 64, 66, 65]);
        assert_eq!(table.tree(Path::new("/tmp/m")), Vec::<&MountEntry>::new());
        assert_eq!(table.by_device((0, 41)).count(), 1);
    }

    #[test]
    fn overlays_know_their_layers() {
        let table = MountTable::parse(TABLE).unwrap();
        assert!(table.overlay_uses(Path::new("/c,d")));
        assert!(table.overlay_uses(Path::new("/run/v/2")));
        assert!(table.overlay_uses(Path::new("/run/v")));
        assert!(!table.overlay_uses(Path::new("/run/v/3")));
        assert!(!table.overlay_uses(Path::new("/run/v/22")));
    }

    #[test]
    fn escaped_and_shortened_names_are_recognised() {
        const TABLE: &[u8] = b"\
27 1 254:0 / / rw - ext4 /dev/vda rw
64 27 254:0 /var/lib/s /s rw - ext4 /dev/vda rw
65 27 0:39 / /m rw - overlay o rw,lowerdir=aa11:bb22,upperdir=/s/a\\134:b\\134\\054c\\040d/fs,workdir=/s/w
66 27 254:0 /var/lib/s/7/fs /b rw - ext4 /dev/vda rw
67 27 254:0 /var/lib/s/7/fs/etc//deleted /b2 rw - ext4 /dev/vda rw
68 27 254:0 /var/lib/s/77/fs /b3 rw - ext4 /dev/vda rw
";
        let table = MountTable::parse(TABLE).unwrap();
        let writing = |path: &str| {
            let entries = table.overlays_writing_to(Path::new(path));
            entries.map(|entry| entry.id).collect::<Vec<_>>()
        };
        assert_eq!(writing("/s/a:b,c d/fs"), [65]);
        assert_eq!(writing("/s/a:b,c d"), [65]);
        assert_eq!(writing("/s/a:b"), Vec::<u64>::new());
        assert!(table.overlay_uses(Path::new("/run/v/aa11")));
        assert!(!table.overlay_uses(Path::new("/run/v/a11")));
        let binds = |path: &str| {
            let entries = table.binds_of(Path::new(path));
            entries.iter().map(|entry| entry.id).collect::<Vec<_>>()
        };
        assert_eq!(binds("/s/7/fs"), [66, 67]);
        assert_eq!(binds("/s/77/fs"), [68]);
        assert_eq!(binds("/s/7/work"), Vec::<u64>::new());
        assert_eq!(binds("/var/lib/s/7/fs"), [66, 67]);
    }

    #[test]
    fn a_watched_table_follows_changes() {
        let mut watch = crate::MountWatch::new();
        let first = watch.table().unwrap();
        assert!(first.at(Path::new("/")).is_some());
        // Other tests of this process mount nothing in our namespace, other processes may.
        assert!(watch.table().unwrap().entries().len() > 1);
    }

    #[test]
    fn damaged_lines_are_errors() {
        for line in [
            "x",
            "1 2 3 / / rw - a b c",
            "1 2 0:3 / / rw",
            "1 2 0:3 / / rw - a",
            "-1 2 0:3 / / rw - a b c",
        ] {
            assert!(MountTable::parse(line.as_bytes()).is_err(), "{line}");
        }
    }

    #[test]
    fn the_real_table_has_a_root() {
        let table = MountTable::read().unwrap();
        assert!(table.at(Path::new("/")).is_some());
    }
}
