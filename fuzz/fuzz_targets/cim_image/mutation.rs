//! Changes that know where offsets, lengths and counts are, so that what they make gets past the first comparison.

use crate::container::Container;

/// Xorshift: the fuzzer gives a seed, and the same seed must give the same change.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u32) -> Self {
        Self(u64::from(seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % (limit.max(1) as u64)).unwrap_or(0)
    }

    fn of<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.below(from.len())])
    }
}

/// A value of eight bytes that looks like the place of an object: where it is, and the region and byte that it names.
#[derive(Clone, Copy)]
struct Pointer {
    file: usize,
    at: usize,
    region: usize,
    byte: u64,
}

fn read(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn write(container: &mut Container, file: usize, at: usize, value: u64) {
    if let Some(place) = container.files[file].0.get_mut(at..at + 8) {
        place.copy_from_slice(&value.to_le_bytes());
    }
}

/// All of them. Regions are the files from the second on.
fn pointers(container: &Container) -> Vec<Pointer> {
    let mut found = Vec::new();
    for (file, (bytes, _)) in container.files.iter().enumerate() {
        for at in (0..bytes.len().saturating_sub(7)).step_by(8) {
            let Some(value) = read(bytes, at) else { continue };
            let (region, byte) = ((value >> 48) as usize, value & ((1 << 48) - 1));
            let Some((target, _)) = container.files.get(region + 1) else { continue };
            let end = target.len() as u64 + container.shift(region + 1);
            if (40..=end).contains(&byte) && value != 0 {
                found.push(Pointer { file, at, region, byte });
            }
        }
    }
    found
}

/// Changes one thing; what is behind stays reachable where that is possible.
pub fn mutate(container: &mut Container, dice: &mut Dice) {
    let found = pointers(container);
    let Some(pointer) = dice.of(&found) else { return };
    let Pointer { file, at, region, byte } = pointer;
    let place = |region: usize, byte: u64| (region as u64) << 48 | byte;
    let end = container.files[region + 1].0.len() as u64 + container.shift(region + 1);
    match dice.below(9) {
        // To where another one points.
        0 | 1 => {
            let other = dice.of(&found).unwrap_or(pointer);
            write(container, file, at, place(other.region, other.byte));
        }
        // To a border, into a header, to nothing, to a region that is not there.
        2 => {
            let values = [
                place(region, end),
                place(region, end.saturating_sub(1)),
                place(region, end.saturating_sub(8)),
                place(region, 8),
                place(region, 39),
                place(region, 0),
                0,
                place(region + 1, byte),
                place(0xFFFF, byte),
                place(region, (1 << 48) - 1),
            ];
            let value = dice.of(&values).unwrap_or(0);
            write(container, file, at, value);
        }
        // A little off.
        3 => {
            let step = dice.of(&[1_u64, 2, 4, 8, 16, 96, 4096]).unwrap_or(8);
            let moved = if dice.below(2) == 0 { byte + step } else { byte.saturating_sub(step) };
            write(container, file, at, place(region, moved));
        }
        // What is behind an offset, as words: counts, lengths, numbers of files.
        4 | 5 => {
            let start = byte.saturating_sub(container.shift(region + 1));
            let start = usize::try_from(start).unwrap_or(0) + 4 * dice.below(12);
            let target = &mut container.files[region + 1].0;
            if let Some(word) = target.get_mut(start..start + 4) {
                let value = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
                let values = [
                    value.wrapping_add(1),
                    value.wrapping_sub(1),
                    value.wrapping_mul(2),
                    value ^ 1 << dice.below(32),
                    0,
                    1,
                    u32::MAX,
                    u32::try_from(end).unwrap_or(0),
                ];
                word.copy_from_slice(&dice.of(&values).unwrap_or(0).to_le_bytes());
            }
        }
        // The word behind the offset itself: a stream's length and kind, a table's count and length of entries.
        6 => {
            if let Some(value) = read(&container.files[file].0, at + 8) {
                let kind = (dice.below(5) as u64) << 48;
                let values = [
                    value ^ 1 << dice.below(64),
                    (value & !(0xFF << 48)) | kind,
                    value.wrapping_add(1),
                    value.wrapping_sub(1),
                    value | 1 << 56,
                    value & !0xFFFF_FFFF_FFFF,
                    end,
                    end.saturating_sub(byte),
                ];
                let value = dice.of(&values).unwrap_or(0);
                write(container, file, at + 8, value);
            }
        }
        // Bytes more or fewer in a region, with all offsets behind them moved.
        7 | 8 => {
            let shift = container.shift(region + 1);
            let Some(start) = byte.checked_sub(shift) else { return };
            let start = usize::try_from(start).unwrap_or(0);
            let count = 8 * (1 + dice.below(4));
            let more = dice.below(2) == 0;
            let target = &mut container.files[region + 1].0;
            if start > target.len() || (!more && start + count > target.len()) {
                return;
            }
            match more {
                true => drop(target.splice(start..start, vec![0; count])),
                false => drop(target.drain(start..start + count)),
            }
            // In the region itself the offsets have moved, too.
            for Pointer { file, mut at, region: target, byte: old } in found {
                if target != region || old < byte {
                    continue;
                }
                if file == region + 1 && at >= start {
                    at = if more { at + count } else { at.saturating_sub(count) };
                }
                let count = count as u64;
                let new = if more { old + count } else { old.saturating_sub(count) };
                write(container, file, at, place(region, new));
            }
        }
        _ => {}
    }
}
