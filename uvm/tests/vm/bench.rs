//! The shared machine, images for it, and a look into its guest.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bridge::{
    ExecuteProcess, ExecuteProcessSettings, InText, ProcessParameters, RequestBase, StdioPorts,
    WaitForProcess,
};
use uvm::kit::Kit;
use uvm::qemu::{Config, Qemu};
use uvm::{Deadline, Machine, ScsiDisk, ScsiGuard, ScsiKind, ScsiMount};

/// Of the shared machine.
pub(crate) const CHANNELS: u8 = 2;

pub(crate) fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

/// A configuration with the kit that is named, or that of this repository.
pub(crate) fn config(run: &Path) -> Config {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/vm/kit");
    let named = std::env::var_os(uvm::kit::KIT_VARIABLE).is_some();
    let kit = Kit::find((!named).then_some(&*ours)).unwrap();
    Config::new(kit, run)
}

/// A machine of one test's own.
pub(crate) struct Own {
    /// Holds `/tools` in the guest, at the first slot.
    #[expect(dead_code, reason = "it is what keeps them there")]
    tools: ScsiGuard,
    pub(crate) machine: Machine,
    pub(crate) vm: Arc<Qemu>,
    #[expect(dead_code, reason = "it goes with the machine")]
    directory: Option<tempfile::TempDir>,
}

pub(crate) fn boot(change: impl FnOnce(&mut Config)) -> Own {
    let run = tempfile::tempdir().unwrap();
    let path = run.path().to_owned();
    boot_in(&path, Some(run), change)
}

fn boot_in(
    run: &Path,
    directory: Option<tempfile::TempDir>,
    change: impl FnOnce(&mut Config),
) -> Own {
    let mut config = config(run);
    change(&mut config);
    let vm = Arc::new(Qemu::boot(config, &Deadline::never(), &mut |_| {}).unwrap());
    let (machine, errors) = Machine::open(vm.clone(), run).unwrap();
    assert!(errors.is_empty(), "{errors:?}");
    let mount = ScsiMount { path: Some("/tools".into()), ..layer() };
    let tools = machine.attach_scsi(&disk(tools(run)), Some(&mount), &soon()).unwrap();
    Own { tools, machine, vm, directory }
}

/// An image of busybox with the names of its applets.
fn tools(run: &Path) -> PathBuf {
    let tree = run.join("tools");
    std::fs::create_dir(&tree).unwrap();
    std::fs::copy("/bin/busybox", tree.join("busybox")).unwrap();
    let list = Command::new("/bin/busybox").arg("--list").output().unwrap();
    for name in String::from_utf8(list.stdout).unwrap().lines().filter(|name| *name != "busybox") {
        std::os::unix::fs::symlink("busybox", tree.join(name)).unwrap();
    }
    make_erofs(&run.join("tools.erofs"), &tree)
}

/// The machine that tests share, and the right to use all of its slots.
pub(crate) fn shared() -> (&'static Own, MutexGuard<'static, ()>) {
    static SHARED: OnceLock<Own> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let own = SHARED.get_or_init(|| {
        // Nothing is dropped at the end of a process, so this place is used again by the next one; what a machine leaves
        // in it is the next machine's to clean.
        let run = Path::new(env!("CARGO_TARGET_TMPDIR")).join("vm");
        let _ = std::fs::remove_dir_all(run.join("tools"));
        // Fewer channels than some tests have shares, so that those at the end take the other way.
        boot_in(&run, None, |config| (config.pmem_devices, config.share_channels) = (4, CHANNELS))
    });
    (own, turn)
}

impl Own {
    /// The output of a shell in the guest; what it lacks, busybox has.
    pub(crate) fn shell(&self, script: &str) -> String {
        let (output, code) = self.try_shell(script);
        assert_eq!(code, 0, "{script}: {output}");
        output
    }

    /// The same, with its exit code.
    pub(crate) fn try_shell(&self, script: &str) -> (String, i32) {
        let script = format!("export PATH=/tools; {{ {script}\n}} 2>&1");
        self.run(&["/tools/busybox", "sh", "-c", &script])
    }

    /// Runs a program in the guest, outside of containers; its output and exit code.
    pub(crate) fn run(&self, words: &[&str]) -> (String, i32) {
        let port = self.vm.open_port().unwrap();
        let parameters = ProcessParameters {
            command_args: words.iter().map(ToString::to_string).collect(),
            working_directory: "/".into(),
            create_std_out_pipe: true,
            create_in_utility_vm: true,
            ..ProcessParameters::default()
        };
        let execute = ExecuteProcess {
            base: RequestBase::default(),
            settings: ExecuteProcessSettings {
                process_parameters: InText(parameters),
                vsock_stdio_relay_settings: StdioPorts {
                    std_out: port.number(),
                    ..StdioPorts::default()
                },
            },
        };
        let started = self.vm.client().call(&execute, &soon()).unwrap();
        let mut output = String::new();
        port.accept(&soon()).unwrap().read_to_string(&mut output).unwrap();
        let wait = WaitForProcess {
            base: RequestBase::default(),
            process_id: started.process_id,
            timeout_in_ms: WaitForProcess::FOREVER,
        };
        let ended = self.vm.client().call(&wait, &soon()).unwrap();
        (output, i32::try_from(ended.exit_code).unwrap())
    }
}

/// An EROFS image with one file `name` that holds its own name.
pub(crate) fn erofs(directory: &Path, name: &str) -> PathBuf {
    let tree = directory.join(format!("{name}.tree"));
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join(name), name).unwrap();
    make_erofs(&directory.join(format!("{name}.erofs")), &tree)
}

fn make_erofs(image: &Path, tree: &Path) -> PathBuf {
    let output = Command::new("mkfs.erofs").arg("-x-1").arg(image).arg(tree).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    image.to_owned()
}

pub(crate) fn disk(path: impl Into<PathBuf>) -> ScsiDisk {
    ScsiDisk { path: path.into(), read_only: true, kind: ScsiKind::VirtualDisk }
}

pub(crate) fn layer() -> ScsiMount {
    ScsiMount { read_only: true, options: vec!["ro".into()], ..ScsiMount::default() }
}
