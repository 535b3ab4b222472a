//! Bounds of one plug-in.

use serde::{Deserialize, Serialize};

/// Most instructions that can be asked for.
const FUEL_MAX: u64 = 1_000_000_000_000;
/// All that 32 bits can address.
const MEMORY_MIB_MAX: u32 = 4096;

/// Instructions of one call; without a word a billion, about a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u64", try_from = "u64")]
pub(crate) struct Fuel(u64);

/// Memory of one instance, in MiB; every reducer has one. Without a word 256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u32", try_from = "u32")]
pub(crate) struct MemoryMib(u32);

/// What one plug-in may use.
pub(crate) type Limits = (Fuel, MemoryMib);

impl Default for Fuel {
    fn default() -> Self {
        Self(1_000_000_000)
    }
}

impl Default for MemoryMib {
    fn default() -> Self {
        Self(256)
    }
}

impl TryFrom<u64> for Fuel {
    type Error = String;

    fn try_from(fuel: u64) -> Result<Self, String> {
        let is_some = (1..=FUEL_MAX).contains(&fuel);
        is_some.then_some(Self(fuel)).ok_or_else(|| format!("is {fuel}, must be 1 to {FUEL_MAX} instructions"))
    }
}

impl TryFrom<u32> for MemoryMib {
    type Error = String;

    fn try_from(mib: u32) -> Result<Self, String> {
        let is_some = (1..=MEMORY_MIB_MAX).contains(&mib);
        is_some.then_some(Self(mib)).ok_or_else(|| format!("is {mib}, must be 1 to {MEMORY_MIB_MAX} MiB"))
    }
}

impl From<Fuel> for u64 {
    fn from(Fuel(fuel): Fuel) -> Self {
        fuel
    }
}

impl From<MemoryMib> for u32 {
    fn from(MemoryMib(mib): MemoryMib) -> Self {
        mib
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is no limit is refused, in words.
    #[test]
    fn bounds() {
        assert_eq!(Fuel::try_from(FUEL_MAX), Ok(Fuel(FUEL_MAX)));
        assert_eq!(MemoryMib::try_from(1), Ok(MemoryMib(1)));
        for wrong in [0, FUEL_MAX + 1] {
            assert!(Fuel::try_from(wrong).is_err_and(|why| why.contains(&format!("is {wrong}, must be"))));
        }
        for wrong in [0, MEMORY_MIB_MAX + 1] {
            assert!(MemoryMib::try_from(wrong).is_err_and(|why| why.contains(&format!("is {wrong}, must be"))));
        }
    }
}
