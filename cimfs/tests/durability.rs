//! Wherever writing is cut, the image is there as a whole or not at all, and what was there before stays.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use cimfs::{
    FileSet, Image, ImageWriter, MemorySet, ReadAt, WritableFile, WritableSet, WriterOptions,
};
use support::{describe, fill, guid, metadata, path};

/// A file: what programs see, and what a power cut leaves.
#[derive(Default)]
struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Default)]
struct State {
    inodes: Vec<Inode>,
    live: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    done: usize,
    limit: Option<usize>,
}

/// Files on a medium that stops after a number of changes.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<State>>);

struct DiskFile(Disk, usize);

impl Disk {
    fn change<T>(&self, change: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.0.lock().unwrap();
        if state.limit.is_some_and(|limit| state.done >= limit) {
            return Err(io::Error::other("the power is cut"));
        }
        state.done += 1;
        change(&mut state)
    }

    /// What is left when programs are killed: all that they did.
    fn after_kill(&self) -> MemorySet {
        let state = self.0.lock().unwrap();
        let set = MemorySet::new();
        for (name, inode) in &state.live {
            set.insert(name, state.inodes[*inode].live.clone());
        }
        set
    }

    /// What is left by a power cut: names as of the last sync, or as they are now (the medium may have been
    /// quick); of contents only what was synced.
    fn after_power_cut(&self, quick_names: bool) -> MemorySet {
        let state = self.0.lock().unwrap();
        let set = MemorySet::new();
        for (name, inode) in if quick_names { &state.live } else { &state.durable } {
            set.insert(name, state.inodes[*inode].durable.clone());
        }
        set
    }
}

impl FileSet for Disk {
    type File = DiskFile;

    fn open(&self, name: &str) -> io::Result<DiskFile> {
        let inode = self.0.lock().unwrap().live.get(name).copied();
        inode.map(|inode| DiskFile(self.clone(), inode)).ok_or(io::ErrorKind::NotFound.into())
    }

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().unwrap().live.keys().cloned().collect())
    }
}

impl WritableSet for Disk {
    type Writer = DiskFile;

    fn create(&self, name: &str) -> io::Result<DiskFile> {
        self.change(|state| {
            let inode = state.inodes.len();
            match state.live.contains_key(name) {
                true => Err(io::ErrorKind::AlreadyExists.into()),
                false => {
                    state.inodes.push(Inode::default());
                    state.live.insert(name.into(), inode);
                    Ok(DiskFile(self.clone(), inode))
                }
            }
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(|state| {
            assert!(!state.live.contains_key(to), "{to} is taken over");
            let inode = state.live.remove(from).ok_or(io::ErrorKind::NotFound)?;
            state.live.insert(to.into(), inode);
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change(|state| state.live.remove(name).map(drop).ok_or(io::ErrorKind::NotFound.into()))
    }

    fn sync(&self) -> io::Result<()> {
        self.change(|state| {
            state.durable = state.live.clone();
            Ok(())
        })
    }
}

impl ReadAt for DiskFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.0.lock().unwrap().inodes[self.1].live.read_at(buf, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.0.0.lock().unwrap().inodes[self.1].live.size()
    }
}

impl WritableFile for DiskFile {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.change(|state| {
            let live = &mut state.inodes[self.1].live;
            let start = usize::try_from(offset).unwrap();
            live.resize(live.len().max(start + bytes.len()), 0);
            live[start..start + bytes.len()].copy_from_slice(bytes);
            Ok(())
        })
    }

    fn set_length(&mut self, length: u64) -> io::Result<()> {
        self.0.change(|state| {
            state.inodes[self.1].live.resize(usize::try_from(length).unwrap(), 0);
            Ok(())
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.change(|state| {
            let inode = &mut state.inodes[self.1];
            inode.durable = inode.live.clone();
            Ok(())
        })
    }
}

fn write_first(disk: &Disk) {
    let options = WriterOptions::default();
    let mut writer = ImageWriter::create(disk.clone(), "a.cim", guid("a"), options).unwrap();
    fill(&mut writer).unwrap();
    writer.commit().unwrap();
}

fn write_second<S: WritableSet + Clone>(set: &S, forked: bool) -> cimfs::Result<()> {
    let options = WriterOptions::default();
    let mut writer = match forked {
        true => ImageWriter::fork(set.clone(), "a.cim", "b.cim", guid("b"), options)?,
        false => {
            let mut fresh = ImageWriter::create(set.clone(), "b.cim", guid("b"), options)?;
            fill(&mut fresh)?;
            fresh
        }
    };
    writer.add_file(&path("Files/new"), &metadata(3), &vec![3; 3 << 20])?;
    writer.remove(&path("Files/none"))?;
    writer.commit().map(drop)
}

fn text(set: &MemorySet, name: &str) -> Option<String> {
    set.open(name).ok().map(|_| describe(&Image::open(set, name).unwrap()).unwrap())
}

#[test]
fn every_cut_leaves_the_old_or_the_new() {
    for forked in [false, true] {
        let disk = Disk::default();
        write_first(&disk);
        let before = disk.0.lock().unwrap().done;
        write_second(&disk, forked).unwrap();
        let total = disk.0.lock().unwrap().done - before;
        let old = text(&disk.after_kill(), "a.cim");
        let new = text(&disk.after_power_cut(false), "b.cim").expect("what is reported is durable");
        assert!(total > 15, "{total}");
        for cut in 0..total {
            let disk = Disk::default();
            write_first(&disk);
            let start = disk.0.lock().unwrap().done;
            disk.0.lock().unwrap().limit = Some(start + cut);
            write_second(&disk, forked).unwrap_err();
            for left in [disk.after_kill(), disk.after_power_cut(false), disk.after_power_cut(true)]
            {
                assert!(text(&left, "a.cim") == old, "cut {cut}");
                let second = text(&left, "b.cim");
                assert!(second.is_none_or(|second| second == new), "cut {cut}");
            }
        }
    }
}

#[test]
fn an_error_that_passes_leaves_nothing() {
    for forked in [false, true] {
        let whole = Disk::default();
        write_first(&whole);
        let names = whole.names().unwrap();
        let start = whole.0.lock().unwrap().done;
        write_second(&whole, forked).unwrap();
        let total = whole.0.lock().unwrap().done - start;
        // One change fails, those after it do not. The last one comes when the image has its name.
        for failing in 0..total - 1 {
            let disk = Disk::default();
            write_first(&disk);
            let flaky = Flaky(disk.clone(), Arc::new(Mutex::new(Some(failing))));
            write_second(&flaky, forked).unwrap_err();
            assert_eq!(disk.names().unwrap(), names, "change {failing}");
        }
    }
}

/// A set of which one change fails.
#[derive(Clone)]
struct Flaky(Disk, Arc<Mutex<Option<usize>>>);

struct FlakyFile(Flaky, DiskFile);

impl Flaky {
    fn step(&self) -> io::Result<()> {
        let mut left = self.1.lock().unwrap();
        match *left {
            Some(0) => {
                *left = None;
                Err(io::Error::other("out of luck"))
            }
            Some(n) => {
                *left = Some(n - 1);
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl FileSet for Flaky {
    type File = DiskFile;

    fn open(&self, name: &str) -> io::Result<DiskFile> {
        self.0.open(name)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        self.0.names()
    }
}

impl WritableSet for Flaky {
    type Writer = FlakyFile;

    fn create(&self, name: &str) -> io::Result<FlakyFile> {
        self.step()?;
        Ok(FlakyFile(self.clone(), self.0.create(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.step()?;
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.step()?;
        self.0.remove(name)
    }

    fn sync(&self) -> io::Result<()> {
        self.step()?;
        self.0.sync()
    }
}

impl ReadAt for FlakyFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.1.read_at(buf, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.1.size()
    }
}

impl WritableFile for FlakyFile {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.step()?;
        self.1.write_all_at(bytes, offset)
    }

    fn set_length(&mut self, length: u64) -> io::Result<()> {
        self.0.step()?;
        self.1.set_length(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.step()?;
        self.1.sync()
    }
}
