//! Names of volumes that can be computed again after a crash.

use uuid::Uuid;

/// The name space of container volumes (reference: hcsshim, whose source gives six of the last eight bytes, so that
/// the other two are zero).
const CONTAINERS: Uuid = Uuid::from_u128(0x6827_367b_c388_4e9b_961c_6d2c_936c_0000);
/// Our own name space for volumes that all containers on one image share: version 5 of `plywood.shared-cim` in
/// [`CONTAINERS`].
const IMAGES: Uuid = Uuid::from_u128(0x30ee_5b78_5679_5845_85e2_ce50_e46e_6329);

/// The GUID of the volume of a container's CIM: a function of the container's id alone, so that whoever knows the id
/// can dismount it.
pub fn container_volume(id: &str) -> Uuid {
    Uuid::new_v5(&CONTAINERS, id.as_bytes())
}

/// The GUID of the volume that shows an image to everybody. `key` says the same for every spelling of its path.
pub(super) fn image_volume(key: &str) -> Uuid {
    Uuid::new_v5(&IMAGES, key.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed by Python: `uuid.uuid5(uuid.UUID("6827367b-c388-4e9b-961c-6d2c936c0000"), id)`.
    #[test]
    fn the_volume_of_a_container_is_what_others_compute() {
        for (id, guid) in [
            ("", "bdb2c28b-00de-58e1-9364-c83c150e42f8"),
            ("a", "2793d336-a0e7-5ddd-810b-55c00b05764f"),
            ("b9dc1ca4-2a1e-4d79-a2a6-5a47a5bd0b52", "0d21fd5e-7a53-5e9a-8036-c11562d784cd"),
            ("test-container", "78b0c2aa-fcc1-5e50-813f-eb0574f209a5"),
            (
                "257b019e37b493101bae67295a9f93d9cc5d1e0a12af52f811b973dae593c515",
                "ee3cf8f4-7901-50e2-a8c0-b602ba65fa54",
            ),
            ("контейнер", "8fc43387-e624-50f4-95db-e1604272200e"),
        ] {
            assert_eq!(container_volume(id).to_string(), guid, "{id}");
        }
    }

    #[test]
    fn shared_volumes_have_a_name_space_of_their_own() {
        assert_eq!(IMAGES, Uuid::new_v5(&CONTAINERS, b"plywood.shared-cim"));
        // Python: uuid.uuid5(IMAGES, r"\\?\C:\CIMS\A.CIM")
        assert_eq!(
            image_volume(r"\\?\C:\CIMS\A.CIM").to_string(),
            "a4534db6-ac5c-541d-bf8e-3d122a0889df"
        );
        assert_ne!(image_volume("a"), container_volume("a"));
    }
}
