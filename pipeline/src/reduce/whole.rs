//! Results that need a whole other result at once, such as an integrated phase: computed beside the path.
//!
//! # Place in the path
//! Whoever owns the images takes [`Derivation`]s, which hold copies, runs them without any lock, and puts back what they
//! give. While a scan grows this happens now and then, at the end once more.

use std::sync::Arc;

use super::image::LiveImage;
use super::live::LiveImages;
use super::output::{Made, Over};

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

/// What a derivation is laid over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    /// `[ny, nx]`.
    pub(super) nav: [usize; 2],
    /// Frames of each position, where they are stacked: each is a scan of its own.
    pub(super) stacked: Option<usize>,
    /// Of the result; what it is made of is laid over the scan.
    pub(super) over: Over,
}

/// A result to be computed from copies of others.
pub struct Derivation {
    key: Key,
    version: u64,
    make: Arc<WholeFn>,
    inputs: Vec<Vec<f64>>,
    form: Form,
}

impl std::fmt::Debug for Derivation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Derivation({} from {} arrays)", self.key.0, self.inputs.len())
    }
}

impl Derivation {
    /// Computes it; may take long.
    pub fn run(self) -> Derived {
        let inputs: Vec<&[f64]> = self.inputs.iter().map(Vec::as_slice).collect();
        let values = match self.form.stacked {
            None => (self.make)(&inputs, self.form.nav),
            Some(count) => self.run_each(&inputs, count),
        };
        Derived { key: self.key, of_version: self.version, version: 0, values }
    }

    /// One scan after the other, of `count` that are stacked behind the positions.
    fn run_each(&self, inputs: &[&[f64]], count: usize) -> Vec<f64> {
        let places = self.form.nav[0] * self.form.nav[1];
        let mut all = Vec::new();
        for repeat in 0..count {
            let one = |input: &&[f64]| {
                let tail = input.len() / (places * count).max(1);
                let numbers = input.chunks_exact(tail.max(1)).skip(repeat).step_by(count);
                numbers.flatten().copied().collect::<Vec<f64>>()
            };
            let inputs: Vec<Vec<f64>> = inputs.iter().map(one).collect();
            let inputs: Vec<&[f64]> = inputs.iter().map(Vec::as_slice).collect();
            let values = (self.make)(&inputs, self.form.nav);
            if self.form.over != Over::Scan {
                all.extend(values);
                continue;
            }
            let tail = values.len() / places.max(1);
            all.resize(values.len() * count, f64::NAN);
            for (place, numbers) in values.chunks_exact(tail.max(1)).enumerate() {
                all[(place * count + repeat) * tail..][..tail].copy_from_slice(numbers);
            }
        }
        all
    }
}

impl LiveImages {
    /// Results that are made of whole other results or of partials, and are older than those: to be computed beside the path, from the
    /// copies that each derivation holds, in this order, and given back to [`Self::put`]. Those that need one another
    /// come in later calls.
    pub fn derivations(&self) -> Vec<Derivation> {
        let made = |number: usize| {
            let (output, key) = (&self.spec.results[number], self.derived_key(number));
            let known = self.derived[number].as_ref().map_or(0, |derived| derived.of_version);
            let form = Form { nav: self.nav(), stacked: self.stacked(), over: output.over };
            match &output.made {
                Made::Whole { inputs, make } => {
                    let images = inputs.iter().map(|&input| LiveImage::new(self, input));
                    let version = images.clone().map(|image| image.version()).max().unwrap_or(0);
                    let inputs = || images.map(|image| image.all_values()).collect();
                    (version > known).then(|| Derivation {
                        key,
                        version,
                        make: Arc::clone(make),
                        inputs: inputs(),
                        form,
                    })
                }
                Made::Custom(of) => {
                    let version = LiveImage::new(self, number).measured_version();
                    let (make, form) = (self.custom_finish(of), Form { stacked: None, ..form });
                    let inputs = || self.custom_partials(output, of);
                    (version > known).then(|| Derivation { key, version, make, inputs: inputs(), form })
                }
                _ => None,
            }
        };
        (0..self.spec.results.len()).filter_map(made).collect()
    }

    /// Takes in what a derivation has computed, unless the list of reductions has changed what it was made of.
    pub fn put(&mut self, derived: Derived) {
        let number = (0..self.spec.results.len()).find(|&number| self.derived_key(number) == derived.key);
        let Some(number) = number else { return };
        self.version += 1;
        self.derived[number] = Some(Derived { version: self.version, ..derived });
    }

    /// Computes all of them now, on the caller's time: at the end, and offline.
    pub fn derive_all(&mut self) {
        loop {
            let derivations = self.derivations();
            if derivations.is_empty() {
                break;
            }
            derivations.into_iter().for_each(|derivation| self.put(derivation.run()));
        }
    }

    fn derived_key(&self, number: usize) -> Key {
        let output = &self.spec.results[number];
        (output.name.clone(), self.spec.epochs_of(output))
    }
}
