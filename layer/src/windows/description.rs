//! What the records of a tar entry say of a file: the way in, and the way back.
//!
//! | record | what |
//! | --- | --- |
//! | `MSWINDOWS.fileattr` | attributes, decimal |
//! | `MSWINDOWS.rawsd` | security descriptor, base64 of its bytes |
//! | `MSWINDOWS.sd` | the same as SDDL, read if there is no `rawsd` |
//! | `MSWINDOWS.mountpoint` | the symbolic link is a mount point, whatever the value |
//! | `MSWINDOWS.xattr.NAME` | extended attribute, base64 |
//! | `LIBARCHIVE.creationtime`, `atime`, `ctime` | times |
//! | `PLYWOOD.reparse`, `PLYWOOD.ea` | base64 of the buffer, where the records above would give another one |
//!
//! The last two are ours: Microsoft's exporter gives up where it meets other reparse points than symbolic links and
//! mount points, and forgets the flags of extended attributes. What the others say as well has to agree with them, so
//! that nobody sees another link than we do.

use std::collections::BTreeMap;

use cimfs::{Eas, FileTime, Metadata};
use erofs::Timestamp;

use super::attributes::{self, DIRECTORY};
use super::name::{decode_wtf8, encode_wtf8};
use super::reparse::{ReparsePoint, tag};
use super::security::SecurityDescriptor;
use super::{base64, ea, time};
use crate::error::{Error, Result};
use crate::tar::EntryKind;

pub(super) type Records = BTreeMap<Vec<u8>, Vec<u8>>;

const ATTRIBUTES: &[u8] = b"MSWINDOWS.fileattr";
const RAW_SECURITY: &[u8] = b"MSWINDOWS.rawsd";
const TEXT_SECURITY: &[u8] = b"MSWINDOWS.sd";
const MOUNT_POINT: &[u8] = b"MSWINDOWS.mountpoint";
const EA: &[u8] = b"MSWINDOWS.xattr.";
const CREATION_TIME: &[u8] = b"LIBARCHIVE.creationtime";
const ACCESS_TIME: &[u8] = b"atime";
const CHANGE_TIME: &[u8] = b"ctime";
const OWN_REPARSE: &[u8] = b"PLYWOOD.reparse";
const OWN_EA: &[u8] = b"PLYWOOD.ea";

/// What the times that a tar leaves out become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AbsentTimes {
    /// The time of the last write.
    #[default]
    LastWrite,
    /// 1754-08-30 22:43:41.1286549, as Microsoft's importer makes of them by an overflow.
    AsMicrosoft,
}

const OVERFLOWN: FileTime = FileTime(48_491_090_211_286_549);

/// An entry's file without its data.
#[derive(Debug)]
pub(super) struct Description {
    pub(super) is_directory: bool,
    /// As they are in the tar.
    pub(super) attributes: u32,
    /// Security descriptor: empty if the tar has none.
    pub(super) metadata: Metadata,
    /// Whether there are attributes that an image has no room for.
    pub(super) loses_attributes: bool,
}

fn bad_record(key: &[u8], what: &str) -> Error {
    Error::corrupt(format!("the PAX record {} is {what}", key.escape_ascii()))
}

fn decoded(key: &[u8], value: &[u8]) -> Result<Vec<u8>> {
    base64::decode(value).ok_or_else(|| bad_record(key, "not base64"))
}

/// Reads an entry's records.
pub(super) fn read(
    records: &Records,
    kind: &EntryKind,
    last_write: Timestamp,
    absent_times: AbsentTimes,
) -> Result<Description> {
    let attributes = match records.get(ATTRIBUTES) {
        Some(text) => attributes::parse(text)
            .ok_or_else(|| bad_record(ATTRIBUTES, "not a decimal number of 32 bits"))?,
        None if *kind == EntryKind::Directory => DIRECTORY,
        None => 0,
    };
    let (flags, lost) = attributes::flags(attributes);
    let last_write = time::from_timestamp(last_write)
        .ok_or_else(|| Error::invalid("the time of the last write is before 1601"))?;
    let absent = match absent_times {
        AbsentTimes::LastWrite => last_write,
        AbsentTimes::AsMicrosoft => OVERFLOWN,
    };
    let time = |key: &[u8], absent: FileTime| match records.get(key) {
        Some(text) => {
            time::parse_time(text).ok_or_else(|| bad_record(key, "not a time from 1601 on"))
        }
        None => Ok(absent),
    };
    let metadata = Metadata {
        flags,
        creation_time: time(CREATION_TIME, last_write)?,
        last_write_time: last_write,
        change_time: time(CHANGE_TIME, absent)?,
        last_access_time: time(ACCESS_TIME, absent)?,
        security: read_security(records)?,
        eas: read_eas(records)?,
        reparse: read_reparse(records, kind)?,
    };
    Ok(Description {
        is_directory: attributes & DIRECTORY != 0,
        attributes,
        metadata,
        loses_attributes: lost != 0,
    })
}

fn read_security(records: &Records) -> Result<Vec<u8>> {
    if let Some(value) = records.get(RAW_SECURITY) {
        let bytes = decoded(RAW_SECURITY, value)?;
        if !bytes.is_empty() {
            SecurityDescriptor::read(&bytes)?;
        }
        return Ok(bytes);
    }
    let Some(text) = records.get(TEXT_SECURITY) else { return Ok(Vec::new()) };
    let text = std::str::from_utf8(text).map_err(|_| bad_record(TEXT_SECURITY, "not UTF-8"))?;
    SecurityDescriptor::from_sddl(text)?.write()
}

fn read_eas(records: &Records) -> Result<Vec<u8>> {
    let with_prefix = records.range(EA.to_vec()..).take_while(|(key, _)| key.starts_with(EA));
    let mut eas = Vec::new();
    for (key, value) in with_prefix {
        eas.push((&key[EA.len()..], decoded(key, value)?));
    }
    let eas = eas.iter().map(|(name, value)| (*name, value.as_slice()));
    let Some(own) = records.get(OWN_EA) else { return ea::write_eas(eas) };
    let own = decoded(OWN_EA, own)?;
    let said: Vec<_> = eas.map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
    match standard_eas(&own) {
        Some(meant) if meant == said => Ok(own),
        _ => Err(bad_record(OWN_EA, "damaged, or says something else than MSWINDOWS.xattr")),
    }
}

/// The attributes that records of Microsoft's can say, in the order of their names; `None` for a damaged chain.
fn standard_eas(buffer: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut eas = BTreeMap::new();
    for ea in Eas::new(buffer) {
        let ea = ea.ok()?;
        // A `=` would end the key, and of two names only one can be said.
        if !ea.name.contains(&b'=') && !ea.name.contains(&0) {
            eas.entry(ea.name.to_vec()).or_insert_with(|| ea.value.to_vec());
        }
    }
    Some(eas.into_iter().collect())
}

fn read_reparse(records: &Records, kind: &EntryKind) -> Result<Vec<u8>> {
    let mount_point = records.contains_key(MOUNT_POINT);
    let standard = match kind {
        EntryKind::Symlink(target) => {
            let not_text = || Error::invalid("the target of the link is not UTF-8");
            let target = decode_wtf8(target).ok_or_else(not_text)?;
            Some(match mount_point {
                true => ReparsePoint::mount_point(&target),
                false => ReparsePoint::symlink(&target),
            })
        }
        _ => None,
    };
    let Some(own) = records.get(OWN_REPARSE) else {
        return standard.map_or(Ok(Vec::new()), |point| point.write());
    };
    let own = decoded(OWN_REPARSE, own)?;
    let point = ReparsePoint::read(&own)?;
    let agrees = match (&standard, kind) {
        (Some(standard), _) => said(&point) == said(standard),
        (None, EntryKind::Regular { size, .. }) => said(&point).is_none() || *size > 0,
        (None, _) => said(&point).is_none(),
    };
    match agrees {
        true => Ok(own),
        false => Err(bad_record(OWN_REPARSE, "not of the link that the entry is")),
    }
}

/// What a symbolic link in a tar says of a reparse point: its tag, and its target with one kind of separator.
fn said(point: &ReparsePoint) -> Option<(u32, Vec<u16>)> {
    let target =
        point.target().filter(|_| matches!(point.tag(), tag::SYMLINK | tag::MOUNT_POINT))?;
    let slash = |unit: u16| if unit == u16::from(b'/') { u16::from(b'\\') } else { unit };
    // No header has room for a NUL.
    let has_nul = target.contains(&0);
    (!has_nul).then(|| (point.tag(), target.into_iter().map(slash).collect()))
}

/// What an image says of a file, on its way into a tar.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Blobs {
    pub(super) security: Vec<u8>,
    pub(super) eas: Vec<u8>,
    pub(super) reparse: Vec<u8>,
}

impl Blobs {
    /// The target of a symbolic link or mount point, and whether it is the latter; `None` for other files, which have
    /// data of `size` bytes.
    pub(super) fn link(&self, size: u64) -> Option<(Vec<u8>, bool)> {
        if self.reparse.is_empty() || size > 0 {
            return None;
        }
        let (tag, target) = said(&ReparsePoint::read(&self.reparse).ok()?)?;
        Some((encode_wtf8(target), tag == tag::MOUNT_POINT))
    }

    /// Adds what the entry's records say; `link` is what [`Self::link`] found.
    pub(super) fn write(
        &self,
        link: Option<&(Vec<u8>, bool)>,
        records: &mut Records,
    ) -> Result<()> {
        let mut put = |key: &[u8], value: Vec<u8>| records.insert(key.to_vec(), value);
        let encoded = |bytes: &[u8]| base64::encode(bytes).into_bytes();
        if !self.security.is_empty() {
            put(RAW_SECURITY, encoded(&self.security));
        }
        if let Some((_, true)) = link {
            put(MOUNT_POINT, b"1".to_vec());
        }
        let damaged = || Error::corrupt("the extended attributes are damaged");
        let eas = standard_eas(&self.eas).ok_or_else(damaged)?;
        let said = eas.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
        if ea::write_eas(said).ok().as_deref() != Some(&self.eas) {
            put(OWN_EA, encoded(&self.eas));
        }
        for (name, value) in &eas {
            put(&[EA, name].concat(), encoded(value));
        }
        let kind = link.map_or(EntryKind::Directory, |(link, _)| EntryKind::Symlink(link.clone()));
        let standard = read_reparse(records, &kind);
        if standard.ok().as_deref() != Some(&self.reparse) {
            records.insert(OWN_REPARSE.to_vec(), encoded(&self.reparse));
        }
        Ok(())
    }
}

/// The records of attributes and times; the seconds that the header holds of the last write.
pub(super) fn write_basics(file: &cimfs::FileView, records: &mut Records) -> u64 {
    basic_records(file.attributes(), times_of(file), records)
}

/// The same without creation time and attributes, as streams have it.
pub(super) fn write_times(file: &cimfs::FileView, records: &mut Records) -> u64 {
    time_records(times_of(file), records)
}

/// Of the creation, the last access, the last change, the last write.
fn times_of(file: &cimfs::FileView) -> [FileTime; 4] {
    [file.creation_time(), file.last_access_time(), file.change_time(), file.last_write_time()]
}

/// As [`write_basics`], of attributes and times in the order of [`times_of`].
pub(super) fn basic_records(attributes: u32, times: [FileTime; 4], records: &mut Records) -> u64 {
    let mut put = |key: &[u8], value: String| records.insert(key.to_vec(), value.into_bytes());
    put(ATTRIBUTES, attributes.to_string());
    put(CREATION_TIME, time::time_text(times[0]));
    time_records(times, records)
}

/// As [`write_times`].
pub(super) fn time_records(times: [FileTime; 4], records: &mut Records) -> u64 {
    let [_, access, change, write] = times;
    let mut put = |key: &[u8], value: String| records.insert(key.to_vec(), value.into_bytes());
    put(ACCESS_TIME, time::time_text(access));
    put(CHANGE_TIME, time::time_text(change));
    let (seconds, exact) = time::header_seconds(write);
    if !exact {
        put(b"mtime", time::time_text(write));
    }
    seconds
}
