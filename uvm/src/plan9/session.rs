//! What one connection asks, answered. No threads and no stream here: the fuzzer and the tests call the same.

use std::io::IoSliceMut;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError};

use rustix::fs::{FileType, RawDir, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};

use super::attribute;
use super::change::{self, Changes, Owner};
use super::fid::{Fid, Fids, Open};
use super::lock::Range;
use super::message::{HEADER, Malformed, NO_FID, REMOVE_DIRECTORY, Reply, Request, lock};
use super::node::Node;
use super::server::Shares;
use super::wire::{Data, Field, List, MAX_WALK, Qid};
use crate::virtio::Pieces;

/// The dialect that is spoken.
const VERSION: &[u8] = b"9P2000.L";

/// Longest message before both sides have agreed on another length, and the least that can be agreed on (the kernel's
/// client refuses less than 4096).
const MSIZE_FIRST: u32 = 8192;
const MSIZE_LEAST: u32 = 4096;

/// Longest message that is agreed on: 512 KiB of data with the longest header of a read or write (`P9_IOHDRSZ`).
pub(super) const MSIZE_MOST: u32 = 512 * 1024 + 24;

/// Length of `Rread` and `Rreaddir` before the data.
const DATA_HEADER: u32 = 11;

/// What the kernel's client makes `statfs` say of a share of QEMU or of ours (`V9FS_MAGIC`).
const FILE_SYSTEM: u32 = 0x0102_1997;

/// The answer to a request; used again for the next one.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// The message, but for the data of a read.
    pub(super) message: Vec<u8>,
    /// Where data is read to. Longer than what it holds: it is not cleared between requests.
    payload: Vec<u8>,
    used: usize,
    listing: Vec<u8>,
    /// The guest's place for the answer, if it has one: data of a file is read there at once.
    pub(super) room: Option<Pieces>,
    /// Bytes that have been.
    pub(super) placed: usize,
}

impl Answer {
    /// The data that follows the message.
    pub(super) fn payload(&self) -> &[u8] {
        &self.payload[..self.used]
    }

    fn reply(&mut self, tag: u16, reply: &Reply<'_>) {
        (self.used, self.placed) = (0, 0);
        reply.write(tag, &mut self.message);
    }

    /// An error, by Linux's numbers: the protocol's, and those that x86 and ARM share.
    pub(super) fn refuse(&mut self, tag: u16, error: Errno) {
        let errno = u32::try_from(error.raw_os_error()).ok().filter(|&number| number != 0);
        let io = Errno::IO.raw_os_error().cast_unsigned();
        self.reply(tag, &Reply::Error { errno: errno.unwrap_or(io) });
    }

    /// A reply that ends with what has been put into the payload.
    fn reply_with_payload(&mut self, tag: u16, reply: &Reply<'_>, used: usize) {
        self.reply(tag, reply);
        self.used = used;
        self.end_with(used);
    }

    /// A reply that ends with what has been read into the guest's room.
    fn reply_with_placed(&mut self, tag: u16, reply: &Reply<'_>, placed: usize) {
        self.reply(tag, reply);
        self.placed = placed;
        self.end_with(placed);
    }

    fn end_with(&mut self, used: usize) {
        let length = u32::try_from(self.message.len() + used).unwrap_or(u32::MAX);
        self.message[..4].copy_from_slice(&length.to_le_bytes());
        let count = self.message.len() - 4;
        self.message[count..]
            .copy_from_slice(&u32::try_from(used).unwrap_or(u32::MAX).to_le_bytes());
    }

    fn payload_of(&mut self, length: usize) -> &mut [u8] {
        if self.payload.len() < length {
            self.payload.resize(length, 0);
        }
        &mut self.payload[..length]
    }
}

/// A connection's state.
#[derive(Debug)]
pub(super) struct Session {
    shares: Arc<Shares>,
    /// Tells the locks of connections apart.
    number: u64,
    msize: AtomicU32,
    fids: Fids,
}

impl Session {
    pub(super) fn new(shares: Arc<Shares>, number: u64) -> Self {
        Self { shares, number, msize: MSIZE_FIRST.into(), fids: Fids::default() }
    }

    /// Longest message that may come now.
    pub(super) fn msize(&self) -> u32 {
        self.msize.load(Ordering::Relaxed)
    }

    /// Answers a message whose header was taken off. `may_wait` is called before anything that may wait for a disk.
    pub(super) fn answer(
        &self,
        kind: u8,
        tag: u16,
        body: &[u8],
        answer: &mut Answer,
        may_wait: &mut dyn FnMut(),
    ) {
        let result = match Request::read(kind, body) {
            Ok(request) => self.perform(tag, request, answer, may_wait),
            Err(Malformed::Unknown(_)) => Err(Errno::OPNOTSUPP),
            Err(Malformed::Fields) => Err(Errno::PROTO),
        };
        if let Err(error) = result {
            answer.refuse(tag, error);
        }
    }

    fn perform(
        &self,
        tag: u16,
        request: Request<'_>,
        answer: &mut Answer,
        may_wait: &mut dyn FnMut(),
    ) -> Result<(), Errno> {
        let reply = match request {
            Request::Version { msize, version } => self.version(msize, version)?,
            // There is nothing to prove: who reaches the stream is the guest.
            Request::Auth { .. } => return Err(Errno::OPNOTSUPP),
            Request::Attach { fid, auth_fid, share, uid, .. } => {
                self.attach(fid, auth_fid, share, uid)?
            }
            // The connection has waited for the request that is meant.
            Request::Flush { .. } => Reply::Flush,
            Request::Walk { fid, new_fid, names } => self.walk(fid, new_fid, names.as_slice())?,
            Request::Clunk { fid } => self.clunk(fid)?,
            Request::Remove { fid } => {
                // Names are not kept: the client is told to remove by name, and the fid is gone either way.
                self.clunk(fid)?;
                return Err(Errno::OPNOTSUPP);
            }
            Request::Rename { .. } => return Err(Errno::OPNOTSUPP),
            Request::Read { fid, offset, count } => {
                return self.read(tag, fid, offset, count, answer, may_wait);
            }
            Request::Write { fid, offset, data } => {
                may_wait();
                self.write(fid, offset, data.0)?
            }
            Request::Fsync { fid, data_only } => {
                may_wait();
                self.sync(fid, data_only)?
            }
            Request::Readdir { fid, offset, count } => {
                return self.read_directory(tag, fid, offset, count, answer);
            }
            Request::Readlink { fid } => {
                let node = self.file(fid)?;
                if node.kind() != FileType::Symlink {
                    return Err(Errno::INVAL);
                }
                let target = rustix::fs::readlinkat(node.fd(), "", Vec::new())?;
                answer.reply(tag, &Reply::Readlink { target: target.to_bytes() });
                return Ok(());
            }
            Request::Getlock { fid, kind, start, length, process, client } => {
                let fid_number = fid;
                let node = self.file(fid)?;
                let range = self.range(fid_number, kind, start, length, process, client);
                let refusing = self.shares.locks().refusing(node.identity(), &range);
                let reply = match &refusing {
                    None => Reply::Getlock { kind: lock::UNLOCK, start, length, process, client },
                    Some(held) => Reply::Getlock {
                        kind: if held.exclusive { lock::WRITE } else { lock::READ },
                        start: held.bytes.0,
                        length: if held.bytes.1 == u64::MAX {
                            0
                        } else {
                            held.bytes.1 - held.bytes.0
                        },
                        process: held.process,
                        client: &held.client,
                    },
                };
                answer.reply(tag, &reply);
                return Ok(());
            }
            Request::Lock { fid, kind, start, length, process, client, .. } => {
                let node = self.file(fid)?;
                let range = self.range(fid, kind, start, length, process, client);
                Reply::Lock { status: self.shares.locks().set(node.identity(), kind, range)? }
            }
            other => self.change(other)?,
        };
        answer.reply(tag, &reply);
        Ok(())
    }

    /// What opens, makes or changes files, and what asks for their state.
    fn change(&self, request: Request<'_>) -> Result<Reply<'static>, Errno> {
        Ok(match request {
            Request::Statfs { fid } => statfs(&*self.file(fid)?)?,
            Request::Getattr { fid, .. } => {
                Reply::Getattr { attributes: self.file(fid)?.attributes()? }
            }
            Request::Lopen { fid: number, flags } => {
                let fid = self.closed(number)?;
                let (node, open) = change::open(&fid, flags)?;
                let qid = node.qid();
                self.fids.replace(number, fid.opened(node, open))?;
                Reply::Lopen { qid, io_unit: 0 }
            }
            Request::Lcreate { fid: number, name, flags, mode, gid } => {
                let fid = self.closed(number)?;
                let owner = Owner { uid: fid.uid, gid, mode };
                let (node, open) = change::create(&fid, name, flags, owner)?;
                let qid = node.qid();
                self.fids.replace(number, fid.opened(node, open))?;
                Reply::Lcreate { qid, io_unit: 0 }
            }
            Request::Symlink { directory, name, target, gid } => {
                let directory = self.fids.get(directory)?;
                let owner = Owner { uid: directory.uid, gid, mode: 0o777 };
                Reply::Symlink { qid: change::make_symlink(&directory, name, target, owner)?.qid() }
            }
            Request::Mknod { directory, name, mode, major, minor, gid } => {
                let directory = self.fids.get(directory)?;
                let owner = Owner { uid: directory.uid, gid, mode };
                let node = change::make_node(&directory, name, (major, minor), owner)?;
                Reply::Mknod { qid: node.qid() }
            }
            Request::Mkdir { directory, name, mode, gid } => {
                let directory = self.fids.get(directory)?;
                let owner = Owner { uid: directory.uid, gid, mode };
                Reply::Mkdir { qid: change::make_directory(&directory, name, owner)?.qid() }
            }
            Request::Link { directory, fid, name } => {
                change::link(&*self.fids.get(directory)?, &*self.fids.get(fid)?, name)?;
                Reply::Link
            }
            Request::Renameat { old_directory, old_name, new_directory, new_name } => {
                let (old, new) = (self.fids.get(old_directory)?, self.fids.get(new_directory)?);
                change::rename(&old, old_name, &new, new_name)?;
                Reply::Renameat
            }
            Request::Unlinkat { directory, name, flags } => {
                if flags & !REMOVE_DIRECTORY != 0 {
                    return Err(Errno::INVAL);
                }
                change::unlink(&*self.fids.get(directory)?, name, flags != 0)?;
                Reply::Unlinkat
            }
            Request::Setattr {
                fid,
                valid,
                mode,
                uid,
                gid,
                size,
                atime,
                atime_nsec,
                mtime,
                mtime_nsec,
            } => {
                let (atime, mtime) = ((atime, atime_nsec), (mtime, mtime_nsec));
                let changes = Changes { valid, mode, uid, gid, size, atime, mtime };
                change::set_attributes(&*self.fids.get(fid)?, &changes)?;
                Reply::Setattr
            }
            Request::Xattrwalk { fid, new_fid, name } => {
                let fid = self.fids.get(fid)?;
                let held = self.fids.hold_attribute()?;
                let value = attribute::read(fid.file()?, name)?;
                let size = value.len() as u64;
                let attribute =
                    fid.opened(fid.node.clone(), Open::Attribute { value, _held: held });
                self.fids.add(new_fid, attribute)?;
                Reply::Xattrwalk { size }
            }
            Request::Xattrcreate { fid: number, name, size, flags } => {
                let fid = self.closed(number)?;
                fid.share.changeable(fid.file()?)?;
                let setting = attribute::begin(name, size, flags)?;
                let held = self.fids.hold_attribute()?;
                let open = Open::Setting { setting: setting.into(), _held: held };
                self.fids.replace(number, fid.opened(fid.node.clone(), open))?;
                Reply::Xattrcreate
            }
            // All others have been answered before.
            _ => return Err(Errno::OPNOTSUPP),
        })
    }

    fn sync(&self, fid: u32, data_only: u32) -> Result<Reply<'static>, Errno> {
        let fid = self.fids.get(fid)?;
        match fid.open {
            Open::File { .. } if data_only != 0 => rustix::fs::fdatasync(fid.node.fd())?,
            Open::File { .. } | Open::Directory(_) => rustix::fs::fsync(fid.node.fd())?,
            _ => return Err(Errno::BADF),
        }
        Ok(Reply::Fsync)
    }

    fn file(&self, fid: u32) -> Result<Arc<Node>, Errno> {
        Ok(self.fids.get(fid)?.file()?.clone())
    }

    /// A fid that may be opened.
    fn closed(&self, fid: u32) -> Result<Arc<Fid>, Errno> {
        let fid = self.fids.get(fid)?;
        if matches!(fid.open, Open::No) { Ok(fid) } else { Err(Errno::BADF) }
    }

    fn version(&self, msize: u32, version: &[u8]) -> Result<Reply<'static>, Errno> {
        self.shares.begin(self.number);
        self.fids.clear();
        self.shares.locks().release(self.number, None);
        if msize < MSIZE_LEAST {
            return Err(Errno::MSGSIZE);
        }
        let msize = msize.min(MSIZE_MOST);
        if version != VERSION {
            return Ok(Reply::Version { msize, version: b"unknown" });
        }
        self.msize.store(msize, Ordering::Relaxed);
        Ok(Reply::Version { msize, version: VERSION })
    }

    /// Closes all files. Nothing can be reached any more before the client begins a new session, which only a client without
    /// a stream can.
    pub(super) fn end(&self) {
        self.fids.close();
        self.shares.locks().release(self.number, None);
    }

    fn attach(
        &self,
        fid: u32,
        auth_fid: u32,
        name: &[u8],
        uid: u32,
    ) -> Result<Reply<'static>, Errno> {
        if auth_fid != NO_FID {
            return Err(Errno::INVAL);
        }
        let share = self.shares.attach(self.number, name)?;
        let node = share.root().clone();
        let qid = node.qid();
        // A client that names no user (all ones) is the superuser.
        let uid = if uid == u32::MAX { 0 } else { uid };
        self.fids.add(fid, Fid { node, share, uid, open: Open::No })?;
        Ok(Reply::Attach { qid })
    }

    fn walk(&self, number: u32, new: u32, names: &[&[u8]]) -> Result<Reply<'static>, Errno> {
        let fid = self.fids.get(number)?;
        let mut at = fid.file()?.clone();
        if number == new && !matches!(fid.open, Open::No) {
            return Err(Errno::BADF);
        }
        let mut qids = [Qid::default(); MAX_WALK];
        let mut walked = 0;
        for (name, qid) in names.iter().zip(&mut qids) {
            match fid.share.step(&at, name) {
                Ok(node) => at = node,
                // Less than was asked for is the answer that no fid was made.
                Err(_) if walked > 0 => break,
                Err(error) => return Err(error),
            }
            *qid = at.qid();
            walked += 1;
        }
        if walked == names.len() {
            let found = fid.of(at);
            if number == new {
                self.fids.replace(new, found)?;
            } else {
                self.fids.add(new, found)?;
            }
        }
        let qids = List::new(&qids[..walked]).ok_or(Errno::INVAL)?;
        Ok(Reply::Walk { qids })
    }

    fn clunk(&self, number: u32) -> Result<Reply<'static>, Errno> {
        let fid = self.fids.remove(number)?;
        if !self.shares.locks().is_empty() {
            self.shares.locks().release(self.number, Some(number));
        }
        if let Open::Setting { setting, .. } = &fid.open {
            let setting = setting.lock().unwrap_or_else(PoisonError::into_inner);
            fid.share.changeable(&fid.node)?;
            attribute::finish(&fid.node, &setting)?;
        }
        Ok(Reply::Clunk)
    }

    fn read(
        &self,
        tag: u16,
        fid: u32,
        offset: u64,
        count: u32,
        answer: &mut Answer,
        may_wait: &mut dyn FnMut(),
    ) -> Result<(), Errno> {
        let fid = self.fids.get(fid)?;
        let count = count.min(self.msize() - DATA_HEADER) as usize;
        let used = match &fid.open {
            Open::File { readable: true, .. } => {
                if let Some(room) = &answer.room {
                    let header = DATA_HEADER as usize;
                    let count = count.min(room.len().saturating_sub(header));
                    let placed = read_file(count, offset, may_wait, |from, offset, cached| {
                        let place = (header + from, count - from);
                        room.read_file(place, fid.node.fd().as_fd(), offset, cached)
                    })?;
                    answer.reply_with_placed(tag, &Reply::Read { data: Data(&[]) }, placed);
                    return Ok(());
                }
                let room = answer.payload_of(count);
                read_file(count, offset, may_wait, |from, offset, cached| {
                    let parts = &mut [IoSliceMut::new(&mut room[from..])];
                    let flags =
                        if cached { ReadWriteFlags::NOWAIT } else { ReadWriteFlags::empty() };
                    rustix::io::preadv2(fid.node.fd(), parts, offset, flags)
                })?
            }
            Open::Attribute { value, .. } => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(value.len());
                let part = &value[from..value.len().min(from.saturating_add(count))];
                answer.payload_of(part.len()).copy_from_slice(part);
                part.len()
            }
            Open::Directory(_) => return Err(Errno::ISDIR),
            _ => return Err(Errno::BADF),
        };
        answer.reply_with_payload(tag, &Reply::Read { data: Data(&[]) }, used);
        Ok(())
    }

    fn write(&self, fid: u32, offset: u64, data: &[u8]) -> Result<Reply<'static>, Errno> {
        let fid = self.fids.get(fid)?;
        let written = match &fid.open {
            Open::File { writable: true, .. } => {
                retry(|| rustix::io::pwrite(fid.node.fd(), data, offset))?
            }
            Open::Setting { setting, .. } => {
                let mut setting = setting.lock().unwrap_or_else(PoisonError::into_inner);
                if offset != setting.value.len() as u64
                    || data.len() > setting.size - setting.value.len()
                {
                    return Err(Errno::INVAL);
                }
                setting.value.extend_from_slice(data);
                data.len()
            }
            _ => return Err(Errno::BADF),
        };
        Ok(Reply::Write { count: u32::try_from(written).map_err(|_| Errno::IO)? })
    }

    fn read_directory(
        &self,
        tag: u16,
        fid: u32,
        offset: u64,
        count: u32,
        answer: &mut Answer,
    ) -> Result<(), Errno> {
        let fid = self.fids.get(fid)?;
        let Open::Directory(position) = &fid.open else { return Err(Errno::BADF) };
        let count = count.min(self.msize() - DATA_HEADER) as usize;
        let mut position = position.lock().unwrap_or_else(PoisonError::into_inner);
        if *position != offset {
            rustix::fs::seek(fid.node.fd(), SeekFrom::Start(offset))?;
        }
        let Answer { payload, listing, .. } = answer;
        payload.clear();
        // An entry of the kernel's is at most 3 bytes shorter than ours.
        listing.reserve_exact((count / 8 * 7).clamp(1024, 64 * 1024));
        let mut entries = RawDir::new(fid.node.fd(), listing.spare_capacity_mut());
        let mut at = offset;
        // Where the descriptor stands is known only when the kernel's buffer was used up.
        let mut known = false;
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let number = fid.share.entry_number(&fid.node, entry.ino());
            if payload.len() + ENTRY + name.len() > count {
                known = false;
                if payload.is_empty() {
                    return Err(Errno::INVAL);
                }
                break;
            }
            at = entry.next_entry_cookie();
            if fid.share.shows(&fid.node, name) {
                write_entry(payload, fid.node.as_ref(), number, at, entry.file_type(), name);
            }
            known = entries.is_buffer_empty();
            if known && !payload.is_empty() {
                break;
            }
        }
        // The end of the directory leaves the descriptor where the last entry was.
        *position = if known { at } else { u64::MAX };
        let used = payload.len();
        answer.reply_with_payload(tag, &Reply::Readdir { entries: Data(&[]) }, used);
        Ok(())
    }

    fn range(
        &self,
        fid: u32,
        kind: u8,
        start: u64,
        length: u64,
        process: u32,
        client: &[u8],
    ) -> Range {
        Range {
            exclusive: kind == lock::WRITE,
            bytes: Range::bytes(start, length),
            connection: self.number,
            fid,
            process,
            client: client.to_vec(),
        }
    }
}

/// Length of a directory's entry without its name: qid, offset, type and the name's length.
const ENTRY: usize = 13 + 8 + 1 + 2;

fn write_entry(
    to: &mut Vec<u8>,
    directory: &Node,
    number: u64,
    next: u64,
    kind: FileType,
    name: &[u8],
) {
    // What is above the root is none of the guest's business.
    let path = if name == b".." { directory.qid().path } else { number };
    let (qid_kind, kind) = match kind {
        FileType::Directory => (Qid::DIRECTORY, 4),
        FileType::Symlink => (Qid::SYMLINK, 10),
        FileType::RegularFile => (Qid::FILE, 8),
        FileType::Fifo => (Qid::FILE, 1),
        FileType::CharacterDevice => (Qid::FILE, 2),
        FileType::BlockDevice => (Qid::FILE, 6),
        FileType::Socket => (Qid::FILE, 12),
        FileType::Unknown => (Qid::FILE, 0_u8),
    };
    Qid { kind: qid_kind, version: 0, path }.write(to);
    next.write(to);
    kind.write(to);
    name.write(to);
}

fn statfs(node: &Node) -> Result<Reply<'static>, Errno> {
    let found = rustix::fs::fstatvfs(node.fd())?;
    let short = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    Ok(Reply::Statfs {
        kind: FILE_SYSTEM,
        block_size: short(found.f_frsize),
        blocks: found.f_blocks,
        free: found.f_bfree,
        available: found.f_bavail,
        files: found.f_files,
        files_free: found.f_ffree,
        id: found.f_fsid,
        name_length: short(found.f_namemax),
    })
}

/// Reads what the host's cache holds at once, and the rest as fast as the disk gives it. `read` is told how many bytes there are
/// already, the offset of the next, and whether only the cache is meant.
fn read_file(
    count: usize,
    offset: u64,
    may_wait: &mut dyn FnMut(),
    mut read: impl FnMut(usize, u64, bool) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    // preadv2(2) takes an offset of -1 for "where the descriptor stands".
    i64::try_from(offset).map_err(|_| Errno::INVAL)?;
    // A file system that does not know the flag, and anything else, is told by the second call.
    let cached = read(0, offset, true).unwrap_or(0);
    if cached == count {
        return Ok(cached);
    }
    may_wait();
    let offset = offset.checked_add(cached as u64).ok_or(Errno::OVERFLOW)?;
    match retry(|| read(cached, offset, false)) {
        Err(_) if cached > 0 => Ok(cached),
        read => Ok(cached + read?),
    }
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Length, type and tag of a message.
pub(super) fn header(bytes: &[u8; HEADER]) -> (u32, u8, u16) {
    let [a, b, c, d, kind, low, high] = *bytes;
    (u32::from_le_bytes([a, b, c, d]), kind, u16::from_le_bytes([low, high]))
}
