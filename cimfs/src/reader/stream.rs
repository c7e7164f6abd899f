//! Data: default streams and alternate ones, plain, sparse, or executables in the layout of memory.

use std::io;

use zerocopy::FromZeros as _;
use zerocopy::IntoBytes as _;
use zerocopy::little_endian::U32;

use crate::format::{PeImage, PeMapping, RegionOffset, StreamDescriptor, StreamKind};
use crate::reader::LinkTable;
use crate::{Error, ErrorKind, FileView, Image, Name, ReadAt, Result, StreamFraming, Upcase};

/// The bytes of a file or of an alternate stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    descriptor: StreamDescriptor,
}

/// A contiguous piece of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins in the stream.
    pub offset: u64,
    /// Its length in bytes, not 0.
    pub length: u64,
    /// Where its bytes are; `None`: they are all zero.
    pub source: Option<RegionOffset>,
}

/// All pieces of a stream in order, without gaps. Every one was found to lie inside its region.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Segments(Vec<Segment>);

impl std::ops::Deref for Segments {
    type Target = [Segment];

    fn deref(&self) -> &[Segment] {
        &self.0
    }
}

/// A named stream beside a file's own data, or of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlternateStream {
    /// Its name without `:` and `:$DATA`.
    pub name: Name,
    /// Its bytes.
    pub stream: Stream,
}

impl Stream {
    pub(crate) fn new(descriptor: StreamDescriptor) -> Self {
        Self { descriptor }
    }

    /// Length in bytes.
    pub fn length(&self) -> u64 {
        self.descriptor.length()
    }

    /// What it is.
    pub fn kind(&self) -> StreamKind {
        self.descriptor.kind()
    }

    /// Whether nothing of it is stored: all zeros.
    pub fn is_sparse(&self) -> bool {
        self.descriptor.is_sparse()
    }

    /// The descriptor as it is on disk.
    pub fn descriptor(&self) -> &StreamDescriptor {
        &self.descriptor
    }
}

impl<R: ReadAt> Image<R> {
    /// Where a stream's bytes are, piece by piece.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a directory; [`ErrorKind::Unsupported`] for streams of unknown kind;
    /// [`ErrorKind::Corrupt`], [`ErrorKind::Io`].
    pub fn segments(&self, stream: &Stream) -> Result<Segments> {
        let StreamDescriptor { offset, .. } = stream.descriptor;
        let length = stream.length();
        let unsupported = |what: String| Err(Error::new(ErrorKind::Unsupported, what));
        match stream.kind() {
            StreamKind::Directory => {
                return Err(Error::new(ErrorKind::Invalid, "a directory has no data"));
            }
            StreamKind::Other(kind) => {
                return unsupported(format!("streams of kind {kind} are not public"));
            }
            StreamKind::Data | StreamKind::Pe => {}
        }
        if stream.descriptor.unknown_bits() != 0 {
            let bits = stream.descriptor.unknown_bits();
            return unsupported(format!("a stream with the flags {bits:#x}, which are not public"));
        }
        if length == 0 {
            return Ok(Segments::default());
        }
        if stream.is_sparse() {
            return Ok(Segments(vec![Segment { offset: 0, length, source: None }]));
        }
        if stream.kind() == StreamKind::Pe {
            return self.pe_segments(offset, length);
        }
        self.regions().locate(offset, length)?;
        Ok(Segments(vec![Segment { offset: 0, length, source: Some(offset) }]))
    }

    pub(crate) fn pe_image(&self, at: RegionOffset) -> Result<(PeImage, Vec<PeMapping>)> {
        let pe: PeImage = self.regions().read_struct(at)?;
        let past = || Error::corrupt(at, "an executable's mappings past the end of the region");
        let list = at.checked_add(size_of::<PeImage>() as u64).ok_or_else(past)?;
        let count = usize::from(pe.mapping_count.get());
        self.regions().locate(list, (count * size_of::<PeMapping>()) as u64)?;
        let mut mappings = vec![PeMapping::new_zeroed(); count];
        self.regions().read_metadata(mappings.as_mut_slice().as_mut_bytes(), list)?;
        Ok((pe, mappings))
    }

    fn pe_segments(&self, at: RegionOffset, length: u64) -> Result<Segments> {
        let (pe, mappings) = self.pe_image(at)?;
        // The highest bit is no part of the length; what it says is not known.
        let end = pe.data_length.get() & (u64::MAX >> 1);
        if end < length {
            let what = format!("an executable of {length} bytes with data for {end}");
            return Err(Error::corrupt(at, what));
        }
        if !mappings.is_sorted_by_key(|mapping| mapping.file_offset.get()) {
            return Err(Error::corrupt(at, "the mappings of an executable are out of order"));
        }
        let starts = mappings
            .iter()
            .map(|mapping| (u64::from(mapping.file_offset.get()), u64::from(mapping.delta.get())));
        let starts: Vec<_> = [(0, 0)].into_iter().chain(starts).collect();
        let mut segments = Vec::new();
        for (index, &(offset, delta)) in starts.iter().enumerate() {
            let next = starts.get(index + 1).map_or(length, |(next, _)| (*next).min(length));
            if offset >= next {
                continue;
            }
            let length = next - offset;
            let outside = || Error::corrupt(at, "an executable's data past the end of the region");
            let source = pe.data.checked_add(offset + delta).ok_or_else(outside)?;
            if pe.data.is_null() {
                return Err(Error::corrupt(at, "an executable without data"));
            }
            self.regions().locate(source, length)?;
            segments.push(Segment { offset, length, source: Some(source) });
        }
        Ok(Segments(segments))
    }

    /// A reader of a stream from its start.
    ///
    /// # Errors
    /// As [`segments`](Self::segments).
    pub fn open_stream(&self, stream: &Stream) -> Result<StreamReader<'_, R>> {
        let segments = self.segments(stream)?;
        Ok(StreamReader { image: self, segments, length: stream.length(), position: 0 })
    }

    /// Reads some bytes of a stream at an offset and returns how many, 0 at its end. Better for many reads:
    /// [`open_stream`](Self::open_stream).
    ///
    /// # Errors
    /// As [`segments`](Self::segments).
    pub fn read_at(&self, stream: &Stream, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.open_stream(stream)?.read_at(buf, offset)
    }

    /// How the table of a file's alternate streams is framed, `None` without one.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if it has neither form; [`ErrorKind::Io`].
    pub fn stream_framing(&self, file: &FileView) -> Result<Option<StreamFraming>> {
        Ok(self.stream_table(file)?.map(|(_, framing)| framing))
    }

    /// The alternate streams of a file or directory in the order of its table.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] (also in the iterator), [`ErrorKind::Io`].
    pub fn alternate_streams<'a>(
        &'a self,
        file: &FileView,
    ) -> Result<impl Iterator<Item = Result<AlternateStream>> + use<'a, R>> {
        let table = self.stream_table(file)?.map(|(table, _)| table);
        let count = table.as_ref().map_or(0, LinkTable::count);
        Ok((0..count).filter_map(move |index| {
            table.as_ref().map(|table| {
                let descriptor = table.value(self.regions(), index)?;
                let name = without_type(table.name(self.regions(), index)?);
                Ok(AlternateStream { name, stream: Stream { descriptor } })
            })
        }))
    }

    /// An alternate stream by its name, without regard to case.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`], [`ErrorKind::Io`].
    pub fn alternate_stream(&self, file: &FileView, name: &Name) -> Result<Option<Stream>> {
        let upcase: &Upcase = self.upcase()?;
        for stream in self.alternate_streams(file)? {
            let stream = stream?;
            if upcase.compare(stream.name.units(), name.units()).is_eq() {
                return Ok(Some(stream.stream));
            }
        }
        Ok(None)
    }

    pub(crate) fn stream_table(
        &self,
        file: &FileView,
    ) -> Result<Option<(LinkTable<StreamDescriptor>, StreamFraming)>> {
        let start = file.entry.streams;
        if start.is_null() {
            return Ok(None);
        }
        // A counted table is never taken for a plain one: its count as length and the table's length as number
        // of links do not fit together.
        let plain = LinkTable::open(self.regions(), start, u64::MAX);
        if plain.as_ref().is_err_and(|error| error.kind() == ErrorKind::Corrupt)
            && let Ok(length) = self.regions().read_struct::<U32>(start)
            && let Some(inner) = start.checked_add(4)
            && let Ok(table) = LinkTable::open(self.regions(), inner, length.get().into())
        {
            return Ok(Some((table, StreamFraming::Counted)));
        }
        plain.map(|table| Some((table, StreamFraming::Plain)))
    }
}

/// A stream's name without the type that Windows may or may not store (not known).
fn without_type(name: Name) -> Name {
    let suffix: Vec<u16> = ":$DATA".encode_utf16().collect();
    match name.units().strip_suffix(&*suffix) {
        Some(bare) => Name::from_units(bare),
        None => name,
    }
}

/// Reads a stream, in order or at any offset.
pub struct StreamReader<'a, R> {
    image: &'a Image<R>,
    segments: Segments,
    length: u64,
    position: u64,
}

impl<R> std::fmt::Debug for StreamReader<'_, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamReader")
            .field("length", &self.length)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl<R: ReadAt> StreamReader<'_, R> {
    /// Length of the stream in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Reads some bytes at an offset and returns how many, 0 at the end.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`], [`ErrorKind::Io`].
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        if offset >= self.length || buf.is_empty() {
            return Ok(0);
        }
        let after = self.segments.partition_point(|segment| segment.offset <= offset);
        let segment = self.segments[after - 1];
        let inside = offset - segment.offset;
        let length = (segment.length - inside).min(buf.len() as u64);
        let buf = &mut buf[..usize::try_from(length).unwrap_or(usize::MAX)];
        match segment.source.map(|source| source.checked_add(inside)) {
            None => buf.fill(0),
            Some(source) => {
                let source = source.expect("segments were found to lie inside their region");
                self.image.regions().read_exact(buf, source)?;
            }
        }
        Ok(buf.len())
    }
}

impl<R: ReadAt> io::Read for StreamReader<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.read_at(buf, self.position).map_err(io::Error::other)?;
        self.position += read as u64;
        Ok(read)
    }
}
