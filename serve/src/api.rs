//! The wire interfaces, client and server both, made from `proto/`.

#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    clippy::doc_markdown
)]
mod generated {
    // The files refer to each other by their packages' paths.
    pub mod containerd {
        pub mod types {
            tonic::include_proto!("containerd.types");
        }
        pub mod services {
            pub mod content {
                pub mod v1 {
                    tonic::include_proto!("containerd.services.content.v1");
                }
            }
            pub mod diff {
                pub mod v1 {
                    tonic::include_proto!("containerd.services.diff.v1");
                }
            }
            pub mod leases {
                pub mod v1 {
                    tonic::include_proto!("containerd.services.leases.v1");
                }
            }
            pub mod mounts {
                pub mod v1 {
                    tonic::include_proto!("containerd.services.mounts.v1");
                }
            }
            pub mod snapshots {
                pub mod v1 {
                    tonic::include_proto!("containerd.services.snapshots.v1");
                }
            }
        }
    }
    pub mod plywood {
        pub mod v1 {
            tonic::include_proto!("plywood.v1");
        }
    }
}

pub use generated::containerd::services::content::v1 as content;
pub use generated::containerd::services::diff::v1 as diff;
pub use generated::containerd::services::leases::v1 as leases;
pub use generated::containerd::services::mounts::v1 as mounts;
pub use generated::containerd::services::snapshots::v1 as snapshots;
pub use generated::containerd::types;
pub use generated::plywood::v1 as control;

/// Longest message either way, containerd's own limit.
pub const MESSAGE_LIMIT: usize = 16 << 20;
