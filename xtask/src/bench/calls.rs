//! The daemon alone: how fast it answers, how much memory it takes.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Bench;
use super::measure::{Contender, Series, empty, silently, take_turns};
use super::private::{Inside, enter};
use super::report::Row;
use crate::containerd::Plywood;
use crate::program;

/// Seconds of one measurement.
const SECONDS: &str = "3";

/// Snapshots of a busy host.
const MANY: usize = 1000;

/// Clients at a time.
const CLIENTS: [&str; 2] = ["1", "64"];

/// Both rows about calls.
pub(super) fn call_rows(bench: &Bench) -> Result<Vec<Row>> {
    let measured = enter(bench, Inside::Calls)?;
    let (rate, p99) = (measured.series("rate")?, measured.series("p99")?);
    let note = "Prepare, Mounts and Remove in turn on a chain of three layers, each client on a connection of its own, the same \
                client for both. overlayfs is containerd 1.6's snapshotter behind containerd's own adaptor for proxy \
                plugins, without containerd. Both make what they answer durable.";
    let times = |ours: &Series, other: &Series| ours.median() / other.median();
    let (one, many) = (times(&rate[0], &rate[1]), times(&rate[2], &rate[3]));
    let (p_one, p_many) = (times(&p99[0], &p99[1]), times(&p99[2], &p99[3]));
    Ok(vec![
        Row {
            id: "calls",
            same_work: true,
            title: "Calls of the snapshots service over gRPC".to_owned(),
            unit: "calls/s",
            series: rate,
            bar: "at least 2 × overlayfs's rate with 64 clients",
            verdict: Some((many >= 2.0, format!("{many:.2} × with 64 clients, {one:.2} × with 1"))),
            note: note.to_owned(),
        },
        Row {
            id: "latency",
            same_work: true,
            title: "The slowest hundredth of the calls".to_owned(),
            unit: "ms",
            series: p99,
            bar: "at most half of overlayfs's with 64 clients",
            verdict: Some((
                p_many <= 0.5,
                format!("{p_many:.2} × with 64 clients, {p_one:.2} × with 1"),
            )),
            note: "The same run: the time that one call in a hundred exceeds.".to_owned(),
        },
    ])
}

/// Inside: both snapshotters, both numbers of clients.
pub(super) fn calls(bench: &Bench) -> Result<Vec<(&'static str, Vec<Series>)>> {
    let p99 = std::cell::RefCell::new(Vec::new());
    let mut contenders = Vec::new();
    for clients in CLIENTS {
        for ours in [true, false] {
            let name = if ours { "plywood serve" } else { "overlayfs, containerd's adaptor" };
            let name = format!("{name}, {clients} client{}", if clients == "1" { "" } else { "s" });
            let (p99, index) = (&p99, contenders.len());
            p99.borrow_mut().push(Series { name: name.clone(), values: Vec::new() });
            contenders.push(Contender::new(name, move || {
                let peer = Peer::start(bench, ours)?;
                let mut probe = Command::new(&bench.probe);
                probe.arg("calls").arg(peer.socket()).args(["any", clients, SECONDS]);
                let answer: Value = serde_json::from_str(&program::output(&mut probe)?)?;
                let number =
                    |key: &str| answer[key].as_f64().with_context(|| format!("no `{key}`"));
                p99.borrow_mut()[index].values.push(number("p99")?);
                number("rate")
            }));
        }
    }
    let rate = take_turns(bench.runs, contenders)?;
    Ok(vec![("rate", rate), ("p99", p99.into_inner())])
}

/// The row about memory.
pub(super) fn memory_row(bench: &Bench) -> Result<Vec<Row>> {
    let series = enter(bench, Inside::Daemon)?.series("memory")?;
    let (idle, many) = (series[0].median(), series[1].median());
    Ok(vec![Row {
        id: "daemon-memory",
        same_work: false,
        title: "Memory of the daemon".to_owned(),
        unit: "MiB",
        series,
        bar: "idle under 30 MiB",
        verdict: Some((
            idle < 30.0,
            format!("{idle:.1} MiB idle, {many:.1} MiB at {MANY} snapshots"),
        )),
        note: "Resident set (VmRSS), with the pages of the program's file. Idle: a second after its first call.".to_owned(),
    }])
}

/// Inside: both daemons, idle and with many snapshots.
pub(super) fn daemon(bench: &Bench) -> Result<Vec<(&'static str, Vec<Series>)>> {
    let contender = |name: &'static str, ours: bool, count: usize, again: bool| {
        Contender::new(name, move || {
            let mut peer = Peer::start(bench, ours)?;
            let mut populate = Command::new(&bench.probe);
            populate.arg("populate").arg(peer.socket()).args(["any", &count.to_string()]);
            silently(&mut populate)?;
            if again {
                peer.restart()?;
            }
            std::thread::sleep(Duration::from_secs(1));
            peer.resident()
        })
    };
    let series = take_turns(
        bench.runs,
        vec![
            contender("plywood serve, idle", true, 0, true),
            contender("plywood serve, 1,000 snapshots made", true, MANY, false),
            contender("plywood serve, restarted with 1,000", true, MANY, true),
            contender("overlayfs, containerd's adaptor, idle", false, 0, false),
            contender("overlayfs, containerd's adaptor, 1,000 snapshots made", false, MANY, false),
        ],
    )?;
    Ok(vec![("memory", series)])
}

/// A snapshotter that serves on an empty store.
enum Peer {
    Plywood(Plywood),
    Overlayfs(Overlayfs),
}

impl Peer {
    fn start(bench: &Bench, ours: bool) -> Result<Self> {
        empty(&bench.work)?;
        // Sockets have short names only.
        let nobody = Path::new("/run/no-containerd");
        Ok(if ours {
            Self::Plywood(Plywood::start(&bench.plywood, &bench.work, nobody)?)
        } else {
            Self::Overlayfs(Overlayfs::start(bench)?)
        })
    }

    fn socket(&self) -> PathBuf {
        match self {
            Self::Plywood(daemon) => daemon.socket(),
            Self::Overlayfs(daemon) => daemon.socket.clone(),
        }
    }

    fn restart(&mut self) -> Result<()> {
        match self {
            Self::Plywood(daemon) => {
                daemon.stop()?;
                daemon.launch()
            }
            Self::Overlayfs(_) => bail!("only ours is restarted"),
        }
    }

    /// Resident memory in MiB.
    fn resident(&self) -> Result<f64> {
        let stream = UnixStream::connect(self.socket()).context("the daemon is gone")?;
        let peer = rustix::net::sockopt::socket_peercred(&stream)?.pid.as_raw_nonzero();
        let status = std::fs::read_to_string(format!("/proc/{peer}/status"))
            .context("cannot read the daemon's memory")?;
        let kibibytes = |line: &str| -> Option<f64> {
            line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok()
        };
        Ok(status.lines().find_map(kibibytes).context("the daemon has no memory")? / 1024.0)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Volumes outlive the daemon; here nobody wants them.
        if let Self::Plywood(daemon) = self {
            let _ = daemon.stop();
            super::unmount_below(&daemon.run());
        }
    }
}

struct Overlayfs {
    child: Child,
    socket: PathBuf,
}

impl Overlayfs {
    fn start(bench: &Bench) -> Result<Self> {
        let socket = PathBuf::from("/run/overlayfs.sock");
        let _ = std::fs::remove_file(&socket);
        let child = Command::new(&bench.overlayfs)
            .arg(bench.work.join("overlayfs"))
            .arg(&socket)
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start the overlayfs service")?;
        let this = Self { child, socket };
        let deadline = Instant::now() + Duration::from_secs(10);
        while UnixStream::connect(&this.socket).is_err() {
            if Instant::now() > deadline {
                bail!("the overlayfs service does not answer");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(this)
    }
}

impl Drop for Overlayfs {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
