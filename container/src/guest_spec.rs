//! An OCI runtime specification as a client gives it, and what of it goes to the guest.

use oci_spec::runtime::{Spec, Windows, WindowsNetwork};

use crate::error::{Error, ErrorKind, Result};

/// A specification is text that people write; this is far beyond what the largest cluster makes.
const MOST_BYTES: usize = 16 << 20;

const PRIVILEGED: &str = "io.microsoft.virtualmachine.lcow.privileged";
const SHM_SIZE: &str = "io.microsoft.lcow.shm.size-kb";

/// CPU shares of a period, in microseconds: the kernel's own default.
const DEFAULT_PERIOD: u64 = 100_000;

/// Reads a specification (`config.json`).
///
/// # Errors
///
/// [`Invalid`](ErrorKind::Invalid).
pub fn read_spec(json: &[u8]) -> Result<Spec> {
    if json.len() > MOST_BYTES {
        return Err(Error::invalid(format!(
            "the specification has {} bytes, and {MOST_BYTES} are allowed",
            json.len()
        )));
    }
    // A list would be taken for the fields in their order.
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(Error::invalid("this is no OCI runtime specification: it is no JSON object"));
    }
    serde_json::from_slice(json).map_err(|error| {
        Error::caused(ErrorKind::Invalid, "this is no OCI runtime specification", error)
    })
}

/// The copy of a specification that the guest gets: without what is about the host.
///
/// # Errors
///
/// [`Invalid`](ErrorKind::Invalid) if an annotation about the container cannot be read.
pub fn guest_spec(spec: &Spec) -> Result<Spec> {
    let mut spec = spec.clone();
    let annotations = spec.annotations().clone().unwrap_or_default();
    let privileged = match annotations.get(PRIVILEGED).map(|text| text.to_ascii_lowercase()) {
        None => false,
        Some(text) if text == "true" => true,
        Some(text) if text == "false" => false,
        Some(text) => {
            return Err(Error::invalid(format!(
                "the annotation {PRIVILEGED} is `{}`, and should be true or false",
                text.escape_debug()
            )));
        }
    };
    spec.set_hooks(None);
    if let Some(linux) = spec.linux_mut() {
        linux.set_cgroups_path(None);
        if privileged {
            linux.set_seccomp(None);
        }
        if let Some(resources) = linux.resources_mut() {
            resources.set_devices(None);
            resources.set_pids(None);
            resources.set_block_io(None);
            resources.set_hugepage_limits(None);
            resources.set_network(None);
            if let Some(cpu) = resources.cpu_mut() {
                // Go's JSON writes a zero for "not given"; to the guest's control groups that is out of range.
                if cpu.period() == Some(0) {
                    cpu.set_period(Some(DEFAULT_PERIOD));
                }
                if cpu.quota() == Some(0) {
                    cpu.set_quota(Some(-1));
                }
            }
        }
    }
    let windows = spec.windows().as_ref().and_then(of_windows);
    spec.set_windows(windows);
    if let Some(size) = annotations.get(SHM_SIZE) {
        set_shm_size(&mut spec, size)?;
    }
    Ok(spec)
}

/// Of the Windows part the guest needs the network namespace and the devices.
fn of_windows(windows: &Windows) -> Option<Windows> {
    let namespace =
        windows.network().as_ref().and_then(|network| network.network_namespace().clone());
    let devices = windows.devices().clone().filter(|devices| !devices.is_empty());
    if namespace.is_none() && devices.is_none() {
        return None;
    }
    let mut kept = Windows::default();
    kept.set_devices(devices);
    if namespace.is_some() {
        let mut network = WindowsNetwork::default();
        network.set_network_namespace(namespace);
        kept.set_network(Some(network));
    }
    Some(kept)
}

fn set_shm_size(spec: &mut Spec, size: &str) -> Result<()> {
    let kib: u64 = size.trim().parse().ok().filter(|&kib| kib > 0).ok_or_else(|| {
        Error::invalid(format!(
            "the annotation {SHM_SIZE} is `{}`, and should be a number of KiB",
            size.escape_debug()
        ))
    })?;
    for mount in spec.mounts_mut().iter_mut().flatten() {
        if mount.destination() == std::path::Path::new("/dev/shm") {
            let mut options = mount.options().clone().unwrap_or_default();
            options.retain(|option| !option.starts_with("size="));
            options.push(format!("size={kib}k"));
            mount.set_options(Some(options));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn reduced(spec: Value) -> Value {
        let spec = read_spec(spec.to_string().as_bytes()).unwrap();
        let before = spec.clone();
        let reduced = guest_spec(&spec).unwrap();
        assert_eq!(spec, before, "a copy is reduced");
        serde_json::to_value(reduced).unwrap()
    }

    #[test]
    fn what_is_about_the_host_is_left_out() {
        let spec = json!({
            "ociVersion": "1.0.2",
            "root": { "path": "/r", "readonly": true },
            "hostname": "h",
            "hooks": { "prestart": [{ "path": "/bin/true" }] },
            "linux": {
                "cgroupsPath": "/x",
                "namespaces": [{ "type": "pid" }],
                "seccomp": { "defaultAction": "SCMP_ACT_ALLOW" },
                "resources": {
                    "devices": [{ "allow": false, "access": "rwm" }],
                    "pids": { "limit": 5 },
                    "blockIO": { "weight": 5 },
                    "hugepageLimits": [{ "pageSize": "2MB", "limit": 5 }],
                    "network": { "classID": 5 },
                    "memory": { "limit": 5 },
                    "cpu": { "shares": 2, "period": 0, "quota": 0 }
                }
            },
            "windows": {
                "layerFolders": ["a", "b"],
                "network": { "networkNamespace": "n", "endpointList": ["e"] },
                "devices": [{ "id": "1", "idType": "vpci" }]
            }
        });
        assert_eq!(
            reduced(spec),
            json!({
                "ociVersion": "1.0.2",
                "root": { "path": "/r", "readonly": true },
                "hostname": "h",
                "linux": {
                    "namespaces": [{ "type": "pid" }],
                    "seccomp": { "defaultAction": "SCMP_ACT_ALLOW" },
                    "resources": {
                        "memory": { "limit": 5 },
                        "cpu": { "shares": 2, "period": 100_000, "quota": -1 }
                    }
                },
                "windows": {
                    "network": { "networkNamespace": "n" },
                    "devices": [{ "id": "1", "idType": "vpci" }]
                }
            })
        );
    }

    #[test]
    fn what_is_given_stays() {
        let cpu = json!({ "period": 5, "quota": 7 });
        let spec = json!({ "ociVersion": "1", "linux": { "resources": { "cpu": cpu } }, "windows": { "layerFolders": ["a"] } });
        let reduced = reduced(spec);
        assert_eq!(reduced["linux"]["resources"]["cpu"], cpu);
        assert_eq!(reduced.get("windows"), None);
    }

    #[test]
    fn annotations_about_the_container() {
        let reduced = reduced(json!({
            "ociVersion": "1",
            "annotations": { PRIVILEGED: "TRUE", SHM_SIZE: "128" },
            "mounts": [
                { "destination": "/dev/shm", "type": "tmpfs", "options": ["nosuid", "size=1k"] },
                { "destination": "/tmp", "type": "tmpfs", "options": ["size=1k"] }
            ],
            "linux": { "seccomp": { "defaultAction": "SCMP_ACT_ALLOW" } }
        }));
        assert_eq!(reduced["linux"].get("seccomp"), None);
        assert_eq!(reduced["mounts"][0]["options"], json!(["nosuid", "size=128k"]));
        assert_eq!(reduced["mounts"][1]["options"], json!(["size=1k"]));
        for (name, value) in [(PRIVILEGED, "maybe"), (SHM_SIZE, "0"), (SHM_SIZE, "big")] {
            let spec = json!({ "ociVersion": "1", "annotations": { name: value } });
            let spec = read_spec(spec.to_string().as_bytes()).unwrap();
            assert_eq!(guest_spec(&spec).unwrap_err().kind(), ErrorKind::Invalid, "{name}");
        }
    }

    #[test]
    fn no_specification() {
        for bad in [&b""[..], b"[]", b"{", br#"{"mounts": [{"source": "x"}]}"#, b"\xff"] {
            assert_eq!(read_spec(bad).unwrap_err().kind(), ErrorKind::Invalid);
        }
        assert_eq!(read_spec(&vec![b' '; MOST_BYTES + 1]).unwrap_err().kind(), ErrorKind::Invalid);
    }
}
