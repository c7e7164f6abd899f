//! A split virtqueue, the device's side (Virtual I/O Device 1.2, section 2.7).
//!
//! The rings lie in the guest's memory and it can write anything there at any time: every number is read once, checked, and used as it was
//! read. What breaks the rules of the rings ends the queue; what merely names memory that is not there fails one request.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::memory::{GuestMemory, Pieces, Place};

/// Flags of a descriptor.
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
/// Length of a descriptor.
const DESCRIPTOR: usize = 16;
/// Most descriptors of one request, in a table of its own too. Linux's client has 128.
const MOST: usize = 1024;
/// Largest queue there can be.
pub(super) const LARGEST: u16 = 32 * 1024;

/// Where a queue's parts are.
#[derive(Debug, Clone)]
pub(super) struct Rings {
    pub(super) size: u16,
    pub(super) descriptors: Place,
    pub(super) available: Place,
    pub(super) used: Place,
}

impl Rings {
    /// Of the addresses that the machine's process has; `None` if they are not all within its memory, or not aligned.
    pub(super) fn find(memory: &GuestMemory, size: u16, at: (u64, u64, u64)) -> Option<Self> {
        if size == 0 || !size.is_power_of_two() || size > LARGEST {
            return None;
        }
        let count = usize::from(size);
        let (descriptors, available, used) = at;
        if descriptors % 16 != 0 || available % 2 != 0 || used % 4 != 0 {
            return None;
        }
        Some(Self {
            size,
            descriptors: memory.of_process(descriptors, DESCRIPTOR * count)?,
            // Both end with a number for notifications.
            available: memory.of_process(available, 4 + 2 * count + 2)?,
            used: memory.of_process(used, 4 + 8 * count + 2)?,
        })
    }
}

/// What runs as long as the queue does.
#[derive(Debug)]
pub(super) struct Control {
    /// Whether both sides say from when on they want to be notified.
    pub(super) event_index: bool,
    /// The guest's kicks.
    pub(super) kick: OwnedFd,
    /// How the guest is notified; nobody, where it looks by itself.
    pub(super) call: Arc<Mutex<Option<OwnedFd>>>,
    pub(super) memory: Arc<Mutex<GuestMemory>>,
    pub(super) stop: AtomicBool,
    /// The next request to take.
    pub(super) next: AtomicU16,
}

impl Control {
    /// Ends what waits for requests.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        // Fails only if there are kicks already.
        let _ = rustix::io::write(&self.kick, &1_u64.to_ne_bytes());
    }
}

/// Which request of the guest it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head(u16);

/// A request of the guest.
#[derive(Debug)]
pub(crate) struct Chain {
    /// By which it is given back.
    pub(crate) head: Head,
    /// What the guest says.
    pub(crate) request: Pieces,
    /// Where the answer goes.
    pub(crate) answer: Pieces,
    /// Whether some of both is not in its memory; the pieces end there.
    pub(crate) fault: bool,
}

/// Where requests come from.
#[derive(Debug)]
pub(crate) struct Available {
    rings: Rings,
    control: Arc<Control>,
    next: u16,
}

/// Where answers go.
#[derive(Debug)]
pub(crate) struct Used {
    rings: Rings,
    control: Arc<Control>,
    next: u16,
}

pub(super) fn open(rings: Rings, control: Arc<Control>) -> io::Result<(Available, Used)> {
    let next = control.next.load(Ordering::SeqCst);
    // The device has no memory of it; this is what the guest has seen.
    let used = rings.used.load(2).ok_or_else(|| broken("a queue that is not in memory"))?;
    let available = Available { rings: rings.clone(), control: control.clone(), next };
    Ok((available, Used { rings, control, next: used }))
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the guest's driver made {what}"))
}

fn outside() -> io::Error {
    broken("a ring that is not in memory")
}

impl Available {
    /// The next request; waits for one. Nothing when the queue is stopped.
    ///
    /// # Errors
    /// The guest's driver breaks the rules.
    pub(crate) fn wait(&mut self) -> io::Result<Option<Chain>> {
        loop {
            if self.control.stop.load(Ordering::SeqCst) {
                return Ok(None);
            }
            if let Some(chain) = self.take()? {
                return Ok(Some(chain));
            }
            // The guest is to kick from now on; what came until now is seen by another look.
            if self.control.event_index {
                let event = 4 + 8 * usize::from(self.rings.size);
                self.rings.used.store(event, self.next).ok_or_else(outside)?;
                fence(Ordering::SeqCst);
                if let Some(chain) = self.take()? {
                    return Ok(Some(chain));
                }
            }
            let mut kick = [PollFd::new(&self.control.kick, PollFlags::IN)];
            match poll(&mut kick, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            match rustix::io::read(&self.control.kick, &mut [0; 8]) {
                Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn take(&mut self) -> io::Result<Option<Chain>> {
        let Rings { size, available, .. } = &self.rings;
        let there = available.load(2).ok_or_else(outside)?.wrapping_sub(self.next);
        if there == 0 {
            return Ok(None);
        }
        if there > *size {
            return Err(broken("more requests available than its queue has places"));
        }
        let place = 4 + 2 * usize::from(self.next % size);
        let head = u16::from_le_bytes(available.read(place).ok_or_else(outside)?);
        let chain = self.chain(head)?;
        self.next = self.next.wrapping_add(1);
        self.control.next.store(self.next, Ordering::SeqCst);
        Ok(Some(chain))
    }

    fn chain(&self, head: u16) -> io::Result<Chain> {
        let memory = self.control.memory.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut chain = Chain {
            head: Head(head),
            request: Pieces::new(memory.clone()),
            answer: Pieces::new(memory.clone()),
            fault: false,
        };
        let mut table = self.rings.descriptors.clone();
        let (mut length, mut index, mut indirect) = (usize::from(self.rings.size), head, false);
        let mut answers = false;
        for _ in 0..MOST {
            if usize::from(index) >= length {
                return Err(broken("a descriptor that does not exist"));
            }
            let bytes: [u8; DESCRIPTOR] =
                table.read(DESCRIPTOR * usize::from(index)).ok_or_else(outside)?;
            let [address @ .., a, b, c, d, e, f, g, h] = bytes;
            let (address, size) = (u64::from_le_bytes(address), u32::from_le_bytes([a, b, c, d]));
            let (flags, next) = (u16::from_le_bytes([e, f]), u16::from_le_bytes([g, h]));
            if flags & INDIRECT != 0 {
                let (count, rest) = (size as usize / DESCRIPTOR, size as usize % DESCRIPTOR);
                if indirect || flags & NEXT != 0 || rest != 0 || count == 0 {
                    return Err(broken("a table of descriptors that is none"));
                }
                if count > MOST {
                    return Err(broken("a table of too many descriptors"));
                }
                table = memory
                    .of_guest(address, size as usize)
                    .ok_or_else(|| broken("a table of descriptors that is not in memory"))?;
                (length, index, indirect) = (count, 0, true);
                continue;
            }
            answers |= flags & WRITE != 0;
            if answers && flags & WRITE == 0 {
                return Err(broken("a request behind its answer"));
            }
            if !chain.fault {
                let pieces = if answers { &mut chain.answer } else { &mut chain.request };
                chain.fault = pieces.push(address, size).is_none();
            }
            if flags & NEXT == 0 {
                return Ok(chain);
            }
            index = next;
        }
        Err(broken("a request of too many descriptors"))
    }
}

impl Used {
    /// Gives a request back, with so many bytes of an answer.
    ///
    /// # Errors
    /// The rings are not in memory any more.
    pub(crate) fn give_back(&mut self, head: Head, length: usize) -> io::Result<()> {
        let Rings { size, available, used, .. } = &self.rings;
        let length = u32::try_from(length).map_err(|_| outside())?;
        let mut element = [0; 8];
        element[..4].copy_from_slice(&u32::from(head.0).to_le_bytes());
        element[4..].copy_from_slice(&length.to_le_bytes());
        used.write(4 + 8 * usize::from(self.next % size), &element).ok_or_else(outside)?;
        let before = self.next;
        self.next = before.wrapping_add(1);
        used.store(2, self.next).ok_or_else(outside)?;
        // What the guest wants to be notified of is read after it can see the answer.
        fence(Ordering::SeqCst);
        let wanted = if self.control.event_index {
            available.load(4 + 2 * usize::from(*size)).ok_or_else(outside)? == before
        } else {
            available.load(0).ok_or_else(outside)? & 1 == 0
        };
        if wanted {
            let call = self.control.call.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(call) = &*call {
                // Full of notifications that nobody has read is as good.
                let _ = rustix::io::write(call.as_fd(), &1_u64.to_ne_bytes());
            }
        }
        Ok(())
    }
}
