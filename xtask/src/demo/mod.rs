//! `cargo xtask demo`: a real image imported, mounted and run as a user would, with every claim checked from
//! outside Plywood where that is possible.

mod cim;
mod image;
mod session;
mod traces;
mod vm;

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use self::image::DemoImage;
use self::session::{Session, heading, rate};
use self::traces::{Traces, entries, erofs_mounted, unmount_below};
use crate::packages::{self, Purpose};
use crate::{program, workspace};

/// The demo image's reference.
const REFERENCE: &str = "plywood.example/demo:1";

/// Read by the containers, and looked for in the page cache.
const LARGE: &str = "opt/demo/large";

/// Options of `cargo xtask demo`.
#[derive(Args)]
pub(crate) struct DemoArguments {
    /// What to show
    #[arg(value_enum, default_value_t)]
    what: What,
    /// Show this program instead of building one
    #[arg(long, value_name = "FILE")]
    plywood: Option<PathBuf>,
}

/// The demos.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum What {
    /// A container image from import to gc
    #[default]
    Image,
    /// Layers of Windows
    Cim,
    /// Containers in a virtual machine
    Vm,
}

pub(crate) fn demo(arguments: &DemoArguments) -> Result<()> {
    match arguments.what {
        What::Image => {}
        What::Cim => return cim::demo(arguments.plywood.as_deref()),
        What::Vm => return vm::demo(arguments.plywood.as_deref()),
    }
    packages::set_up(Purpose::Demo)?;
    packages::require_root("demo", "the demo mounts images and runs containers, which takes root")?;
    let directory = workspace::target().join("demo");

    heading("a real image, from Debian packages");
    let image = image::build(&directory.join("image"), REFERENCE)?;
    let plywood = program_under_test(arguments.plywood.as_deref())?;
    let mut session = Session::new(plywood, &directory);
    unmount_below(&directory)?;
    for left in [&session.root, &session.run, &directory.join("mounted")] {
        if left.exists() {
            std::fs::remove_dir_all(left)
                .with_context(|| format!("cannot remove {}", left.display()))?;
        }
    }
    let before = Traces::below(&directory)?;
    println!("$ export PLYWOOD_ROOT={}", session.root.display());
    println!("$ export PLYWOOD_RUN={}", session.run.display());

    import(&mut session, &image)?;
    look(&mut session, &directory.join("mounted"))?;
    run(&mut session, &image)?;
    write(&mut session)?;
    share(&mut session)?;
    kill(&mut session)?;
    clean(&mut session)?;

    heading("nothing is left");
    let after = Traces::below(&directory)?;
    session.claim(after == before, "mounts and loop devices are as before")?;
    session
        .claim(after.mounts() == 0 && after.loops() == 0, "no mount and no loop device is ours")?;
    session.finish();
    Ok(())
}

/// The program given, or a release build.
fn program_under_test(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(program) = given {
        return std::path::absolute(program).context("cannot find the program");
    }
    heading("the program");
    program::run(&mut program::cargo(["build", "--release", "--package", "plywood"]))?;
    Ok(workspace::target().join("release/plywood"))
}

/// The image comes in, twice.
fn import(session: &mut Session, image: &DemoImage) -> Result<()> {
    heading("import: every layer becomes one mountable file");
    let archive = image.archive.to_str().context("the image's path is not UTF-8")?;
    let bytes = std::fs::metadata(&image.archive)?.len();
    let import = ["image", "import", "--ref", REFERENCE, archive];
    let (_, took) = session.plywood(&import)?;
    session.stage("import", took, format!("{} of archive, durable", rate(bytes, took)));
    let layers = entries(&session.root.join("layers"))?;
    session.claim(layers == image::LAYERS, "there is one file for each of the four layers")?;
    let (_, took) = session.plywood(&import)?;
    session.stage("the same import again", took, "every layer is there already");
    session
        .claim(entries(&session.root.join("layers"))? == layers, "nothing was converted again")?;

    let (list, _) = session.plywood(&["image", "list"])?;
    session.claim(list.contains(REFERENCE), "the image is listed")?;
    session.plywood(&["image", "inspect", REFERENCE])?;
    Ok(())
}

/// The image mounted, and everything in it compared with what the layers say.
fn look(session: &mut Session, target: &Path) -> Result<()> {
    heading("mount: the root filesystem, without unpacking anything");
    std::fs::create_dir_all(target)
        .with_context(|| format!("cannot create {}", target.display()))?;
    let directory = target.to_str().context("the demo's path is not UTF-8")?;
    let (_, took) = session.plywood(&["mount", REFERENCE, directory])?;
    session.stage("mount", took, "four layers, cold");
    session.plywood(&["mount", "ls"])?;
    let facts = image::verify(target)?;
    session.claim(
        true,
        &format!(
            "{facts} facts hold: replaced and removed files, the opaque directory, links, xattrs, \
             capabilities, devices, setuid"
        ),
    )?;
    session.plywood(&["umount", directory])?;
    session
        .claim(erofs_mounted(&session.run)? == 0, "the volumes are gone with their last holder")?;
    std::fs::remove_dir(target).with_context(|| format!("cannot remove {}", target.display()))
}

/// Commands in containers.
fn run(session: &mut Session, image: &DemoImage) -> Result<()> {
    heading("run: a command in a container");
    let (hello, took) = session.plywood(&["run", REFERENCE])?;
    session.stage("run the image's command", took, "start to end");
    session.claim(
        hello == "hello from plywood, version 2, configured\n",
        "the image's own command, environment and top layers are in force",
    )?;
    let shell = |script: &'static str| ["run", REFERENCE, "--", "/bin/sh", "-c", script];
    let (packages, _) = session.plywood(&shell("dpkg-query -W | wc -l"))?;
    let packages: usize = packages.trim().parse().context("dpkg-query gave no number")?;
    session.claim(packages > 50, "Debian's package database is readable")?;
    let (listing, _) = session.plywood(&shell("ls /etc/cron.daily; ls /opt/demo/many | wc -l"))?;
    session.claim(listing == "first\nsecond\n99\n", "an opaque directory and whiteouts hide")?;
    let (modes, _) = session.plywood(&shell(
        "stat -c '%A %t:%T' /opt/demo/setuid /opt/demo/null && getfattr --only-values -n user.demo \
         /opt/demo/capable && echo",
    ))?;
    session.claim(
        modes == "-rwsr-xr-x 0:0\ncrw-rw---- 1:3\na value\n",
        "setuid, device numbers and extended attributes arrive",
    )?;
    let (sum, took) = session.plywood(&["run", REFERENCE, "--", "sha256sum", "large"])?;
    session.stage("sha256sum of 200 MB in a container", took, "");
    session.claim(sum.starts_with(&image.large_digest), "the large file is what was built")?;
    let output = session
        .command(&["run", REFERENCE, "--", "/bin/sh", "-c", "exit 42"])
        .output()
        .context("cannot run plywood")?;
    session.claim(output.status.code() == Some(42), "the container's exit code is passed through")
}

/// What a container writes is its own, and can be seen.
fn write(session: &mut Session) -> Result<()> {
    heading("write in a container, and look at the difference");
    session.plywood(&[
        "run",
        "--keep",
        "--name",
        "writer",
        REFERENCE,
        "--",
        "/bin/sh",
        "-c",
        "echo new > /opt/demo/added && echo 3 > /opt/demo/version && rm /opt/demo/one && rm -r /opt/demo/many/00",
    ])?;
    let key = "container/writer";
    let (diff, took) = session.plywood(&["snapshot", "diff", key])?;
    session.stage("difference of a container", took, "");
    for path in ["opt/demo/added", "opt/demo/version", "opt/demo/one", "opt/demo/many/00"] {
        session.claim(diff.contains(path), &format!("the difference names {path}"))?;
    }
    session.claim(!diff.contains("opt/demo/large"), "and nothing that was not touched")?;
    session.plywood(&["snapshot", "usage", key])?;
    let (version, _) = session.plywood(&["run", REFERENCE, "--", "cat", "/opt/demo/version"])?;
    session.claim(version == "2\n", "another container does not see it")?;
    session.plywood(&["snapshot", "remove", key]).map(drop)
}

/// A second container on the same image costs nothing that the first has paid for.
fn share(session: &mut Session) -> Result<()> {
    heading("a second container on the same image");
    // So that what is in the page cache is there because of these containers.
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("cannot drop the page cache")?;
    let script = |name: &str| {
        format!(
            "echo started; read go; cat /{LARGE} > /dev/null; echo read; read go; : container {name}"
        )
    };
    let mut first = session.container("first", REFERENCE, &script("first"))?;
    let took = first.expect("started")?;
    session.stage("first container", took, "start to its first line, page cache empty");
    let volumes = volumes(session)?;
    session.claim(volumes == image::LAYERS, "one volume for each layer")?;
    let mounted = erofs_mounted(&session.run)?;
    session.claim(mounted == volumes, "and as many EROFS mounts")?;
    first.say("go")?;
    let cold = first.expect("read")?;
    let resident = residency(&first.process()?)?;
    session.claim(resident.resident == resident.total, "what it read is in the page cache")?;

    let mut second = session.container("second", REFERENCE, &script("second"))?;
    let took = second.expect("started")?;
    session.stage("second container", took, "start to its first line");
    session.claim(self::volumes(session)? == volumes, "no new volume")?;
    session.claim(erofs_mounted(&session.run)? == mounted, "no new EROFS mount")?;
    let shared = residency(&second.process()?)?;
    session.claim(
        shared == resident,
        &format!(
            "all {} pages of the file that it has not read yet are in its page cache: they are the first's",
            shared.resident
        ),
    )?;
    let cached = cached()?;
    second.say("go")?;
    let warm = second.expect("read")?;
    let grown = self::cached()?.saturating_sub(cached);
    let bytes = shared.resident_bytes();
    session.claim(
        grown < bytes / 10,
        &format!("reading its {} MB adds nothing to the page cache", bytes / 1_000_000),
    )?;
    session.stage("first reads 200 MB", cold, rate(bytes, cold));
    session.stage("second reads the same", warm, rate(bytes, warm));
    session.plywood(&["mount", "ls"])?;
    for mut container in [first, second] {
        container.say("end")?;
        container.end()?;
    }
    session.claim(erofs_mounted(&session.run)? == 0, "both have ended and nothing is mounted")
}

/// The program dies in the middle; the next command puts everything right.
fn kill(session: &mut Session) -> Result<()> {
    heading("kill -9 while a container runs");
    let mut victim =
        session.container("victim", REFERENCE, "echo started; read go; : container victim")?;
    victim.expect("started")?;
    session.claim(erofs_mounted(&session.run)? == image::LAYERS, "the volumes are mounted")?;
    victim.kill()?;
    let (_, took) = session.plywood(&["mount", "ls"])?;
    session.stage("reconcile after kill -9", took, "within the next command, whatever it is");
    session.claim(
        volumes(session)? == 0 && erofs_mounted(&session.run)? == 0,
        "the next command has taken away what the dead one held",
    )
}

/// Everything is removed again.
fn clean(session: &mut Session) -> Result<()> {
    heading("clean up");
    let (_, took) = session.plywood(&["fsck"])?;
    session.stage("fsck", took, "every byte of every layer");
    session.plywood(&["image", "remove", REFERENCE])?;
    session.plywood(&["gc", "--dry-run"])?;
    let layers = entries(&session.root.join("layers"))?;
    session.claim(layers == image::LAYERS, "a dry run deletes nothing")?;
    let (_, took) = session.plywood(&["gc"])?;
    session.stage("gc", took, "");
    session.plywood(&["fsck"])?;
    session.claim(true, "fsck finds nothing wrong before and after")?;
    for part in ["layers", "snapshots", "staging"] {
        let directory = session.root.join(part);
        session.claim(entries(&directory)? == 0, &format!("{part}/ of the store is empty"))?;
    }
    Ok(())
}

/// Volumes as Plywood's journal has them.
fn volumes(session: &Session) -> Result<usize> {
    let lines = session.json(&["mount", "ls"])?;
    Ok(lines.iter().filter(|line| line["kind"] == "volume").count())
}

/// Pages of the large file as the process sees it that are in memory.
fn residency(process: &Path) -> Result<sys::Residency> {
    let path = process.join("root").join(LARGE);
    let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    sys::page_residency(&file).with_context(|| format!("cannot look at {}", path.display()))
}

/// Bytes of the host's page cache.
fn cached() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let kibibytes: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix("Cached:"))
        .and_then(|value| value.split_whitespace().next()?.parse().ok())
        .context("/proc/meminfo has no `Cached`")?;
    Ok(kibibytes * 1024)
}
