//! What `--help` says, and how the command line is refused.

use std::process::{Command, Stdio};

use crate::support::World;

fn pages(command: &mut clap::Command, path: &str, pages: &mut Vec<(String, String)>) {
    let path = format!("{path} {}", command.get_name()).trim().to_owned();
    // The version is no part of the interface.
    pages.push((path.clone(), command.render_long_help().to_string()));
    for verb in command.get_subcommands_mut() {
        self::pages(verb, &path, pages);
    }
}

#[test]
fn every_page() {
    let mut command = plywood::cli::command().term_width(100);
    command.build();
    let mut all = Vec::new();
    pages(&mut command, "", &mut all);
    assert!(all.len() > 30);
    for (path, text) in all {
        insta::assert_snapshot!(path.replace(' ', "-"), text);
    }
}

#[test]
fn every_verb_has_examples() {
    let mut command = plywood::cli::command();
    command.build();
    let mut all = Vec::new();
    pages(&mut command, "", &mut all);
    for (path, text) in all {
        let groups = ["image", "cim", "erofs", "snapshot", "config", "vm", "wclayer"];
        let group = path.strip_prefix("plywood ").is_some_and(|verb| groups.contains(&verb));
        assert!(group || text.contains("Examples:"), "{path} has no examples");
    }
}

#[test]
fn usage_errors_end_with_2() {
    let world = World::new();
    for line in [
        &[][..],
        &["no-such-verb"],
        &["image"],
        &["image", "import"],
        &["image", "list", "--no-such-flag"],
        &["--format", "xml", "image", "list"],
        &["run"],
        &["run", "--mount", "type=nfs,target=/x", "image"],
        &["run", "--name", "../x", "image"],
        &["run", "--scratch-size", "many", "image"],
        &["run", "--keep", "--rm", "image"],
        &["mount", "only-one"],
        &["snapshot", "label", "key", "no-value"],
        &["cim", "create", "out"],
        &["cim", "rm", "a.cim"],
        &["erofs", "create", "out"],
        &["containerd-config"],
        &["containerd-config", "--version", "1.5"],
        &["containerd-config", "--version", "2.x", "--name", "overlayfs"],
        &["config"],
        &["config", "show", "--config", "/no/such/file"],
        &["serve", "--log-level", "loud"],
    ] {
        let outcome = world.run(line);
        assert_eq!(outcome.code, 2, "{line:?}: {}", outcome.stderr);
        assert_eq!(outcome.stdout, "", "{line:?}");
        assert!(!outcome.stderr.is_empty(), "{line:?}");
    }
    assert!(!world.path("root").exists() && !world.path("run").exists(), "nothing was made");
}

#[test]
fn help_and_version_end_with_0() {
    let world = World::new();
    assert!(world.run(&["--help"]).ok().contains("Examples:"));
    assert_eq!(world.run(&["--version"]).ok(), world.run(&["version"]).ok());
    let version = &world.json(&["version"])[0];
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn a_closed_standard_output_is_no_failure() {
    let world = World::new();
    // Nobody reads: the first write that is flushed fails.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    for line in [&["--help"][..], &["version"], &["doctor"]] {
        let output = world
            .plywood()
            .args(line)
            .stdout(writer.try_clone().unwrap())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{line:?}: {output:?}");
        assert_eq!(crate::support::text(&output.stderr), "", "{line:?}");
    }
    // And a closed descriptor is not a panic either.
    let program = world.plywood().get_program().to_owned();
    let status = Command::new("sh")
        .args(["-c", "\"$0\" version >&-"])
        .arg(program)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_ne!(status.code(), Some(101));
}
