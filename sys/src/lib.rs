//! Every system call that Plywood makes. The only crate with `unsafe`; it holds no policy.

pub mod checked_line;
#[cfg(target_os = "linux")]
mod children;
#[cfg(target_os = "linux")]
mod compat;
#[cfg(target_os = "linux")]
mod device_mapper;
mod direct;
#[cfg(target_os = "linux")]
pub mod directory;
mod error;
pub mod failpoint;
#[cfg(target_os = "linux")]
mod features;
pub mod file;
#[cfg(target_os = "linux")]
mod file_map;
#[cfg(target_os = "linux")]
mod fs_context;
#[cfg(target_os = "linux")]
mod fuse;
#[cfg(target_os = "linux")]
mod loop_device;
#[cfg(target_os = "linux")]
mod loopback;
#[cfg(target_os = "linux")]
mod machine;
#[cfg(target_os = "linux")]
mod mount_identity;
#[cfg(target_os = "linux")]
mod mount_watch;
#[cfg(target_os = "linux")]
mod mountinfo;
pub mod path;
pub mod process;
#[cfg(target_os = "linux")]
mod residency;
#[cfg(target_os = "linux")]
mod sealed;
#[cfg(target_os = "linux")]
mod shared_memory;
#[cfg(target_os = "linux")]
mod terminal;
#[cfg(target_os = "linux")]
mod umask;
#[cfg(target_os = "linux")]
mod unmount;
#[cfg(target_os = "linux")]
mod user_namespace;
#[cfg(target_os = "linux")]
mod vsock;
pub mod windows;
mod writeback;
#[cfg(target_os = "linux")]
pub mod xattr;

#[cfg(target_os = "linux")]
pub use children::{
    SIGNAL_KILL, SIGNAL_TERM, adopt_orphans, peek_ended_child, reap_child, signal_process,
    wait_for_child,
};
#[cfg(target_os = "linux")]
pub use device_mapper::{MappedTarget, map_device, unmap_device};
pub use direct::DirectFile;
pub use error::{Error, Result};
#[cfg(target_os = "linux")]
pub use features::{CgroupLayout, Features, KernelVersion, Probe};
#[cfg(target_os = "linux")]
pub use file_map::{FileMap, MappedBytes};
#[cfg(target_os = "linux")]
pub use fs_context::{
    DetachedMount, FsContext, MountAttributes, OPTIONS_PAGE, STRING_MAX, make_read_only,
    mount_with_options, open_path,
};
#[cfg(target_os = "linux")]
pub use fuse::{
    FUSE_ROOT, FuseFiles, FuseKind, FuseNode, mount_fuse, open_fuse_device, serve_fuse,
};
#[cfg(target_os = "linux")]
pub use loop_device::{AttachedLoop, LoopDevice, LoopOptions, attached_loops};
#[cfg(target_os = "linux")]
pub use loopback::bring_loopback_up;
#[cfg(target_os = "linux")]
pub use machine::{cover_root, load_module, power_off, set_host_name};
#[cfg(target_os = "linux")]
pub use mount_identity::{MountIdentity, mount_namespace, process_in_mount_namespace};
#[cfg(target_os = "linux")]
pub use mount_watch::{MountEvents, MountWatch};
#[cfg(target_os = "linux")]
pub use mountinfo::{MountEntry, MountTable};
#[cfg(target_os = "linux")]
pub use residency::{Residency, page_residency};
#[cfg(target_os = "linux")]
pub use sealed::sealed_copy;
#[cfg(target_os = "linux")]
pub use shared_memory::{SharedMemory, SharedPiece, read_to_shared};
#[cfg(target_os = "linux")]
pub use terminal::{lead_session, open_terminal, receive_descriptor, set_window_size};
#[cfg(target_os = "linux")]
pub use umask::thread_without_umask;
#[cfg(target_os = "linux")]
pub use unmount::{unmount, unmount_lazily};
#[cfg(target_os = "linux")]
pub use user_namespace::UserNamespace;
#[cfg(target_os = "linux")]
pub use vsock::{connect_vsock, set_vsock_buffer};
pub use writeback::{Writeback, start_writeback};
