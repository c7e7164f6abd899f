//! The kit: what a virtual machine boots, a directory with a kernel and an initramfs.
//!
//! ```text
//!  vmlinuz      the kernel
//!  initramfs    /init (plywood-guest), /modules/NNN-name.ko in load order, programs with their libraries
//!  kit.json     which kernel
//! ```

mod cpio;
mod kernel;
mod modules;
mod programs;

use std::collections::BTreeSet;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};
use cpio::Cpio;
pub use modules::{Lacking, lacking};

/// Where the kit is if nobody says otherwise.
pub const DEFAULT_KIT: &str = "/usr/lib/plywood/vm";
/// Names another place.
pub const KIT_VARIABLE: &str = "PLYWOOD_VM_KIT";

/// A directory that virtual machines boot from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kit {
    directory: PathBuf,
    about: About,
}

/// What a kit says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct About {
    /// Release of the kernel, as `uname -r` says it there.
    kernel: String,
}

/// What a kit is made of.
#[derive(Debug)]
pub struct KitSources<'a> {
    /// The kernel: a bzImage, or an ELF file with a PVH entry. The ELF file in a bzImage is taken out where it is packed with
    /// zstd, because it boots a second earlier under emulation.
    pub kernel: &'a Path,
    /// Its modules: a `/lib/modules/VERSION`.
    pub modules: &'a Path,
    /// `plywood-guest`, linked statically.
    pub guest: &'a Path,
    /// Names of programs of the host that the guest is given.
    pub programs: &'a [&'a str],
}

/// What the guest runs: containers, and file systems for scratches.
pub const GUEST_PROGRAMS: &[&str] = &["runc", "mkfs.ext4", "mkfs.xfs"];

impl Kit {
    /// The kit in a directory: `directory`, else what [`KIT_VARIABLE`] names, else [`DEFAULT_KIT`].
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if there is none, with how to make one.
    pub fn find(directory: Option<&Path>) -> Result<Self> {
        let named =
            std::env::var_os(KIT_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
        let directory =
            directory.map(Path::to_owned).or(named).unwrap_or_else(|| PathBuf::from(DEFAULT_KIT));
        let about = directory.join("kit.json");
        let text = std::fs::read(&about).map_err(|error| {
            let message = format!(
                "there is no kit of a virtual machine in {}; `plywood vm make-kit` makes one, --kit or {KIT_VARIABLE} \
                 names it",
                directory.display()
            );
            Error::caused(ErrorKind::NotFound, message, error)
        })?;
        let about = serde_json::from_slice(&text).map_err(|error| {
            Error::caused(ErrorKind::Corrupt, format!("{} is damaged", about.display()), error)
        })?;
        let kit = Self { directory, about };
        for file in [kit.kernel(), kit.initramfs()] {
            if !file.is_file() {
                let message = format!("the kit lacks {}", file.display());
                return Err(Error::new(ErrorKind::NotFound, message));
            }
        }
        Ok(kit)
    }

    /// The kernel's file.
    pub fn kernel(&self) -> PathBuf {
        self.directory.join("vmlinuz")
    }

    /// The initramfs's file.
    pub fn initramfs(&self) -> PathBuf {
        self.directory.join("initramfs")
    }

    /// Release of the kernel.
    pub fn release(&self) -> &str {
        &self.about.kernel
    }

    /// Makes a kit in `directory`, which is created; one that is there is replaced, its record last.
    pub fn build(directory: &Path, sources: &KitSources<'_>) -> Result<Self> {
        let release = sources.modules.file_name().map(|name| name.to_string_lossy().into_owned());
        let about = About { kernel: release.unwrap_or_default() };
        let failed = |doing: &str, error| {
            Error::io(format!("cannot {doing} {}", directory.display()), error)
        };
        std::fs::create_dir_all(directory).map_err(|error| failed("create", error))?;
        let kit = Self { directory: directory.to_owned(), about };
        let kernel = std::fs::read(sources.kernel).map_err(|error| {
            Error::io(format!("cannot read {}", sources.kernel.display()), error)
        })?;
        let unpacked = kernel::unpack(&kernel)?;
        replace(&kit.kernel(), |file| file.write_all(unpacked.as_ref().unwrap_or(&kernel)))?;
        let content = Content::collect(sources)?;
        replace(&kit.initramfs(), |file| content.write(file))?;
        let about = serde_json::to_vec_pretty(&kit.about)
            .map_err(|error| Error::caused(ErrorKind::Io, "cannot describe the kit", error))?;
        replace(&directory.join("kit.json"), |file| file.write_all(&about))?;
        Ok(kit)
    }
}

/// What goes into an initramfs.
struct Content {
    guest: Vec<u8>,
    modules: Vec<modules::Module>,
    /// By path in the guest.
    programs: Vec<(String, Vec<u8>)>,
}

impl Content {
    fn collect(sources: &KitSources<'_>) -> Result<Self> {
        let read = |path: &Path| {
            std::fs::read(path)
                .map_err(|error| Error::io(format!("cannot read {}", path.display()), error))
        };
        let mut files = Vec::new();
        let mut libraries = BTreeSet::new();
        for name in sources.programs {
            let path = programs::find(name)?;
            programs::libraries(&path, &mut libraries)?;
            files.push((format!("usr/bin/{name}"), read(&path)?));
        }
        for path in libraries {
            // Merged or not on the host, in the guest /lib is /usr/lib.
            let plain = path.to_string_lossy().trim_start_matches('/').to_owned();
            let plain = if plain.starts_with("lib") { format!("usr/{plain}") } else { plain };
            if !files.iter().any(|(there, _)| *there == plain) {
                files.push((plain, read(&path)?));
            }
        }
        files.sort();
        Ok(Self {
            guest: read(sources.guest)?,
            modules: modules::load_order(sources.modules)?,
            programs: files,
        })
    }

    fn write(&self, to: &mut dyn std::io::Write) -> std::io::Result<()> {
        let mut cpio = Cpio::new(to);
        for path in [
            "dev",
            "proc",
            "sys",
            "run",
            "tmp",
            "root",
            "etc",
            "var",
            "usr/bin",
            "usr/lib",
            "usr/lib64",
        ] {
            cpio.directory(path)?;
        }
        for (link, target) in [
            ("bin", "usr/bin"),
            ("sbin", "usr/bin"),
            ("lib", "usr/lib"),
            ("lib64", "usr/lib64"),
            ("usr/sbin", "bin"),
        ] {
            cpio.symlink(link, target)?;
        }
        // The kernel opens it for init before anything is mounted.
        cpio.character_device("dev/console", (5, 1))?;
        cpio.file("init", 0o755, &self.guest)?;
        for (number, module) in self.modules.iter().enumerate() {
            cpio.file(&format!("modules/{number:03}-{}.ko", module.name), 0o644, &module.data)?;
        }
        for (path, data) in &self.programs {
            cpio.file(path, 0o755, data)?;
        }
        cpio.finish().map(drop)
    }
}

/// Writes a file under another name first, so that nobody meets half of it.
fn replace(
    path: &Path,
    write: impl FnOnce(&mut dyn std::io::Write) -> std::io::Result<()>,
) -> Result<()> {
    let new = path.with_extension("new");
    let written = std::fs::File::create(&new).and_then(|file| {
        let mut file = BufWriter::new(file);
        write(&mut file)?;
        file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(&new, path)
    });
    written.map_err(|error| Error::io(format!("cannot write {}", path.display()), error))
}
