//! Results that need a whole other result at once, such as an integrated phase: computed beside the path.
//!
//! # Place in the path
//! Whoever owns the images takes [`Derivation`]s, which hold copies, runs them without any lock, and puts back what they
//! give. While a scan grows this happens now and then, at the end once more.

use std::sync::Arc;

/// Name of a result, and what it is made of.
pub(super) type Key = (String, Vec<u32>);
pub(super) type WholeFn = dyn Fn(&[&[f64]], [usize; 2]) -> Vec<f64> + Send + Sync;

/// Numbers of a result that was derived.
#[derive(Debug, Clone)]
pub struct Derived {
    pub(super) key: Key,
    /// Version of the results it was made of.
    pub(super) of_version: u64,
    /// Version as what changed last.
    pub(super) version: u64,
    pub(super) values: Vec<f64>,
}

/// A result to be computed from copies of others.
pub struct Derivation {
    key: Key,
    version: u64,
    make: Arc<WholeFn>,
    inputs: Vec<Vec<f64>>,
    nav: [usize; 2],
}

impl std::fmt::Debug for Derivation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Derivation({} from {} arrays)", self.key.0, self.inputs.len())
    }
}

impl Derivation {
    pub(super) fn new(key: Key, version: u64, make: &Arc<WholeFn>, inputs: Vec<Vec<f64>>, nav: [usize; 2]) -> Self {
        Self { key, version, make: Arc::clone(make), inputs, nav }
    }

    /// Computes it; may take long.
    pub fn run(self) -> Derived {
        let inputs: Vec<&[f64]> = self.inputs.iter().map(Vec::as_slice).collect();
        let values = (self.make)(&inputs, self.nav);
        Derived { key: self.key, of_version: self.version, version: 0, values }
    }
}
