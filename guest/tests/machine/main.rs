//! The agent as the first process of a real machine: every kind of device, containers, the end.
//!
//! The machine boots once; what is tested in it comes one after the other.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod disks;
mod images;
mod machine;
mod troubles;

use std::time::{Duration, Instant};

use bridge::{Deadline, DumpStacks, ShutdownGraceful};
use uvm::Vm as _;

use images::Images;
use machine::Machine;

#[test]
fn vm_the_agent_handles_every_kind_of_device() {
    let images = Images::new();
    let started = Instant::now();
    let machine = Machine::boot(&images);
    println!("boot: {:.1} s", started.elapsed().as_secs_f32());
    let step = |name: &str, test: &dyn Fn(&Machine, &Images)| {
        let started = Instant::now();
        test(&machine, &images);
        println!("{name}: {:.1} s", started.elapsed().as_secs_f32());
    };
    step("layers", &disks::layers_of_all_formats_and_a_container);
    step("refusals", &disks::what_is_not_there_or_not_a_file_system);
    step("scratches", &disks::scratches_are_made_kept_and_not_overwritten);
    step("encryption", &disks::an_encrypted_scratch_is_closed_again);
    step("verity", &disks::a_hash_tree_proves_a_layer);
    step("block devices", &disks::a_block_device_reaches_a_container);
    step("persistent memory", &disks::persistent_memory_whole_and_in_parts);
    step("huge pages", &disks::huge_pages_reach_a_container);
    step("loopback", &disks::a_machine_has_a_loopback_and_randomness);
    step("full scratch", &troubles::a_full_scratch_is_an_error_until_there_is_room);
    step("layer below", &troubles::a_layer_below_a_root_can_be_unmounted);
    let stacks = machine.vm.client().call(&DumpStacks::default(), &machine::limit()).unwrap();
    assert!(stacks.guest_stacks.contains("DumpStacks"));
    let client = troubles::a_host_that_comes_again_finds_its_container(&machine);
    let started = Instant::now();
    let brief = Deadline::after(Duration::from_secs(25));
    // Not answered: the connection ends with the machine.
    let asked = client.call(&ShutdownGraceful::default(), &brief);
    assert_eq!(asked.unwrap_err().kind(), bridge::ErrorKind::Closed);
    let exit = machine.vm.wait(Duration::from_secs(10)).expect("it powers off");
    let took = started.elapsed();
    assert!(exit.orderly, "{exit:?}");
    assert!(took < Duration::from_secs(25), "the agent powers off by itself: {took:?}");
    let console = std::fs::read_to_string(machine.vm.console()).unwrap();
    assert!(!console.contains("panic"), "{console}");
}
