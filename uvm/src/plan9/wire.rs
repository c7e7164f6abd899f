//! The fields of 9P messages: bounds-checked reading, and writing.
//!
//! All integers are little-endian; a string is a 16-bit length and bytes (intro(5) of Plan 9). Nothing here copies or
//! allocates on reading: what has a length is a slice of the message.

/// What is left of a message to read.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads from the beginning of these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next `length` bytes, if there are as many.
    pub fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// Whether everything has been read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A field of a message.
pub trait Field<'a>: Sized {
    /// Reads it, or nothing if the message is too short for it.
    fn read(from: &mut Reader<'a>) -> Option<Self>;
    /// Appends it.
    fn write(&self, to: &mut Vec<u8>);
}

macro_rules! integers {
    ($($integer:ty),*) => {$(
        impl Field<'_> for $integer {
            fn read(from: &mut Reader<'_>) -> Option<Self> {
                from.take(size_of::<Self>())?.try_into().ok().map(Self::from_le_bytes)
            }
            fn write(&self, to: &mut Vec<u8>) {
                to.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}

integers!(u8, u16, u32, u64);

/// A string: a name, a path in a link, an identifier. Bytes, not text.
impl<'a> Field<'a> for &'a [u8] {
    fn read(from: &mut Reader<'a>) -> Option<Self> {
        let length = u16::read(from)?;
        from.take(length.into())
    }

    /// Bytes beyond the longest string of the protocol (65,535) are left out: names and link targets of Linux are shorter.
    fn write(&self, to: &mut Vec<u8>) {
        let length = u16::try_from(self.len()).unwrap_or(u16::MAX);
        length.write(to);
        to.extend_from_slice(&self[..length.into()]);
    }
}

/// The payload of a read, write or directory reading: a 32-bit length and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Data<'a>(pub &'a [u8]);

impl<'a> Field<'a> for Data<'a> {
    fn read(from: &mut Reader<'a>) -> Option<Self> {
        let length = usize::try_from(u32::read(from)?).ok()?;
        from.take(length).map(Self)
    }

    fn write(&self, to: &mut Vec<u8>) {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        length.write(to);
        to.extend_from_slice(self.0);
    }
}

/// Longest walk that one message may ask for (`P9_MAXWELEM`, walk(5)).
pub const MAX_WALK: usize = 16;

/// A list of at most [`MAX_WALK`] fields: a 16-bit count and the fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct List<T> {
    items: [T; MAX_WALK],
    length: usize,
}

impl<T: Copy + Default> List<T> {
    /// A list of these; `None` if they are too many.
    pub fn new(of: &[T]) -> Option<Self> {
        let mut items = [T::default(); MAX_WALK];
        items.get_mut(..of.len())?.copy_from_slice(of);
        Some(Self { items, length: of.len() })
    }
}

impl<T> List<T> {
    /// The fields.
    pub fn as_slice(&self) -> &[T] {
        &self.items[..self.length]
    }
}

impl<'a, T: Field<'a> + Copy + Default> Field<'a> for List<T> {
    fn read(from: &mut Reader<'a>) -> Option<Self> {
        let length = usize::from(u16::read(from)?);
        let mut items = [T::default(); MAX_WALK];
        for item in items.get_mut(..length)? {
            *item = T::read(from)?;
        }
        Some(Self { items, length })
    }

    fn write(&self, to: &mut Vec<u8>) {
        u16::try_from(self.length).unwrap_or(0).write(to);
        for item in self.as_slice() {
            item.write(to);
        }
    }
}

/// What the server says a file is: its kind, its version, its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Qid {
    /// [`Qid::DIRECTORY`], [`Qid::SYMLINK`] or [`Qid::FILE`].
    pub kind: u8,
    /// Differs between two files that had the same number one after the other.
    pub version: u32,
    /// The client's inode number.
    pub path: u64,
}

impl Qid {
    /// `P9_QTDIR`
    pub const DIRECTORY: u8 = 0x80;
    /// `P9_QTSYMLINK`
    pub const SYMLINK: u8 = 0x02;
    /// `P9_QTFILE`: everything else.
    pub const FILE: u8 = 0;
}

impl Field<'_> for Qid {
    fn read(from: &mut Reader<'_>) -> Option<Self> {
        Some(Self { kind: u8::read(from)?, version: u32::read(from)?, path: u64::read(from)? })
    }

    fn write(&self, to: &mut Vec<u8>) {
        self.kind.write(to);
        self.version.write(to);
        self.path.write(to);
    }
}
