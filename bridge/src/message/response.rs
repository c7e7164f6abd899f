//! Answers and notifications.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{InText, RequestBase, SchemaVersion, is_default};
use crate::ResultCode;

/// What every answer begins with, and for many requests all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ResponseBase {
    /// Success, or what failed.
    pub result: ResultCode,
    /// The request's activity.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub activity_id: String,
    /// What failed, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error_message: String,
    /// The same in the form older hosts read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub error_records: Vec<ErrorRecord>,
}

/// One error of an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ErrorRecord {
    /// The code.
    pub result: ResultCode,
    /// For people.
    pub message: String,
    /// Where it happened; ours say nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stack_trace: String,
    /// Which program.
    pub module_name: String,
    /// Which file.
    pub file_name: String,
    /// Which line.
    pub line: u32,
    /// Which function.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub function_name: String,
}

/// An answer.
pub trait Answer: Serialize + DeserializeOwned {
    /// What it begins with.
    fn base(&self) -> &ResponseBase;
    /// The same, to fill in.
    fn base_mut(&mut self) -> &mut ResponseBase;
}

impl Answer for ResponseBase {
    fn base(&self) -> &ResponseBase {
        self
    }

    fn base_mut(&mut self) -> &mut ResponseBase {
        self
    }
}

macro_rules! answers {
    ($($name:ident),*) => {
        $(impl Answer for $name {
            fn base(&self) -> &ResponseBase {
                &self.base
            }

            fn base_mut(&mut self) -> &mut ResponseBase {
                &mut self.base
            }
        })*
    };
}

answers!(
    NegotiateResponse,
    CreateContainerResponse,
    ExecuteProcessResponse,
    WaitForProcessResponse,
    GetPropertiesResponse,
    DumpStacksResponse
);

/// The version agreed on, and what the guest can do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NegotiateResponse {
    /// Result.
    #[serde(flatten)]
    pub base: ResponseBase,
    /// The version.
    #[serde(default)]
    pub version: u32,
    /// What the guest can do.
    #[serde(default)]
    pub capabilities: Capabilities,
}

/// What a guest can do and wants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Capabilities {
    /// Wants a Create for the VM itself.
    #[serde(skip_serializing_if = "is_default")]
    pub send_host_create_message: bool,
    /// Wants a Start for the VM itself.
    #[serde(skip_serializing_if = "is_default")]
    pub send_host_start_message: bool,
    /// Wants to be told its socket addresses.
    #[serde(skip_serializing_if = "is_default")]
    pub hv_socket_config_on_startup: bool,
    /// Schemas of containers it understands.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub supported_schema_versions: Vec<SchemaVersion>,
    /// `Linux` or `Windows`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub runtime_os_type: String,
    /// Further abilities.
    pub guest_defined_capabilities: GuestCapabilities,
}

/// Abilities of a Linux guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct GuestCapabilities {
    /// Network namespaces are added by request.
    #[serde(skip_serializing_if = "is_default")]
    pub namespace_add_request_supported: bool,
    /// Processes can be signalled.
    #[serde(skip_serializing_if = "is_default")]
    pub signal_process_supported: bool,
    /// Tells what its threads do.
    #[serde(skip_serializing_if = "is_default")]
    pub dump_stacks_supported: bool,
    /// Containers can be forgotten.
    #[serde(skip_serializing_if = "is_default")]
    pub delete_container_state_supported: bool,
}

/// A container was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateContainerResponse {
    /// Result.
    #[serde(flatten)]
    pub base: ResponseBase,
    /// Negotiation of protocols before 4; 0.
    #[serde(default)]
    pub selected_protocol_version: u32,
}

/// A process runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ExecuteProcessResponse {
    /// Result.
    #[serde(flatten)]
    pub base: ResponseBase,
    /// Its id in the guest.
    #[serde(default)]
    pub process_id: u32,
}

/// A process ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct WaitForProcessResponse {
    /// Result.
    #[serde(flatten)]
    pub base: ResponseBase,
    /// Its exit code; 128 and the signal's number if a signal ended it.
    #[serde(default)]
    pub exit_code: u32,
}

/// What a container does.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GetPropertiesResponse {
    /// Result.
    #[serde(flatten)]
    pub base: ResponseBase,
    /// What was asked for.
    #[serde(default, deserialize_with = "super::nested::or_empty")]
    pub properties: InText<Properties>,
}

/// Properties of a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Properties {
    /// Its processes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub process_list: Vec<ProcessDetails>,
    /// Its statistics, in the form of containerd's `Metrics` for cgroup v1.
    #[serde(rename = "LCOWMetrics", skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Value>,
}

/// A process of a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ProcessDetails {
    /// Its id in the guest.
    pub process_id: u32,
}

/// What the agent's threads do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DumpStacksResponse {
    /// Result.
    #[serde(flatten)]
    pub base: ResponseBase,
    /// For people.
    #[serde(default)]
    pub guest_stacks: String,
}

/// Tells that a container ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerNotification {
    /// The container.
    #[serde(flatten)]
    pub base: RequestBase,
    /// `UnexpectedExit`, `GracefulExit`, `ForcedExit` and others.
    #[serde(rename = "Type", default)]
    pub notification_type: String,
    /// What was under way; `None`.
    #[serde(default)]
    pub operation: String,
    /// Success.
    #[serde(default)]
    pub result: ResultCode,
    /// Further JSON.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub result_info: String,
}
