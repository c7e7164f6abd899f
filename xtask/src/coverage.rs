//! `docs/coverage.md` against the sources: every function and every test that it names is there.
//!
//! Within the program, because an integration test would build the program anew, with other features, under the feet of
//! `cargo xtask test`, which calls itself again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Columns of a row: theirs, ours, tests, hosts, differences.
const COLUMNS: usize = 5;
const NONE: &str = "–";
const HOSTS: [&str; 3] = ["Linux", "VM", "double"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The rows of all tables but their heads, with the numbers of their lines.
fn rows(text: &str) -> Vec<(usize, Vec<String>)> {
    let lines = text.lines().enumerate().filter(|(_, line)| line.starts_with('|'));
    let split = |line: &str| {
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
    };
    lines
        .map(|(index, line)| (index + 1, split(line)))
        .filter(|(_, cells)| cells[0] != "theirs" && !cells[0].starts_with("---"))
        .collect()
}

/// The names in backquotes.
fn names(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

struct Sources {
    root: PathBuf,
    read: HashMap<String, Option<String>>,
}

impl Sources {
    fn read(&mut self, file: &str) -> Option<&str> {
        let path = self.root.join(file);
        let text = self.read.entry(file.to_owned());
        text.or_insert_with(|| std::fs::read_to_string(path).ok()).as_deref()
    }

    /// What is wrong with a name `path/of/file.rs::name`.
    fn fault(&mut self, name: &str, must_be_test: bool) -> Option<String> {
        let Some((file, item)) = name.split_once("::") else {
            return Some(format!("`{name}` is not of the form path/of/file.rs::name"));
        };
        let Some(text) = self.read(file) else { return Some(format!("there is no file {file}")) };
        let lines: Vec<&str> = text.lines().collect();
        let defined = |line: &&str, keyword: &str| {
            let mut words = line.split(|c: char| !(c.is_alphanumeric() || c == '_'));
            let is_comment = line.trim_start().starts_with("//");
            !is_comment && words.any(|word| word == keyword) && words.next() == Some(item)
        };
        if !must_be_test {
            let keywords = ["fn", "struct", "enum", "trait", "type", "const"];
            let there = lines.iter().any(|line| keywords.iter().any(|word| defined(line, word)));
            return (!there).then(|| format!("{file} defines no {item}"));
        }
        let at = lines.iter().position(|line| defined(line, "fn"));
        let Some(at) = at else { return Some(format!("{file} has no test {item}")) };
        // What the macro defines are tests, all of them.
        if item.starts_with("privileged_") && text.contains("privileged! {") {
            return None;
        }
        let attributes = lines[..at].iter().rev().take_while(|line| {
            let line = line.trim_start();
            line.starts_with("#[") || line.starts_with("///") || line.starts_with("//")
        });
        let is_test = attributes.into_iter().any(|line| line.contains("test]"));
        (!is_test).then(|| format!("{item} in {file} is no test"))
    }
}

/// Everything that is wrong with a page.
fn faults(text: &str, sources: &mut Sources) -> Vec<String> {
    let mut faults = Vec::new();
    for (number, cells) in rows(text) {
        let mut wrong = |what: String| faults.push(format!("line {number}: {what}"));
        let [_, ours, tests, hosts, purpose] = cells.as_slice() else {
            wrong(format!("{} cells, not {COLUMNS}", cells.len()));
            continue;
        };
        if ours == NONE {
            if purpose == NONE || purpose.is_empty() {
                wrong("it is not here, and nobody says why".to_owned());
            }
        } else if names(ours).next().is_none() || names(tests).next().is_none() {
            wrong("it has no function or no test".to_owned());
        }
        if ours != NONE && !HOSTS.iter().any(|host| hosts.contains(host)) {
            wrong(format!("{hosts:?} is no kind of host"));
        }
        for name in names(ours) {
            sources.fault(name, false).into_iter().for_each(&mut wrong);
        }
        for name in names(tests) {
            sources.fault(name, true).into_iter().for_each(&mut wrong);
        }
    }
    faults
}

#[test]
fn every_name_on_the_page_is_in_the_sources() {
    let root = root();
    let page = std::fs::read_to_string(root.join("docs/coverage.md")).unwrap();
    let mut sources = Sources { root, read: HashMap::new() };
    assert!(rows(&page).len() >= 50, "the tables were read");
    let faults = faults(&page, &mut sources);
    assert!(faults.is_empty(), "docs/coverage.md:\n{}", faults.join("\n"));
}

#[test]
fn what_is_not_there_is_found() {
    let mut sources = Sources { root: root(), read: HashMap::new() };
    let here = "xtask/src/coverage.rs";
    let fine = format!("| x | `{here}::Sources` | `{here}::what_is_not_there_is_found` | VM | – |");
    assert_eq!(faults(&fine, &mut sources), [""; 0]);
    for row in [
        format!("| x | `{here}::Nothing` | `{here}::what_is_not_there_is_found` | VM | – |"),
        format!("| x | `no/such.rs::f` | `{here}::what_is_not_there_is_found` | VM | – |"),
        format!("| x | `{here}` | `{here}::what_is_not_there_is_found` | VM | – |"),
        // A function that is no test.
        format!("| x | `{here}::Sources` | `{here}::names` | VM | – |"),
        format!("| x | `{here}::Sources` | – | VM | – |"),
        format!("| x | `{here}::Sources` | `{here}::what_is_not_there_is_found` | nowhere | – |"),
        "| x | – | – | – | – |".to_owned(),
        "| x | – | – |".to_owned(),
    ] {
        assert_eq!(faults(&row, &mut sources).len(), 1, "{row}");
    }
}
