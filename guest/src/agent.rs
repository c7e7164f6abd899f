//! The agent: what every request does.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bridge::{
    Capabilities, Connection, ContainerNotification, CreateContainer, CreateContainerResponse,
    DeleteContainerState, DumpStacks, DumpStacksResponse, ExecuteProcess, ExecuteProcessResponse,
    GetProperties, GetPropertiesResponse, GuestCapabilities, Handler, InText, Incoming, Method,
    ModifySettings, Negotiate, NegotiateResponse, Notifier, RequestBase, ResizeConsole, Resource,
    ResponseBase, ResultCode, SchemaVersion, ServeLimits, Server, ShutdownForced, ShutdownGraceful,
    SignalProcess, StartContainer, WaitForProcess, WaitForProcessResponse, answer, decode,
};

use crate::children::Children;
use crate::container::Containers;
use crate::dial::Dial;
use crate::disk::Devices;
use crate::process::{Process, remember, run_in_vm};
use crate::resources::Resources;
use crate::runtime::Runtime;
use crate::stdio::Streams;
use crate::{Error, ErrorKind, Result};

/// How an agent is set up.
pub struct AgentOptions {
    /// The way to the host's ports.
    pub dial: Arc<dyn Dial>,
    /// Where the container runtime keeps its state.
    pub runtime_state: PathBuf,
    /// Longest wait for a device.
    pub device_wait: Duration,
    /// Takes the statuses of orphans: for the first process of a machine or of a process namespace. Without it,
    /// containers cannot be run.
    pub reap_orphans: bool,
    /// What a shutdown of the VM does in the end.
    pub power_off: Box<dyn Fn() + Send + Sync>,
}

impl Default for AgentOptions {
    fn default() -> Self {
        Self {
            dial: Arc::new(crate::dial::Vsock),
            runtime_state: PathBuf::from("/run/runc"),
            device_wait: Duration::from_secs(5),
            reap_orphans: true,
            power_off: Box::new(|| drop(sys::power_off())),
        }
    }
}

/// The agent. It outlives connections: a host that dials again finds everything as it was.
pub struct Agent {
    resources: Resources,
    containers: Containers,
    children: Children,
    dial: Arc<dyn Dial>,
    processes: Mutex<HashMap<u32, Arc<Process>>>,
    notifier: Arc<Mutex<Option<Notifier>>>,
    power_off: Box<dyn Fn() + Send + Sync>,
}

impl Agent {
    /// An agent with nothing mounted and nothing running.
    ///
    /// # Errors
    /// If threads cannot be made.
    pub fn new(options: AgentOptions) -> Result<Arc<Self>> {
        let children = Children::default();
        if options.reap_orphans {
            children.reap_orphans()?;
        }
        let notifier: Arc<Mutex<Option<Notifier>>> = Arc::default();
        let told = notifier.clone();
        let notify = Arc::new(move |notification: ContainerNotification| {
            let notifier = told.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(notifier) = notifier {
                // A host that is gone asks again what became of its containers.
                let _ = notifier.notify(&notification);
            }
        });
        let devices = Devices { wait: options.device_wait, ..Devices::default() };
        let runtime = Runtime::new(children.clone(), options.runtime_state);
        Ok(Arc::new(Self {
            resources: Resources::new(devices, options.dial.clone(), children.clone()),
            containers: Containers::new(runtime, options.dial.clone(), notify),
            children,
            dial: options.dial,
            processes: Mutex::default(),
            notifier,
            power_off: options.power_off,
        }))
    }

    /// Serves one host until it closes the connection.
    ///
    /// # Errors
    /// What broke the connection.
    pub fn serve(self: &Arc<Self>, connection: Connection) -> bridge::Result<()> {
        let server = Server::new(connection);
        *self.notifier.lock().unwrap_or_else(PoisonError::into_inner) = Some(server.notifier());
        let session = Session { agent: self.clone(), negotiated: AtomicBool::new(false) };
        let outcome = server.serve(Arc::new(session), ServeLimits::default());
        *self.notifier.lock().unwrap_or_else(PoisonError::into_inner) = None;
        outcome
    }

    /// Ends containers and processes, takes everything apart and turns the machine off.
    pub fn shut_down(&self) {
        self.containers.end_all();
        let processes: Vec<Arc<Process>> = {
            let processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
            processes.values().cloned().collect()
        };
        for process in processes {
            let _ = process.signal(sys::SIGNAL_KILL);
            let _ = process.wait(Some(Duration::from_secs(1)));
        }
        self.resources.remove_all();
        (self.power_off)();
    }

    fn process(&self, base: &RequestBase, pid: u32) -> Result<Arc<Process>> {
        if !base.is_vm() {
            return self.containers.get(&base.container_id)?.process(pid);
        }
        let processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        processes
            .get(&pid)
            .cloned()
            .ok_or_else(|| Error::new(ErrorKind::NoProcess, format!("the VM has no process {pid}")))
    }

    fn execute(&self, request: &ExecuteProcess) -> Result<u32> {
        let settings = &request.settings;
        let parameters = &settings.process_parameters.0;
        if !request.base.is_vm() && !parameters.create_in_utility_vm {
            return self.containers.execute(&request.base, settings);
        }
        let ports = settings.vsock_stdio_relay_settings;
        let streams = Streams::dial(&*self.dial, parameters, ports)?;
        let process = run_in_vm(&self.children, parameters, streams)?;
        let pid = process.pid;
        let mut processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        remember(&mut processes, process);
        Ok(pid)
    }

    fn modify(&self, request: &ModifySettings) -> Result<()> {
        if request.base.is_vm() {
            return self.resources.modify(&request.request);
        }
        let id = &request.base.container_id;
        self.containers.get(id)?;
        match &request.request.resource {
            Resource::Other { resource_type, settings }
                if resource_type == "ContainerConstraints" =>
            {
                self.containers.update(id, settings)
            }
            resource => {
                let name = resource.name();
                Err(Error::invalid(format!("{name} is no resource of a container")))
            }
        }
    }
}

/// One connection: what is allowed depends on whether the version is agreed on.
struct Session {
    agent: Arc<Agent>,
    negotiated: AtomicBool,
}

impl Handler for Session {
    fn handle(&self, request: &Incoming) -> bridge::Result<Option<Vec<u8>>> {
        let negotiated = self.negotiated.load(Ordering::Acquire);
        let agent = &self.agent;
        match request.method {
            Method::NEGOTIATE_PROTOCOL if !negotiated => self.negotiate(request),
            _ if !negotiated => Err(unsupported(request)),
            Method::CREATE => {
                let message: CreateContainer = decode(request)?;
                if message.base.is_vm()
                    && message.container_config.0.schema_version >= SchemaVersion::V2_1
                {
                    let error = Error::invalid("the VM wants no settings of its own");
                    return Err(error.into());
                }
                agent.containers.create(&message.base, message.container_config.0)?;
                answer(request, CreateContainerResponse::default())
            }
            // A container starts with its first process.
            Method::START => {
                decode::<StartContainer>(request)?;
                answer(request, ResponseBase::default())
            }
            Method::SHUTDOWN_GRACEFUL => {
                let message: ShutdownGraceful = decode(request)?;
                self.shut_down(request, &message.base, sys::SIGNAL_TERM)
            }
            Method::SHUTDOWN_FORCED => {
                let message: ShutdownForced = decode(request)?;
                self.shut_down(request, &message.base, sys::SIGNAL_KILL)
            }
            Method::EXECUTE_PROCESS => {
                let message: ExecuteProcess = decode(request)?;
                let process_id = agent.execute(&message)?;
                answer(request, ExecuteProcessResponse { process_id, ..Default::default() })
            }
            Method::WAIT_FOR_PROCESS => {
                let message: WaitForProcess = decode(request)?;
                let process = agent.process(&message.base, message.process_id)?;
                let limit = match message.timeout_in_ms {
                    WaitForProcess::FOREVER => None,
                    limit => Some(Duration::from_millis(u64::from(limit))),
                };
                let exit_code = process.wait(limit)?.cast_unsigned();
                answer(request, WaitForProcessResponse { exit_code, ..Default::default() })
            }
            Method::SIGNAL_PROCESS => {
                let message: SignalProcess = decode(request)?;
                let process = agent.process(&message.base, message.process_id)?;
                process.signal(message.options.unwrap_or_default().signal)?;
                answer(request, ResponseBase::default())
            }
            Method::RESIZE_CONSOLE => {
                let message: ResizeConsole = decode(request)?;
                let process = agent.process(&message.base, message.process_id)?;
                process.resize(message.height, message.width)?;
                answer(request, ResponseBase::default())
            }
            Method::GET_PROPERTIES => {
                let message: GetProperties = decode(request)?;
                if message.base.is_vm() {
                    return Err(Error::invalid("the VM has no properties").into());
                }
                let wanted = &message.query.0.property_types;
                let properties =
                    InText(agent.containers.properties(&message.base.container_id, wanted)?);
                answer(request, GetPropertiesResponse { properties, ..Default::default() })
            }
            Method::MODIFY_SETTINGS => {
                agent.modify(&decode(request)?)?;
                answer(request, ResponseBase::default())
            }
            Method::DUMP_STACKS => {
                decode::<DumpStacks>(request)?;
                answer(
                    request,
                    DumpStacksResponse { guest_stacks: threads(), ..Default::default() },
                )
            }
            Method::DELETE_CONTAINER_STATE => {
                let message: DeleteContainerState = decode(request)?;
                agent.containers.delete(&message.base.container_id)?;
                answer(request, ResponseBase::default())
            }
            _ => Err(unsupported(request)),
        }
    }
}

fn unsupported(request: &Incoming) -> bridge::Error {
    let message = format!("{} is not supported, or not now", request.method);
    bridge::Error::refused(ResultCode::NOT_IMPLEMENTED, message)
}

impl Session {
    fn negotiate(&self, request: &Incoming) -> bridge::Result<Option<Vec<u8>>> {
        let message: Negotiate = decode(request)?;
        let ours = bridge::PROTOCOL_VERSION;
        if !(message.minimum_version..=message.maximum_version).contains(&ours) {
            let (low, high) = (message.minimum_version, message.maximum_version);
            let words = format!("versions {low} to {high} are asked for, {ours} is spoken");
            return Err(bridge::Error::refused(ResultCode::UNSUPPORTED_VERSION, words));
        }
        self.negotiated.store(true, Ordering::Release);
        let capabilities = Capabilities {
            supported_schema_versions: vec![SchemaVersion::V2_1],
            runtime_os_type: "Linux".to_owned(),
            guest_defined_capabilities: GuestCapabilities {
                // There are no networks yet.
                namespace_add_request_supported: false,
                signal_process_supported: true,
                dump_stacks_supported: true,
                delete_container_state_supported: true,
            },
            ..Capabilities::default()
        };
        answer(request, NegotiateResponse { version: ours, capabilities, ..Default::default() })
    }

    fn shut_down(
        &self,
        request: &Incoming,
        base: &RequestBase,
        signal: i32,
    ) -> bridge::Result<Option<Vec<u8>>> {
        if base.is_vm() {
            self.agent.shut_down();
            return Ok(None);
        }
        self.agent.containers.signal(&base.container_id, signal)?;
        answer(request, ResponseBase::default())
    }
}

/// What the agent's threads do, as the kernel tells it.
fn threads() -> String {
    const LONGEST: usize = 32 << 10;
    let mut text = String::new();
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return text };
    for task in tasks.flatten() {
        let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let (name, waits, stack) = (read("comm"), read("wchan"), read("stack"));
        let number = task.file_name();
        text.push_str(&format!(
            "thread {} {}: {}\n{}\n",
            number.display(),
            name.trim(),
            waits.trim(),
            stack.trim_end()
        ));
        if text.len() > LONGEST {
            text.push_str("…\n");
            break;
        }
    }
    text
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for AgentOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentOptions").finish_non_exhaustive()
    }
}
