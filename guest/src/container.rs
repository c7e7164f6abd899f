//! Containers: made, started with their first process, signalled, forgotten.

use std::collections::HashMap;
use std::fs;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bridge::{
    ContainerConfig, ContainerNotification, ExecuteProcessSettings, ProcessDetails,
    ProcessParameters, Properties, RequestBase, SchemaVersion,
};
use serde_json::{Value, json};

use crate::dial::Dial;
use crate::place::{MadeDirectories, Places, checked};
use crate::process::{Process, remember, words};
use crate::runtime::{Runtime, Start};
use crate::spec::{Mounted, pin_below, prepare, sandbox_of};
use crate::stdio::Streams;
use crate::{Error, ErrorKind, Result, name_files};

/// Longest id; it is the name of directories and control groups.
const LONGEST_ID: usize = 128;

/// Where in a bundle the sources of mounts are bound.
const PINS: &str = "mounts";

/// Tells the host that a container ended.
pub(crate) type Notify = Arc<dyn Fn(ContainerNotification) + Send + Sync>;

/// All containers. An id that maps to nothing is being made or forgotten.
pub(crate) struct Containers {
    runtime: Runtime,
    dial: Arc<dyn Dial>,
    notify: Notify,
    /// The bundles of all containers: no two share one, for each is removed with its container.
    bundles: Places<()>,
    by_id: Mutex<HashMap<String, Option<Arc<Container>>>>,
}

/// A container.
pub(crate) struct Container {
    id: String,
    bundle: PathBuf,
    spec: Value,
    made: Mutex<MadeDirectories>,
    mounted: Mutex<Mounted>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    phase: Phase,
    processes: HashMap<u32, Arc<Process>>,
    first: Option<u32>,
    /// The last signal the host sent to all of it.
    asked: Option<i32>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Created,
    Starting,
    Running,
    Stopped,
}

impl Container {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One of its processes.
    pub(crate) fn process(&self, pid: u32) -> Result<Arc<Process>> {
        let found = self.lock().processes.get(&pid).cloned();
        found.ok_or_else(|| {
            let message = format!("container {} has no process {pid}", self.id);
            Error::new(ErrorKind::NoProcess, message)
        })
    }

    /// What the notification of its end says.
    fn end_type(&self) -> &'static str {
        match self.lock().asked {
            Some(signal) if signal == sys::SIGNAL_TERM => "GracefulExit",
            Some(_) => "ForcedExit",
            None => "UnexpectedExit",
        }
    }
}

fn check_id(id: &str) -> Result<()> {
    let plain = !id.is_empty()
        && id.len() <= LONGEST_ID
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-+".contains(&byte))
        && !id.starts_with(['.', '-']);
    match plain {
        true => Ok(()),
        false => Err(Error::invalid(format!("{id:?} is no id of a container"))),
    }
}

impl Containers {
    pub(crate) fn new(runtime: Runtime, dial: Arc<dyn Dial>, notify: Notify) -> Self {
        Self { runtime, dial, notify, bundles: Places::default(), by_id: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Option<Arc<Container>>>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The container of that id.
    pub(crate) fn get(&self, id: &str) -> Result<Arc<Container>> {
        match self.lock().get(id) {
            Some(Some(container)) => Ok(container.clone()),
            _ => Err(Error::new(ErrorKind::NoContainer, format!("there is no container {id:?}"))),
        }
    }

    /// Makes a container: writes its bundle; nothing runs yet.
    pub(crate) fn create(&self, base: &RequestBase, config: ContainerConfig) -> Result<()> {
        if config.schema_version < SchemaVersion::V2_1 {
            let message = format!("schema {:?} is older than 2.1", config.schema_version);
            return Err(Error::new(ErrorKind::InvalidJson, message));
        }
        let id = base.container_id.as_str();
        check_id(id)?;
        let Some(spec) = config.oci_specification else {
            return Err(Error::invalid("there is no OCI specification"));
        };
        let bundle = checked(&config.oci_bundle_path, "the bundle")?;
        {
            let mut by_id = self.lock();
            if by_id.contains_key(id) {
                let message = format!("container {id} exists already");
                return Err(Error::new(ErrorKind::ContainerExists, message));
            }
            by_id.insert(id.to_owned(), None);
        }
        let place = self.bundles.reserve(&bundle).inspect_err(|_| {
            self.lock().remove(id);
        })?;
        let sandbox = match sandbox_of(&spec) {
            Some(sandbox) if sandbox != id => check_id(sandbox).map(|()| {
                let known = self.get(sandbox).map(|container| container.bundle.clone());
                known.unwrap_or_else(|_| bundle.with_file_name(sandbox))
            }),
            _ => Ok(bundle.clone()),
        };
        let made = sandbox.and_then(|sandbox| make(id, &bundle, spec, &sandbox));
        let mut by_id = self.lock();
        match made {
            Ok(container) => {
                place.hold(());
                by_id.insert(id.to_owned(), Some(Arc::new(container)));
                Ok(())
            }
            Err(error) => {
                by_id.remove(id);
                Err(error)
            }
        }
    }

    /// Runs a process in a container: its first one if it was only made, which starts it, or another one.
    pub(crate) fn execute(
        &self,
        base: &RequestBase,
        settings: &ExecuteProcessSettings,
    ) -> Result<u32> {
        let container = self.get(&base.container_id)?;
        let parameters = &settings.process_parameters.0;
        let is_first = {
            let mut state = container.lock();
            match state.phase {
                Phase::Created => {
                    state.phase = Phase::Starting;
                    true
                }
                Phase::Running => false,
                phase => {
                    let message = format!("container {} is {phase:?}", container.id);
                    return Err(Error::new(ErrorKind::Busy, message));
                }
            }
        };
        let started = match is_first {
            true => self.start(&container, base, settings),
            false => self.start_another(&container, parameters, settings),
        };
        let mut state = container.lock();
        match started {
            Ok(process) => {
                let pid = process.pid;
                if is_first {
                    state.first = Some(pid);
                    // It may have ended meanwhile.
                    if state.phase == Phase::Starting {
                        state.phase = Phase::Running;
                    }
                }
                remember(&mut state.processes, process);
                Ok(pid)
            }
            Err(error) => {
                if is_first {
                    // It can be tried again: nothing of it runs.
                    state.phase = Phase::Created;
                    drop(state);
                    let _ = self.runtime.delete(&container.id, &container.bundle);
                }
                Err(error)
            }
        }
    }

    fn start(
        &self,
        container: &Arc<Container>,
        base: &RequestBase,
        settings: &ExecuteProcessSettings,
    ) -> Result<Arc<Process>> {
        let terminal = container.spec.pointer("/process/terminal") == Some(&Value::Bool(true));
        let mut parameters = settings.process_parameters.0.clone();
        parameters.emulate_console = terminal;
        let ports = settings.vsock_stdio_relay_settings;
        let streams = Streams::dial(&*self.dial, &parameters, ports)?;
        let (ended, notify, base) = (container.clone(), self.notify.clone(), base.clone());
        let after = move |_| {
            ended.lock().phase = Phase::Stopped;
            notify(ContainerNotification {
                base,
                notification_type: ended.end_type().to_owned(),
                operation: "None".to_owned(),
                ..ContainerNotification::default()
            });
        };
        let (id, bundle) = (&container.id, &container.bundle);
        self.runtime.start(id, bundle, &Start::Container, terminal, streams, after)
    }

    fn start_another(
        &self,
        container: &Container,
        parameters: &ProcessParameters,
        settings: &ExecuteProcessSettings,
    ) -> Result<Arc<Process>> {
        let process = match &parameters.oci_process {
            Some(process) => process.clone(),
            None => described(&container.spec, parameters)?,
        };
        let terminal = process.get("terminal") == Some(&Value::Bool(true));
        let mut parameters = parameters.clone();
        parameters.emulate_console = terminal;
        let ports = settings.vsock_stdio_relay_settings;
        let streams = Streams::dial(&*self.dial, &parameters, ports)?;
        let (id, bundle) = (&container.id, &container.bundle);
        self.runtime.start(id, bundle, &Start::Process(&process), terminal, streams, |_| {})
    }

    /// Signals a container's first process.
    pub(crate) fn signal(&self, id: &str, signal: i32) -> Result<()> {
        let container = self.get(id)?;
        if container.lock().phase != Phase::Running {
            return Err(Error::new(ErrorKind::NoProcess, format!("container {id} does not run")));
        }
        // Before the signal: its effect may be told at once.
        let before = container.lock().asked.replace(signal);
        let killed = self.runtime.kill(id, &container.bundle, signal);
        if killed.is_err() {
            container.lock().asked = before;
        }
        killed
    }

    /// Forgets a container that does not run, and removes its bundle. Nothing is removed while anything is mounted in
    /// it but what the agent mounted for it.
    pub(crate) fn delete(&self, id: &str) -> Result<()> {
        let container = self.get(id)?;
        if matches!(container.lock().phase, Phase::Running | Phase::Starting) {
            return Err(Error::new(ErrorKind::Busy, format!("container {id} runs")));
        }
        let mut mounted = container.mounted.lock().unwrap_or_else(PoisonError::into_inner);
        let table = sys::MountTable::read()
            .map_err(|error| Error::failed("reading the mount table", error))?;
        let foreign = table
            .tree(&container.bundle)
            .into_iter()
            // A scratch may be mounted at the bundle itself; it is the host's to unmount.
            .find(|entry| {
                !mounted.0.contains(&entry.mount_point) && entry.mount_point != container.bundle
            });
        if let Some(entry) = foreign {
            let message =
                format!("container {id}: {} is still mounted", entry.mount_point.display());
            return Err(Error::new(ErrorKind::Busy, message));
        }
        if self.lock().insert(id.to_owned(), None).flatten().is_none() {
            return Err(Error::new(ErrorKind::NoContainer, format!("{id} is being forgotten")));
        }
        let removed = self.remove(&container, &mut mounted);
        let mut by_id = self.lock();
        match &removed {
            Ok(()) => by_id.remove(id),
            Err(_) => by_id.insert(id.to_owned(), Some(container.clone())),
        };
        removed
    }

    fn remove(&self, container: &Container, mounted: &mut Mounted) -> Result<()> {
        if container.lock().first.is_some() {
            self.runtime.delete(&container.id, &container.bundle)?;
        }
        mounted.undo()?;
        remove_bundle(&container.bundle)?;
        container.made.lock().unwrap_or_else(PoisonError::into_inner).remove();
        if let Some(place) = self.bundles.take(&container.bundle)? {
            place.forget();
        }
        Ok(())
    }

    /// What a container does.
    pub(crate) fn properties(&self, id: &str, wanted: &[String]) -> Result<Properties> {
        let container = self.get(id)?;
        let mut properties = Properties::default();
        for wanted in wanted {
            match wanted.as_str() {
                "ProcessList" => {
                    let processes = self.runtime.processes(id, &container.bundle)?;
                    properties.process_list = processes
                        .into_iter()
                        .map(|process_id| ProcessDetails { process_id })
                        .collect();
                }
                "Statistics" => {
                    let told = self.runtime.statistics(id, &container.bundle)?;
                    properties.metrics = Some(metrics(&told));
                }
                // As the genuine agent does: what is not known is not told.
                _ => {}
            }
        }
        Ok(properties)
    }

    /// Changes a container's limits.
    pub(crate) fn update(&self, id: &str, settings: &Value) -> Result<()> {
        let container = self.get(id)?;
        match settings.get("Linux") {
            Some(resources) => self.runtime.update(id, &container.bundle, resources),
            None => Ok(()),
        }
    }

    /// Ends everything: the machine goes down.
    pub(crate) fn end_all(&self) {
        let all: Vec<Arc<Container>> = self.lock().values().flatten().cloned().collect();
        for container in &all {
            // TERM first: whoever wants to save something can.
            let _ = self.signal(&container.id, sys::SIGNAL_TERM);
        }
        for container in &all {
            let first = container.lock().first;
            if let Some(process) = first.and_then(|pid| container.process(pid).ok()) {
                let _ = process.wait(Some(std::time::Duration::from_secs(2)));
                let _ = process.signal(sys::SIGNAL_KILL);
                let _ = process.wait(Some(std::time::Duration::from_secs(2)));
            }
        }
    }
}

/// The runtime's numbers in the form of containerd's metrics for cgroup v1, as far as both have them.
fn metrics(told: &Value) -> Value {
    let number = |path: &str| told.pointer(path).cloned().unwrap_or(json!(0));
    json!({
        "memory": {"usage": {"usage": number("/memory/usage/usage"), "limit": number("/memory/usage/limit")}},
        "cpu": {"usage": {"total": number("/cpu/usage/total")}},
        "pids": {"current": number("/pids/current"), "limit": number("/pids/limit")},
    })
}

/// Another process of a container that is not given as OCI's object: as the container's own, with other words.
fn described(spec: &Value, parameters: &ProcessParameters) -> Result<Value> {
    let mut process = spec.get("process").cloned().unwrap_or_default();
    let Some(fields) = process.as_object_mut() else {
        return Err(Error::invalid("the container's specification has no process"));
    };
    fields.insert("args".to_owned(), json!(words(parameters)?));
    fields.insert("terminal".to_owned(), json!(parameters.emulate_console));
    fields.remove("consoleSize");
    if !parameters.environment.is_empty() {
        let environment: Vec<String> =
            parameters.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        fields.insert("env".to_owned(), json!(environment));
    }
    if !parameters.working_directory.is_empty() {
        fields.insert("cwd".to_owned(), json!(parameters.working_directory));
    }
    Ok(process)
}

fn make(id: &str, bundle: &Path, mut spec: Value, sandbox: &Path) -> Result<Container> {
    let mut made = MadeDirectories::default();
    let mut mounted = Mounted::default();
    let written = made
        .make(bundle, 0o700)
        .and_then(|()| {
            let pins = bundle.join(PINS);
            let pin = &mut |_: &Path, open: BorrowedFd<'_>, mounted: &mut Mounted| {
                pin_below(&pins, open, mounted)
            };
            prepare(&mut spec, id, sandbox, pin, &mut mounted)
        })
        .and_then(|()| name_files::add(&mut spec, bundle, sandbox))
        .and_then(|()| {
            let file = bundle.join("config.json");
            fs::write(&file, spec.to_string())
                .map_err(|error| Error::failed(format!("write({})", file.display()), error))
        });
    match written {
        Ok(()) => Ok(Container {
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            spec,
            made: Mutex::new(made),
            mounted: Mutex::new(mounted),
            state: Mutex::default(),
        }),
        Err(error) => {
            // What stands in the way is told by the error that counts.
            let _ = mounted.undo();
            let _ = fs::remove_dir(bundle.join(PINS));
            remove_name_files(bundle);
            made.remove();
            Err(error)
        }
    }
}

/// Removes what the agent and the runtime write into a bundle, and the sandbox's directories. The container's root and
/// scratch are the host's to take apart.
fn remove_bundle(bundle: &Path) -> Result<()> {
    let names = [
        "config.json",
        "runc.log",
        "resources.json",
        "sandboxMounts",
        "sandboxTmpfsMounts",
        "hugepages",
    ];
    for name in names {
        sys::file::remove_tree(&bundle.join(name))
            .map_err(|error| Error::failed("removing the bundle", error))?;
    }
    remove_name_files(bundle);
    // Empty since what was bound there is not any more.
    let _ = fs::remove_dir(bundle.join(PINS));
    // Whoever made it, perhaps a request for the root below it. Not empty, it holds something of the host's.
    let _ = fs::remove_dir(bundle);
    Ok(())
}

fn remove_name_files(bundle: &Path) {
    for (name, _) in name_files::FILES {
        // One that is not there was the specification's or the sandbox's.
        let _ = fs::remove_file(bundle.join(name));
    }
}
