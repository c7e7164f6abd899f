//! Numbers both ends agree on beforehand.

/// The one version of the protocol that is spoken.
pub const PROTOCOL_VERSION: u32 = 4;
/// Context id of the host in `AF_VSOCK` addresses (`VMADDR_CID_HOST`, vsock(7)).
pub const HOST_CID: u32 = 2;
/// Where the guest dials the host's end of the bridge.
pub const BRIDGE_PORT: u32 = 0x4000_0000;
/// The first port for the standard streams of processes; the host picks upwards and listens, the guest dials.
pub const FIRST_STDIO_PORT: u32 = 0x4000_0001;
/// Where a starting guest reads [`ENTROPY_BYTES`] of randomness.
pub const ENTROPY_PORT: u32 = 1;
/// How much randomness a starting guest is given.
pub const ENTROPY_BYTES: usize = 512;
/// Where the guest's log goes.
pub const LOG_PORT: u32 = 109;
/// Where a Plan 9 server of the host listens unless a request says otherwise.
pub const PLAN9_PORT: u32 = 564;

/// Hyper-V's service id of a vsock port: the port in eight hexadecimal digits before a fixed tail.
pub fn service_id(port: u32) -> String {
    format!("{port:08x}-facb-11e6-bd58-64006a7986d3")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_port_has_a_service_id() {
        assert_eq!(super::service_id(super::BRIDGE_PORT), "40000000-facb-11e6-bd58-64006a7986d3");
        assert_eq!(super::service_id(564), "00000234-facb-11e6-bd58-64006a7986d3");
    }
}
