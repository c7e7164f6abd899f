//! The socket to the machine's process (QEMU's docs/interop/vhost-user.rst): which memory the guest has, where the rings are, what the
//! device's configuration says.

use std::io::{self, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use sys::SharedMemory;

use super::memory::{GuestMemory, REGIONS, Region};
use super::queue::{self, Available, Control, LARGEST, Rings, Used};

/// A device with one queue.
pub(crate) trait Device: Send + Sync + 'static {
    /// Feature bits of its kind.
    fn features(&self) -> u64;
    /// Its configuration space, which does not change.
    fn configuration(&self) -> Vec<u8>;
    /// Serves the queue until it is stopped. An error means that the guest's driver gets no more answers before it has reset
    /// the device.
    fn run(&self, available: Available, used: Used) -> io::Result<()>;
}

/// `VIRTIO_RING_F_INDIRECT_DESC`, `VIRTIO_RING_F_EVENT_IDX`, `VIRTIO_F_VERSION_1`
const RING_FEATURES: u64 = 1 << 28 | EVENT_INDEX | 1 << 32;
const EVENT_INDEX: u64 = 1 << 29;
/// `VHOST_USER_F_PROTOCOL_FEATURES`
const PROTOCOL: u64 = 1 << 30;
/// `REPLY_ACK`, `CONFIG` and `CONFIGURE_MEM_SLOTS`.
const PROTOCOL_FEATURES: u64 = 1 << 3 | 1 << 9 | 1 << 15;

/// Version 1 and "this is a reply" of a message's flags; and the flag of one that wants to know how it went.
const REPLY: u32 = 1 | 1 << 2;
const NEED_REPLY: u32 = 1 << 3;
/// Longest message: a table of eight regions, or a configuration of 256 bytes.
const LONGEST: u32 = 8 + 8 * 32;
/// Most descriptors of one message.
const DESCRIPTORS: usize = 8;

/// The requests that are known; the rest is refused by ending the connection.
mod request {
    pub(super) const GET_FEATURES: u32 = 1;
    pub(super) const SET_FEATURES: u32 = 2;
    pub(super) const SET_OWNER: u32 = 3;
    pub(super) const RESET_OWNER: u32 = 4;
    pub(super) const SET_MEM_TABLE: u32 = 5;
    pub(super) const SET_VRING_NUM: u32 = 8;
    pub(super) const SET_VRING_ADDR: u32 = 9;
    pub(super) const SET_VRING_BASE: u32 = 10;
    pub(super) const GET_VRING_BASE: u32 = 11;
    pub(super) const SET_VRING_KICK: u32 = 12;
    pub(super) const SET_VRING_CALL: u32 = 13;
    pub(super) const SET_VRING_ERR: u32 = 14;
    pub(super) const GET_PROTOCOL_FEATURES: u32 = 15;
    pub(super) const SET_PROTOCOL_FEATURES: u32 = 16;
    pub(super) const GET_QUEUE_NUM: u32 = 17;
    pub(super) const SET_VRING_ENABLE: u32 = 18;
    pub(super) const GET_CONFIG: u32 = 24;
    pub(super) const SET_CONFIG: u32 = 25;
    pub(super) const GET_MAX_MEM_SLOTS: u32 = 36;
    pub(super) const ADD_MEM_REG: u32 = 37;
    pub(super) const REM_MEM_REG: u32 = 38;
}

/// Serves a device until the machine's process closes the socket.
///
/// # Errors
/// The socket fails, or what comes by it is not the protocol.
pub(crate) fn serve(stream: &UnixStream, device: Arc<dyn Device>) -> io::Result<()> {
    let mut backend = Backend {
        device,
        features: 0,
        memory: Arc::default(),
        ring: Ring::default(),
        call: Arc::default(),
        running: None,
    };
    let served = backend.serve(stream);
    backend.stop();
    served
}

#[derive(Debug, Default)]
struct Ring {
    size: u16,
    addresses: Option<(u64, u64, u64)>,
    base: u16,
    kick: Option<OwnedFd>,
    enabled: bool,
}

struct Running {
    control: Arc<Control>,
    thread: JoinHandle<()>,
}

struct Backend {
    device: Arc<dyn Device>,
    features: u64,
    memory: Arc<Mutex<GuestMemory>>,
    ring: Ring,
    call: Arc<Mutex<Option<OwnedFd>>>,
    running: Option<Running>,
}

struct Message {
    request: u32,
    need_reply: bool,
    payload: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("vhost-user: {}", what.into()))
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Backend {
    fn serve(&mut self, stream: &UnixStream) -> io::Result<()> {
        while let Some(message) = receive(stream)? {
            let (request, need_reply) = (message.request, message.need_reply);
            let answer = self.perform(message)?;
            let answer = match answer {
                None if need_reply => Some(0_u64.to_le_bytes().to_vec()),
                answer => answer,
            };
            if let Some(payload) = answer {
                let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
                let words = [request, REPLY, length].map(u32::to_le_bytes);
                let mut stream = stream;
                stream.write_all(&[words.as_flattened(), &payload].concat())?;
            }
        }
        Ok(())
    }

    fn perform(&mut self, mut message: Message) -> io::Result<Option<Vec<u8>>> {
        let number = |number: u64| Ok(Some(number.to_le_bytes().to_vec()));
        match message.request {
            request::GET_FEATURES => {
                return number(RING_FEATURES | PROTOCOL | self.device.features());
            }
            request::SET_FEATURES => self.features = message.number()?,
            request::SET_OWNER | request::RESET_OWNER | request::SET_VRING_ERR => {}
            request::GET_PROTOCOL_FEATURES => return number(PROTOCOL_FEATURES),
            request::SET_PROTOCOL_FEATURES => {
                if message.number()? & !PROTOCOL_FEATURES != 0 {
                    return Err(invalid("features that were not offered"));
                }
            }
            request::GET_QUEUE_NUM => return number(1),
            request::GET_MAX_MEM_SLOTS => return number(REGIONS as u64),
            request::SET_MEM_TABLE => self.set_memory(message)?,
            request::ADD_MEM_REG => {
                let [region] = message.regions()?.try_into().map_err(|_| invalid("no region"))?;
                let descriptor = message.descriptors.pop();
                let mut memory = lock(&self.memory);
                *memory = add(&memory, region, descriptor)?;
            }
            request::REM_MEM_REG => {
                let [region] = message.regions()?.try_into().map_err(|_| invalid("no region"))?;
                let mut memory = lock(&self.memory);
                // What cannot be mapped was never there.
                if let Some(without) = memory.without(region.guest) {
                    *memory = without;
                }
            }
            request::SET_VRING_NUM => {
                let size = message.ring()?;
                let size = u16::try_from(size).ok().filter(|size| *size <= LARGEST);
                self.ring.size = size.ok_or_else(|| invalid("a queue that is too large"))?;
            }
            request::SET_VRING_BASE => {
                self.ring.base = u16::try_from(message.ring()?).map_err(|_| invalid("a base"))?;
            }
            request::SET_VRING_ADDR => {
                let numbers = message.numbers::<5>()?;
                // The queue's number and flags of logging; then descriptors, used, available, log.
                self.ring.addresses = Some((numbers[1], numbers[3], numbers[2]));
            }
            request::SET_VRING_KICK => {
                self.stop();
                let kick = message.descriptors.pop();
                self.ring.kick = Some(kick.ok_or_else(|| invalid("a queue without kicks"))?);
                if self.features & PROTOCOL == 0 {
                    self.ring.enabled = true;
                }
                self.start()?;
            }
            request::SET_VRING_CALL => *lock(&self.call) = message.descriptors.pop(),
            request::SET_VRING_ENABLE => {
                self.ring.enabled = message.ring()? != 0;
                if self.ring.enabled { self.start()? } else { self.stop() }
            }
            request::GET_VRING_BASE => {
                self.stop();
                self.ring.kick = None;
                let words = [0, u32::from(self.ring.base)].map(u32::to_le_bytes);
                return Ok(Some(words.as_flattened().to_vec()));
            }
            request::GET_CONFIG => {
                let configuration = self.device.configuration();
                let words = message.payload.get_mut(..12).ok_or_else(|| invalid("its length"))?;
                let [a, b, c, d, e, f, g, h, ..] = *words else {
                    return Err(invalid("its length"));
                };
                let from = u32::from_le_bytes([a, b, c, d]) as usize;
                let size = u32::from_le_bytes([e, f, g, h]) as usize;
                let asked = message.payload.get_mut(12..).filter(|asked| asked.len() == size);
                let asked = asked.ok_or_else(|| invalid("its length"))?;
                for (index, byte) in asked.iter_mut().enumerate() {
                    *byte = configuration.get(from.saturating_add(index)).copied().unwrap_or(0);
                }
                return Ok(Some(message.payload));
            }
            // Nothing in it can be written.
            request::SET_CONFIG => {}
            unknown => return Err(invalid(format!("request {unknown} is not known"))),
        }
        Ok(None)
    }

    fn set_memory(&mut self, mut message: Message) -> io::Result<()> {
        let regions = message.regions()?;
        if regions.len() != message.descriptors.len() {
            return Err(invalid("a memory without its file"));
        }
        let mut memory = GuestMemory::default();
        for (region, descriptor) in regions.into_iter().zip(message.descriptors.drain(..)) {
            memory = add(&memory, region, Some(descriptor))?;
        }
        *lock(&self.memory) = memory;
        Ok(())
    }

    /// Starts the queue once everything about it is known.
    fn start(&mut self) -> io::Result<()> {
        if !self.ring.enabled || self.running.is_some() {
            return Ok(());
        }
        let (Some(kick), Some(addresses)) = (&self.ring.kick, self.ring.addresses) else {
            return Ok(());
        };
        let rings = Rings::find(&lock(&self.memory), self.ring.size, addresses)
            .ok_or_else(|| invalid("a queue that is not in memory"))?;
        let control = Arc::new(Control {
            event_index: self.features & EVENT_INDEX != 0,
            kick: kick.try_clone()?,
            call: self.call.clone(),
            memory: self.memory.clone(),
            stop: AtomicBool::new(false),
            next: AtomicU16::new(self.ring.base),
        });
        let (available, used) = queue::open(rings, control.clone())?;
        let device = self.device.clone();
        let thread = std::thread::Builder::new()
            .name("virtio".to_owned())
            // What a guest's driver does to its own queue concerns the guest alone.
            .spawn(move || drop(device.run(available, used)))?;
        self.running = Some(Running { control, thread });
        Ok(())
    }

    /// Stops the queue when all requests that it took are answered.
    fn stop(&mut self) {
        if let Some(Running { control, thread }) = self.running.take() {
            control.stop();
            let _ = thread.join();
            self.ring.base = control.next.load(Ordering::SeqCst);
        }
    }
}

/// A region as a message has it.
struct Described {
    guest: u64,
    length: u64,
    process: u64,
    offset: u64,
}

/// Adds a region, or leaves it out if it cannot be mapped without danger: the file of a pmem device may shrink.
fn add(
    memory: &GuestMemory,
    region: Described,
    descriptor: Option<OwnedFd>,
) -> io::Result<GuestMemory> {
    let descriptor = descriptor.ok_or_else(|| invalid("a memory without its file"))?;
    let Described { guest, length, process, offset } = region;
    match SharedMemory::map(&descriptor, offset, length) {
        Ok(mapped) => memory
            .with(Region { guest, process, memory: mapped })
            .ok_or_else(|| invalid("too many regions of memory")),
        Err(_) => Ok(memory.clone()),
    }
}

impl Message {
    fn numbers<const COUNT: usize>(&self) -> io::Result<[u64; COUNT]> {
        let (numbers, rest) = self.payload.as_chunks::<8>();
        let numbers: &[_; COUNT] = numbers.try_into().map_err(|_| invalid("its length"))?;
        if !rest.is_empty() {
            return Err(invalid("its length"));
        }
        Ok(numbers.map(u64::from_le_bytes))
    }

    fn number(&self) -> io::Result<u64> {
        self.numbers().map(|[number]| number)
    }

    /// What is said of the queue, the only one.
    fn ring(&self) -> io::Result<u32> {
        let number = self.number()?.to_le_bytes();
        let [a, b, c, d, e, f, g, h] = number;
        match u32::from_le_bytes([a, b, c, d]) {
            0 => Ok(u32::from_le_bytes([e, f, g, h])),
            _ => Err(invalid("another queue")),
        }
    }

    /// The regions: in a table a count comes first, else a number without a meaning.
    fn regions(&self) -> io::Result<Vec<Described>> {
        let (numbers, _) = self.payload.as_chunks::<8>();
        let (regions, rest) = numbers.get(1..).unwrap_or_default().as_chunks::<4>();
        if !rest.is_empty() || self.payload.len() != 8 + regions.len() * 32 {
            return Err(invalid("its length"));
        }
        let count = numbers.first().map_or(0, |bytes| u64::from_le_bytes(*bytes) & 0xffff_ffff);
        if self.request == request::SET_MEM_TABLE && count != regions.len() as u64 {
            return Err(invalid("a table of another length"));
        }
        let region = |words: &[[u8; 8]; 4]| {
            let [guest, length, process, offset] = words.map(u64::from_le_bytes);
            Described { guest, length, process, offset }
        };
        Ok(regions.iter().map(region).collect())
    }
}

/// The next message; nothing at the end.
fn receive(mut stream: &UnixStream) -> io::Result<Option<Message>> {
    let mut head = [0; 12];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = loop {
        match recvmsg(stream, &mut [IoSliceMut::new(&mut head)], &mut ancillary, flags) {
            Err(rustix::io::Errno::INTR) => {}
            received => break received?.bytes,
        }
    };
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    if received == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut head[received..])?;
    let (words, _) = head.as_chunks::<4>();
    let [request, flags, length] =
        <[_; 3]>::try_from(words).map_err(|_| invalid("its length"))?.map(u32::from_le_bytes);
    if length > LONGEST || flags & 3 != 1 {
        return Err(invalid(format!("request {request} of {length} bytes, flags {flags:#x}")));
    }
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload)?;
    Ok(Some(Message { request, need_reply: flags & NEED_REPLY != 0, payload, descriptors }))
}
