//! One container in a virtual machine, from its layers to its exit code.

use std::fs::File;
use std::io::BufReader;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bridge::{
    ContainerConfig, CreateContainer, Deadline, DeleteContainerState, ExecuteProcess,
    ExecuteProcessSettings, InText, ProcessParameters, RequestBase, ResizeConsole, SchemaVersion,
    StartContainer, StdioPorts, WaitForProcess,
};
use container::{
    HashTree, LayerOptions, LcowLayer, LcowLayers, LinuxRequest, allocate_linux_resources,
    guest_spec, read_spec, release_resources,
};

use super::owner::{ANSWER, KILL, Owner};
use super::protocol::{self, Answer, LayerAsk, RunAsk, Tell};
use super::relay::Relay;
use crate::exit::{Exit, Failure};

/// How long what a container printed may take to arrive after its end.
const DRAIN: Duration = Duration::from_secs(5);

/// How long layers may take to be attached and mounted: hundreds of them, in an emulated machine.
const MOUNT: Duration = Duration::from_secs(300);

impl Owner {
    /// Runs a container to its end, with what is read from `reader` telling it signals and sizes meanwhile. When that
    /// ends before, the container is killed: nobody waits for it.
    pub(super) fn run(
        &self,
        ask: RunAsk,
        files: Vec<OwnedFd>,
        stream: &UnixStream,
        reader: BufReader<UnixStream>,
    ) -> Result<u8> {
        let seat = self.lock_out(&ask.name)?;
        let spec = read_spec(ask.spec.to_string().as_bytes())?;
        let layers = LcowLayers {
            layers: ask.layers.iter().map(layer).collect(),
            scratch: ask.scratch.clone(),
        };
        let root = guest_root(&ask.name);
        let request = LinuxRequest {
            id: &ask.name,
            spec: &spec,
            layers: Some(&layers),
            guest_root: &root,
            sandbox: false,
            options: LayerOptions {
                encrypted_scratch: ask.encrypted,
                physically_backed: false,
                deadline: Deadline::after(MOUNT),
            },
        };
        let mut allocation = allocate_linux_resources(&self.machine, &request)?;
        let ran = guest_spec(&allocation.spec).map_err(anyhow::Error::from).and_then(|spec| {
            let specification = serde_json::to_value(&spec).context("cannot write the spec")?;
            self.create(&ask.name, &root, specification, allocation.scratch.clone())?;
            Ok(self.execute(&ask, files, &seat, stream, reader))
        });
        let released = release_resources(&mut allocation.resources);
        // A guest forgets a container only when nothing of it is mounted any more.
        let forgotten = match &ran {
            Ok(_) => self.forget(&ask.name),
            Err(_) => Ok(()),
        };
        let code = ran??;
        released.context("not everything of the container could be detached")?;
        forgotten?;
        Ok(code)
    }

    fn forget(&self, name: &str) -> Result<()> {
        let request = DeleteContainerState::new(name);
        let answer = self.vm.client().call(&request, &Deadline::after(ANSWER));
        answer.map(drop).context("the guest cannot forget the container")
    }

    fn create(
        &self,
        name: &str,
        root: &str,
        specification: serde_json::Value,
        scratch: Option<String>,
    ) -> Result<()> {
        let config = ContainerConfig {
            schema_version: SchemaVersion::V2_1,
            oci_bundle_path: root.to_owned(),
            oci_specification: Some(specification),
            scratch_dir_path: scratch.unwrap_or_default(),
            ..ContainerConfig::default()
        };
        let request =
            CreateContainer { base: RequestBase::new(name), container_config: InText(config) };
        let client = self.vm.client();
        let doing = || format!("cannot make container {name} in the virtual machine");
        client.call(&request, &Deadline::after(ANSWER)).map_err(refused).with_context(doing)?;
        client
            .call(&StartContainer::new(name), &Deadline::after(ANSWER))
            .map_err(refused)
            .with_context(doing)?;
        Ok(())
    }

    /// The container's first process, with its streams, until it ends.
    fn execute(
        &self,
        ask: &RunAsk,
        files: Vec<OwnedFd>,
        seat: &super::owner::Seat<'_>,
        stream: &UnixStream,
        reader: BufReader<UnixStream>,
    ) -> Result<u8> {
        let mut relay = Relay::new();
        let mut ports = StdioPorts::default();
        let mut files = files.into_iter();
        let mut next = || match files.next() {
            Some(file) => Ok(file),
            None => File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from),
        };
        let (input, output, error) = (next()?, next()?, next()?);
        let doing = "cannot pass the container's streams on";
        let port = self.vm.open_port().context(doing)?;
        ports.std_in = port.number();
        relay.input(move |deadline: &Deadline| port.accept(deadline), input).context(doing)?;
        let port = self.vm.open_port().context(doing)?;
        ports.std_out = port.number();
        relay.output(move |deadline: &Deadline| port.accept(deadline), output).context(doing)?;
        if !ask.tty {
            let port = self.vm.open_port().context(doing)?;
            ports.std_err = port.number();
            relay.output(move |deadline: &Deadline| port.accept(deadline), error).context(doing)?;
        }
        let parameters = ProcessParameters {
            emulate_console: ask.tty,
            create_std_in_pipe: true,
            create_std_out_pipe: true,
            create_std_err_pipe: !ask.tty,
            console_size: ask.size.map_or_else(Vec::new, |(rows, columns)| vec![rows, columns]),
            ..ProcessParameters::default()
        };
        let request = ExecuteProcess {
            base: RequestBase::new(&*ask.name),
            settings: ExecuteProcessSettings {
                process_parameters: InText(parameters),
                vsock_stdio_relay_settings: ports,
            },
        };
        let client = self.vm.client();
        let executed = client.call(&request, &Deadline::after(ANSWER)).map_err(refused);
        let process = match executed {
            Ok(response) => response.process_id,
            Err(error) => {
                relay.finish(Duration::ZERO);
                return Err(error).with_context(|| format!("cannot start container {}", ask.name));
            }
        };
        seat.started(process);
        // Whoever asked may be gone: then reading from them ends, and so does the container.
        let _ = protocol::send(stream, &Answer::Started);
        let ended = AtomicBool::new(false);
        let waited = std::thread::scope(|scope| {
            scope.spawn(|| self.listen(&ask.name, process, reader, &ended));
            let wait = WaitForProcess {
                base: RequestBase::new(&*ask.name),
                process_id: process,
                timeout_in_ms: WaitForProcess::FOREVER,
            };
            let waited = client.call(&wait, &Deadline::never());
            ended.store(true, Ordering::Relaxed);
            // Ends the reader.
            let _ = stream.shutdown(std::net::Shutdown::Read);
            waited
        });
        relay.finish(DRAIN);
        let code = waited.context("the container's end cannot be waited for")?.exit_code;
        Ok(u8::try_from(code).unwrap_or(1))
    }

    /// Passes on what is told about a container. Ends when its connection does.
    fn listen(
        &self,
        name: &str,
        process: u32,
        mut reader: BufReader<UnixStream>,
        ended: &AtomicBool,
    ) {
        while let Ok(Some(tell)) = protocol::receive::<Tell>(&mut reader) {
            // What comes too late finds no process, which is nobody's loss.
            let _ = match tell {
                Tell::Signal(signal) => self.signal(name, process, signal),
                Tell::Size(height, width) => {
                    let request = ResizeConsole {
                        base: RequestBase::new(name),
                        process_id: process,
                        height,
                        width,
                    };
                    self.vm.client().call(&request, &Deadline::after(ANSWER)).map(drop)
                }
            };
        }
        if !ended.load(Ordering::Relaxed) {
            let _ = self.signal(name, process, KILL);
        }
    }
}

fn layer(ask: &LayerAsk) -> LcowLayer {
    let verity = ask.verity.as_ref().map(|tree| HashTree {
        path: tree.path.clone(),
        data_size: tree.data_size,
        root_hash: tree.root_hash.clone(),
        salt: tree.salt.clone(),
    });
    LcowLayer { verity, ..LcowLayer::whole(&ask.path) }
}

fn guest_root(name: &str) -> String {
    format!("/run/gcs/c/{name}")
}

/// What a runtime says of a program that is not there, or that cannot be executed, has exit codes of its own.
fn refused(error: bridge::Error) -> anyhow::Error {
    let text = error.to_string();
    match crate::verb::run::exit_of(&text) {
        Exit::Failed => error.into(),
        exit => Failure::new(exit, text).into(),
    }
}
