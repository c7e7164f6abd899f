//! Who may call on a socket: the kernel says who is at its other end.

use tonic::body::Body;
use tonic::transport::server::UdsConnectInfo;

/// Root and the daemon's own user.
#[derive(Debug, Clone)]
pub(super) struct Allowed {
    owner: u32,
}

impl Allowed {
    pub(super) fn now() -> Self {
        Self { owner: rustix::process::geteuid().as_raw() }
    }

    pub(super) fn may_call(&self, request: &http::Request<Body>) -> bool {
        let connection = request.extensions().get::<UdsConnectInfo>();
        let peer = connection.and_then(|connection| connection.peer_cred);
        peer.is_some_and(|peer| peer.uid() == 0 || peer.uid() == self.owner)
    }
}
