//! `plywood-docs`: completions and man pages from the program's own definition. Started by `cargo xtask docs`, and
//! apart from it so that xtask does not need to build the program first.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap_complete::Shell;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(directory), Some(date)) = (arguments.next(), arguments.next()) else {
        bail!("usage: plywood-docs DIRECTORY DATE");
    };
    let directory = PathBuf::from(directory);
    let (completions, man) = (directory.join("completions"), directory.join("man"));
    for directory in [&completions, &man] {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
    }
    let mut command = plywood::cli::command();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::PowerShell] {
        let file = clap_complete::generate_to(shell, &mut command, "plywood", &completions)
            .with_context(|| format!("cannot write the completions for {shell}"))?;
        println!("{}", file.display());
    }
    command.build();
    pages(&command, &date, &man)
}

/// One page for a command and each of its verbs: `plywood-image-import.1`.
fn pages(command: &clap::Command, date: &str, directory: &Path) -> Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    // A verb's own name and lack of a version make no heading.
    let page = clap_mangen::Man::new(command.clone())
        .title(name.to_uppercase())
        .date(date)
        .source(concat!("plywood ", env!("CARGO_PKG_VERSION")))
        .manual("Plywood");
    let path = directory.join(format!("{name}.1"));
    let mut text = Vec::new();
    page.render(&mut text).with_context(|| format!("cannot render {name}"))?;
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{}", path.display());
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        pages(verb, date, directory)?;
    }
    Ok(())
}
