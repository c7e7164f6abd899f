//! Figures for the bars of mounting; `cargo test --release -p mount --test privileged_speed -- --ignored
//! --nocapture`. Meaningless in debug builds and on busy machines, so ignored by default.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "test code")]

mod support;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use mount::{Backing, Holder, HolderKind, MountOptions, mount_image};
use support::{Bench, chain, user};

const ROUNDS: usize = 400;

/// Median of the times of `ROUNDS` calls of each of `bodies`, which take turns so that they meet the same noise.
fn compare(bodies: &mut [(&str, &mut dyn FnMut())]) {
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); bodies.len()];
    for _ in 0..ROUNDS {
        for (index, (_, body)) in bodies.iter_mut().enumerate() {
            let start = Instant::now();
            body();
            times[index].push(start.elapsed());
        }
    }
    let mut base = None;
    for ((name, _), times) in bodies.iter().zip(&mut times) {
        times.sort_unstable();
        let median = times[ROUNDS / 2];
        let base = *base.get_or_insert(median);
        let ratio = median.as_secs_f64() / base.as_secs_f64();
        println!("{name:40} {median:>12?}  {ratio:.3} x");
    }
}

fn snapshot(name: &str) -> Holder {
    Holder::new(HolderKind::Snapshot, name)
}

fn speed() {
    let bench = Bench::new();
    // In production the run directory is on a tmpfs.
    let run = bench.directory("run");
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", &run, "tmpfs", flags, None).unwrap();
    let registry = bench.registry();
    let layer = bench.layer("one", &[("file", &[1; 100_000])]);
    let target = bench.directory("target");
    let stat = |target: &Path| {
        fs::metadata(target.join("file")).unwrap();
    };
    let bare = |data: &str| {
        let file_system = "erofs";
        sys::mount_with_options(&layer.path, &target, file_system, true, data.as_ref()).unwrap();
        stat(&target);
        sys::unmount(&target).unwrap();
    };
    compare(&mut [
        ("mount(2)", &mut || bare("")),
        ("mount(2) with directio", &mut || bare("directio")),
        ("mount_image", &mut || {
            mount_image(&layer.path, &[], &target, Backing::Auto).unwrap();
            stat(&target);
            sys::unmount(&target).unwrap();
        }),
        ("registry, image file", &mut || {
            registry.mount_image_file(&layer.path, &[], &target, &user("u")).unwrap();
            stat(&target);
            registry.unmount(&target).unwrap();
        }),
        ("registry, opened each time", &mut || {
            let registry = bench.registry();
            registry.mount_image_file(&layer.path, &[], &target, &user("u")).unwrap();
            stat(&target);
            registry.unmount(&target).unwrap();
        }),
        ("registry, hold and release", &mut || {
            let points = registry.hold(std::slice::from_ref(&layer), &user("u")).unwrap();
            stat(&points[0]);
            registry.release(&user("u")).unwrap();
        }),
    ]);
    // The hot path of a snapshot daemon: ten layers that are mounted for a thousand others.
    let ten = bench.layers(10);
    for held in [1, 1000] {
        for index in 0..held {
            registry.hold(&ten, &snapshot(&format!("default/{index}/held"))).unwrap();
        }
        println!("10 layers, held by {held}:");
        let active = chain("active", Some(bench.scratch("hot")), ten.clone());
        compare(&mut [
            ("hold and let go", &mut || {
                registry.hold(&ten, &snapshot("default/0/this")).unwrap();
                registry.let_go(&snapshot("default/0/this")).unwrap();
            }),
            ("hold and release", &mut || {
                registry.hold(&ten, &snapshot("default/0/this")).unwrap();
                registry.release(&snapshot("default/0/this")).unwrap();
            }),
            ("hold again", &mut || {
                registry.hold(&ten, &snapshot("default/0/held")).unwrap();
            }),
            ("users_of", &mut || {
                assert!(registry.users_of(active.scratch.as_ref().unwrap()).unwrap().is_empty());
            }),
        ]);
    }
    for index in 0..1000 {
        registry.release(&snapshot(&format!("default/{index}/held"))).unwrap();
    }
    for count in [128, 500] {
        let many = chain("many", Some(bench.scratch("snap")), bench.layers(count));
        for round in 0..5 {
            let start = Instant::now();
            registry.mount_chain(&many, &target, &user("u"), &MountOptions::default()).unwrap();
            let cold = start.elapsed();
            registry.hold(&many.layers, &user("keeper")).unwrap();
            registry.unmount(&target).unwrap();
            let start = Instant::now();
            registry.mount_chain(&many, &target, &user("u"), &MountOptions::default()).unwrap();
            let warm = start.elapsed();
            let registry = bench.registry();
            registry.unmount(&target).unwrap();
            let start = Instant::now();
            registry.release(&user("keeper")).unwrap();
            let undone = start.elapsed();
            println!(
                "{count} layers, round {round}: {cold:?} cold, {warm:?} warm, {undone:?} undone"
            );
        }
    }
}

#[test]
#[ignore = "a measurement"]
fn privileged_speed() {
    support::isolated(concat!(module_path!(), "::privileged_speed"), speed);
}
