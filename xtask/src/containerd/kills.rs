//! Daemons killed at random moments of what a user does, and what is left of it.
//!
//! A round is the life of a container: import of an image, run, exec, difference, removal of the container and of the
//! image. At a random moment of it one of the daemons, or both, is killed and started again a little later. What the
//! user was told has failed, the user does again, until it is done. All the while another container runs on
//! another image: it must go on running, and its files must stay there. After the round nothing of it may be left.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::daemon::Containerd;
use super::image::{self, Image};
use super::plywood::Plywood;
use super::scenario::{IDLE, import, names};
use super::session::{Session, User, mounts};
use crate::moments::Moments;

/// The container that runs all the time.
const KEEPER: &str = "keeper";
/// It counts, and reads what its image has while it does.
const COUNT: &str = "n=0; while cat /data/noise > /dev/null; do n=$((n+1)); echo $n > /new; mv /new /count; sleep 0.2; done";

/// How long a step of a round may take in the end, kills and all.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who is killed.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Containerd,
    Plywood,
    Both,
}

/// What does not change from before a round to after it.
#[derive(Debug, PartialEq, Eq)]
struct Remains {
    snapshots: BTreeSet<String>,
    files: BTreeSet<PathBuf>,
    mounts: usize,
}

/// As many rounds as asked, then everything is removed.
pub(super) fn run(session: &mut Session, rounds: u32, seed: u64) -> Result<()> {
    let images = session.user.directory.join("images");
    let (everything, large) = (image::everything(&images)?, image::large(&images)?);
    import(&session.user, &everything)?;
    session.user.run_detached(&everything.reference, KEEPER, COUNT)?;
    let keeper = session.user.process(KEEPER)?;
    session.user.remove_leases()?;
    let before = Remains::of(session)?;

    println!(
        "\nseed {seed}\n{:>5}  {:10}  {:>7}  {:>7}  {:>7}  repeated",
        "round", "killed", "at", "took", "settled"
    );
    let mut moments = Moments(seed);
    let mut usual = Duration::from_secs(3);
    for round in 1..=rounds {
        let victim = match session.plywood {
            Some(_) => [Victim::Containerd, Victim::Plywood, Victim::Plywood, Victim::Both]
                [(moments.next() * 4.0) as usize % 4],
            None => Victim::Containerd,
        };
        let (moment, pause) = (usual.mul_f64(moments.next()), moments.next() * 0.3);
        let guest = format!("guest-{round}");
        let pause = Duration::from_secs_f64(pause);
        let (took, repeated) = one(session, &large, &guest, victim, moment, pause)
            .with_context(|| format!("round {round}, {victim:?} killed after {moment:?}"))?;
        // What is repeated takes longer.
        if repeated.is_empty() {
            usual = took;
        }
        let ended = Instant::now();
        ensure!(session.user.process(KEEPER)? == keeper, "the other container is another process");
        let count = || -> Result<u64> {
            let text = session.user.exec(KEEPER, &format!("count-{round}"), "cat /count")?;
            text.trim().parse().with_context(|| format!("the other container counts {text:?}"))
        };
        let mut counted = None;
        session.user.poll("the other container counts on", || {
            let now = count()?;
            Ok(now > *counted.get_or_insert(now))
        })?;
        session
            .user
            // containerd may wait a little before it calls a plugin again that did not answer.
            .poll("the round leaves nothing", || {
                session.user.remove_leases()?;
                Ok(Remains::of(session)? == before)
            })
            .with_context(|| format!("before: {before:#?}\nafter: {:#?}", Remains::of(session)))?;
        println!(
            "{round:>5}  {:10}  {:>5.2} s  {:>5.2} s  {:>5.2} s  {}",
            format!("{victim:?}").to_lowercase(),
            moment.as_secs_f64(),
            took.as_secs_f64(),
            ended.elapsed().as_secs_f64(),
            repeated.join(", ")
        );
    }
    session.user.remove_container(KEEPER)?;
    session.user.clean_up()?;
    session.expect_nothing_left()?;
    println!("  ✓ {rounds} rounds, and nothing is left on disk or mounted");
    Ok(())
}

/// One round; how long it took and which steps had to be repeated.
fn one(
    session: &mut Session,
    image: &Image,
    guest: &str,
    victim: Victim,
    moment: Duration,
    pause: Duration,
) -> Result<(Duration, Vec<&'static str>)> {
    let start = Instant::now();
    let Session { user, containerd, plywood } = session;
    let repeated = std::thread::scope(|scope| -> Result<_> {
        let life = scope.spawn(|| life(user, image, guest));
        std::thread::sleep(moment);
        let containerd = (!matches!(victim, Victim::Plywood)).then_some(containerd);
        let plywood = plywood.as_mut().filter(|_| !matches!(victim, Victim::Containerd));
        let killed = kill(containerd, plywood, pause);
        let repeated = life.join().map_err(|_| anyhow!("the user panicked"))?;
        killed?;
        repeated
    })?;
    Ok((start.elapsed(), repeated))
}

/// Kills who is given, and starts them again.
fn kill(
    mut containerd: Option<&mut Containerd>,
    mut plywood: Option<&mut Plywood>,
    pause: Duration,
) -> Result<()> {
    if let Some(containerd) = &mut containerd {
        containerd.kill()?;
    }
    if let Some(plywood) = &mut plywood {
        plywood.kill()?;
    }
    std::thread::sleep(pause);
    if let Some(plywood) = plywood {
        plywood.launch()?;
    }
    containerd.map_or(Ok(()), Containerd::launch)
}

/// What the user does, each step until it is done. Returns the steps that had to be repeated.
///
/// No name is used twice. A containerd that is killed between the two halves of a task's removal does not know that
/// task any more, but refuses the next one of its name: 1.6 still has its shim, later ones its renamed directory.
fn life(user: &User, image: &Image, name: &str) -> Result<Vec<&'static str>> {
    let mut repeated = Vec::new();
    let mut step = |name: &'static str, attempt: &dyn Fn(u32) -> Result<()>| {
        let deadline = Instant::now() + PATIENCE;
        for number in 0.. {
            match attempt(number) {
                Ok(()) => break,
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context(format!("{name} fails again and again")));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
            if number == 0 {
                repeated.push(name);
            }
        }
        Ok(())
    };
    let guest = RefCell::new(name.to_owned());
    step("import", &|_| import(user, image))?;
    step("run", &|attempt| {
        if attempt > 0 {
            user.remove_container(&guest.borrow())?;
            guest.replace(format!("{name}-{attempt}"));
        }
        user.run_detached(&image.reference, &guest.borrow(), IDLE)?;
        user.process(&guest.borrow()).map(drop)
    })?;
    let guest = guest.into_inner();
    step("exec", &|attempt| {
        let script =
            "echo written > /bulk/written; rm -f /bulk/1-001; cat /bulk/2-001 /bulk/written";
        let printed = user.exec(&guest, &format!("write-{attempt}"), script)?;
        ensure!(printed == "one of many\nwritten\n", "the container prints {printed:?}");
        Ok(())
    })?;
    step("diff", &|_| {
        let tar = "application/vnd.oci.image.layer.v1.tar";
        let words = ["snapshots", "diff", "--media-type", tar, &guest];
        let names = names(&user.ctr_bytes(user.snapshotter, &words)?)?;
        for name in ["bulk/written", "bulk/.wh.1-001"] {
            let there = names.iter().any(|found| found == Path::new(name));
            ensure!(there, "the difference lacks {name}: {names:?}");
        }
        Ok(())
    })?;
    step("remove", &|_| user.remove_container(&guest))?;
    step("remove image", &|_| {
        let removed = user.ctr(&["images", "rm", "--sync", &image.reference]);
        let list = user.ctr(&["images", "ls", "--quiet"])?;
        ensure!(!list.lines().any(|line| line == image.reference), "{removed:?}");
        Ok(())
    })?;
    Ok(repeated)
}

impl Remains {
    fn of(session: &Session) -> Result<Self> {
        let mut files = BTreeSet::new();
        for directory in session.directories() {
            for entry in std::fs::read_dir(&directory)
                .with_context(|| format!("cannot list {}", directory.display()))?
            {
                files.insert(entry?.path());
            }
        }
        Ok(Self {
            snapshots: session.user.snapshots()?.into_iter().collect(),
            files,
            mounts: mounts()?.len(),
        })
    }
}
