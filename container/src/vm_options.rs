//! How a virtual machine is built: hcsshim's annotations and defaults, as far as they mean something here.

use std::collections::{BTreeMap, HashMap};

use crate::error::{Error, ErrorKind, Result};

const PREFIX: &str = "io.microsoft.virtualmachine.";
const MEMORY: &str = "io.microsoft.virtualmachine.computetopology.memory.sizeinmb";
const OVERCOMMIT: &str = "io.microsoft.virtualmachine.computetopology.memory.allowovercommit";
const DEFERRED: &str = "io.microsoft.virtualmachine.computetopology.memory.enabledeferredcommit";
const PROCESSORS: &str = "io.microsoft.virtualmachine.computetopology.processor.count";
const PMEM_COUNT: &str = "io.microsoft.virtualmachine.devices.virtualpmem.maximumcount";
const PMEM_SIZE: &str = "io.microsoft.virtualmachine.devices.virtualpmem.maximumsizebytes";
const PMEM_WHOLE: &str = "io.microsoft.virtualmachine.lcow.vpmem.nomultimapping";
const PHYSICAL: &str = "io.microsoft.virtualmachine.fullyphysicallybacked";
const ENCRYPTED: &str = "io.microsoft.virtualmachine.storage.scratch.encrypted";
const BOOT_OPTIONS: &str = "io.microsoft.virtualmachine.lcow.kernelbootoptions";
const BOOT_FILES: &str = "io.microsoft.virtualmachine.lcow.bootfilesrootpath";
const ROOTFS_KIND: &str = "io.microsoft.virtualmachine.lcow.preferredrootfstype";

/// hcsshim's limit, and what this allows.
const MOST_PMEM_DEVICES: u32 = 128;
const MOST_PROCESSORS: u32 = 256;
/// Less does not boot with the agent and its programs in memory.
const LEAST_MEMORY_MIB: u64 = 192;
const MOST_MEMORY_MIB: u64 = 1 << 24;
const PAGE: u64 = 4096;

/// How a virtual machine for Linux containers is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmOptions {
    /// Memory in MiB, an even number.
    pub memory_mib: u64,
    /// Virtual processors.
    pub processors: u32,
    /// Whether the host may hand out more memory than it has.
    pub allow_overcommit: bool,
    /// Persistent-memory devices; 0 puts every layer on SCSI.
    pub pmem_devices: u32,
    /// Size of each in bytes; a larger layer goes to SCSI.
    pub pmem_size: u64,
    /// Whether several layers may share one of them.
    pub pmem_packed: bool,
    /// SCSI controllers, each with 64 places.
    pub scsi_controllers: u32,
    /// Whether all of the guest's memory and devices have memory of the host behind them.
    pub physically_backed: bool,
    /// Whether scratches are encrypted with a key that nobody keeps.
    pub encrypted_scratch: bool,
    /// What is added to the kernel's command line.
    pub kernel_options: String,
    /// Where kernel and initramfs are, if not at the usual place.
    pub kit: Option<String>,
}

impl Default for VmOptions {
    fn default() -> Self {
        Self {
            memory_mib: 1024,
            processors: 2,
            allow_overcommit: true,
            pmem_devices: 64,
            pmem_size: 4 << 30,
            pmem_packed: true,
            scsi_controllers: 1,
            physically_backed: false,
            encrypted_scratch: false,
            kernel_options: String::new(),
            kit: None,
        }
    }
}

impl VmOptions {
    /// What a specification's annotations ask for, over the defaults; and the names of those that are about a virtual
    /// machine and mean nothing here, sorted.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) where a value cannot be read or is out of range (hcsshim falls back on
    /// the default), [`NotSupported`](ErrorKind::NotSupported) for a root file system on a disk.
    pub fn from_annotations(annotations: &HashMap<String, String>) -> Result<(Self, Vec<String>)> {
        // Sorted, so that the same annotations give the same error.
        let annotations: BTreeMap<&str, &str> = annotations
            .iter()
            .filter(|(name, _)| name.starts_with(PREFIX))
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let mut options = Self::default();
        let mut ignored = Vec::new();
        let mut deferred = false;
        for (&name, &value) in &annotations {
            match name {
                MEMORY => {
                    let asked = number(name, value, LEAST_MEMORY_MIB, MOST_MEMORY_MIB)?;
                    options.memory_mib = asked.next_multiple_of(2);
                }
                OVERCOMMIT => options.allow_overcommit = flag(name, value)?,
                DEFERRED => deferred = flag(name, value)?,
                PROCESSORS => {
                    options.processors = number(name, value, 1, MOST_PROCESSORS)?;
                }
                PMEM_COUNT => options.pmem_devices = number(name, value, 0, MOST_PMEM_DEVICES)?,
                PMEM_SIZE => {
                    options.pmem_size = number(name, value, PAGE, 1 << 40)?;
                    if !options.pmem_size.is_multiple_of(PAGE) {
                        return Err(wrong(name, value, "a multiple of 4096"));
                    }
                }
                PMEM_WHOLE => options.pmem_packed = !flag(name, value)?,
                PHYSICAL => options.physically_backed = flag(name, value)?,
                ENCRYPTED => options.encrypted_scratch = flag(name, value)?,
                BOOT_OPTIONS => {
                    if value.contains(|byte: char| byte.is_control()) {
                        return Err(wrong(name, value, "one line of text"));
                    }
                    options.kernel_options = value.to_owned();
                }
                BOOT_FILES => options.kit = Some(value.to_owned()),
                // The guest is an initramfs: its root is memory.
                ROOTFS_KIND if value == "initrd" => {}
                ROOTFS_KIND if value == "vhd" => {
                    return Err(Error::new(
                        ErrorKind::NotSupported,
                        format!(
                            "the annotation {name} asks for a disk, and the guest boots from memory (initrd)"
                        ),
                    ));
                }
                ROOTFS_KIND => return Err(wrong(name, value, "initrd")),
                _ => ignored.push(name.to_owned()),
            }
        }
        if options.physically_backed {
            options.allow_overcommit = false;
            options.pmem_devices = 0;
        }
        if deferred && !options.allow_overcommit {
            return Err(Error::invalid(format!(
                "the annotation {DEFERRED} needs memory that may be handed out more than once"
            )));
        }
        if options.pmem_devices == 0 {
            options.scsi_controllers = 4;
        }
        Ok((options, ignored))
    }
}

fn number<T>(name: &str, value: &str, least: T, most: T) -> Result<T>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    match value.trim().parse::<T>() {
        Ok(number) if number >= least && number <= most => Ok(number),
        _ => Err(wrong(name, value, &format!("a number from {least} to {most}"))),
    }
}

fn flag(name: &str, value: &str) -> Result<bool> {
    match value.trim().to_ascii_lowercase().as_str() {
        "true" | "t" | "1" => Ok(true),
        "false" | "f" | "0" => Ok(false),
        _ => Err(wrong(name, value, "true or false")),
    }
}

fn wrong(name: &str, value: &str, expected: &str) -> Error {
    Error::invalid(format!(
        "the annotation {name} is `{}`, and should be {expected}",
        value.escape_debug()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<(VmOptions, Vec<String>)> {
        let annotations =
            pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        VmOptions::from_annotations(&annotations)
    }

    #[test]
    fn defaults() {
        let (options, ignored) = parse(&[("com.example", "x")]).unwrap();
        assert_eq!(options, VmOptions::default());
        assert!(ignored.is_empty());
        assert_eq!((options.memory_mib, options.processors), (1024, 2));
        assert_eq!((options.pmem_devices, options.pmem_size), (64, 4 << 30));
        assert_eq!(options.scsi_controllers, 1);
    }

    #[test]
    fn what_annotations_ask_for() {
        let (options, ignored) = parse(&[
            (MEMORY, "2047"),
            (PROCESSORS, "4"),
            (PMEM_COUNT, "0"),
            (PMEM_WHOLE, "True"),
            (ENCRYPTED, "true"),
            (BOOT_OPTIONS, "quiet loglevel=3"),
            (ROOTFS_KIND, "initrd"),
            ("io.microsoft.virtualmachine.storageqos.iopsmaximum", "5"),
            ("io.microsoft.virtualmachine.computetopology.processor.weight", "5"),
        ])
        .unwrap();
        assert_eq!((options.memory_mib, options.processors), (2048, 4));
        assert_eq!((options.pmem_devices, options.scsi_controllers), (0, 4));
        assert!(options.encrypted_scratch && !options.pmem_packed);
        assert_eq!(options.kernel_options, "quiet loglevel=3");
        assert_eq!(ignored.len(), 2);
        assert!(ignored[0].ends_with("weight"), "sorted");
    }

    #[test]
    fn physically_backed_memory_has_no_pmem() {
        let (options, _) =
            parse(&[(PHYSICAL, "true"), (OVERCOMMIT, "true"), (PMEM_COUNT, "9")]).unwrap();
        assert!(!options.allow_overcommit);
        assert_eq!((options.pmem_devices, options.scsi_controllers), (0, 4));
        assert_eq!(
            parse(&[(PHYSICAL, "true"), (DEFERRED, "true")]).unwrap_err().kind(),
            ErrorKind::Invalid
        );
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for (name, value) in [
            (MEMORY, "lots"),
            (MEMORY, ""),
            (MEMORY, "-1"),
            (MEMORY, "18446744073709551615"),
            (MEMORY, "1"),
            (PROCESSORS, "0"),
            (PROCESSORS, "4294967297"),
            (PMEM_COUNT, "129"),
            (PMEM_SIZE, "4097"),
            (PMEM_SIZE, "0"),
            (PHYSICAL, "yes"),
            (BOOT_OPTIONS, "a\nb"),
            (ROOTFS_KIND, "floppy"),
        ] {
            let error = parse(&[(name, value)]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{name} {value}");
            assert!(error.to_string().contains(name), "{error}");
        }
        assert_eq!(parse(&[(ROOTFS_KIND, "vhd")]).unwrap_err().kind(), ErrorKind::NotSupported);
    }
}
