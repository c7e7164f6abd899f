//! From layers and an OCI runtime spec to what a container in a utility VM sees: rootfs and mounts.
