//! Wine with a home of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::LINKER;
use crate::program;

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

/// Wine, ready to run programs.
pub(super) struct Wine {
    prefix: PathBuf,
}

impl Wine {
    /// Makes the prefix, unless it is there.
    pub(super) fn ready(directory: &Path) -> Result<Self> {
        let wine = Self { prefix: directory.join("prefix") };
        let library = wine.prefix.join(format!("drive_c/windows/system32/{RANDOM}.dll"));
        if library.is_file() {
            return Ok(wine);
        }
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        // It complains of the missing half for 32 bits, which nothing here needs.
        program::run(wine.environment(&mut Command::new(LOADER)).args(["wineboot", "-i"]))?;
        let source = directory.join("random.c");
        std::fs::write(&source, RANDOM_SOURCE)
            .with_context(|| format!("cannot write {}", source.display()))?;
        let built = directory.join("random.dll");
        let mut compile = Command::new(LINKER);
        compile.args(["-shared", "-O1", "-o"]).arg(&built).arg(&source);
        program::run(compile.arg("-ladvapi32"))?;
        std::fs::rename(&built, &library)
            .with_context(|| format!("cannot create {}", library.display()))?;
        Ok(wine)
    }

    /// A command that runs a program of Windows.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(LOADER);
        self.environment(&mut command).arg(program);
        command
    }

    fn environment<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        let overrides = format!("mscoree,mshtml=;winemenubuilder.exe=d;{RANDOM}=n");
        command
            .env("WINEPREFIX", &self.prefix)
            .env("WINEDEBUG", "-all")
            .env("WINEDLLOVERRIDES", overrides)
    }

    /// Ends what runs in the prefix, which otherwise stays for a while.
    pub(super) fn end(&self) -> Result<()> {
        // Its exit code tells whether there was anything to end.
        let mut server = Command::new(SERVER);
        self.environment(&mut server).arg("-k").status().context("cannot start wineserver")?;
        Ok(())
    }
}
