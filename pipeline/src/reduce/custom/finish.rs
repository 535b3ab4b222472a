//! From partials to results: beside the path, from copies.

use std::sync::Arc;

use super::Planned;
use crate::Repeats;
use crate::reduce::live::LiveImages;
use crate::reduce::output::Output;
use crate::reduce::whole::WholeFn;

/// How the slots of a place become one.
#[derive(Debug, Clone, Copy)]
struct Places {
    combined: usize,
    repeats: Repeats,
}

impl LiveImages {
    /// What is to be finished of a custom reduction: over the scan 1 for every complete slot, then what each tile has;
    /// otherwise the partial of each tile.
    pub(in crate::reduce) fn custom_partials(&self, output: &Output, of: &Planned) -> Vec<Vec<f64>> {
        if let Some(kept) = self.customs.iter().find(|kept| kept.of.id == of.id) {
            let epochs = self.epochs_of(output);
            let is_complete = |slot| f64::from(u8::from(epochs.iter().all(|epoch| epoch.is_complete(slot))));
            let complete = (0..self.place_count() * self.combined()).map(is_complete).collect();
            return [complete].into_iter().chain(kept.tiles.iter().cloned()).collect();
        }
        let epochs = self.epochs.iter().filter(|epoch| epoch.number == of.epoch);
        let patterns = epochs.flat_map(|epoch| &epoch.tiles).map(|tile| &tile.patterns);
        let seen = patterns.filter(|patterns| patterns.frame_count() > 0);
        seen.flat_map(|patterns| &patterns.customs)
            .filter(|tally| tally.of.id == of.id)
            .map(|tally| tally.numbers.clone())
            .collect()
    }

    /// What finishes them.
    pub(in crate::reduce) fn custom_finish(&self, of: &Arc<Planned>) -> Arc<WholeFn> {
        let places = Places { combined: self.combined(), repeats: self.repeats() };
        let of = Arc::clone(of);
        Arc::new(move |partials: &[&[f64]], _| {
            let result = if of.is_per_frame() { of.finish_places(partials, places) } else { of.finish_all(partials) };
            // What has ended has no result, not even a part of one.
            if of.ended().is_some() { vec![f64::NAN; result.len()] } else { result }
        })
    }

    /// Results that have ended before the acquisition did, and why: plug-ins and reductions of a lab's own that failed.
    pub fn endings(&self) -> impl Iterator<Item = (&str, &str)> {
        self.spec.results.iter().filter_map(|output| Some((output.name.as_str(), output.custom()?.ended()?)))
    }
}

impl Planned {
    fn finish_all(&self, partials: &[&[f64]]) -> Vec<f64> {
        let mut result = vec![f64::NAN; self.result_count];
        let Some((first, others)) = partials.split_first() else { return result };
        let mut partial = first.to_vec();
        others.iter().for_each(|other| self.merge(&mut partial, other));
        self.finish(&partial, &mut result);
        result
    }

    fn finish_places(&self, inputs: &[&[f64]], places: Places) -> Vec<f64> {
        let Some((complete, tiles)) = inputs.split_first() else { return Vec::new() };
        let combined = places.combined.max(1);
        let mut result = vec![f64::NAN; complete.len() / combined * self.result_count];
        for (place, out) in result.chunks_exact_mut(self.result_count).enumerate() {
            let slots = (place * combined..(place + 1) * combined).filter(|&slot| complete[slot] == 1.0);
            let partials: Vec<Vec<f64>> = slots.map(|slot| self.of_slot(tiles, slot)).collect();
            self.finish_place(partials, places.repeats, out);
        }
        result
    }

    /// The partial of a frame: of all its tiles.
    fn of_slot(&self, tiles: &[&[f64]], slot: usize) -> Vec<f64> {
        let width = self.description.empty.len();
        let mut rows = tiles.iter().map(|tile| &tile[slot * width..][..width]);
        let mut partial = rows.next().map_or_else(Vec::new, <[f64]>::to_vec);
        rows.for_each(|row| self.merge(&mut partial, row));
        partial
    }

    /// Frames of a position: merged, then finished; finished, then averaged; or the last one.
    fn finish_place(&self, mut partials: Vec<Vec<f64>>, repeats: Repeats, out: &mut [f64]) {
        let Some(mut last) = partials.pop() else { return };
        match repeats {
            Repeats::Mean => {
                let frame_count = partials.len() + 1;
                self.finish(&last, out);
                let mut one = vec![f64::NAN; out.len()];
                for partial in &partials {
                    self.finish(partial, &mut one);
                    out.iter_mut().zip(&one).for_each(|(sum, &number)| *sum += number);
                }
                out.iter_mut().for_each(|number| *number /= frame_count as f64);
            }
            Repeats::Sum => {
                partials.iter().for_each(|partial| self.merge(&mut last, partial));
                self.finish(&last, out);
            }
            Repeats::Last | Repeats::Stack => self.finish(&last, out),
        }
    }
}
