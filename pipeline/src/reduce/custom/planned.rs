//! A custom reduction that is planned for a detector: who asks it for anything, asks here, where its failures end.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::{Custom, Description, TileFrame};
use crate::SigShape;
use crate::reduce::conditions::ConditionFile;
use crate::reduce::error::PlanError;
use crate::reduce::output::Over;
use crate::reduce::spec::Needs;

/// A [`Custom`] of which only the parameters are known at run time.
pub(in crate::reduce) trait AnyCustom: fmt::Debug + Send + Sync {
    fn copy(&self) -> Box<dyn AnyCustom>;
    fn is_like(&self, other: &dyn Any) -> bool;
    fn read_from(&self) -> Option<ConditionFile>;
    fn reduce_any(&mut self, frame: &TileFrame<'_>, partial: &mut [f64]) -> Result<(), String>;
    fn merge_any(&mut self, partial: &mut [f64], other: &[f64]) -> Result<(), String>;
    fn finish_any(&mut self, partial: &[f64], result: &mut [f64]) -> Result<(), String>;
}

impl<C: Custom> AnyCustom for C {
    fn copy(&self) -> Box<dyn AnyCustom> {
        Box::new(self.clone())
    }

    fn is_like(&self, other: &dyn Any) -> bool {
        other.downcast_ref::<C>() == Some(self)
    }

    fn read_from(&self) -> Option<ConditionFile> {
        self.file()
    }

    fn reduce_any(&mut self, frame: &TileFrame<'_>, partial: &mut [f64]) -> Result<(), String> {
        self.reduce(frame, partial)
    }

    fn merge_any(&mut self, partial: &mut [f64], other: &[f64]) -> Result<(), String> {
        self.merge(partial, other)
    }

    fn finish_any(&mut self, partial: &[f64], result: &mut [f64]) -> Result<(), String> {
        self.finish(partial, result)
    }
}

/// A custom reduction of a list, for as long as a list has it.
#[derive(Debug)]
pub(in crate::reduce) struct Planned {
    /// Identity, as that of a column.
    pub(in crate::reduce) id: u64,
    /// Which change of the list brought it.
    pub(in crate::reduce) epoch: u32,
    pub(in crate::reduce) description: Description,
    /// Numbers of its result: of a position, of all pixels, or of the acquisition.
    pub(in crate::reduce) result_count: usize,
    /// As it was asked for: who asks for the same again gets this one.
    asked: Box<dyn AnyCustom>,
    /// The one that merges and finishes; copies of it reduce.
    own: Mutex<Box<dyn AnyCustom>>,
    ended: OnceLock<String>,
}

impl Planned {
    fn new(kind: &impl Custom, detector: SigShape, (id, epoch): (u64, u32)) -> Result<Self, String> {
        let (asked, mut kind) = (kind.copy(), kind.clone());
        let description = contained(|| kind.describe(detector))?;
        description.check()?;
        let result_count = description.result_count(detector);
        let (own, ended) = (Mutex::new(kind.copy()), OnceLock::new());
        Ok(Self { id, epoch, description, result_count, asked, own, ended })
    }

    fn own(&self) -> MutexGuard<'_, Box<dyn AnyCustom>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy for one thread.
    pub(in crate::reduce) fn worker(&self) -> Box<dyn AnyCustom> {
        self.own().copy()
    }

    /// Why it has ended, if it has.
    pub(in crate::reduce) fn ended(&self) -> Option<&str> {
        self.ended.get().map(String::as_str)
    }

    /// The file that it was read from, where it was.
    pub(in crate::reduce) fn file(&self) -> Option<ConditionFile> {
        self.asked.read_from()
    }

    /// Whether every frame has a partial of its own.
    pub(in crate::reduce) fn is_per_frame(&self) -> bool {
        self.description.over == Over::Scan
    }

    /// Adds a frame to a partial by a copy that a thread has.
    pub(super) fn reduce(&self, worker: &mut dyn AnyCustom, frame: &TileFrame<'_>, partial: &mut [f64]) {
        self.attempt(&format_args!("frame {}", frame.index), || worker.reduce_any(frame, partial));
    }

    /// Adds another partial.
    pub(super) fn merge(&self, partial: &mut [f64], other: &[f64]) {
        self.attempt(&"merging", || self.own().merge_any(partial, other));
    }

    /// Makes the result of a partial.
    pub(super) fn finish(&self, partial: &[f64], result: &mut [f64]) {
        self.attempt(&"finishing", || self.own().finish_any(partial, result));
    }

    /// Does it, unless something has failed before; I1.
    fn attempt(&self, what: &dyn fmt::Display, work: impl FnOnce() -> Result<(), String>) {
        if self.ended.get().is_some() {
            return;
        }
        if let Err(why) = contained(work) {
            let _ = self.ended.set(format!("{what}: {why}")); // The first reason stays.
        }
    }
}

/// Runs code that is not ours: a panic is an error like any other.
fn contained<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<&str>().copied();
        let words = words.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Err(format!("it panicked: {}", words.unwrap_or("without a message")))
    })
}

/// Numbers of one custom reduction: a partial for each frame, one after the other, or one for all.
#[derive(Debug, Clone)]
pub(in crate::reduce) struct Tally {
    pub(in crate::reduce) of: Arc<Planned>,
    pub(in crate::reduce) numbers: Vec<f64>,
}

impl PartialEq for Tally {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.of, &other.of) && self.numbers == other.numbers
    }
}

impl Tally {
    /// Of no frame.
    pub(in crate::reduce) fn new(of: &Arc<Planned>) -> Self {
        let numbers = if of.is_per_frame() { Vec::new() } else { of.description.empty.clone() };
        Self { of: Arc::clone(of), numbers }
    }

    /// Back to that of no frame.
    pub(in crate::reduce) fn clear(&mut self) {
        *self = Self::new(&self.of);
    }

    /// The partial of one frame.
    pub(super) fn row(&self, at: usize) -> &[f64] {
        let width = self.of.description.empty.len();
        &self.numbers[at * width..][..width]
    }

    /// Inserts partials of frames before that of frame `at`.
    pub(in crate::reduce) fn insert(&mut self, at: usize, from: &Self, frames: std::ops::Range<usize>) {
        let width = self.of.description.empty.len();
        let numbers = from.numbers[frames.start * width..frames.end * width].iter().copied();
        self.numbers.splice(at * width..at * width, numbers);
    }

    /// The one of the same reduction among others.
    pub(in crate::reduce) fn find<'a>(&self, others: &'a [Self]) -> Option<&'a Self> {
        others.iter().find(|other| Arc::ptr_eq(&other.of, &self.of))
    }

    /// Adds another of the same reduction, over all frames.
    pub(in crate::reduce) fn merge(&mut self, other: &Self) {
        self.of.merge(&mut self.numbers, &other.numbers);
    }
}

impl Needs<'_> {
    /// A custom reduction; one that the list has already, or that the list before had, stays what it is.
    pub(super) fn custom(&mut self, name: &str, kind: &impl Custom) -> Result<Arc<Planned>, PlanError> {
        let before = self.before.iter().flat_map(|before| &before.customs);
        let known = self.spec.customs.iter().chain(before).find(|known| known.asked.is_like(kind));
        let planned = match known {
            Some(known) => Arc::clone(known),
            None => {
                let identity = (self.spec.next_id, self.spec.generation);
                let planned = Planned::new(kind, self.spec.detector, identity);
                self.spec.next_id += 1;
                Arc::new(planned.map_err(|why| PlanError::Custom { name: name.into(), why })?)
            }
        };
        if !self.spec.customs.iter().any(|known| Arc::ptr_eq(known, &planned)) {
            self.spec.customs.push(Arc::clone(&planned));
        }
        Ok(planned)
    }
}
