//! The 9P server judged by the kernel's own client in a guest: POSIX's rules, random input and output, programs at work,
//! and attempts to get out.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use uvm::{ShareGuard, ShareRequest};

use crate::bench::{CHANNELS, Own, shared, soon};

/// Shares a directory with the guest.
fn share(
    own: &Own,
    host: &Path,
    guest: &str,
    change: impl FnOnce(&mut ShareRequest),
) -> ShareGuard {
    let (host, guest_path) = (host.to_owned(), guest.to_owned());
    let mut request = ShareRequest { host, guest_path, read_only: false, allowed: None };
    change(&mut request);
    own.machine.share(&request, &soon()).unwrap()
}

/// A program of the set-up, wherever cargo has put it.
fn program(name: &str) -> PathBuf {
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = || std::env::home_dir().map(|home| home.join(".cargo"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(cargo.or_else(home).map(|home| home.join("bin")))
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed: cargo install --locked {name}"))
}

/// A root for `chroot` with these programs and what they load.
fn root(programs: &[&str]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for directory in ["bin", "etc", "work"] {
        fs::create_dir(root.path().join(directory)).unwrap();
    }
    for name in programs {
        let path = program(name);
        fs::copy(&path, root.path().join("bin").join(name)).unwrap();
        let listed = Command::new("ldd").arg(&path).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        for library in listed.split_whitespace().filter(|word| word.starts_with('/')) {
            let copy = root.path().join(library.trim_start_matches('/'));
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            fs::copy(library, copy).unwrap();
        }
    }
    for file in ["passwd", "group"] {
        fs::copy(Path::new("/etc").join(file), root.path().join("etc").join(file)).unwrap();
    }
    root
}

fn md5sum(path: &Path) -> String {
    let output = Command::new("md5sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

/// It takes a QEMU that has the device, as `cargo xtask vm-kit` unpacks it.
#[test]
fn vm_shares_take_the_channels_and_then_vsock() {
    let (own, _turn) = shared();
    let host = tempfile::tempdir().unwrap();
    let text = "a line of text\n".repeat(100_000);
    fs::write(host.path().join("text"), &text).unwrap();
    let place = |number: u8| format!("/run/mounts/channel{number}");
    let transport = |number| {
        let mounts = own.shell(&format!("grep ' {} ' /proc/mounts", place(number)));
        let option = mounts.split([' ', ',']).find(|word| word.starts_with("trans="));
        option.unwrap_or(&mounts).to_owned()
    };
    let mut guards: Vec<_> = (0..=CHANNELS)
        .map(|number| {
            share(own, host.path(), &place(number), |request| request.read_only = number == 0)
        })
        .collect();
    for number in 0..=CHANNELS {
        let expected = if number < CHANNELS { "trans=virtio" } else { "trans=fd" };
        assert_eq!(transport(number), expected, "share {number}");
        let script = format!("cd {}; md5sum text; ls; cp text copy{number}", place(number));
        let (said, code) = own.try_shell(&script);
        let sum = format!("{}  text\n", md5sum(&host.path().join("text")));
        assert!(said.starts_with(&sum) && (code == 0) == (number > 0), "{code}: {said}");
    }
    for number in 1..=CHANNELS {
        assert_eq!(fs::read_to_string(host.path().join(format!("copy{number}"))).unwrap(), text);
    }
    // A channel is free for another share when the one that had it is gone.
    guards.remove(0).release().unwrap();
    let (first, again) = (place(0), share(own, host.path(), &place(9), |_| {}));
    assert_eq!(transport(9), "trans=virtio");
    assert!(own.try_shell(&format!("cat {first}/text")).1 != 0);
    // What was removed on the host while the guest has it open is still the guest's.
    own.shell(&format!(
        "cd {}; exec 3<>copy9; echo one >&3; rm copy9; echo two >&3; [ ! -e copy9 ]",
        place(9)
    ));
    again.release().unwrap();
    guards.into_iter().for_each(|guard| guard.release().unwrap());
}

/// What of the suite runs here: every call on regular files, and what is about users, times and lengths. All of it takes two
/// minutes; `docs/9p.md` says how.
const POSIX: &[&str] = &[
    "::regular",
    "utimensat::",
    "ftruncate::",
    "chown::perm",
    "open::open",
    "rmdir::e",
    "symlink::e",
];

const SETTINGS: &str = r#"
[features]
utimensat = {}
utime_now = {}
[settings]
naptime = 0.01
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"], ["bin", "bin"]]
"#;

#[test]
fn vm_shares_keep_the_rules_of_posix() {
    let (own, _turn) = shared();
    let root = root(&["pjdfstest"]);
    fs::write(root.path().join("etc/settings"), SETTINGS).unwrap();
    let guard = share(own, root.path(), "/run/mounts/posix", |_| {});
    let begun = Instant::now();
    let (said, _) = own.try_shell(&format!(
        "umask 0; chroot /run/mounts/posix /bin/pjdfstest -c /etc/settings -p /work {}",
        POSIX.join(" ")
    ));
    guard.release().unwrap();
    let ended = |with: &str| said.lines().filter(|line| line.ends_with(with)).collect::<Vec<_>>();
    // Devices are not made for guests, programs it looks for are not in the root, and it may not mount. The kernel's client
    // sets times in whole seconds only: it leaves `s_time_gran` at a second.
    let failed = ended("FAILED");
    let surprising: Vec<_> = failed
        .iter()
        .filter(|line| {
            !["::block", "::char", "etxtbsy", "rmdir::ebusy", "::subsecond"]
                .iter()
                .any(|no| line.contains(no))
        })
        .collect();
    assert!(surprising.is_empty(), "{surprising:?}: {said}");
    let passed = ended("ok").len();
    eprintln!("{passed} passed, {} failed in {:?}", failed.len(), begun.elapsed());
    assert!(passed >= 60, "{said}");
}

#[test]
fn vm_shares_keep_what_is_written_at_random_and_mapped() {
    let (own, _turn) = shared();
    let root = root(&["fsx"]);
    let guard = share(own, root.path(), "/run/mounts/fsx", |_| {});
    for seed in [1, 7] {
        let (said, code) = own.try_shell(&format!(
            "chroot /run/mounts/fsx /bin/fsx -N 300 -S {seed} /work/{seed} 2>&1"
        ));
        assert!(code == 0 && said.contains("A-OK"), "{said}");
    }
    guard.release().unwrap();
}

#[test]
fn vm_programs_clone_and_build_in_a_share() {
    let (own, _turn) = shared();
    let work = tempfile::tempdir().unwrap();
    let source = work.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("main.c"), "int main(void) { return 42; }\n").unwrap();
    fs::write(source.join("other"), "x\n".repeat(100_000)).unwrap();
    for words in [&["init", "-q"][..], &["add", "-A"], &["commit", "-qm", "first"]] {
        let who = ["-c", "user.name=a", "-c", "user.email=a@b"];
        let git = Command::new("git").args(who).args(words).current_dir(&source).status();
        assert!(git.unwrap().success());
    }
    // The host's programs, read only; the work in a place that any root has.
    let host = share(own, Path::new("/"), "/run/mounts/host", |request| request.read_only = true);
    let guard = share(own, work.path(), "/run/mounts/host/mnt", |_| {});
    let begun = Instant::now();
    own.shell(
        "mount -t tmpfs none /run/mounts/host/tmp
         run() { HOME=/tmp PATH=/usr/bin:/bin GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*' \
             /tools/chroot /run/mounts/host \"$@\" || exit 1; }
         run git clone -q /mnt/source /mnt/clone
         run git -C /mnt/clone fsck
         run cc -o /mnt/clone/program /mnt/clone/main.c
         run /mnt/clone/program; [ $? = 42 ]; umount /run/mounts/host/tmp"
            .replace("run /mnt/clone/program;", "/run/mounts/host/mnt/clone/program;")
            .as_str(),
    );
    eprintln!("cloned and built in {:?}", begun.elapsed());
    guard.release().unwrap();
    host.release().unwrap();
    let same = fs::read(work.path().join("clone/other")).unwrap();
    assert_eq!(same, fs::read(source.join("other")).unwrap());
    let status = Command::new(work.path().join("clone/program")).status().unwrap();
    assert_eq!(status.code(), Some(42));
}

#[test]
fn vm_guests_cannot_leave_a_share() {
    let (own, _turn) = shared();
    let outer = tempfile::tempdir().unwrap();
    fs::write(outer.path().join("secret"), "the host's").unwrap();
    let inside = outer.path().join("inside");
    fs::create_dir_all(inside.join("swap")).unwrap();
    fs::write(inside.join("swap/secret"), "inside").unwrap();
    fs::write(inside.join("hidden"), "hidden").unwrap();
    symlink(outer.path(), inside.join("other")).unwrap();
    symlink("../secret", inside.join("up")).unwrap();
    let guard = share(own, &inside, "/run/mounts/in", |_| {});
    // A link is the guest's to follow, in its own files.
    let (said, code) =
        own.try_shell("cd /run/mounts/in; cat up; cat other/secret; ln -s /etc/shadow s; cat s");
    assert!(code != 0 && !said.contains("the host's") && !said.contains("root:"), "{said}");
    assert_eq!(
        own.shell("cd /run/mounts/in; ls -a ..; cat swap/../../in/hidden | wc -c").lines().last(),
        Some("6")
    );
    // The host swaps a directory for a link to where the secret is, as fast as it can.
    let stop = AtomicBool::new(false);
    let said = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let (flags, cwd) = (rustix::fs::RenameFlags::EXCHANGE, rustix::fs::CWD);
                let (one, other) = (inside.join("swap"), inside.join("other"));
                rustix::fs::renameat_with(cwd, one, cwd, other, flags).unwrap();
            }
        });
        let said = own.try_shell(
            "cd /run/mounts/in; i=0; while [ $i -lt 60 ]; do cat swap/secret
             echo x > swap/new$i; i=$((i+1)); done; true",
        );
        stop.store(true, Ordering::Relaxed);
        said
    });
    assert!(said.0.contains("inside") && !said.0.contains("the host's"), "{}", said.0);
    let mut outside: Vec<_> =
        fs::read_dir(outer.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    outside.sort();
    assert_eq!(outside, ["inside", "secret"]);

    let one = share(own, &inside, "/run/mounts/one", |request| {
        request.allowed = Some(["up".into(), "new".into()].into());
    });
    let (said, code) = own.try_shell(
        "cd /run/mounts/one; ls; ls hidden && exit 9; echo x > more && exit 9; mv up hidden && exit 9
         mkdir more && exit 9; ln up more && exit 9; chmod 700 . && exit 9; echo new > new && mv new up && cat up",
    );
    assert!(code == 0 && said.starts_with("up\n") && said.ends_with("new\n"), "{code}: {said}");
    assert_eq!(fs::read(inside.join("hidden")).unwrap(), b"hidden");
    one.release().unwrap();

    let kept = share(own, &inside, "/run/mounts/ro", |request| request.read_only = true);
    // The guest's own mark on the mount is taken away first: the host must refuse.
    let (said, code) = own.try_shell(
        "mount -o remount,rw /run/mounts/ro || exit 8; cd /run/mounts/ro; cat hidden
         for call in 'touch n' 'mkdir n' 'ln hidden n' 'ln -s n n' 'mkfifo n' 'rm hidden' 'mv hidden n' 'chmod 777 hidden' \
             'chown 1 hidden' 'truncate -s 0 hidden' 'dd if=/dev/zero of=hidden conv=notrunc'; do
             $call 2>&1 && exit 9; done; true",
    );
    assert!(code == 0 && said.starts_with("hidden"), "{code}: {said}");
    assert_eq!(said.matches("Read-only file system").count(), 11, "{said}");
    kept.release().unwrap();
    guard.release().unwrap();
}
