//! Bytes: of data, streams and descriptors.

use std::collections::BTreeMap;

use super::{ChangeKind, Comparison, Difference, Pair};
use crate::format::RegionOffset;
use crate::{AlternateStream, FileView, Image, ReadAt, Result, Segment, Stream};

/// Bytes compared at a time.
const PIECE: usize = 128 * 1024;

impl<A: ReadAt, B: ReadAt> Comparison<'_, A, B> {
    /// Security descriptor, EAs and reparse buffer.
    pub(super) fn blobs(
        &self,
        left: &FileView,
        right: &FileView,
        found: &mut Vec<Difference>,
    ) -> Result<()> {
        let same = |offset: fn(&FileView) -> RegionOffset| {
            self.shared.is_same_offset(offset(left), offset(right))
        };
        if !same(|file| file.entry.security)
            && self.a.security_descriptor(left)? != self.b.security_descriptor(right)?
        {
            found.push(Difference::Security);
        }
        // Their length is not with them.
        let same_eas = left.entry.ea_length == right.entry.ea_length && same(|f| f.entry.eas);
        if !same_eas && self.a.ea_buffer(left)? != self.b.ea_buffer(right)? {
            found.push(Difference::Eas);
        }
        if !same(|file| file.entry.reparse)
            && self.a.reparse_buffer(left)? != self.b.reparse_buffer(right)?
        {
            found.push(Difference::Reparse);
        }
        Ok(())
    }

    pub(super) fn streams(
        &self,
        left: &FileView,
        right: &FileView,
        found: &mut Vec<Difference>,
    ) -> Result<()> {
        if left.entry.streams.is_null() && right.entry.streams.is_null() {
            return Ok(());
        }
        type Both = (Option<AlternateStream>, Option<AlternateStream>);
        let mut names: BTreeMap<Box<[u16]>, Both> = BTreeMap::new();
        for stream in self.a.alternate_streams(left)? {
            let stream = stream?;
            let folded = self.upcase.fold_units(stream.name.units());
            names.entry(folded).or_default().0 = Some(stream);
        }
        for stream in self.b.alternate_streams(right)? {
            let stream = stream?;
            let folded = self.upcase.fold_units(stream.name.units());
            names.entry(folded).or_default().1 = Some(stream);
        }
        for both in names.into_values() {
            let (name, kind) = match both {
                (Some(left), Some(right)) => {
                    if left.name == right.name && self.data(left.stream, right.stream)?.is_none() {
                        continue;
                    }
                    (right.name, ChangeKind::Modified)
                }
                (None, Some(right)) => (right.name, ChangeKind::Added),
                (Some(left), None) => (left.name, ChangeKind::Removed),
                (None, None) => continue,
            };
            found.push(Difference::Stream { name, kind });
        }
        Ok(())
    }

    pub(super) fn data(&self, left: Stream, right: Stream) -> Result<Option<Difference>> {
        let sizes = Pair { before: left.length(), after: right.length() };
        if let Some(sizes) = sizes.differs() {
            return Ok(Some(Difference::Size(sizes)));
        }
        let offset = self.first_difference(&left, &right)?;
        Ok(offset.map(|offset| Difference::Data { offset }))
    }

    /// Offset of the first byte that differs between two streams of one length.
    fn first_difference(&self, left: &Stream, right: &Stream) -> Result<Option<u64>> {
        let (before, after) = (self.a.segments(left)?, self.b.segments(right)?);
        let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
        let mut buffers = None;
        let mut offset = 0;
        while let (Some(one), Some(other)) = (before.peek(), after.peek()) {
            let end = (one.offset + one.length).min(other.offset + other.length);
            if !self.is_same_source(one, other, offset) {
                let (x, y) = buffers.get_or_insert_with(|| (vec![0; PIECE], vec![0; PIECE]));
                while offset < end {
                    let length = usize::try_from(end - offset).unwrap_or(PIECE).min(PIECE);
                    let (x, y) = (&mut x[..length], &mut y[..length]);
                    fill(self.a, one, x, offset)?;
                    fill(self.b, other, y, offset)?;
                    if x != y {
                        let same = x.iter().zip(y.iter()).take_while(|(x, y)| x == y).count();
                        return Ok(Some(offset + same as u64));
                    }
                    offset += length as u64;
                }
            }
            offset = end;
            before.next_if(|segment| segment.offset + segment.length == end);
            after.next_if(|segment| segment.offset + segment.length == end);
        }
        Ok(None)
    }

    /// Whether two segments have the same bytes at an offset of their stream without being read.
    fn is_same_source(&self, one: &Segment, other: &Segment, offset: u64) -> bool {
        match (source(one, offset), source(other, offset)) {
            (None, None) => true,
            (Some(one), Some(other)) => self.shared.is_same_offset(one, other),
            _ => false,
        }
    }
}

fn source(segment: &Segment, offset: u64) -> Option<RegionOffset> {
    let start = segment.source?;
    Some(start.checked_add(offset - segment.offset).expect("a segment lies inside its region"))
}

fn fill<R: ReadAt>(image: &Image<R>, segment: &Segment, buf: &mut [u8], offset: u64) -> Result<()> {
    match source(segment, offset) {
        Some(source) => image.regions().read_exact(buf, source),
        None => {
            buf.fill(0);
            Ok(())
        }
    }
}
