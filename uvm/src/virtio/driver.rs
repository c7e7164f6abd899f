//! The other side, for tests: a machine's process and the driver of its guest, in a memory of their own.

use std::io::{IoSlice, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use sys::SharedMemory;

/// The memory's first address as the guest has it, and as the machine's process does.
pub(crate) const GUEST: u64 = 0x10_0000;
const PROCESS: u64 = 0x7f00_0000_0000;
const LENGTH: u64 = 256 * 1024;
/// Places of the queue.
pub(crate) const SIZE: u16 = 8;
pub(crate) const DESCRIPTORS: usize = 0;
pub(crate) const AVAILABLE: usize = 0x400;
pub(crate) const USED: usize = 0x800;
/// Where tests put what they send.
pub(crate) const BUFFERS: usize = 0x1000;

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;
const EVENT_INDEX: u64 = 1 << 29;

pub(crate) struct Driver {
    pub(crate) socket: UnixStream,
    pub(crate) memory: SharedMemory,
    pub(crate) file: OwnedFd,
    pub(crate) kick: OwnedFd,
    call: OwnedFd,
    next: u16,
}

/// The head of a message, and its numbers.
fn message(request: u32, flags: u32, numbers: &[u64]) -> Vec<u8> {
    let length = u32::try_from(numbers.len() * 8).unwrap();
    let head = [request, flags, length].map(u32::to_le_bytes);
    let numbers: Vec<[u8; 8]> = numbers.iter().map(|number| number.to_le_bytes()).collect();
    [head.as_flattened(), numbers.as_flattened()].concat()
}

impl Driver {
    /// With the queue not yet running.
    pub(crate) fn new(socket: UnixStream) -> Self {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("guest", flags).unwrap();
        rustix::fs::ftruncate(&file, LENGTH).unwrap();
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW).unwrap();
        let memory = SharedMemory::map(&file, 0, LENGTH).unwrap();
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        Self { socket, memory, file, kick: event(), call: event(), next: 0 }
    }

    pub(crate) fn send(&self, request: u32, numbers: &[u64], descriptors: &[BorrowedFd<'_>]) {
        self.send_bytes(&message(request, 1, numbers), descriptors);
    }

    pub(crate) fn send_bytes(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
        }
        let flags = SendFlags::NOSIGNAL;
        // The device may have hung up on the message before.
        let _ = sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut ancillary, flags);
    }

    /// Sends a request that has an answer; the answer's payload. Nothing from one that hangs up.
    pub(crate) fn ask(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Option<Vec<u8>> {
        self.send_bytes(bytes, descriptors);
        let mut head = [0; 12];
        (&self.socket).read_exact(&mut head).ok()?;
        assert_eq!(head[..8], [bytes[0], 0, 0, 0, 5, 0, 0, 0]);
        let mut payload = vec![0; u32::from_le_bytes(head[8..].try_into().unwrap()) as usize];
        (&self.socket).read_exact(&mut payload).unwrap();
        Some(payload)
    }

    fn number(&self, request: u32) -> u64 {
        let answer = self.ask(&message(request, 1, &[]), &[]).unwrap();
        u64::from_le_bytes(answer.try_into().unwrap())
    }

    /// Goes through what QEMU does until the queue runs. Returns the device's features.
    pub(crate) fn start(&self) -> u64 {
        let features = self.number(1);
        self.send(16, &[self.number(15)], &[]);
        self.send(3, &[], &[]);
        self.send(2, &[features], &[]);
        assert_eq!(self.number(36), 509);
        // One that wants to know how it went.
        let add = message(37, 1 | 8, &[0, GUEST, LENGTH, PROCESS, 0]);
        assert_eq!(self.ask(&add, &[self.file.as_fd()]), Some(vec![0; 8]));
        self.set_queue(SIZE.into(), [DESCRIPTORS, USED, AVAILABLE].map(|at| at as u64));
        self.send(18, &[1 << 32], &[]);
        self.finish();
        features
    }

    /// Tells where the rings are, by their place in the memory.
    pub(crate) fn set_queue(&self, size: u64, [descriptors, used, available]: [u64; 3]) {
        self.send(8, &[size << 32], &[]);
        self.send(10, &[0], &[]);
        let at = |place: u64| PROCESS.wrapping_add(place);
        self.send(9, &[0, at(descriptors), at(used), at(available), 0], &[]);
        self.send(13, &[0], &[self.call.as_fd()]);
        self.send(12, &[0], &[self.kick.as_fd()]);
    }

    /// Waits until all messages were seen; whether the device has hung up instead.
    pub(crate) fn finish(&self) -> bool {
        self.ask(&message(17, 1, &[]), &[]).is_some()
    }

    /// Stops the queue; the next request it would have taken.
    pub(crate) fn stop(&self) -> u64 {
        u64::from_le_bytes(self.ask(&message(11, 1, &[0]), &[]).unwrap().try_into().unwrap()) >> 32
    }

    pub(crate) fn describe(
        &self,
        table: usize,
        index: u16,
        address: u64,
        length: u32,
        link: (u16, u16),
    ) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        bytes[12..14].copy_from_slice(&link.0.to_le_bytes());
        bytes[14..].copy_from_slice(&link.1.to_le_bytes());
        self.memory.write(table + 16 * usize::from(index), &bytes).unwrap();
    }

    /// Makes a chain of descriptors available and kicks.
    pub(crate) fn offer(&mut self, head: u16) {
        let place = AVAILABLE + 4 + 2 * usize::from(self.next % SIZE);
        self.memory.write(place, &head.to_le_bytes()).unwrap();
        // Wants a notification of the very next answer.
        let event = AVAILABLE + 4 + 2 * usize::from(SIZE);
        self.memory.store(event, self.next).unwrap();
        self.next = self.next.wrapping_add(1);
        self.memory.store(AVAILABLE + 2, self.next).unwrap();
        rustix::io::write(&self.kick, &1_u64.to_ne_bytes()).unwrap();
    }

    /// The next answer: which chain and how long. Nothing if none comes soon.
    pub(crate) fn answer(&self, milliseconds: i64) -> Option<(u32, u32)> {
        let time = Timespec { tv_sec: 0, tv_nsec: milliseconds * 1_000_000 };
        let mut called = [PollFd::new(&self.call, PollFlags::IN)];
        if poll(&mut called, Some(&time)).unwrap() == 0 {
            return None;
        }
        rustix::io::read(&self.call, &mut [0; 8]).unwrap();
        let used = self.memory.load(USED + 2).unwrap();
        let mut element = [0; 8];
        let place = USED + 4 + 8 * usize::from(used.wrapping_sub(1) % SIZE);
        self.memory.read(place, &mut element).unwrap();
        let [a, b, c, d, e, f, g, h] = element;
        Some((u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])))
    }

    /// Sends bytes, with room for an answer in two pieces of which the first has `first` bytes; the answer.
    pub(crate) fn exchange(&mut self, bytes: &[u8], first: u32, rest: u32) -> Vec<u8> {
        self.memory.write(BUFFERS, bytes).unwrap();
        let (request, answer) = (GUEST + BUFFERS as u64, GUEST + 0x1_0000);
        let length = u32::try_from(bytes.len()).unwrap();
        // A table of its own, as Linux does it.
        let table = 0xc00;
        self.describe(table, 0, request, length, (NEXT, 1));
        self.describe(table, 1, answer, first, (NEXT | WRITE, 2));
        self.describe(table, 2, answer + 0x1_0000, rest, (WRITE, 0));
        self.describe(DESCRIPTORS, 3, GUEST + table as u64, 48, (INDIRECT, 0));
        self.offer(3);
        let (head, length) = self.answer(900).unwrap();
        assert_eq!(head, 3);
        let mut answer = vec![0; length as usize];
        let split = answer.len().min(first as usize);
        self.memory.read(0x1_0000, &mut answer[..split]).unwrap();
        self.memory.read(0x2_0000, &mut answer[split..]).unwrap();
        answer
    }

    /// Whether a device's features let both sides say when to be notified.
    pub(crate) fn has_event_index(features: u64) -> bool {
        features & EVENT_INDEX != 0
    }
}
