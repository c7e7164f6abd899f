//! Messages about processes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{InText, RequestBase, is_default};

/// Runs a process: a container's first, another one in it, or one in the VM beside all containers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ExecuteProcess {
    /// The container, or the VM.
    #[serde(flatten)]
    pub base: RequestBase,
    /// The process.
    pub settings: ExecuteProcessSettings,
}

/// A process and where its streams go.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ExecuteProcessSettings {
    /// The process.
    pub process_parameters: InText<ProcessParameters>,
    /// The ports for those of its streams that are pipes.
    #[serde(default)]
    pub vsock_stdio_relay_settings: StdioPorts,
}

/// The host's ports that the guest dials for a process's streams; 0 for none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct StdioPorts {
    /// Standard input.
    #[serde(skip_serializing_if = "is_default")]
    pub std_in: u32,
    /// Standard output; with a terminal, everything.
    #[serde(skip_serializing_if = "is_default")]
    pub std_out: u32,
    /// Standard error.
    #[serde(skip_serializing_if = "is_default")]
    pub std_err: u32,
}

/// A process. The first of a container takes everything but the streams from the container's specification.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ProcessParameters {
    /// Command line, split at spaces; used where `command_args` is empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub command_line: String,
    /// Program and arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command_args: Vec<String>,
    /// Working directory.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub working_directory: String,
    /// Environment, added to nothing.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// Gives it a terminal; standard error is then part of the output.
    #[serde(skip_serializing_if = "is_default")]
    pub emulate_console: bool,
    /// Connects standard input.
    #[serde(skip_serializing_if = "is_default")]
    pub create_std_in_pipe: bool,
    /// Connects standard output.
    #[serde(skip_serializing_if = "is_default")]
    pub create_std_out_pipe: bool,
    /// Connects standard error.
    #[serde(skip_serializing_if = "is_default")]
    pub create_std_err_pipe: bool,
    /// The terminal's height, then its width.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub console_size: Vec<u16>,
    /// Runs it in the VM and not in the container.
    #[serde(rename = "CreateInUtilityVM", skip_serializing_if = "is_default")]
    pub create_in_utility_vm: bool,
    /// The specification of a container's first process, in older hosts; only looked at for being there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oci_specification: Option<Value>,
    /// A further process of a container, as OCI's `process` object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oci_process: Option<Value>,
}

/// Waits for a process to end; not answered before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct WaitForProcess {
    /// The container, or the VM.
    #[serde(flatten)]
    pub base: RequestBase,
    /// The process.
    #[serde(default)]
    pub process_id: u32,
    /// Milliseconds after which the guest gives up; [`WaitForProcess::FOREVER`] for never.
    #[serde(default)]
    pub timeout_in_ms: u32,
}

impl WaitForProcess {
    /// No limit.
    pub const FOREVER: u32 = u32::MAX;
}

/// Signals a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SignalProcess {
    /// The container, or the VM.
    #[serde(flatten)]
    pub base: RequestBase,
    /// The process.
    #[serde(default)]
    pub process_id: u32,
    /// The signal; KILL when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<SignalOptions>,
}

/// Which signal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct SignalOptions {
    /// Linux's number; 0 is KILL.
    #[serde(skip_serializing_if = "is_default")]
    pub signal: i32,
}

/// Tells a process's terminal its size.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ResizeConsole {
    /// The container, or the VM.
    #[serde(flatten)]
    pub base: RequestBase,
    /// The process.
    #[serde(default)]
    pub process_id: u32,
    /// Rows.
    #[serde(default)]
    pub height: u16,
    /// Columns.
    #[serde(default)]
    pub width: u16,
}
