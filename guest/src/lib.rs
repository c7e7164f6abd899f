//! The agent inside a utility VM: mounts devices, combines layers, runs processes.
