//! Random moments that come again with their seed.

use std::time::SystemTime;

use anyhow::Result;

/// A seed that nobody chose.
pub(crate) fn any_seed() -> Result<u64> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(u64::from(now.subsec_nanos()))
}

/// Fractions of an operation (xorshift64*).
#[derive(Debug)]
pub(crate) struct Moments(pub(crate) u64);

impl Moments {
    /// From 0 to 1.
    pub(crate) fn next(&mut self) -> f64 {
        self.0 = self.0.max(1);
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f64 / f64::from(1 << 24)
    }
}
