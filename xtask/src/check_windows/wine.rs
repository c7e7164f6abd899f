//! Wine with a home of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use super::LINKER;
use crate::{program, workspace};

/// Debian's place for the loader of 64-bit programs.
const LOADER: &str = "/usr/lib/wine/wine64";
const SERVER: &str = "/usr/lib/wine/wineserver";

/// Where Rust's standard library gets random numbers from; Wine 8 has no such library.
const RANDOM: &str = "bcryptprimitives";
const RANDOM_SOURCE: &str = "\
unsigned char __stdcall SystemFunction036(void *, unsigned long);
__declspec(dllexport) int __stdcall ProcessPrng(void *data, unsigned long long length) {
    return SystemFunction036(data, (unsigned long)length);
}
";

/// DLLs that Wine lacks, which write down how they are called (`sys/tests/windows_binding.rs`).
const RECORDING: &str = "sys/tests/recording_dlls";

/// Wine, ready to run programs.
pub(super) struct Wine {
    prefix: PathBuf,
    /// Libraries of ours that it is to load in the place of its own.
    native: Vec<String>,
    /// While it runs, so do Wine's own services. Otherwise the next program starts them, and they keep its pipes open
    /// until they end.
    shell: Option<Child>,
}

impl Wine {
    /// Makes the prefix, unless it is there, and our libraries.
    pub(super) fn ready(directory: &Path) -> Result<Self> {
        let prefix = directory.join("prefix");
        let mut wine = Self { prefix, native: vec![RANDOM.to_owned()], shell: None };
        let system = wine.prefix.join("drive_c/windows/system32");
        if !system.is_dir() {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
            // It complains of the missing half for 32 bits, which nothing here needs.
            let mut boot = Command::new(LOADER);
            program::run(wine.environment(&mut boot).args(["wineboot", "-i"]))?;
        }
        let random = directory.join(format!("{RANDOM}.c"));
        std::fs::write(&random, RANDOM_SOURCE)
            .with_context(|| format!("cannot write {}", random.display()))?;
        let mut sources = vec![random];
        let recording = workspace::root().join(RECORDING);
        let listing = || format!("cannot list {}", recording.display());
        for entry in std::fs::read_dir(&recording).with_context(listing)? {
            let path = entry.with_context(listing)?.path();
            sources.extend(path.extension().is_some_and(|end| end == "c").then_some(path));
        }
        wine.native.clear();
        for source in sources {
            let name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let mut compile = Command::new(LINKER);
            // What a header declares as imported is not exported by itself.
            compile.args(["-shared", "-Wl,--export-all-symbols", "-O1", "-Wall", "-Werror", "-o"]);
            compile
                .arg(system.join(format!("{name}.dll")))
                .arg(&source)
                .args(["-ladvapi32", "-lole32"]);
            program::run(&mut compile)?;
            wine.native.push(name);
        }
        let mut shell = Command::new(LOADER);
        wine.environment(&mut shell).arg("cmd").stdin(Stdio::piped());
        shell.stdout(Stdio::null()).stderr(Stdio::null());
        wine.shell = Some(shell.spawn().context("cannot start Wine")?);
        Ok(wine)
    }

    /// A command that runs a program of Windows.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(LOADER);
        self.environment(&mut command).arg(program);
        command
    }

    fn environment<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        let native = self.native.join(",");
        let overrides = format!("mscoree,mshtml=;winemenubuilder.exe=d;{native}=n");
        command
            .env("WINEPREFIX", &self.prefix)
            .env("WINEDEBUG", "-all")
            .env("WINEDLLOVERRIDES", overrides)
    }
}

impl Drop for Wine {
    /// Ends what runs in the prefix.
    fn drop(&mut self) {
        let mut server = Command::new(SERVER);
        // Where that does not succeed, they end by themselves some time after the last program.
        drop(self.environment(&mut server).arg("-k").status());
        if let Some(mut shell) = self.shell.take() {
            drop(shell.kill());
            drop(shell.wait());
        }
    }
}
