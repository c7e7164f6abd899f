//! The xattr name filter: which bit a name clears.

/// Seed of the hash, to which the base index of the name is added.
const SEED: u32 = 0x25BB_E08F;

const PRIME_1: u32 = 0x9E37_79B1;
const PRIME_2: u32 = 0x85EB_CA77;
const PRIME_3: u32 = 0xC2B2_AE3D;
const PRIME_4: u32 = 0x27D4_EB2F;
const PRIME_5: u32 = 0x1656_67B1;

/// The bit (0..31) of a name without its built-in prefix.
pub(super) fn bit(base_index: u8, name: &[u8]) -> u32 {
    xxh32(name, SEED + u32::from(base_index)) % 32
}

/// XXH32, from its published description.
fn xxh32(input: &[u8], seed: u32) -> u32 {
    let word = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let round = |lane: u32, word: u32| {
        lane.wrapping_add(word.wrapping_mul(PRIME_2)).rotate_left(13).wrapping_mul(PRIME_1)
    };
    let stripes = input.chunks_exact(16);
    let rest = stripes.remainder();
    let mut hash = if input.len() >= 16 {
        let mut lanes = [
            seed.wrapping_add(PRIME_1).wrapping_add(PRIME_2),
            seed.wrapping_add(PRIME_2),
            seed,
            seed.wrapping_sub(PRIME_1),
        ];
        for stripe in stripes {
            for (lane, bytes) in lanes.iter_mut().zip(stripe.chunks_exact(4)) {
                *lane = round(*lane, word(bytes));
            }
        }
        lanes[0]
            .rotate_left(1)
            .wrapping_add(lanes[1].rotate_left(7))
            .wrapping_add(lanes[2].rotate_left(12))
            .wrapping_add(lanes[3].rotate_left(18))
    } else {
        seed.wrapping_add(PRIME_5)
    };
    // The hash takes the length modulo 2^32; names are at most 255 bytes plus an infix.
    hash = hash.wrapping_add(u32::try_from(input.len() & 0xFFFF_FFFF).unwrap_or(0));
    let words = rest.chunks_exact(4);
    let bytes = words.remainder();
    for bytes in words {
        hash = hash.wrapping_add(word(bytes).wrapping_mul(PRIME_3));
        hash = hash.rotate_left(17).wrapping_mul(PRIME_4);
    }
    for byte in bytes {
        hash = hash.wrapping_add(u32::from(*byte).wrapping_mul(PRIME_5));
        hash = hash.rotate_left(11).wrapping_mul(PRIME_1);
    }
    hash = (hash ^ (hash >> 15)).wrapping_mul(PRIME_2);
    hash = (hash ^ (hash >> 13)).wrapping_mul(PRIME_3);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_match_known_vectors() {
        assert_eq!(xxh32(b"", 0), 0x02CC_5D05);
        assert_eq!(xxh32(b"abc", 0), 0x32D1_53FF);
        for (index, name, expected) in [
            (2, "", 30),
            (3, "", 21),
            (4, "overlay.opaque", 20),
            (4, "overlay.metacopy", 31),
            (4, "overlay.redirect", 17),
            (4, "overlay.origin", 18),
            (4, "overlay.whiteout", 5),
            (6, "capability", 29),
            (6, "selinux", 11),
            (1, "overlay.opaque", 10),
        ] {
            assert_eq!(bit(index, name.as_bytes()), expected, "{name}");
        }
    }
}
