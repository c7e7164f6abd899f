//! Trying a layer operation again, for as long as that can help and the caller wants.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::{Duration, Instant};

use layer::Cancel;
use sys::windows::RetryClass;

use crate::{Error, ErrorKind, Result};

/// When a failed layer operation is tried again.
///
/// hcsshim tries five times with 100 ms between, on two codes only; under load its users see both end too early
/// (hcs-layers.md 1.3 and 7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Tries altogether; 1 is no second one.
    pub attempts: u32,
    /// The first pause; each further one is twice as long.
    pub pause: Duration,
    /// No pause is longer.
    pub longest_pause: Duration,
    /// Pauses are shortened by a random part of up to so many hundredths, so that those who failed together do not
    /// try together again.
    pub jitter: u32,
    /// Whether also to wait for who has a file open, denies access or is too slow: sharing violation, access denied and
    /// timeout. Without it only for disks that have not arrived.
    pub contended: bool,
}

impl Default for Retry {
    /// Ten tries in about six seconds.
    fn default() -> Self {
        Self {
            attempts: 10,
            pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(1),
            jitter: 50,
            contended: true,
        }
    }
}

impl Retry {
    /// Every failure is final.
    pub fn never() -> Self {
        Self { attempts: 1, ..Self::default() }
    }

    /// What hcsshim does.
    pub fn hcsshim() -> Self {
        let pause = Duration::from_millis(100);
        Self { attempts: 5, pause, longest_pause: pause, jitter: 0, contended: false }
    }

    /// Whether try number `tried` (from 1) that ended with `class` is followed by another.
    pub(super) fn again(&self, tried: u32, class: RetryClass) -> bool {
        let helps = match class {
            RetryClass::DeviceArriving => true,
            RetryClass::Contended => self.contended,
            RetryClass::Never => false,
        };
        helps && tried < self.attempts
    }

    /// How long to wait after try number `tried`.
    fn pause_after(&self, tried: u32, random: u64) -> Duration {
        let doubled = self.pause.saturating_mul(1 << tried.saturating_sub(1).min(16));
        let pause = doubled.min(self.longest_pause);
        let most = u64::from(self.jitter.min(100));
        // In hundredths of a hundredth, so that the parts are fine enough.
        let part = u32::try_from(random % (most * 100 + 1)).unwrap_or(0);
        pause.saturating_sub(pause.saturating_mul(part) / 10_000)
    }

    /// Waits after try number `tried`.
    ///
    /// # Errors
    /// `Cancelled` as soon as the caller gives up.
    pub(super) fn wait(&self, tried: u32, cancel: &Cancel) -> Result<()> {
        let until =
            Instant::now() + self.pause_after(tried, RandomState::new().build_hasher().finish());
        loop {
            check(cancel)?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(20)));
        }
    }
}

/// `Cancelled` once the flag is raised.
pub(super) fn check(cancel: &Cancel) -> Result<()> {
    match cancel.is_cancelled() {
        true => Err(Error::new(ErrorKind::Cancelled, "cancelled")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hcsshim_tries_five_times_and_only_for_disks_that_arrive() {
        let retry = Retry::hcsshim();
        for tried in 1..5 {
            assert!(retry.again(tried, RetryClass::DeviceArriving));
            assert_eq!(retry.pause_after(tried, 99), Duration::from_millis(100));
        }
        assert!(!retry.again(5, RetryClass::DeviceArriving));
        assert!(!retry.again(1, RetryClass::Contended));
        assert!(Retry::default().again(1, RetryClass::Contended));
        assert!(!Retry::default().again(1, RetryClass::Never));
        assert!(!Retry::never().again(1, RetryClass::DeviceArriving));
    }

    #[test]
    fn pauses_double_to_a_bound_and_are_scattered_below() {
        let retry = Retry::default();
        let longest: Vec<u128> =
            (1..7).map(|tried| retry.pause_after(tried, 0).as_millis()).collect();
        assert_eq!(longest, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(retry.pause_after(1, 5000), Duration::from_millis(50));
        assert!((0..20_000).all(|random| {
            let pause = retry.pause_after(4, random).as_millis();
            (400..=800).contains(&pause)
        }));
        assert_eq!(retry.pause_after(u32::MAX, 0), Duration::from_secs(1));
    }

    #[test]
    fn waiting_ends_when_the_caller_gives_up() {
        let retry = Retry {
            pause: Duration::from_secs(60),
            longest_pause: Duration::from_secs(60),
            ..Retry::default()
        };
        let cancel = Cancel::new();
        let other = cancel.clone();
        let started = Instant::now();
        let raiser = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(30));
            other.cancel();
        });
        assert_eq!(retry.wait(1, &cancel).unwrap_err().kind(), ErrorKind::Cancelled);
        assert!(started.elapsed() < Duration::from_secs(10));
        raiser.join().unwrap();
    }
}
