//! The bridge between a host and the agent in its utility VM: frames, messages and result codes, version 4.
