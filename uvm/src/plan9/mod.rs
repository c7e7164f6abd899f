//! The 9P2000.L server for shares: the host's side, confined to the shared directory.
