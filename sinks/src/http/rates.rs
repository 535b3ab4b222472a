//! How much one address may ask for: what is beyond it is answered with 429, and costs next to nothing.
//!
//! # Limits
//! [`ADDRESSES_MAX`] addresses are remembered. When there are more, those that have been quiet are forgotten; a newcomer
//! who finds no place is refused.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Most addresses at once.
const ADDRESSES_MAX: usize = 4096;
/// Bursts are as large as what comes in so many seconds.
const BURST_S: f64 = 2.0;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Any request.
    Request,
    /// One that changes something.
    Change,
    /// One without a right token.
    Stranger,
}

impl Kind {
    const COUNT: usize = 3;

    fn per_second(self) -> f64 {
        match self {
            Self::Request => 500.0,
            Self::Change => 50.0,
            Self::Stranger => 5.0,
        }
    }
}

/// A bucket that leaks: how full it was, and when.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    level: f64,
    at: Instant,
}

impl Bucket {
    fn level_at(self, now: Instant, kind: Kind) -> f64 {
        (self.level - now.saturating_duration_since(self.at).as_secs_f64() * kind.per_second()).max(0.0)
    }
}

/// What every address has asked for lately.
#[derive(Debug, Default)]
pub(super) struct Rates(Mutex<HashMap<IpAddr, [Bucket; Kind::COUNT]>>);

impl Rates {
    /// Whether this address may have one more.
    pub(super) fn allow(&self, address: IpAddr, kind: Kind, now: Instant) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= ADDRESSES_MAX && !known.contains_key(&address) {
            let kinds = [Kind::Request, Kind::Change, Kind::Stranger];
            known.retain(|_, buckets| kinds.iter().any(|&kind| buckets[kind as usize].level_at(now, kind) > 0.0));
            if known.len() >= ADDRESSES_MAX {
                return false;
            }
        }
        let buckets = known.entry(address).or_insert([Bucket { level: 0.0, at: now }; Kind::COUNT]);
        let bucket = &mut buckets[kind as usize];
        let level = bucket.level_at(now, kind) + 1.0;
        let is_allowed = level <= kind.per_second() * BURST_S;
        if is_allowed {
            *bucket = Bucket { level, at: now };
        }
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn count(rates: &Rates, address: IpAddr, kind: Kind, now: Instant) -> usize {
        (0..2000).filter(|_| rates.allow(address, kind, now)).count()
    }

    /// A burst passes, then what the rate allows; kinds and addresses do not take from each other.
    #[test]
    fn bursts_and_rates() {
        let (rates, start) = (Rates::default(), Instant::now());
        for (kind, burst) in [(Kind::Request, 1000), (Kind::Change, 100), (Kind::Stranger, 10)] {
            assert_eq!(count(&rates, HERE, kind, start), burst, "{kind:?}");
            assert_eq!(count(&rates, HERE, kind, start + Duration::from_secs(1)), burst / 2, "{kind:?}");
            assert_eq!(count(&rates, HERE, kind, start + Duration::from_secs(60)), burst, "{kind:?}");
        }
        assert_eq!(count(&rates, [127, 0, 0, 2].into(), Kind::Stranger, start), 10);
    }

    /// Addresses are bounded: who comes while all others are busy is refused, and finds a place when they are quiet.
    #[test]
    fn addresses_are_bounded() {
        let (rates, start) = (Rates::default(), Instant::now());
        let address = |number: usize| IpAddr::from((number as u32).to_be_bytes());
        assert!((0..ADDRESSES_MAX).all(|number| rates.allow(address(number), Kind::Change, start)));
        assert!(!rates.allow(HERE, Kind::Request, start));
        assert!(rates.allow(HERE, Kind::Request, start + Duration::from_secs(1)));
        assert_eq!(rates.0.lock().expect("not poisoned").len(), 1);
    }
}
