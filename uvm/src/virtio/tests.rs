//! What drivers and machines' processes do, and what they should not.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use proptest::prelude::*;

use super::driver::{
    AVAILABLE, BUFFERS, DESCRIPTORS, Driver, GUEST, INDIRECT, NEXT, SIZE, USED, WRITE,
};
use super::{Available, Chain, Device, Used, serve};

/// Answers each request with itself.
#[derive(Default)]
struct Echo {
    broken: AtomicUsize,
}

impl Device for Echo {
    fn features(&self) -> u64 {
        1
    }

    fn configuration(&self) -> Vec<u8> {
        b"configured".to_vec()
    }

    fn run(&self, mut available: Available, mut used: Used) -> io::Result<()> {
        loop {
            let chain = available.wait().inspect_err(|_| {
                self.broken.fetch_add(1, Ordering::SeqCst);
            })?;
            let Some(Chain { head, request, answer, fault }) = chain else { return Ok(()) };
            let mut bytes = vec![0; request.len().min(answer.len())];
            let copied = !fault
                && request.read(0, &mut bytes).is_some()
                && answer.write(0, &bytes).is_some();
            used.give_back(head, if copied { bytes.len() } else { 0 })?;
        }
    }
}

struct Machine {
    driver: Driver,
    device: Arc<Echo>,
    thread: JoinHandle<io::Result<()>>,
}

fn machine() -> Machine {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let device = Arc::new(Echo::default());
    let served = device.clone();
    let thread = std::thread::spawn(move || serve(&theirs, served));
    Machine { driver: Driver::new(ours), device, thread }
}

impl Machine {
    /// Closes the socket; how serving ended.
    fn end(self) -> io::Result<()> {
        drop(self.driver);
        self.thread.join().unwrap()
    }
}

#[test]
fn requests_are_answered_by_either_kind_of_chain() {
    let mut machine = machine();
    let driver = &mut machine.driver;
    assert!(Driver::has_event_index(driver.start()));
    for round in 0..20_u8 {
        let bytes = vec![round; 3000 + usize::from(round)];
        assert_eq!(driver.exchange(&bytes, 11, 0x1000), bytes);
    }
    // Without a table.
    driver.memory.write(BUFFERS, b"direct").unwrap();
    driver.describe(DESCRIPTORS, 0, GUEST + BUFFERS as u64, 6, (NEXT, 5));
    driver.describe(DESCRIPTORS, 5, GUEST + 0x8000, 2, (NEXT | WRITE, 7));
    driver.describe(DESCRIPTORS, 7, GUEST + 0x9000, 100, (WRITE, 0));
    driver.offer(0);
    assert_eq!(driver.answer(900), Some((0, 6)));
    let mut said = [0; 4];
    driver.memory.read(0x9000, &mut said).unwrap();
    assert_eq!(&said, b"rect");
    // Stopped and started again it goes on where it was.
    assert_eq!(driver.stop(), 21);
    let configuration = [24_u32, 1, 12 + 4, 2, 4, 0, 0].map(u32::to_le_bytes);
    let said = driver.ask(configuration.as_flattened(), &[]).unwrap();
    assert_eq!(&said[12..], b"nfig");
    machine.end().unwrap();
}

/// Memory that is not there fails a request; what is against the rules of the rings ends the queue, and a reset brings it back.
#[test]
fn hostile_rings_end_alone() {
    let request = GUEST + BUFFERS as u64;
    let end = GUEST + 256 * 1024;
    for (name, broken, descriptors) in [
        ("beyond the memory", false, &[(request, 8, NEXT, 1), (end - 4, 8, WRITE, 0)][..]),
        ("below the memory", false, &[(GUEST - 1, 8, NEXT, 1), (request, 8, WRITE, 0)]),
        ("over the end of numbers", false, &[(u64::MAX - 2, 8, NEXT, 1), (request, 8, WRITE, 0)]),
        ("very long", false, &[(request, u32::MAX, NEXT, 1), (request, 8, WRITE, 0)]),
        ("no room", false, &[(request, 8, 0, 0)]),
        ("an answer alone", false, &[(request, 8, WRITE, 0)]),
        ("a loop", true, &[(request, 1, NEXT, 1), (request, 1, NEXT, 0)]),
        ("beyond the table", true, &[(request, 1, NEXT, SIZE)]),
        ("back to the request", true, &[(request, 8, NEXT | WRITE, 1), (request, 8, 0, 0)]),
        ("a table that goes on", true, &[(request, 16, NEXT | INDIRECT, 1), (request, 8, 0, 0)]),
        ("a table of nothing", true, &[(request, 0, INDIRECT, 0)]),
        ("half a descriptor", true, &[(request, 24, INDIRECT, 0)]),
        ("a table that is not there", true, &[(end - 8, 16, INDIRECT, 0)]),
        ("a table of everything", true, &[(GUEST, 128 * 1024, INDIRECT, 0)]),
    ] {
        let mut machine = machine();
        let driver = &mut machine.driver;
        driver.start();
        for (index, &(address, length, flags, next)) in (0..).zip(descriptors) {
            driver.describe(DESCRIPTORS, index, address, length, (flags, next));
        }
        driver.offer(0);
        if broken {
            assert_eq!(driver.answer(20), None, "{name}");
            assert_eq!(driver.stop(), 0, "{name}");
        } else {
            assert_eq!(driver.answer(900), Some((0, 0)), "{name}");
            assert_eq!(driver.exchange(b"fine", 4, 4), b"fine", "{name}");
        }
        assert_eq!(machine.device.broken.load(Ordering::SeqCst), usize::from(broken), "{name}");
        machine.end().unwrap();
    }
    // A table in a table, and one that ends elsewhere.
    for (flags, next) in [(INDIRECT, 0), (NEXT, 1), (NEXT, 7)] {
        let mut machine = machine();
        let driver = &mut machine.driver;
        driver.start();
        driver.describe(DESCRIPTORS, 0, GUEST + 0xc00, 16, (INDIRECT, 0));
        driver.describe(0xc00, 0, GUEST + 0xc00, 16, (flags, next));
        driver.offer(0);
        assert_eq!(driver.answer(20), None);
        driver.stop();
        assert_eq!(machine.device.broken.load(Ordering::SeqCst), 1);
        machine.end().unwrap();
    }
    // More requests than there are places.
    let machine = machine();
    machine.driver.start();
    machine.driver.memory.store(AVAILABLE + 2, SIZE + 1).unwrap();
    rustix::io::write(&machine.driver.kick, &1_u64.to_ne_bytes()).unwrap();
    assert_eq!(machine.driver.answer(20), None);
    machine.driver.stop();
    assert_eq!(machine.device.broken.load(Ordering::SeqCst), 1);
    machine.end().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Any bytes in rings and tables: it ends, and nothing outside of the memory is touched.
    #[test]
    fn any_rings_are_survived(
        noise in prop::collection::vec(prop_oneof![Just(0_u8), 0..8_u8, any::<u8>()], 0xe00),
        ahead in 0..12_u16,
    ) {
        let machine = machine();
        let driver = &machine.driver;
        driver.start();
        driver.memory.write(0, &noise).unwrap();
        // Addresses that are there, for every other descriptor.
        for index in (0..SIZE).step_by(2) {
            let address = GUEST + u64::from(noise[usize::from(index)]) * 16;
            driver.memory.write(16 * usize::from(index), &address.to_le_bytes()).unwrap();
        }
        driver.memory.store(AVAILABLE + 2, ahead).unwrap();
        rustix::io::write(&driver.kick, &1_u64.to_ne_bytes()).unwrap();
        prop_assert!(driver.stop() <= ahead.into());
        prop_assert!(machine.end().is_ok());
    }
}

#[test]
fn a_machines_process_is_believed_nothing() {
    // Messages that are none, and rings that are not in the memory.
    for bytes in [
        &[0xff; 12][..],
        &[1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0],
        &[99, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
        &[2, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0],
    ] {
        let machine = machine();
        machine.driver.send_bytes(bytes, &[]);
        assert!(!machine.driver.finish());
        assert_eq!(machine.end().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
    for (size, places) in [
        (0, [DESCRIPTORS, USED, AVAILABLE]),
        (7, [DESCRIPTORS, USED, AVAILABLE]),
        (1 << 17, [DESCRIPTORS, USED, AVAILABLE]),
        (32768, [DESCRIPTORS, USED, AVAILABLE]),
        (8, [DESCRIPTORS + 8, USED, AVAILABLE]),
        (8, [256 * 1024 - 64, USED, AVAILABLE]),
        (8, [DESCRIPTORS, 256 * 1024 - 4, AVAILABLE]),
        (8, [DESCRIPTORS, USED, 256 * 1024]),
        (8, [DESCRIPTORS, USED, usize::MAX]),
    ] {
        let machine = machine();
        machine.driver.start();
        machine.driver.stop();
        machine.driver.set_queue(size, places.map(|at| at as u64));
        assert!(!machine.driver.finish(), "{size} {places:?}");
        assert!(machine.end().is_err());
    }
    // Memory that may shrink is left out, and then no ring is in it.
    let machine = machine();
    let file = rustix::fs::memfd_create("loose", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, 1 << 20).unwrap();
    machine.driver.send(37, &[0, GUEST, 1 << 20, 0x5000_0000, 0], &[file.as_fd()]);
    machine.driver.send(38, &[0, GUEST, 1 << 20, 0x5000_0000, 0], &[]);
    assert!(machine.driver.finish());
    machine.driver.send(37, &[0, GUEST, 1 << 20, 0x5000_0000, 0], &[]);
    assert!(!machine.driver.finish(), "a memory without its file");
    assert!(machine.end().is_err());
}
