//! The messages of 9P2000.L: what the kernel's client sends, and the answers.
//!
//! Known from the protocol's description (intro(5) of Plan 9; the 9P2000.L page of diod) and from `include/net/9p/9p.h`
//! of Linux, whose names are told where the numbers are not the protocol's own.

use super::wire::{Data, Field, List, Qid, Reader};

/// Length of a message's header: its whole length, its type and its tag.
pub const HEADER: usize = 7;

/// The tag of a version request (`P9_NOTAG`).
pub const NO_TAG: u16 = u16::MAX;

/// A fid that is none (`P9_NOFID`), as of an attach without authentication.
pub const NO_FID: u32 = u32::MAX;

/// What the bytes of a message are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// No message of that type is known; the number.
    Unknown(u8),
    /// The fields end before the message does, or the other way round.
    Fields,
}

/// Makes an enum of messages, their reading and their writing of one table.
macro_rules! messages {
    (
        $(#[$about:meta])* $name:ident;
        $( $(#[$doc:meta])* $variant:ident = $number:literal $({ $($field:ident: $type:ty),* $(,)? })?; )*
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the fields have the protocol's names")]
        pub enum $name<'a> {
            $( $(#[$doc])* $variant $({ $($field: $type),* })?, )*
        }

        impl<'a> $name<'a> {
            /// Reads the fields of a message of this type.
            ///
            /// # Errors
            /// [`Malformed`].
            pub fn read(kind: u8, body: &'a [u8]) -> Result<Self, Malformed> {
                let mut from = Reader::new(body);
                let message = match kind {
                    $( $number => Self::$variant $({
                        $($field: Field::read(&mut from).ok_or(Malformed::Fields)?),*
                    })?, )*
                    unknown => return Err(Malformed::Unknown(unknown)),
                };
                if from.is_empty() { Ok(message) } else { Err(Malformed::Fields) }
            }

            /// The message's type on the wire.
            pub fn kind(&self) -> u8 {
                match self {
                    $( Self::$variant $({ $($field: _),* })? => $number, )*
                }
            }

            /// Puts the whole message, header and all, in place of what `to` holds.
            pub fn write(&self, tag: u16, to: &mut Vec<u8>) {
                to.clear();
                to.extend_from_slice(&[0; 4]);
                to.push(self.kind());
                tag.write(to);
                match self {
                    $( Self::$variant $({ $($field),* })? => { $($($field.write(to);)*)? } )*
                }
                let length = u32::try_from(to.len()).unwrap_or(u32::MAX);
                to[..4].copy_from_slice(&length.to_le_bytes());
            }
        }
    };
}

messages! {
    /// A request of the client.
    #[expect(clippy::large_enum_variant, reason = "a walk's names live on the stack, briefly")]
    Request;
    Statfs = 8 { fid: u32 };
    Lopen = 12 { fid: u32, flags: u32 };
    Lcreate = 14 { fid: u32, name: &'a [u8], flags: u32, mode: u32, gid: u32 };
    Symlink = 16 { directory: u32, name: &'a [u8], target: &'a [u8], gid: u32 };
    Mknod = 18 { directory: u32, name: &'a [u8], mode: u32, major: u32, minor: u32, gid: u32 };
    Rename = 20 { fid: u32, directory: u32, name: &'a [u8] };
    Readlink = 22 { fid: u32 };
    Getattr = 24 { fid: u32, mask: u64 };
    Setattr = 26 { fid: u32, valid: u32, mode: u32, uid: u32, gid: u32, size: u64, atime: u64, atime_nsec: u64, mtime: u64, mtime_nsec: u64 };
    Xattrwalk = 30 { fid: u32, new_fid: u32, name: &'a [u8] };
    Xattrcreate = 32 { fid: u32, name: &'a [u8], size: u64, flags: u32 };
    Readdir = 40 { fid: u32, offset: u64, count: u32 };
    Fsync = 50 { fid: u32, data_only: u32 };
    Lock = 52 { fid: u32, kind: u8, flags: u32, start: u64, length: u64, process: u32, client: &'a [u8] };
    Getlock = 54 { fid: u32, kind: u8, start: u64, length: u64, process: u32, client: &'a [u8] };
    Link = 70 { directory: u32, fid: u32, name: &'a [u8] };
    Mkdir = 72 { directory: u32, name: &'a [u8], mode: u32, gid: u32 };
    Renameat = 74 { old_directory: u32, old_name: &'a [u8], new_directory: u32, new_name: &'a [u8] };
    Unlinkat = 76 { directory: u32, name: &'a [u8], flags: u32 };
    Version = 100 { msize: u32, version: &'a [u8] };
    Auth = 102 { fid: u32, user: &'a [u8], share: &'a [u8], uid: u32 };
    Attach = 104 { fid: u32, auth_fid: u32, user: &'a [u8], share: &'a [u8], uid: u32 };
    Flush = 108 { tag: u16 };
    Walk = 110 { fid: u32, new_fid: u32, names: List<&'a [u8]> };
    Read = 116 { fid: u32, offset: u64, count: u32 };
    Write = 118 { fid: u32, offset: u64, data: Data<'a> };
    Clunk = 120 { fid: u32 };
    Remove = 122 { fid: u32 };
}

messages! {
    /// An answer of the server.
    Reply;
    /// `Rlerror`: an error number of Linux.
    Error = 7 { errno: u32 };
    Statfs = 9 { kind: u32, block_size: u32, blocks: u64, free: u64, available: u64, files: u64, files_free: u64, id: u64, name_length: u32 };
    Lopen = 13 { qid: Qid, io_unit: u32 };
    Lcreate = 15 { qid: Qid, io_unit: u32 };
    Symlink = 17 { qid: Qid };
    Mknod = 19 { qid: Qid };
    Rename = 21;
    Readlink = 23 { target: &'a [u8] };
    Getattr = 25 { attributes: Attributes };
    Setattr = 27;
    Xattrwalk = 31 { size: u64 };
    Xattrcreate = 33;
    Readdir = 41 { entries: Data<'a> };
    Fsync = 51;
    Lock = 53 { status: u8 };
    Getlock = 55 { kind: u8, start: u64, length: u64, process: u32, client: &'a [u8] };
    Link = 71;
    Mkdir = 73 { qid: Qid };
    Renameat = 75;
    Unlinkat = 77;
    Version = 101 { msize: u32, version: &'a [u8] };
    Attach = 105 { qid: Qid };
    Flush = 109;
    Walk = 111 { qids: List<Qid> };
    Read = 117 { data: Data<'a> };
    Write = 119 { count: u32 };
    Clunk = 121;
    Remove = 123;
}

/// What `Rgetattr` says of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the fields are those of stat(2)")]
pub struct Attributes {
    /// Which fields are meant: the bits of `P9_STATS_BASIC` and `P9_STATS_BTIME`.
    pub valid: u64,
    pub qid: Qid,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub links: u64,
    /// As the kernel's `new_encode_dev` makes it.
    pub device: u64,
    pub size: u64,
    pub block_size: u64,
    pub blocks: u64,
    /// Access, change of data, change of the inode, birth: seconds and nanoseconds of each.
    pub times: [(u64, u64); 4],
}

impl Attributes {
    /// `P9_STATS_BASIC`: mode to blocks.
    pub const BASIC: u64 = 0x7ff;
    /// `P9_STATS_BTIME`
    pub const BIRTH: u64 = 0x800;
}

impl Field<'_> for Attributes {
    fn read(from: &mut Reader<'_>) -> Option<Self> {
        let mut read = Self {
            valid: u64::read(from)?,
            qid: Qid::read(from)?,
            mode: u32::read(from)?,
            uid: u32::read(from)?,
            gid: u32::read(from)?,
            links: u64::read(from)?,
            device: u64::read(from)?,
            size: u64::read(from)?,
            block_size: u64::read(from)?,
            blocks: u64::read(from)?,
            times: [(0, 0); 4],
        };
        for (seconds, nanoseconds) in &mut read.times {
            *seconds = u64::read(from)?;
            *nanoseconds = u64::read(from)?;
        }
        // `gen` and `data_version`, which no client reads.
        from.take(16)?;
        Some(read)
    }

    fn write(&self, to: &mut Vec<u8>) {
        self.valid.write(to);
        self.qid.write(to);
        self.mode.write(to);
        self.uid.write(to);
        self.gid.write(to);
        self.links.write(to);
        self.device.write(to);
        self.size.write(to);
        self.block_size.write(to);
        self.blocks.write(to);
        for (seconds, nanoseconds) in &self.times {
            seconds.write(to);
            nanoseconds.write(to);
        }
        to.extend_from_slice(&[0; 16]);
    }
}

/// Bits of `Setattr`'s `valid` (`P9_ATTR_*` in fs/9p/vfs_inode_dotl.c).
pub mod valid {
    /// Permissions.
    pub const MODE: u32 = 1;
    /// Owner.
    pub const UID: u32 = 1 << 1;
    /// Group.
    pub const GID: u32 = 1 << 2;
    /// Length.
    pub const SIZE: u32 = 1 << 3;
    /// Time of access: now, unless with [`ATIME_SET`].
    pub const ATIME: u32 = 1 << 4;
    /// Time of change: now, unless with [`MTIME_SET`].
    pub const MTIME: u32 = 1 << 5;
    /// The time is in the message.
    pub const ATIME_SET: u32 = 1 << 7;
    /// The time is in the message.
    pub const MTIME_SET: u32 = 1 << 8;
}

/// Bits of the flags of `Lopen` and `Lcreate` (`P9_DOTL_*`): on the wire x86's values of Linux, whatever the machine.
pub mod open_flags {
    /// Both bits of the access mode: 0 reads, 1 writes, 2 does both.
    pub const ACCESS: u32 = 3;
    /// `O_EXCL`
    pub const EXCLUSIVE: u32 = 0o200;
    /// `O_TRUNC`
    pub const TRUNCATE: u32 = 0o1000;
    /// `O_APPEND`
    pub const APPEND: u32 = 0o2000;
    /// `O_DSYNC`
    pub const DSYNC: u32 = 0o10000;
    /// `O_DIRECTORY`
    pub const DIRECTORY: u32 = 0o200_000;
    /// `O_NOATIME`
    pub const NO_ATIME: u32 = 0o1_000_000;
    /// The bit that makes of `O_DSYNC` an `O_SYNC`.
    pub const SYNC: u32 = 0o4_000_000;
}

/// Flag of `Unlinkat`: the name is a directory (`P9_DOTL_AT_REMOVEDIR`).
pub const REMOVE_DIRECTORY: u32 = 0x200;

/// Numbers of `Lock` and `Getlock`.
pub mod lock {
    /// A shared lock.
    pub const READ: u8 = 0;
    /// An exclusive lock.
    pub const WRITE: u8 = 1;
    /// No lock.
    pub const UNLOCK: u8 = 2;
    /// It is held.
    pub const SUCCESS: u8 = 0;
    /// Somebody else holds it.
    pub const BLOCKED: u8 = 1;
    /// It cannot be had.
    pub const ERROR: u8 = 2;
}
