//! The log: lines on standard error, as text or JSON, from a level on that a reload can change.

use std::fs::File;
use std::io::IsTerminal as _;
use std::sync::Mutex;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{Layer as _, Registry, fmt, reload};

use crate::config::{Config, LogFormat, LogLevel};

/// Changes the level later.
#[derive(Debug, Clone)]
pub(crate) struct Logging(reload::Handle<Targets, Registry>);

impl Logging {
    /// Starts logging as `config` says. A process that logs already goes on as it does.
    pub(crate) fn start(config: &Config) -> Self {
        let ansi = std::io::stderr().is_terminal();
        Self::start_to(config, std::io::stderr, ansi)
    }

    /// The same into a file, as far as the service of another system goes.
    #[cfg_attr(
        not(windows),
        expect(dead_code, reason = "services of Windows have no standard error")
    )]
    pub(crate) fn start_in(config: &Config, file: File) -> Self {
        Self::start_to(config, Mutex::new(file), false)
    }

    fn start_to(
        config: &Config,
        writer: impl for<'w> fmt::MakeWriter<'w> + Send + Sync + 'static,
        ansi: bool,
    ) -> Self {
        let (level, handle) = reload::Layer::new(filter(config.log_level));
        let lines = fmt::layer().with_writer(writer).with_target(false);
        let lines = match config.log_format {
            LogFormat::Text => lines.with_ansi(ansi).boxed(),
            LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
        };
        let subscriber = Registry::default().with(level).with(lines);
        // Taken already: only where one process runs several daemons, which only tests do.
        let _ = tracing::subscriber::set_global_default(subscriber);
        Self(handle)
    }

    /// Takes in a changed level.
    #[cfg_attr(windows, expect(dead_code, reason = "nothing signals a reload"))]
    pub(crate) fn reload(&self, config: &Config) {
        // Fails only if the subscriber is gone, and then nothing is logged anyway.
        let _ = self.0.modify(|level| *level = filter(config.log_level));
    }
}

fn filter(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // What the HTTP/2 library says at the debug level about every frame hides what we say about every call.
    let others = if level == LevelFilter::TRACE { level } else { level.min(LevelFilter::WARN) };
    let ours = env!("CARGO_CRATE_NAME");
    Targets::new().with_default(others).with_target(ours, level)
}
