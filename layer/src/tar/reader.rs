//! Streaming reader: one entry after the other, payload by borrowed slices.

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use erofs::{Timestamp, Xattr};

use super::header::{self, BLOCK, Header, OCTAL_SIZE_MAX};
use super::pax::{self, Records, Scope};
use crate::error::{Error, ErrorKind, Result};

/// Most bytes of extended headers and long names for one entry. Four xattrs of the largest size fit many times.
const METADATA_MAX: u64 = 4 << 20;
/// Most data segments of one sparse file.
const SEGMENTS_MAX: usize = 1 << 20;

/// One entry with everything that headers of all kinds said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// As written, not normalised; no NUL.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: EntryKind,
    pub(crate) permissions: u16,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: Timestamp,
    /// Sorted by name.
    pub(crate) xattrs: Vec<Xattr>,
    /// Where the entry's own header starts in the tar.
    pub(crate) offset: u64,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EntryKind {
    /// A file of `size` bytes. With `segments` (offset, length; ascending, apart, not empty) the payload holds
    /// only these, one behind the other, and the rest is holes.
    Regular {
        size: u64,
        segments: Option<Vec<(u64, u64)>>,
    },
    HardLink(Vec<u8>),
    Symlink(Vec<u8>),
    CharDevice {
        major: u64,
        minor: u64,
    },
    BlockDevice {
        major: u64,
        minor: u64,
    },
    Directory,
    Fifo,
}

/// How the tar ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// With zero blocks, as it should.
    Marked,
    /// Behind an entry, without the mark: some writers do so, and so do cuts.
    Unmarked,
    /// Before it began.
    Empty,
}

/// Reads the entries of a tar from a buffered stream.
#[derive(Debug)]
pub(crate) struct Reader<R> {
    input: R,
    /// Bytes taken from `input`.
    offset: u64,
    /// Bytes of the current entry's payload that are not read yet.
    payload: u64,
    /// Zero bytes behind the payload.
    padding: u64,
    global: Records,
    /// Records of Windows' files that the current entry has, if they are wanted.
    kept: BTreeMap<Vec<u8>, Vec<u8>>,
    end: Option<End>,
}

impl<R: BufRead> Reader<R> {
    pub(crate) fn new(input: R) -> Self {
        let (global, kept) = (Records::default(), BTreeMap::new());
        Self { input, offset: 0, payload: 0, padding: 0, global, kept, end: None }
    }

    /// A reader that keeps what records say of files of Windows.
    pub(crate) fn of_windows(input: R) -> Self {
        let mut reader = Self::new(input);
        reader.global.keep = true;
        reader
    }

    /// The records of the current entry that are about files of Windows.
    pub(crate) fn kept(&self) -> &BTreeMap<Vec<u8>, Vec<u8>> {
        &self.kept
    }

    /// How the tar ended, once [`next_entry`](Self::next_entry) returned `None`.
    pub(crate) fn end(&self) -> Option<End> {
        self.end
    }

    /// The input, which stands behind the last byte read.
    pub(crate) fn into_inner(self) -> R {
        self.input
    }

    /// The next entry, or `None` at the end. What is left of the entry before is skipped.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>> {
        if self.end.is_some() {
            return Ok(None);
        }
        self.skip_payload()?;
        let mut local = Extensions::default();
        loop {
            let offset = self.offset;
            let Some(block) = self.read_block()? else {
                local.refuse_orphans(offset)?;
                self.end = Some(if offset == 0 { End::Empty } else { End::Unmarked });
                return Ok(None);
            };
            if is_zero(&block) {
                local.refuse_orphans(offset)?;
                // One zero block at the very end is accepted as the mark, as GNU tar does.
                if let Some(second) = self.read_block()?
                    && !is_zero(&second)
                {
                    return Err(Error::corrupt("data follows a lone zero block").at(offset));
                }
                self.end = Some(End::Marked);
                return Ok(None);
            }
            let header = Header::parse(&block).map_err(|error| error.at(offset))?;
            let entry = self.take_header(&header, &mut local).map_err(|error| error.at(offset))?;
            if let Some(mut entry) = entry {
                entry.offset = offset;
                return Ok(Some(entry));
            }
        }
    }

    /// The next bytes of the current entry's payload, as many as lie in the buffer; empty at its end.
    /// [`consume`](Self::consume) takes them.
    pub(crate) fn payload(&mut self) -> Result<&[u8]> {
        if self.payload == 0 {
            return Ok(&[]);
        }
        let (offset, left) = (self.offset, self.payload);
        let bytes = fill(&mut self.input, offset)?;
        if bytes.is_empty() {
            return Err(truncated(offset, &format!("{left} bytes before the end of a file")));
        }
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        Ok(&bytes[..length])
    }

    /// Marks bytes that [`payload`](Self::payload) returned as read.
    pub(crate) fn consume(&mut self, length: usize) {
        self.input.consume(length);
        self.offset += length as u64;
        self.payload -= length as u64;
    }

    fn skip_payload(&mut self) -> Result<()> {
        let mut left = self.payload + self.padding;
        while left > 0 {
            let bytes = fill(&mut self.input, self.offset)?;
            if bytes.is_empty() {
                return Err(truncated(self.offset, "inside a file or its padding"));
            }
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            self.input.consume(length);
            self.offset += length as u64;
            left -= length as u64;
        }
        (self.payload, self.padding) = (0, 0);
        Ok(())
    }

    /// A block, or `None` if the input ends right here.
    fn read_block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let bytes = fill(&mut self.input, self.offset)?;
            if bytes.is_empty() {
                if filled == 0 {
                    return Ok(None);
                }
                return Err(truncated(self.offset, "inside a header"));
            }
            let length = bytes.len().min(BLOCK - filled);
            block[filled..filled + length].copy_from_slice(&bytes[..length]);
            self.input.consume(length);
            self.offset += length as u64;
            filled += length;
        }
        Ok(Some(block))
    }

    fn set_payload(&mut self, size: u64) -> Result<()> {
        if size > i64::MAX as u64 {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("a size of {size} bytes is out of range"),
            ));
        }
        self.payload = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    /// The payload of an extension entry, whole. A PAX size never applies to these.
    fn read_metadata(&mut self, size: u64, budget: &mut u64) -> Result<Vec<u8>> {
        *budget = budget.checked_sub(size).ok_or_else(|| {
            Error::new(
                ErrorKind::TooLarge,
                format!("more than {METADATA_MAX} bytes of extended headers for one entry"),
            )
        })?;
        self.set_payload(size)?;
        let mut bytes = Vec::new();
        while self.payload > 0 {
            let piece = self.payload()?;
            bytes.extend_from_slice(piece);
            let length = piece.len();
            self.consume(length);
        }
        self.skip_payload()?;
        Ok(bytes)
    }

    /// Takes an extension (and returns `None`) or makes the entry that it belongs to.
    fn take_header(
        &mut self,
        header: &Header<'_>,
        local: &mut Extensions,
    ) -> Result<Option<Entry>> {
        match header.type_flag() {
            // Solaris's X is an x.
            b'x' | b'X' => {
                let bytes = self.read_metadata(header.size()?, &mut local.budget)?;
                local
                    .records
                    .get_or_insert_with(|| self.global.clone())
                    .apply(&bytes, Scope::Entry)?;
            }
            b'g' => {
                local.refuse_orphans(self.offset)?;
                let bytes = self.read_metadata(header.size()?, &mut local.budget)?;
                self.global.apply(&bytes, Scope::Global)?;
                if self.global.weight() > METADATA_MAX {
                    return Err(Error::new(
                        ErrorKind::TooLarge,
                        "global PAX headers are too large",
                    ));
                }
            }
            b'L' => {
                let bytes = self.read_metadata(header.size()?, &mut local.budget)?;
                local.long_name = Some(long_name(bytes)?);
            }
            b'K' => {
                let bytes = self.read_metadata(header.size()?, &mut local.budget)?;
                local.long_link = Some(long_name(bytes)?);
            }
            // A volume label says nothing about the tree.
            b'V' => {
                let size = header.size()?;
                self.set_payload(size)?;
                self.skip_payload()?;
            }
            _ => return self.entry(header, std::mem::take(local)).map(Some),
        }
        Ok(None)
    }

    fn entry(&mut self, header: &Header<'_>, extensions: Extensions) -> Result<Entry> {
        let Extensions { records, long_name, long_link, .. } = extensions;
        let mut records = records.unwrap_or_else(|| self.global.clone());
        let mut path = records.path.take().or(long_name).unwrap_or_else(|| header.name());
        let link = records.link_path.take().or(long_link).unwrap_or_else(|| header.link_name());
        let flag = header.type_flag();

        let in_header = header.size()?;
        let size = match records.size {
            // Of two different sizes one is a lie, unless the header's field was too small for the truth.
            Some(size) if in_header != 0 && size != in_header && size <= OCTAL_SIZE_MAX => {
                return Err(Error::corrupt(format!(
                    "the PAX size {size} contradicts the header's {in_header}"
                ))
                .path(&path));
            }
            Some(size) => size,
            None => in_header,
        };

        let kind = match flag {
            // Before ustar a directory was a file with a slash at its end.
            0 if path.ends_with(b"/") && size == 0 => EntryKind::Directory,
            0 | b'0' | b'7' | b'S' => {
                self.set_payload(size)?;
                let (size, segments) = if flag == b'S' {
                    self.gnu_sparse(header)?
                } else {
                    self.pax_sparse(&mut records, &mut path)?
                };
                EntryKind::Regular { size, segments }
            }
            // Some writers give a hard link the size of its file, and none of them puts data behind it.
            b'1' => EntryKind::HardLink(link),
            b'2' => EntryKind::Symlink(link),
            b'3' | b'4' => {
                let (major, minor) = header.device()?;
                if flag == b'3' {
                    EntryKind::CharDevice { major, minor }
                } else {
                    EntryKind::BlockDevice { major, minor }
                }
            }
            b'5' => EntryKind::Directory,
            // GNU's directory with a list of its files as payload (incremental backups).
            b'D' => {
                self.set_payload(size)?;
                self.skip_payload()?;
                EntryKind::Directory
            }
            b'6' => EntryKind::Fifo,
            other => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("tar entries of type '{}' are not supported", other.escape_ascii()),
                )
                .path(&path));
            }
        };
        if size != 0 && matches!(flag, b'2'..=b'6') {
            return Err(Error::corrupt(format!(
                "an entry of type '{}' claims {size} bytes of data, which it cannot have",
                char::from(flag)
            ))
            .path(&path));
        }

        let Records { uid, gid, mtime, xattrs, libarchive_xattrs, kept, .. } = records;
        self.kept = kept;
        let mut all = libarchive_xattrs;
        all.extend(xattrs);
        Ok(Entry {
            path,
            kind,
            permissions: header.permissions()?,
            uid: uid.map_or_else(|| header.uid(), Ok)?,
            gid: gid.map_or_else(|| header.gid(), Ok)?,
            mtime: mtime.map_or_else(|| header.mtime(), Ok)?,
            xattrs: all
                .into_iter()
                .map(|(name, value)| Xattr { name: name.into(), value: value.into() })
                .collect(),
            offset: 0,
        })
    }

    fn gnu_sparse(&mut self, header: &Header<'_>) -> Result<Extent> {
        if !header.is_gnu() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "a sparse file in a form that is not GNU tar's",
            ));
        }
        let mut map = Vec::new();
        let mut more = header.gnu_sparse(&mut map)?;
        while more {
            // Extension blocks lie between header and payload and are not part of the size.
            let offset = self.offset;
            let block = self.read_block()?.ok_or_else(|| truncated(offset, "in a sparse map"))?;
            more = header::gnu_sparse_extension(&block, &mut map)?;
            limit_segments(map.len() as u64)?;
        }
        self.sparse(header.gnu_real_size()?, map)
    }

    fn pax_sparse(&mut self, records: &mut Records, path: &mut Vec<u8>) -> Result<Extent> {
        let sparse = std::mem::take(&mut records.sparse);
        let version = sparse.major.zip(sparse.minor);
        let is_sparse = version.is_some() || sparse.real_size.is_some() || !sparse.map.is_empty();
        if !is_sparse {
            return Ok((self.payload, None));
        }
        let real_size = sparse
            .real_size
            .ok_or_else(|| Error::corrupt("a sparse file without its length").path(path))?;
        let map = match version {
            Some((1, 0)) => self.sparse_map_in_payload()?,
            None | Some((0, 0 | 1)) => {
                if sparse.count.is_some_and(|count| count != sparse.map.len() as u64) {
                    return Err(Error::corrupt("a sparse map of another length than promised"));
                }
                limit_segments(sparse.map.len() as u64)?;
                sparse.map
            }
            Some((major, minor)) => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("GNU sparse files of version {major}.{minor} are not supported"),
                ));
            }
        };
        if let Some(name) = sparse.name {
            *path = name;
        }
        self.sparse(real_size, map)
    }

    /// Version 1.0: decimal numbers, a line each, in whole blocks before the data: the count, then the pairs.
    fn sparse_map_in_payload(&mut self) -> Result<Vec<(u64, u64)>> {
        let mut numbers = Vec::new();
        let mut line = Vec::new();
        let mut wanted = 1;
        while numbers.len() < wanted {
            if self.payload < BLOCK as u64 {
                return Err(Error::corrupt("the sparse map is longer than the entry's data"));
            }
            let offset = self.offset;
            let block = self.read_block()?.ok_or_else(|| truncated(offset, "in a sparse map"))?;
            self.payload -= BLOCK as u64;
            for byte in block {
                if numbers.len() == wanted {
                    break;
                }
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > 20 {
                        return Err(Error::corrupt("a number in the sparse map is too long"));
                    }
                    continue;
                }
                numbers.push(pax::decimal(&line)?);
                line.clear();
                if numbers.len() == 1 {
                    limit_segments(numbers[0])?;
                    wanted += 2 * usize::try_from(numbers[0]).unwrap_or(SEGMENTS_MAX);
                }
            }
        }
        let (pairs, _) = numbers[1..].as_chunks::<2>();
        Ok(pairs.iter().map(|&[offset, length]| (offset, length)).collect())
    }

    /// Checks a sparse map against the file's length and the payload.
    fn sparse(&self, size: u64, mut map: Vec<(u64, u64)>) -> Result<Extent> {
        let mut end = 0;
        let mut total = 0;
        for &(offset, length) in &map {
            let next = offset.checked_add(length).filter(|&next| offset >= end && next <= size);
            end = next.ok_or_else(|| {
                Error::corrupt(format!(
                    "the sparse segment of {length} bytes at {offset} overlaps another or passes the file's end at {size}"
                ))
            })?;
            total += length;
        }
        if total != self.payload {
            return Err(Error::corrupt(format!(
                "a sparse map of {total} bytes for {} bytes of data",
                self.payload
            )));
        }
        if size > i64::MAX as u64 {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("a size of {size} bytes is out of range"),
            ));
        }
        map.retain(|&(_, length)| length > 0);
        Ok((size, Some(map)))
    }
}

/// A file's length and, if it is sparse, its data segments.
type Extent = (u64, Option<Vec<(u64, u64)>>);

/// What extension entries have said about the entry that is to come.
#[derive(Debug)]
struct Extensions {
    records: Option<Records>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    /// Bytes of extensions still allowed.
    budget: u64,
}

impl Default for Extensions {
    fn default() -> Self {
        Self { records: None, long_name: None, long_link: None, budget: METADATA_MAX }
    }
}

impl Extensions {
    fn refuse_orphans(&self, offset: u64) -> Result<()> {
        if self.records.is_some() || self.long_name.is_some() || self.long_link.is_some() {
            return Err(Error::corrupt("no entry follows an extended header").at(offset));
        }
        Ok(())
    }
}

/// A long name ends at its first NUL; only NULs may follow.
fn long_name(mut bytes: Vec<u8>) -> Result<Vec<u8>> {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    if bytes[end..].iter().any(|&byte| byte != 0) {
        return Err(Error::invalid(format!(
            "the name \"{}\" holds a NUL byte",
            bytes.escape_ascii()
        )));
    }
    bytes.truncate(end);
    Ok(bytes)
}

fn limit_segments(count: u64) -> Result<()> {
    if count > SEGMENTS_MAX as u64 {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("a sparse file of more than {SEGMENTS_MAX} segments"),
        ));
    }
    Ok(())
}

fn is_zero(block: &[u8; BLOCK]) -> bool {
    block.iter().all(|&byte| byte == 0)
}

fn truncated(offset: u64, place: &str) -> Error {
    Error::corrupt(format!("the tar is cut off {place}")).at(offset)
}

/// The input's buffer, filled. Free-standing so that it borrows nothing but the input.
fn fill<R: BufRead>(input: &mut R, offset: u64) -> Result<&[u8]> {
    // The borrow of a returned `fill_buf` ends only with the function, hence the second call, which does
    // nothing but return the buffer.
    while let Err(error) = input.fill_buf() {
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(Error::io("cannot read the tar", error).at(offset));
        }
    }
    input.fill_buf().map_err(|error| Error::io("cannot read the tar", error).at(offset))
}
