//! Disks on SCSI buses, by controller and logical unit, and persistent memory by number.

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use bridge::ScsiDevice;

use crate::{Error, ErrorKind, Result};

/// Names of the controllers on Hyper-V's bus: version 5 UUIDs over the controller's number.
const VMBUS_CONTROLLERS: [&str; 4] = [
    "df6d0690-79e5-55b6-a5ec-c1e2f77f580a",
    "0110f83b-de10-5172-a266-78bca56bf50a",
    "b5d2d8d4-3a75-51bf-945b-3444dc6b8579",
    "305891a9-b251-5dfe-91a2-c25d9212275b",
];
/// Controllers a VM can have.
const CONTROLLERS: u8 = 4;
/// Logical units a controller can have.
const LUNS: u8 = 64;
/// Between two looks for a device that is coming.
const LOOK: Duration = Duration::from_millis(1);

/// Where the kernel tells of devices, and how long one may take to come.
#[derive(Debug, Clone)]
pub(crate) struct Devices {
    /// `/sys`.
    pub(crate) sysfs: PathBuf,
    /// `/dev`.
    pub(crate) dev: PathBuf,
    /// Deadline of every wait.
    pub(crate) wait: Duration,
}

impl Default for Devices {
    fn default() -> Self {
        Self {
            sysfs: PathBuf::from("/sys"),
            dev: PathBuf::from("/dev"),
            wait: Duration::from_secs(5),
        }
    }
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// A node whose device can be opened. For a moment after it has come it cannot.
fn ready(node: PathBuf) -> Result<Option<PathBuf>> {
    match fs::File::open(&node) {
        Ok(_) => Ok(Some(node)),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENXIO | libc::ENODEV | libc::ENOMEDIUM) => Ok(None),
            _ => Err(Error::failed(format!("opening {}", node.display()), error)),
        },
    }
}

impl Devices {
    /// Refuses addresses that cannot exist.
    pub(crate) fn check(disk: ScsiDevice) -> Result<()> {
        match disk.controller < CONTROLLERS && disk.lun < LUNS {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "there is no SCSI controller {} with logical unit {}",
                disk.controller, disk.lun
            ))),
        }
    }

    fn until(&self, what: &str, look: impl Fn() -> Result<Option<PathBuf>>) -> Result<PathBuf> {
        let until = Instant::now() + self.wait;
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            if Instant::now() >= until {
                let seconds = self.wait.as_secs_f32();
                let message = format!("{what} did not appear within {seconds} s");
                return Err(Error::new(ErrorKind::Failed, message));
            }
            thread::sleep(LOOK);
        }
    }

    /// The number of the SCSI host that is controller `controller`: on Hyper-V's bus by the controller's UUID, else
    /// the hosts of virtio in the order of their numbers, which is that of their PCI addresses.
    fn host(&self, controller: u8) -> Option<u32> {
        let number = |name: &str| name.strip_prefix("host")?.parse::<u32>().ok();
        let vmbus = VMBUS_CONTROLLERS.get(usize::from(controller)).and_then(|uuid| {
            let directory = self.sysfs.join("bus/vmbus/devices").join(uuid);
            names(&directory).iter().find_map(|name| number(name))
        });
        vmbus.or_else(|| {
            let class = self.sysfs.join("class/scsi_host");
            let is_virtio = |name: &String| {
                fs::read_to_string(class.join(name).join("proc_name"))
                    .is_ok_and(|driver| driver.trim() == "virtio_scsi")
            };
            let hosts = names(&class);
            let mut numbers: Vec<u32> = hosts
                .iter()
                .filter(|name| is_virtio(name))
                .filter_map(|name| number(name))
                .collect();
            numbers.sort_unstable();
            numbers.get(usize::from(controller)).copied()
        })
    }

    fn device_directory(&self, disk: ScsiDevice) -> Option<PathBuf> {
        let host = self.host(disk.controller)?;
        let name = format!("{host}:0:0:{}", disk.lun);
        Some(self.sysfs.join("bus/scsi/devices").join(name))
    }

    /// The node of a disk, or of one of its partitions, once it is there.
    ///
    /// # Errors
    /// If it does not come in time.
    pub(crate) fn disk(&self, disk: ScsiDevice, partition: u64) -> Result<PathBuf> {
        Self::check(disk)?;
        let what = format!("the disk at controller {} LUN {}", disk.controller, disk.lun);
        let what = match partition {
            0 => what,
            number => format!("partition {number} of {what}"),
        };
        // Controllers stay where they are; looking for one takes longer than looking for a disk.
        let place = OnceCell::new();
        self.until(&what, || {
            let Some(block) = place.get().cloned().or_else(|| {
                let block = self.device_directory(disk)?.join("block");
                Some(place.get_or_init(|| block).clone())
            }) else {
                return Ok(None);
            };
            let Some(name) = names(&block).into_iter().next() else { return Ok(None) };
            let name = match partition {
                0 => Some(name),
                number => {
                    let directory = block.join(&name);
                    let is_it = |name: &String| {
                        fs::read_to_string(directory.join(name).join("partition"))
                            .is_ok_and(|text| text.trim().parse() == Ok(number))
                    };
                    names(&directory).into_iter().find(is_it)
                }
            };
            match name {
                Some(name) => ready(self.dev.join(name)),
                None => Ok(None),
            }
        })
    }

    /// The node of a persistent memory device, once it is there.
    ///
    /// # Errors
    /// If it does not come in time.
    pub(crate) fn pmem(&self, number: u32) -> Result<PathBuf> {
        let node = self.dev.join(format!("pmem{number}"));
        let what = format!("persistent memory {number}");
        self.until(&what, || ready(node.clone()))
    }

    /// Takes a disk off its bus; one that is not there is off already.
    ///
    /// # Errors
    /// If the kernel refuses, or the disk does not go in time.
    pub(crate) fn unplug(&self, disk: ScsiDevice) -> Result<()> {
        Self::check(disk)?;
        let Some(directory) = self.device_directory(disk) else { return Ok(()) };
        match fs::write(directory.join("delete"), "1") {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                return Err(Error::failed(format!("unplugging {}", directory.display()), error));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sysfs with two virtio hosts behind one of another driver.
    fn fixture() -> (tempfile::TempDir, Devices) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for (host, driver) in
            [("host0", "ata_piix"), ("host10", "virtio_scsi"), ("host9", "virtio_scsi")]
        {
            let path = root.join("sys/class/scsi_host").join(host);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("proc_name"), format!("{driver}\n")).unwrap();
        }
        let block = root.join("sys/bus/scsi/devices/10:0:0:3/block/sdb");
        fs::create_dir_all(block.join("sdb2")).unwrap();
        fs::write(block.join("sdb2/partition"), "2\n").unwrap();
        fs::create_dir_all(block.join("queue")).unwrap();
        fs::create_dir_all(root.join("dev")).unwrap();
        for node in ["sdb", "sdb2", "pmem1"] {
            fs::write(root.join("dev").join(node), "").unwrap();
        }
        let devices = Devices {
            sysfs: root.join("sys"),
            dev: root.join("dev"),
            wait: Duration::from_millis(30),
        };
        (directory, devices)
    }

    #[test]
    fn a_disk_is_found_by_controller_unit_and_partition() {
        let (_directory, devices) = fixture();
        let at = |controller, lun| ScsiDevice { controller, lun };
        assert_eq!(devices.disk(at(1, 3), 0).unwrap(), devices.dev.join("sdb"));
        assert_eq!(devices.disk(at(1, 3), 2).unwrap(), devices.dev.join("sdb2"));
        for (disk, partition) in [(at(0, 3), 0), (at(1, 3), 1), (at(1, 4), 0), (at(2, 3), 0)] {
            let error = devices.disk(disk, partition).unwrap_err();
            assert!(error.to_string().contains("did not appear within"), "{error}");
        }
        assert_eq!(devices.disk(at(4, 0), 0).unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(devices.disk(at(0, 64), 0).unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(devices.pmem(1).unwrap(), devices.dev.join("pmem1"));
        assert!(devices.pmem(0).is_err());
    }

    #[test]
    fn a_disk_that_comes_late_is_waited_for() {
        let (_directory, devices) = fixture();
        let devices = Devices { wait: Duration::from_secs(20), ..devices };
        let late = devices.clone();
        let coming = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            fs::create_dir_all(late.sysfs.join("bus/scsi/devices/9:0:0:0/block/sdc")).unwrap();
            fs::write(late.dev.join("sdc"), "").unwrap();
        });
        let disk = ScsiDevice { controller: 0, lun: 0 };
        assert_eq!(devices.disk(disk, 0).unwrap(), devices.dev.join("sdc"));
        coming.join().unwrap();
    }

    #[test]
    fn hyper_vs_controllers_are_known_by_their_names() {
        let (_directory, devices) = fixture();
        let vmbus = devices.sysfs.join("bus/vmbus/devices").join(VMBUS_CONTROLLERS[0]);
        fs::create_dir_all(vmbus.join("host10")).unwrap();
        let disk = ScsiDevice { controller: 0, lun: 3 };
        assert_eq!(devices.disk(disk, 0).unwrap(), devices.dev.join("sdb"));
    }

    #[test]
    fn unplugging_what_is_not_there_is_fine() {
        let (_directory, devices) = fixture();
        let path = devices.sysfs.join("bus/scsi/devices/10:0:0:3/delete");
        devices.unplug(ScsiDevice { controller: 1, lun: 3 }).unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "1");
        devices.unplug(ScsiDevice { controller: 1, lun: 9 }).unwrap();
        devices.unplug(ScsiDevice { controller: 3, lun: 9 }).unwrap();
    }
}
