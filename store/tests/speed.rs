//! How many operations a second the store does, for people: `cargo nextest run -p store --run-ignored all speed`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "in a test")]

mod fixture;

use std::time::Instant;

use fixture::{Fixture, committed, prepare};
use store::Store;

/// Prepares, stats and removes in `threads` threads; operations a second of each.
fn rates(store: &Store, threads: usize, rounds: usize) -> [f64; 3] {
    let timed = |act: &(dyn Fn(&str) + Sync)| {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                scope.spawn(move || {
                    for round in 0..rounds {
                        act(&format!("default/1/{thread}-{round}"));
                    }
                });
            }
        });
        (threads * rounds) as f64 / start.elapsed().as_secs_f64()
    };
    [
        timed(&|key| drop(prepare(store, key, "base").unwrap())),
        timed(&|key| drop(store.stat(key.as_bytes()).unwrap())),
        timed(&|key| store.remove(key.as_bytes()).unwrap()),
    ]
}

#[test]
#[ignore = "a measurement"]
fn speed_of_prepare_stat_and_remove() {
    for (what, fixture) in [("disk", Fixture::new()), ("memory", Fixture::fast())] {
        let Fixture { store, directory: _directory } = fixture;
        committed(&store, "base", "");
        for others in [0, 1000] {
            for index in 0..others {
                prepare(&store, &format!("other-{index}"), "base").unwrap();
            }
            for (threads, rounds) in [(1, 200), (64, 16)] {
                let [prepare, stat, remove] = rates(&store, threads, rounds);
                println!(
                    "{what}, {others:4} others, {threads:2} threads: prepare {prepare:.0}/s, stat {stat:.0}/s, \
                     remove {remove:.0}/s"
                );
            }
        }
    }
}

#[test]
#[ignore = "a measurement"]
fn speed_with_many_snapshots() {
    let Fixture { mut store, directory } = Fixture::fast();
    let root = directory.path().join("root");
    committed(&store, "base", "");
    for count in [10, 1000, 10_000] {
        let present = store.list(&[]).unwrap().len();
        for index in present..count {
            prepare(&store, &format!("default/{index}/{index:064}"), "base").unwrap();
        }
        let timed = |what: &str, act: &mut dyn FnMut()| {
            let start = Instant::now();
            act();
            println!(
                "{count:5} snapshots, {what:9} {:8.3} ms",
                start.elapsed().as_secs_f64() * 1e3
            );
        };
        drop(store);
        let mut opened = None;
        timed("open", &mut || opened = Some(fixture::open(&root).unwrap()));
        store = opened.unwrap();
        timed("prepare", &mut || drop(prepare(&store, "new", "base").unwrap()));
        let new = store.stat(b"new").unwrap().id;
        timed("stat", &mut || drop(store.stat(b"new").unwrap()));
        timed("by number", &mut || drop(store.active_by_number(new).unwrap()));
        timed("chain", &mut || drop(store.chain(b"new").unwrap()));
        timed("remove", &mut || store.remove(b"new").unwrap());
        timed("list", &mut || drop(store.list(&[]).unwrap()));
        timed("collect", &mut || drop(store.collect(&|_| false).unwrap()));
    }
}
