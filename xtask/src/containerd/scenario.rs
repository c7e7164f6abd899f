//! What a user does with `ctr`, from import to removal, each step checked. The same with overlayfs in Plywood's place
//! shows that the checks themselves are right.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::extremes;
use super::image::{self, Image};
use super::listing::Listing;
use super::root::{Root, Version};
use super::session::{Session, User};
use super::windows;
use crate::program;

/// What a container of the tests does when nobody talks to it.
pub(super) const IDLE: &str = "while :; do sleep 1; done";

/// Changes of every kind to what the image has. Only what busybox does the same everywhere.
const CHANGES: &str = "set -e; echo added > /data/added; echo 3 >> /data/version; rm /data/one; \
    rm -r /data/many/00; mkdir /data/many/00; echo fresh > /data/many/00/only; mv /data/many/01 /data/many/renamed; \
    rm -r /data/many/02; chmod 0600 /data/three; chown 7:8 /data/setgid; ln /data/noise /data/noise-link; \
    mv /data/owned /data/moved; mkdir -p /new/deep; echo deep > /new/deep/file; ln -s deep/file /new/link; sync";

/// Directories whose time is the clock's. containerd's differ gives a directory that a layer does not describe all
/// that the layers below say of it, but not its time; and a snapshot that can be written to is a new root.
const CLOCKED: &[&str] =
    &["", "data/described", "data/many/03", "data/old", "data/owned-directory"];

/// What the difference of a container with these changes must name, and what not.
const CHANGED: [&str; 9] = [
    "data/added",
    "data/version",
    "data/.wh.one",
    "data/many/00/only",
    "data/many/.wh.01",
    "data/many/renamed/07",
    "data/many/.wh.02",
    "data/moved",
    "new/deep/file",
];
const UNCHANGED: [&str; 3] = ["data/two", "data/many/05/05", "bin/busybox"];

/// Times and shows the steps.
struct Steps {
    start: Instant,
}

impl Steps {
    fn done(&mut self, what: &str) {
        println!("  ✓ {what} ({:.2} s)", self.start.elapsed().as_secs_f64());
        self.start = Instant::now();
    }
}

/// All of it, on a session without images and containers.
pub(super) fn run(session: &Session) -> Result<()> {
    let user = &session.user;
    let mut steps = Steps { start: Instant::now() };
    let images = user.directory.join("images");
    let everything = image::everything(&images)?;
    steps.done("the image is made");

    import(user, &everything)?;
    steps.done("image import");
    if let Some(plywood) = &session.plywood {
        let (done, other) = match user.root.version.has_proxy_differs() {
            true => ("apply", "commit"),
            false => ("commit", "apply"),
        };
        let (layers, others) = (plywood.layers(done)?, plywood.layers(other)?);
        ensure!(
            layers == everything.layers.len() as u64 && others == 0,
            "{layers} layers came by {done}, {others} by {other}"
        );
        steps.done(&format!("every layer came by {done}"));
    }
    let wanted = expected(user, &everything)?;
    let found = of_image(user, &everything, user.snapshotter)?;
    found.expect(&wanted, CLOCKED).context("the image is not as overlayfs shows it")?;
    steps.done(&format!("all {} names of the image are as overlayfs shows them", wanted.len()));

    let reference = everything.reference.as_str();
    user.run_detached(reference, "first", IDLE)?;
    steps.done("run");
    let rootfs = user.rootfs("first");
    Listing::of(&rootfs)?
        .expect(&wanted, CLOCKED)
        .context("the container's root filesystem is not as overlayfs shows the image")?;
    let version = user.exec("first", "look", "set -e; cat /data/version; echo $KEPT")?;
    ensure!(version == "2\nyes\n", "the container sees {version:?}");
    steps.done("exec, and the root filesystem is the image's");

    user.exec("first", "change", CHANGES)?;
    let changed = Listing::of(&rootfs)?;
    user.run_detached(reference, "second", IDLE)?;
    Listing::of(&user.rootfs("second"))?
        .expect(&wanted, CLOCKED)
        .context("a second container sees what the first has changed")?;
    user.remove_container("second")?;
    steps.done("a second container, and its removal");

    let parent = queries(user)?;
    steps.done("snapshots usage, tree, info, label, ls");
    let difference = difference(user)?;
    if let Some(plywood) = &session.plywood
        && user.root.version.has_proxy_differs()
    {
        ensure!(plywood.layers("diff")? == 2, "another differ made the difference");
    }
    steps.done("snapshots diff");
    let committed = image::with_layer(&everything, "committed", &difference)?;
    import(user, &committed)?;
    let found = of_image(user, &committed, user.snapshotter)?.in_seconds();
    // The difference does not describe the root itself.
    found
        .expect(&changed.in_seconds(), CLOCKED)
        .context("the committed image is not what the container saw")?;
    let text = "cat /data/many/00/only /new/link";
    user.run_detached(&committed.reference, "third", IDLE)?;
    let printed = user.exec("third", "look", text)?;
    ensure!(printed == "fresh\ndeep\n", "a container of the committed image prints {printed:?}");
    user.remove_container("third")?;
    steps.done("the container committed as an image, and a container of that");

    commit(user, &parent)?;
    steps.done("snapshots prepare, mounts, commit, view, rm");
    pull(session, &everything, &wanted)?;
    steps.done("push, and pull from a registry");
    if session.plywood.is_some() && user.root.version.has_proxy_differs() {
        linked(user, &images)?;
        steps.done("hard links into another layer");
        extremes::full(user, &everything)?;
        steps.done("a container that fills its scratch, and what is left of it");
        windows::import(session, &images)?;
        steps.done("an image for Windows");
    }
    if user.root.version == Version::V1_7 {
        extremes::deep(user, &images)?;
        steps.done("an image of 128 layers; a container on it outlives the image");
    }

    user.remove_container("first")?;
    user.clean_up()?;
    steps.done("everything removed");
    session.expect_nothing_left()?;
    steps.done("nothing is left on disk or mounted");
    Ok(())
}

/// Imports and unpacks an image.
pub(super) fn import(user: &User, image: &Image) -> Result<()> {
    user.ctr(&["images", "import", text(&image.archive)?]).map(drop)
}

/// The image as containerd's own overlayfs snapshotter and differ show it.
fn expected(user: &User, image: &Image) -> Result<Listing> {
    user.ctr_on("overlayfs", &["images", "import", text(&image.archive)?])?;
    of_image(user, image, "overlayfs")
}

/// An image's tree, mounted for the time of the look.
fn of_image(user: &User, image: &Image, snapshotter: &str) -> Result<Listing> {
    let target = user.directory.join("mnt");
    std::fs::create_dir_all(&target)?;
    let look = || Listing::of(&target);
    if user.root.version == Version::V1_6 {
        // Its `images mount` takes the default snapshotter whatever it is told.
        view(user, snapshotter, &image.chain_id())?;
        let listing = mounted(user, snapshotter, "look", &target, look);
        user.ctr_on(snapshotter, &["snapshots", "rm", "look"])?;
        return listing;
    }
    let target = text(&target)?;
    user.ctr_on(snapshotter, &["images", "mount", &image.reference, target])?;
    let listing = look();
    user.ctr_on(snapshotter, &["images", "unmount", target])?;
    // `--rm` would remove the view from the default snapshotter only. The lease is for the snapshotter of the first
    // mount at this place.
    user.ctr(&["leases", "rm", target])?;
    _ = user.ctr_on(snapshotter, &["snapshots", "rm", target]);
    listing
}

/// A view of a snapshot, named `look`.
fn view(user: &User, snapshotter: &str, parent: &str) -> Result<()> {
    // ctr gives a view nothing that holds it; a collection that is due would take it.
    user.collect()?;
    user.ctr_on(snapshotter, &["snapshots", "view", "look", parent])?;
    user.ctr_on(snapshotter, &["snapshots", "label", "look", "containerd.io/gc.root=now"]).map(drop)
}

/// Questions about the container's snapshot. Returns its parent.
fn queries(user: &User) -> Result<String> {
    let usage = user.ctr(&["snapshots", "usage", "first"])?;
    let row: Vec<&str> = usage.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    ensure!(
        row.first() == Some(&"first") && row.len() >= 3 && row[1] != "0",
        "usage of a container that wrote is {usage:?}"
    );
    let info: Value = serde_json::from_str(&user.ctr(&["snapshots", "info", "first"])?)?;
    let parent = info["Parent"].as_str().context("the container's snapshot has no parent")?;
    ensure!(info["Kind"] == "Active", "the container's snapshot is {}", info["Kind"]);
    let tree = user.ctr(&["snapshots", "tree"])?;
    ensure!(
        tree.contains("first") && tree.contains(parent),
        "the tree does not show the container and its parent: {tree}"
    );
    user.ctr(&["snapshots", "label", "first", "containerd.io/snapshot/colour=blue"])?;
    let info: Value = serde_json::from_str(&user.ctr(&["snapshots", "info", "first"])?)?;
    ensure!(
        info["Labels"]["containerd.io/snapshot/colour"] == "blue",
        "the label is not there: {info}"
    );
    let listed = user.snapshots()?;
    for key in ["first", parent] {
        ensure!(listed.iter().any(|listed| listed == key), "{key} is not listed");
    }
    Ok(parent.to_owned())
}

/// What the container changed, as a layer tar in a file.
fn difference(user: &User) -> Result<PathBuf> {
    let tar = "application/vnd.oci.image.layer.v1.tar";
    let plain =
        user.ctr_bytes(user.snapshotter, &["snapshots", "diff", "--media-type", tar, "first"])?;
    let names = names(&plain)?;
    for name in CHANGED {
        ensure!(
            names.iter().any(|found| found == Path::new(name)),
            "the difference lacks {name}: {names:?}"
        );
    }
    for name in UNCHANGED {
        ensure!(names.iter().all(|found| found != Path::new(name)), "{name} is in the difference");
    }
    let gzip = user.ctr_bytes(user.snapshotter, &["snapshots", "diff", "first"])?;
    let mut inflated = Vec::new();
    std::io::Read::read_to_end(
        &mut flate2::read::MultiGzDecoder::new(gzip.as_slice()),
        &mut inflated,
    )
    .context("the difference is no gzip")?;
    // Not all of it: containerd's differ gives a whiteout the time of day.
    ensure!(self::names(&inflated)? == names, "the compressed difference is another one");
    let file = user.directory.join("images/difference.tar");
    std::fs::write(&file, plain)?;
    Ok(file)
}

/// The names in a tar, in its order.
pub(super) fn names(tar: &[u8]) -> Result<Vec<PathBuf>> {
    tar::Archive::new(tar)
        .entries()?
        .map(|entry| {
            let path = entry?.path()?.into_owned();
            Ok(path.strip_prefix("/").map(Path::to_owned).unwrap_or(path))
        })
        .collect()
}

/// Snapshots by hand: what is written to one is in it after its commit.
fn commit(user: &User, parent: &str) -> Result<()> {
    user.ctr(&["snapshots", "prepare", "work", parent])?;
    let target = user.directory.join("mnt");
    let written = mounted(user, user.snapshotter, "work", &target, || {
        std::fs::create_dir(target.join("by-hand"))?;
        std::fs::write(target.join("by-hand/file"), "written\n")?;
        std::fs::remove_file(target.join("data/version"))?;
        std::fs::remove_dir_all(target.join("data/many"))?;
        std::fs::create_dir(target.join("data/many"))?;
        Listing::of(&target)
    })?;
    user.ctr(&["snapshots", "commit", "committed", "work"])?;
    view(user, user.snapshotter, "committed")?;
    let found = mounted(user, user.snapshotter, "look", &target, || {
        ensure!(
            std::fs::write(target.join("by-hand/other"), "").is_err(),
            "a view can be written to"
        );
        Listing::of(&target)
    })?;
    found.expect(&written, &[]).context("the committed snapshot is not what was written")?;
    let refused = user.ctr(&["snapshots", "rm", "committed"]);
    ensure!(refused.is_err(), "a snapshot with a child was removed");
    user.ctr(&["snapshots", "rm", "look"])?;
    user.ctr(&["snapshots", "rm", "committed"]).map(drop)
}

/// With a snapshot mounted by the commands that ctr prints.
pub(super) fn mounted<T>(
    user: &User,
    snapshotter: &str,
    key: &str,
    target: &Path,
    look: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let commands = user.ctr_on(snapshotter, &["snapshots", "mounts", text(target)?, key])?;
    program::quietly(Command::new("sh").args(["-e", "-c", &commands]))?;
    let result = look();
    program::quietly(Command::new("umount").arg(target))?;
    result
}

/// Through a registry on the loopback interface.
fn pull(session: &Session, image: &Image, wanted: &Listing) -> Result<()> {
    let user = &session.user;
    let registry = Registry::start(&user.root, &user.directory.join("registry"))?;
    let name = format!("127.0.0.1:{}/pulled:1", registry.port);
    user.ctr(&["images", "push", "--plain-http", &name, &image.reference])?;
    // What is there already would not be unpacked again.
    let first = user.process("first")?;
    user.remove_container("first")?;
    user.clean_up()?;
    session.expect_nothing_left()?;
    ensure!(!Path::new(&format!("/proc/{first}")).exists(), "the container's process still runs");
    user.ctr(&["images", "pull", "--plain-http", &name])?;
    let pulled = Image { reference: name, ..image.clone() };
    let found = of_image(user, &pulled, user.snapshotter)?;
    found.expect(wanted, CLOCKED).context("the pulled image is not as overlayfs shows it")?;
    user.run_detached(&pulled.reference, "first", IDLE)
}

/// Hard links to files of a lower layer are the same file, with its owner and its content. Unpacked the other way than
/// the other images.
fn linked(user: &User, images: &Path) -> Result<()> {
    let linked = image::linked(images)?;
    // Unpacked by the client where the daemon's transfer service is the default, and the other way round.
    let other = if user.root.version == Version::V1_7 { "--local=false" } else { "--local" };
    user.ctr(&["images", "import", other, text(&linked.archive)?])?;
    user.run_detached(&linked.reference, "linked", IDLE)?;
    let rootfs = user.rootfs("linked");
    for (name, original) in [("data/linked", "data/noise"), ("data/linked-owned", "data/owned")] {
        let read = |name: &str| -> Result<_> {
            let stat = rustix::fs::lstat(rootfs.join(name))?;
            Ok((std::fs::read(rootfs.join(name))?, stat.st_mode, stat.st_uid, stat.st_gid))
        };
        ensure!(read(name)? == read(original)?, "{name} is not what {original} is");
    }
    user.remove_container("linked")
}

/// Debian's registry; stopped when dropped.
struct Registry {
    child: Child,
    port: u16,
}

impl Registry {
    fn start(root: &Root, directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        // The port is free now, and the kernel does not soon give it to anyone else.
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = directory.join("config.yml");
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  \
                 addr: 127.0.0.1:{port}\n",
                directory.join("data").display()
            ),
        )?;
        let log = super::daemon::log_file(&directory.join("log"))?;
        let child = root
            .command("docker-registry")
            .arg("serve")
            .arg(&config)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start docker-registry")?;
        let this = Self { child, port };
        for _ in 0..200 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(this);
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        anyhow::bail!("docker-registry does not answer; see {}", directory.join("log").display())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// As an argument.
fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not text", path.display()))
}
