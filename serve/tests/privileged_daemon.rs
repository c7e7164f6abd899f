//! The life of the daemon: starts, refusals, reloads, ends of both kinds, and who it talks to beside its callers.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use rustix::process::Signal;
use serve::api::snapshots::CommitSnapshotRequest;
use serve::api::snapshots::snapshots_client::SnapshotsClient;
use support::{Bench, code, eventually, stat_request};
use tonic::Code;
use tonic::transport::{Endpoint, Uri};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

fn volumes(bench: &Bench) -> usize {
    fs::read_dir(bench.run().join("v")).map_or(0, Iterator::count)
}

/// The end of a daemon that must not start, and what it said.
fn refused(bench: &Bench, mut daemon: Child) -> String {
    assert_eq!(daemon.wait().unwrap().code(), Some(1), "{}", bench.log());
    bench.log()
}

/// A daemon that gets a socket `count` times, as systemd passes sockets: as descriptors from 3 on, and here by way of a shell,
/// which knows its process id.
fn passing(bench: &Bench, listener: &UnixListener, count: usize) -> Command {
    let (mut command, daemon) = (Command::new("sh"), bench.command(Path::new("x")));
    let copies: String = (3..3 + count).map(|number| format!(" {number}<&0")).collect();
    let listen = format!("LISTEN_PID=$$ LISTEN_FDS={count}");
    let script = format!("exec{copies} </dev/null; export {listen}; exec \"$0\" \"$@\"");
    command.arg("-c").arg(script).arg(std::env::current_exe().unwrap()).args(daemon.get_args());
    command.envs(daemon.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(Stdio::from(OwnedFd::from(listener.try_clone().unwrap())));
    command.stderr(fs::File::create(bench.log_file()).unwrap()).stdout(Stdio::null());
    command
}

/// One HTTP request.
fn http(mut stream: impl std::io::Read + std::io::Write, request: &str) -> String {
    write!(stream, "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

privileged! {
    fn privileged_kill_and_restart_lose_nothing() {
        let mut bench = Bench::new("");
        bench.layer("base", "", |path| fs::write(path.join("f"), "1").unwrap());
        let mounts = bench.prepare("active", "base").unwrap();
        let size = [("containerd.io/snapshot/max-size", "33554432")];
        let limited = bench.prepare_with("limited", "base", &size).unwrap();
        let mounted = bench.mount(&mounts, "active");
        let other = bench.mount(&limited, "limited");
        fs::write(mounted.path().join("before"), "1").unwrap();
        for round in 0..3 {
            match round {
                0 => drop(bench.stop()),
                _ => bench.kill(),
            }
            assert_eq!(volumes(&bench), 1, "volumes stay");
            // Containers go on without a daemon.
            fs::write(mounted.path().join(format!("without {round}")), "1").unwrap();
            fs::write(other.path().join(format!("without {round}")), "1").unwrap();
            assert_eq!(fs::read_to_string(other.path().join("f")).unwrap(), "1");
            bench.start();
            assert_eq!(bench.mounts("active").unwrap(), mounts);
            assert_eq!(bench.mounts("limited").unwrap(), limited);
        }
        drop((mounted, other));
        bench.commit("from active", "active").unwrap();
        bench.commit("from limited", "limited").unwrap();
        for name in ["from active", "from limited"] {
            let mounted = bench.mount(&bench.view("v", name).unwrap(), "v");
            assert!(mounted.path().join("without 2").exists());
            drop(mounted);
            bench.remove("v").unwrap();
            bench.remove(name).unwrap();
        }
        bench.remove("base").unwrap();
        bench.cleanup().unwrap();
        assert_eq!(volumes(&bench), 0);
        assert_eq!(fs::read_dir(bench.root().join("layers")).unwrap().count(), 0);
    }

    /// Killed at any moment of anything, the next daemon is in order.
    fn privileged_kills_at_random_moments() {
        let mut bench = Bench::new("");
        bench.layer("base", "", |path| fs::write(path.join("f"), "1").unwrap());
        for round in 0_u64..12 {
            let socket = bench.socket();
            let clients: Vec<_> = (0..4)
                .map(|client| {
                    let mut calls = SnapshotsClient::new({
                        let _inside = bench.runtime.enter();
                        support::channel(socket.clone())
                    });
                    bench.runtime.spawn(async move {
                        for index in 0..1000 {
                            let key = format!("{round}.{client}.{index}").into_bytes();
                            let prepare = serve::api::snapshots::PrepareSnapshotRequest {
                                key: key.clone(),
                                parent: b"base".to_vec(),
                                ..Default::default()
                            };
                            if calls.prepare(prepare).await.is_err() {
                                break;
                            }
                            let commit = CommitSnapshotRequest {
                                name: [b"c", key.as_slice()].concat(),
                                key,
                                ..Default::default()
                            };
                            if calls.commit(commit).await.is_err() {
                                break;
                            }
                        }
                    })
                })
                .collect();
            std::thread::sleep(Duration::from_millis(37 * round % 200));
            bench.kill();
            for client in clients {
                bench.runtime.block_on(client).unwrap();
            }
            bench.start();
            for info in bench.list(&["parent==base"]).unwrap() {
                if info.kind() == serve::api::snapshots::Kind::Active {
                    bench.mounts(&info.name).unwrap();
                }
                bench.remove(&info.name).unwrap();
            }
        }
        bench.remove("base").unwrap();
        bench.cleanup().unwrap();
        assert_eq!(volumes(&bench), 0);
        assert_eq!(fs::read_dir(bench.root().join("layers")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(bench.root().join("snapshots")).unwrap().count(), 0);
    }

    fn privileged_the_start_releases_what_no_snapshot_holds() {
        let mut bench = Bench::new("");
        bench.layer("base", "", |path| fs::write(path.join("f"), "1").unwrap());
        bench.prepare("gone", "base").unwrap();
        bench.kill();
        let store = store::Store::open(&bench.root(), store::OpenOptions::default()).unwrap();
        store.remove(b"gone").unwrap();
        drop(store);
        assert_eq!(volumes(&bench), 1);
        bench.start();
        assert_eq!(volumes(&bench), 0);
        assert!(bench.log().contains("releasing the volumes of gone"), "{}", bench.log());
    }

    fn privileged_a_second_daemon_is_refused() {
        let bench = Bench::new("");
        let begin = Instant::now();
        let log = refused(&bench, bench.spawn());
        assert!(log.contains(&format!("process {} answers on", bench.pid())), "{log}");
        assert!(begin.elapsed() < Duration::from_secs(5), "at once");
        // The same store behind another socket.
        let other = Bench::idle("");
        let config = format!("root = {:?}\nrun = {:?}\n", bench.root(), other.run());
        fs::write(other.config_file(), config).unwrap();
        let log = refused(&other, other.spawn());
        assert!(log.contains(&format!("in use by process {}", bench.pid())), "{log}");
        assert!(!other.socket().exists());
        assert!(bench.list(&[]).unwrap().is_empty(), "the first goes on");
    }

    fn privileged_only_a_dead_socket_is_replaced() {
        let mut bench = Bench::idle("");
        fs::create_dir_all(bench.run()).unwrap();
        fs::write(bench.socket(), "precious").unwrap();
        let log = refused(&bench, bench.spawn());
        assert!(log.contains("is no socket"), "{log}");
        assert_eq!(fs::read(bench.socket()).unwrap(), b"precious");
        fs::remove_file(bench.socket()).unwrap();
        bench.start();
        assert_eq!(fs::metadata(bench.socket()).unwrap().permissions().mode() & 0o777, 0o600);
        bench.kill();
        assert!(fs::metadata(bench.socket()).unwrap().file_type().is_socket(), "left by the kill");
        bench.start();
        assert!(bench.stop().success());
        assert!(!bench.socket().exists());
    }

    fn privileged_a_stop_lets_calls_finish() {
        let mut bench = Bench::new("");
        let mounted = bench.mount(&bench.prepare("big", "").unwrap(), "big");
        fs::write(mounted.path().join("f"), vec![b'x'; 96 << 20]).unwrap();
        drop(mounted);
        let mut client = bench.client();
        let commit = bench.runtime.spawn(async move {
            let request = CommitSnapshotRequest {
                name: b"committed".to_vec(),
                key: b"big".to_vec(),
                ..Default::default()
            };
            client.commit(request).await
        });
        std::thread::sleep(Duration::from_millis(50));
        assert!(!commit.is_finished(), "a commit that takes a while");
        assert!(bench.stop().success());
        bench.runtime.block_on(commit).unwrap().unwrap();
        assert!(bench.log().contains("stopping on SIGTERM"), "{}", bench.log());
        bench.start();
        bench.stat("committed").unwrap();
    }

    fn privileged_a_reload_takes_in_what_can_change() {
        let bench = Bench::new("[log]\nlevel = \"info\"");
        bench.layer("base", "", |path| fs::write(path.join("f"), "1").unwrap());
        assert_eq!(bench.prepare("a", "base").unwrap()[0].r#type, "overlay");
        let reloaded = |count: usize, line: &str| {
            bench.signal(Signal::HUP);
            eventually("the reload", || bench.log().matches(line).count() == count);
        };
        bench.configure(
            "[log]\nlevel = \"debug\"\n[snapshotter]\nmounts = \"erofs\"\n[metrics]\naddress = \"/x\"",
        );
        reloaded(1, "took in the configuration");
        assert!(bench.log().contains("metrics.address has changed, which takes a restart"));
        assert_eq!(bench.prepare("b", "base").unwrap()[0].r#type, "erofs");
        eventually("calls in the log", || bench.log().contains("Snapshots/Prepare"));
        bench.configure("[log]\nlevel = \"loud\"");
        reloaded(1, "the configuration stays as it was");
        assert!(bench.log().contains("config.toml:4: log.level"), "{}", bench.log());
        assert_eq!(bench.mounts("b").unwrap()[0].r#type, "erofs");
        bench.configure("");
        reloaded(2, "took in the configuration");
        assert_eq!(bench.mounts("b").unwrap()[0].r#type, "overlay");
    }

    fn privileged_metrics_count_what_happens() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("metrics.sock");
        let bench = Bench::new(&format!("[metrics]\naddress = {socket:?}"));
        bench.layer("base", "", |path| fs::write(path.join("f"), "1").unwrap());
        bench.prepare("a", "base").unwrap();
        let _ = bench.stat("missing");
        let get = |request: &str| http(UnixStream::connect(&socket).unwrap(), request);
        let answer = get("GET /metrics");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("content-type: application/openmetrics-text"), "{answer}");
        for line in [
            "plywood_calls_total{method=\"Snapshots/Prepare\",code=\"Ok\"} 2",
            "plywood_calls_total{method=\"Snapshots/Commit\",code=\"Ok\"} 1",
            "plywood_calls_total{method=\"Snapshots/Stat\",code=\"NotFound\"} 1",
            "plywood_calls_running 0",
            "plywood_call_duration_seconds_count{method=\"Snapshots/Prepare\"} 2",
            "plywood_layers_total{kind=\"commit\"} 1",
            "plywood_volumes 1",
            "plywood_snapshots{kind=\"active\"} 1",
            "plywood_snapshots{kind=\"committed\"} 1",
            "plywood_swept_total{result=\"removed\"} 0",
            "plywood_journal_bytes ",
            "plywood_build_info{version=",
            "# EOF",
        ] {
            assert!(answer.contains(line), "{line} is not in\n{answer}");
        }
        assert!(get("GET /").starts_with("HTTP/1.1 404"));
        assert!(get("POST /metrics").starts_with("HTTP/1.1 405"));
        let mode = fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let tcp = Bench::new("[metrics]\naddress = \"127.0.0.1:0\"");
        let log = tcp.log();
        let address = log.split("metrics on ").nth(1).unwrap().lines().next().unwrap();
        let answer = http(std::net::TcpStream::connect(address).unwrap(), "GET /metrics");
        assert!(answer.contains("plywood_calls_running 0"), "{answer}");
    }

    fn privileged_health_is_told() {
        let mut bench = Bench::new("");
        let mut client = HealthClient::new(bench.channel());
        let mut check = |service: &str| {
            let request = HealthCheckRequest { service: service.to_owned() };
            bench.runtime.block_on(client.check(request))
        };
        for service in ["", "containerd.services.snapshots.v1.Snapshots"] {
            assert_eq!(check(service).unwrap().into_inner().status, 1, "SERVING");
        }
        assert_eq!(code(check("strange")), Code::NotFound);
        // Somebody who watches is told of the end, and does not put it off.
        let mut watch = bench.runtime.block_on(async {
            let watch = client.watch(HealthCheckRequest::default()).await.unwrap();
            let mut watch = watch.into_inner();
            assert_eq!(watch.message().await.unwrap().unwrap().status, 1);
            watch
        });
        let begin = Instant::now();
        assert!(bench.stop().success());
        assert!(begin.elapsed() < Duration::from_secs(5));
        let last = bench.runtime.block_on(async {
            let mut last = None;
            while let Ok(Some(answer)) = watch.message().await {
                last = Some(answer.status);
            }
            last
        });
        assert_eq!(last, Some(2), "NOT_SERVING");
    }

    fn privileged_systemd_is_told_and_obeyed() {
        let mut bench = Bench::idle("");
        let (path, log) = (bench.path().join("notify"), bench.log_file());
        let notified = UnixDatagram::bind(&path).unwrap();
        notified.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let next = || {
            let mut buffer = [0; 1024];
            let received = notified.recv(&mut buffer);
            let length = received.unwrap_or_else(|error| panic!("{error}: {}", fs::read_to_string(&log).unwrap()));
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        let until = |wanted: &str| loop {
            let state = next();
            if state.contains(wanted) {
                return state;
            }
            assert_eq!(state.trim(), "WATCHDOG=1");
        };
        fs::create_dir_all(bench.run()).unwrap();
        let listener = UnixListener::bind(bench.socket()).unwrap();
        let mut command = passing(&bench, &listener, 2);
        assert!(!command.status().unwrap().success());
        assert!(bench.log().contains("2 sockets were passed"), "{}", bench.log());
        let mut command = passing(&bench, &listener, 1);
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "100000");
        let child = command.spawn().unwrap();
        drop(listener);
        until("READY=1");
        bench.adopt(child);
        assert!(bench.log().contains("the socket that systemd passed"), "{}", bench.log());
        assert!(bench.list(&[]).unwrap().is_empty());
        for _ in 0..3 {
            until("WATCHDOG=1");
        }
        bench.signal(Signal::HUP);
        assert!(until("RELOADING=1").contains("MONOTONIC_USEC="));
        until("READY=1");
        bench.signal(Signal::INT);
        until("STOPPING=1");
        assert!(bench.stop().success());
        assert!(bench.socket().exists(), "systemd's, not ours");
    }

    fn privileged_strangers_are_turned_away() {
        let bench = Bench::new("");
        bench.prepare("a", "").unwrap();
        // Somebody has opened up what is closed.
        for (path, mode) in [(bench.path(), 0o755), (&bench.run(), 0o755), (&bench.socket(), 0o666)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let socket = bench.socket();
        let stream = std::thread::spawn(move || {
            let nobody = rustix::process::Uid::from_raw(65534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            UnixStream::connect(socket).unwrap()
        });
        let stream = stream.join().unwrap();
        stream.set_nonblocking(true).unwrap();
        bench.runtime.block_on(async {
            let mut stream = Some(tokio::net::UnixStream::from_std(stream).unwrap());
            let connect = tower::service_fn(move |_: Uri| {
                let stream = stream.take().map(TokioIo::new);
                async move { stream.ok_or_else(|| std::io::Error::other("once")) }
            });
            let endpoint = Endpoint::from_static("http://plywood");
            let channel = endpoint.connect_with_connector(connect).await.unwrap();
            let mut health = HealthClient::new(channel.clone());
            let refused = health.check(HealthCheckRequest::default()).await;
            assert_eq!(code(refused), Code::PermissionDenied);
            let refused = SnapshotsClient::new(channel).stat(stat_request(b"a")).await;
            assert_eq!(code(refused), Code::PermissionDenied);
        });
        bench.stat("a").unwrap();
    }

    fn privileged_the_log_is_json_if_asked() {
        let mut bench = Bench::new("[log]\nlevel = \"debug\"\nformat = \"json\"");
        bench.prepare("key\nwith a line", "").unwrap();
        let _ = bench.stat("missing");
        bench.stop();
        let log = bench.log();
        let lines: Vec<serde_json::Value> =
            log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let calls: Vec<_> = lines.iter().filter(|line| line["span"]["name"] == "call").collect();
        let prepare =
            calls.iter().find(|line| line["span"]["method"] == "Snapshots/Prepare").unwrap();
        assert_eq!(prepare["span"]["key"], "key\\nwith a line");
        assert_eq!((&prepare["code"], &prepare["level"]), (&"Ok".into(), &"DEBUG".into()));
        assert!(prepare["ms"].as_f64().unwrap() > 0.0);
        assert!(calls.iter().any(|line| line["code"] == "NotFound"));
        assert!(lines.len() < 12, "only what we say ourselves: {log}");
    }
}
