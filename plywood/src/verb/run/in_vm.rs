//! `plywood run --isolation vm`: the container's layer images are disks of a virtual machine, as they are.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use store::{Chain, ImageRecord, Layer, Scratch, ScratchPaths};
use uvm::qemu::BootPhase;

use super::config::{self, Execute, Place};
use super::layer_files::LayerFiles;
use super::signals::Forwarder;
use super::user::{LARGEST_DATABASE, User};
use super::vm_signals::{self, InVm};
use crate::Session;
use crate::cli::{Isolation, Network, RunArgs};
use crate::container::{Body, Container};
use crate::exit::{Exit, Failure};
use crate::host::{Host, require_root};
use crate::vm::protocol::{Answer, Ask, LayerAsk, RunAsk, TreeAsk};
use crate::vm::{self, Conversation, Owner, RawTerminal};

/// What a container can write to in a virtual machine, if not said otherwise: a sparse file.
const SCRATCH_SIZE: u64 = 8 << 30;

/// How often somebody who waits for containers of others is told so.
const REMIND: Duration = Duration::from_secs(60);

pub(super) fn run(session: &mut Session, args: &RunArgs) -> Result<ExitCode> {
    require_root("running a container")?;
    debug_assert_eq!(args.isolation, Isolation::Vm);
    if args.network == Network::Host {
        anyhow::bail!(
            Failure::new(
                Exit::Usage,
                "a container in a virtual machine has no network of the host"
            )
            .hint("leave --network out: it gets one with a loopback")
        );
    }
    if args.tty && !rustix::termios::isatty(rustix::stdio::stdin()) {
        anyhow::bail!(
            Failure::new(
                Exit::Usage,
                "--tty needs a terminal as standard input, and there is none"
            )
            .hint("leave --tty out: standard input and output are passed on without it")
        );
    }
    let host = &session.host;
    super::check_run_directory(host)?;
    host.settle()?;
    let signals = Forwarder::new(&[signal_hook::consts::SIGWINCH])?;
    let (image, image_config) = super::find(host, &args.reference)?;
    super::check_platform(&image)?;
    let execute = Execute::new(&image_config, args)?;
    let stop_signal = vm_signals::number(&execute.stop_signal).ok_or_else(|| {
        let text = format!("the image's stop signal, `{}`, is no signal", execute.stop_signal);
        Failure::new(Exit::Corrupt, text)
    })?;
    config::check_sources(&args.mounts)?;
    if let Some(name) = &args.vm.vm {
        vm::find(host, name)?;
    }
    let machine = args.vm.vm.as_deref();
    let body = Body::Vm(machine.map(str::to_owned));
    let container =
        Container::register(host, args.name.as_deref(), &image.reference, &body, args.keep)?;
    let running = Running { host, args, container: &container, signals: &signals, stop_signal };
    let outcome = running.through(&image, &execute);
    let down = container.take_down();
    let code = match (outcome, down) {
        (Ok(code), Ok(())) => code,
        (Ok(_), Err(error)) | (Err(error), _) => {
            // Whoever interrupted it knows why it failed.
            if let (None, Some(signal)) = (error.downcast_ref::<Failure>(), signals.interrupted()) {
                crate::interrupt::end_by(signal);
            }
            return Err(error);
        }
    };
    match code {
        Some(code) => Ok(ExitCode::from(code)),
        None => {
            crate::interrupt::end_by(signals.interrupted().unwrap_or(signal_hook::consts::SIGTERM))
        }
    }
}

/// A layer, with its hash tree if it has one.
fn layer_ask(layer: &Layer) -> LayerAsk {
    let verity = layer.verity().map(|(path, verity)| TreeAsk {
        path,
        data_size: layer.record.image_size,
        root_hash: verity.root_hash.hex(),
        salt: verity.salt.hex(),
    });
    LayerAsk { path: layer.path.clone(), verity }
}

struct Running<'a> {
    host: &'a Host,
    args: &'a RunArgs,
    container: &'a Container<'a>,
    signals: &'a Forwarder<InVm>,
    stop_signal: i32,
}

impl Running<'_> {
    /// Runs it; `None` if a signal came before it was started.
    fn through(&self, image: &ImageRecord, execute: &Execute) -> Result<Option<u8>> {
        let chain = self.prepare(image)?;
        let ask = self.ask(&chain, execute)?;
        if self.signals.interrupted().is_some() {
            return Ok(None);
        }
        if let Some(name) = &self.args.vm.vm {
            return self.converse(Conversation::with(self.host, name)?, ask).map(Some);
        }
        let owner = match self.boot() {
            // Given up because of it.
            Err(_) if self.signals.interrupted().is_some() => return Ok(None),
            other => other?,
        };
        let outcome =
            owner.connect().and_then(Conversation::over).and_then(|talk| self.converse(talk, ask));
        self.wait_for_others(&owner);
        let closed = owner.close();
        let code = outcome?;
        closed?;
        Ok(Some(code))
    }

    /// The snapshot, with a scratch image that has a file system.
    fn prepare(&self, image: &ImageRecord) -> Result<Chain> {
        let chain = {
            let store = self.host.existing_store()?;
            let key = self.container.key();
            let scratch = Scratch::Image { size: self.args.scratch_size.unwrap_or(SCRATCH_SIZE) };
            let parent = image.chain.last().map(String::as_bytes);
            store
                .prepare(key.as_bytes(), parent, self.host.owner_labels()?, scratch)
                .context("cannot prepare the container's snapshot")?;
            store.chain(key.as_bytes()).context("cannot read the container's snapshot")?
        };
        if self.args.vm.encrypted_scratch {
            // The guest makes a file system on what only it can read.
            return Ok(chain);
        }
        // Formatted here: an emulated machine takes longer for it.
        let registry = self.host.registry()?;
        let holder = self.container.holder();
        registry.hold_scratch(&chain, &holder).context("cannot make the container's scratch")?;
        registry.let_go(&holder).context("cannot unmount the container's scratch")?;
        Ok(chain)
    }

    fn ask(&self, chain: &Chain, execute: &Execute) -> Result<RunAsk> {
        let windows = chain.layers.iter().any(|layer| layer.id.is_cim());
        if windows || chain.layers.is_empty() {
            let text = format!("{} has no Linux layers to run", self.args.reference);
            anyhow::bail!(Failure::new(Exit::NotSupported, text));
        }
        let layers: Vec<PathBuf> = chain.layers.iter().map(|layer| layer.path.clone()).collect();
        let asks = chain.layers.iter().map(layer_ask).collect();
        let scratch = match &chain.scratch {
            Some(ScratchPaths::Image { path, .. }) => path.clone(),
            _ => anyhow::bail!("the container's snapshot has no scratch image"),
        };
        Ok(RunAsk {
            name: self.container.name().to_owned(),
            spec: self.specification(&layers, execute)?,
            layers: asks,
            scratch,
            encrypted: self.args.vm.encrypted_scratch,
            tty: self.args.tty,
            size: if self.args.tty { RawTerminal::size() } else { None },
        })
    }

    fn specification(&self, layers: &[PathBuf], execute: &Execute) -> Result<Value> {
        let files = LayerFiles::open(layers.iter().map(PathBuf::as_path))?;
        let passwd = files.text(&["etc", "passwd"], LARGEST_DATABASE)?;
        let group = files.text(&["etc", "group"], LARGEST_DATABASE)?;
        let user = User::resolve_in(&execute.user, &passwd, &group)?;
        let place = Place {
            name: self.container.name(),
            // The guest chooses where its containers' control groups are.
            cgroup: self.container.name(),
            rootfs: Path::new("rootfs"),
            most_open_files: 1 << 20,
            unified_cgroups: true,
        };
        config::runtime_config(execute, &user, self.args, place)
    }

    /// Boots a machine for this container, and for those that others run in it.
    fn boot(&self) -> Result<Arc<Owner>> {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})")
            .context("the progress line's form is wrong")?;
        bar.set_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        let mut progress = |phase| {
            bar.set_message(match phase {
                BootPhase::Starting => "starting the virtual machine",
                BootPhase::Kernel => "the virtual machine's kernel boots",
                BootPhase::Agent => "the virtual machine's agent has called",
                BootPhase::Ready => "the virtual machine is ready",
            });
        };
        let cancel = self.signals.cancel();
        let booted =
            vm::boot(self.host, self.container.name(), &self.args.vm.boot, cancel, &mut progress);
        bar.finish_and_clear();
        booted
    }

    fn converse(&self, mut talk: Conversation, ask: RunAsk) -> Result<u8> {
        let timeout = Duration::from_secs(self.args.stop_timeout.into());
        let tty = ask.tty;
        // A terminal is read here, where it is the controlling one; the owner may be anywhere.
        let input = vm::piped_input().context("cannot pass standard input on")?;
        let (output, error) = (rustix::stdio::stdout(), rustix::stdio::stderr());
        talk.ask(&Ask::Run(Box::new(ask)), &[input.as_fd(), output, error])?;
        drop(input);
        let mut terminal = None;
        let outcome = loop {
            match talk.answer() {
                Ok(Answer::Started) => {
                    if tty {
                        terminal = Some(RawTerminal::new()?);
                    }
                    self.signals.pass_to(InVm {
                        teller: talk.teller()?,
                        stop_signal: self.stop_signal,
                        patience: timeout,
                        tty,
                    });
                }
                Ok(Answer::Ended { code }) => break Ok(code),
                Ok(other) => {
                    break Err(anyhow::anyhow!("the virtual machine's owner answers {other:?}"));
                }
                Err(error) => break Err(error),
            }
        };
        self.signals.finish();
        drop(terminal);
        outcome
    }

    /// The machine ends with this process, so it stays while others have containers in it.
    fn wait_for_others(&self, owner: &Owner) {
        while !owner.wait_until_empty(Duration::from_millis(10)) {
            let names = owner.containers().join(", ");
            crate::exit::warn(&format!(
                "the virtual machine {} stays until these have ended, too: {names}",
                self.container.name()
            ));
            let mut waited = Duration::ZERO;
            const SLICE: Duration = Duration::from_millis(200);
            while waited < REMIND && !owner.wait_until_empty(Duration::from_millis(1)) {
                if self.signals.wait_for_end(SLICE) {
                    owner.stop(Duration::from_secs(self.args.stop_timeout.into()));
                    return;
                }
                waited += SLICE;
            }
        }
    }
}
