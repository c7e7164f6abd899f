//! Images of layers and disks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest as _, Sha256};

const BLOCK: usize = 4096;
/// First sector of the partition.
const START: u32 = 2048;

pub(crate) struct Images {
    directory: tempfile::TempDir,
}

impl Images {
    pub(crate) fn new() -> Self {
        let images =
            Self { directory: tempfile::Builder::new().prefix("pw-vm-").tempdir().unwrap() };
        let layer = images.path("layer");
        for name in ["bin", "proc", "dev", "sys", "tmp", "mnt"] {
            fs::create_dir_all(layer.join(name)).unwrap();
        }
        fs::copy("/usr/bin/busybox", layer.join("bin/busybox"))
            .expect("busybox-static is installed");
        for name in
            ["sh", "cat", "echo", "dd", "ls", "mount", "grep", "touch", "stat", "sleep", "wc", "rm"]
        {
            std::os::unix::fs::symlink("busybox", layer.join("bin").join(name)).unwrap();
        }
        fs::write(layer.join("name"), "base\n").unwrap();
        images.erofs("base.erofs", &layer);
        let top = images.path("top");
        fs::create_dir(&top).unwrap();
        fs::write(top.join("name"), "top\n").unwrap();
        fs::write(top.join("more"), vec![b'x'; 5 * BLOCK]).unwrap();
        images.erofs("top.erofs", &top);
        let ext4 = images.blank("layer.ext4", 4 << 20);
        run(Command::new("mkfs.ext4").args(["-q", "-d"]).arg(&top).arg(ext4));
        images.partitioned();
        images.blank("scratch", 64 << 20);
        images.blank("small", 2 << 20);
        images.blank("xfs", 320 << 20);
        images.blank("secret", 320 << 20);
        images.blank("raw", 1 << 20);
        images.pmem();
        images
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn blank(&self, name: &str, size: u64) -> PathBuf {
        let path = self.path(name);
        fs::File::create(&path).unwrap().set_len(size).unwrap();
        path
    }

    fn erofs(&self, name: &str, tree: &Path) {
        // Whole blocks, as a disk has whole sectors.
        run(Command::new("mkfs.erofs").arg(self.path(name)).arg(tree));
        let file = fs::File::options().write(true).open(self.path(name)).unwrap();
        let size = file.metadata().unwrap().len();
        file.set_len(size.next_multiple_of(BLOCK as u64)).unwrap();
    }

    /// A disk whose first partition is the top layer.
    fn partitioned(&self) {
        let layer = fs::read(self.path("top.erofs")).unwrap();
        let sectors = u32::try_from(layer.len() / 512).unwrap();
        let mut disk = vec![0; START as usize * 512];
        disk.extend_from_slice(&layer);
        // One entry of a DOS table: type Linux, where, how long.
        disk[0x1be + 4] = 0x83;
        disk[0x1be + 8..0x1be + 12].copy_from_slice(&START.to_le_bytes());
        disk[0x1be + 12..0x1be + 16].copy_from_slice(&sectors.to_le_bytes());
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        fs::write(self.path("partitioned"), disk).unwrap();
    }

    /// Memory with the top layer, and at 1 MiB the ext4 layer.
    fn pmem(&self) {
        let mut memory = fs::read(self.path("top.erofs")).unwrap();
        memory.resize(1 << 20, 0);
        memory.extend_from_slice(&fs::read(self.path("layer.ext4")).unwrap());
        memory.resize(memory.len().next_multiple_of(2 << 20), 0);
        fs::write(self.path("pmem"), memory).unwrap();
    }

    /// The top layer with its hash tree behind it; its size and root digest. One block holds all digests.
    pub(crate) fn verity(&self, name: &str, damaged: bool) -> (u64, String) {
        let data = fs::read(self.path("top.erofs")).unwrap();
        assert!(data.len() / BLOCK <= BLOCK / 32);
        let mut tree: Vec<u8> =
            data.chunks(BLOCK).flat_map(|block| Sha256::digest(block).to_vec()).collect();
        tree.resize(BLOCK, 0);
        // The tree of a single data block is that block's digest alone; there are more here or the root differs.
        assert!(data.len() > BLOCK, "a tree needs two blocks");
        let root: String = Sha256::digest(&tree).iter().map(|byte| format!("{byte:02x}")).collect();
        let mut disk = data.clone();
        if damaged {
            let at = disk.windows(4).position(|bytes| bytes == b"top\n").unwrap();
            disk[at] ^= 1;
        }
        disk.extend_from_slice(&tree);
        fs::write(self.path(name), disk).unwrap();
        (data.len() as u64, root)
    }
}

impl Images {
    /// A tree of the top layer by veritysetup, in a file of its own; the layer's size, the root hash and the salt.
    pub(crate) fn tree(&self, name: &str) -> (u64, String, String) {
        let data = self.path("top.erofs");
        let output = Command::new("/usr/sbin/veritysetup")
            .arg("format")
            .args([&data, &self.path(name)])
            .output()
            .expect("veritysetup of cryptsetup-bin is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let value = |key: &str| {
            let line = text.lines().find(|line| line.starts_with(key)).unwrap();
            line.rsplit(char::is_whitespace).next().unwrap().to_owned()
        };
        // A disk has whole sectors, and here they are of 4096 bytes already.
        (fs::metadata(data).unwrap().len(), value("Root hash:"), value("Salt:"))
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
