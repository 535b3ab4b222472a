//! Seeded faults: which frames are lost, doubled, swapped, cut, delayed or spoilt.
//!
//! # Invariants
//! - I1: the schedule of an acquisition depends on the seed, its number and the fault plan only, so equal seeds give
//!   equal bytes (time stamps aside).
//! - I2: at most one fault meets a frame; kinds are tried in the order of [`FaultKind::ALL`].

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What can go wrong with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The frame is not sent: a gap in the sequence.
    Lose,
    /// The frame is sent twice with the same sequence number.
    Repeat,
    /// The frame changes places with the next one.
    Swap,
    /// The message is announced and sent with half of its pixels.
    Truncate,
    /// Nothing is sent for a while before the frame.
    Stall,
    /// The connection ends in the middle of the frame.
    Disconnect,
    /// Random bytes stand before the frame: the receiver loses synchronisation.
    Garbage,
}

impl FaultKind {
    /// All kinds, in the order in which they are tried.
    pub const ALL: [Self; 7] =
        [Self::Lose, Self::Repeat, Self::Swap, Self::Truncate, Self::Stall, Self::Disconnect, Self::Garbage];

    /// Name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lose => "lose",
            Self::Repeat => "repeat",
            Self::Swap => "swap",
            Self::Truncate => "truncate",
            Self::Stall => "stall",
            Self::Disconnect => "disconnect",
            Self::Garbage => "garbage",
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One kind of fault and how often it happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fault {
    /// What happens.
    pub kind: FaultKind,
    /// Probability per frame, 0 to 1.
    pub probability: f64,
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, probability) = text.split_once('=').ok_or_else(|| format!("`{text}` is not KIND=PROBABILITY"))?;
        let kind = FaultKind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let names: Vec<&str> = FaultKind::ALL.iter().map(|kind| kind.name()).collect();
            format!("`{name}` is not one of {}", names.join(", "))
        })?;
        let probability: f64 = probability.parse().map_err(|_| format!("`{probability}` is not a number"))?;
        if !(0.0..=1.0).contains(&probability) {
            return Err(format!("probability {probability} is outside 0 to 1"));
        }
        Ok(Self { kind, probability })
    }
}

/// One thing the sender does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    /// Which frame, from 0.
    pub(super) frame: u64,
    /// Whose turn it takes: the place in the time table of a paced acquisition.
    pub(super) tick: u64,
    /// `Truncate`, `Stall`, `Disconnect` or `Garbage`; the other kinds show in the order of frames.
    pub(super) fault: Option<FaultKind>,
}

/// The steps of one acquisition in order.
pub(super) struct Script {
    probabilities: [f64; FaultKind::ALL.len()],
    is_faulty: bool,
    rng: StdRng,
    next: u64,
    end: Option<u64>,
    ready: VecDeque<Step>,
    counts: [u64; FaultKind::ALL.len()],
}

impl Script {
    /// The script of acquisition number `acquisition` with `frames` frames, `None` for endless.
    pub(super) fn new(faults: &[Fault], seed: u64, acquisition: u64, frames: Option<u64>) -> Self {
        let mut probabilities = [0.0; FaultKind::ALL.len()];
        for fault in faults {
            probabilities[fault.kind as usize] = fault.probability;
        }
        Self {
            probabilities,
            is_faulty: probabilities.iter().any(|&p| p > 0.0),
            rng: StdRng::seed_from_u64(seed ^ (acquisition + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            next: 0,
            end: frames,
            ready: VecDeque::with_capacity(4),
            counts: [0; FaultKind::ALL.len()],
        }
    }

    /// The next step without taking it; `None` at the end.
    pub(super) fn peek(&mut self) -> Option<Step> {
        while self.ready.is_empty() && self.end.is_none_or(|end| self.next < end) {
            self.plan_next();
        }
        self.ready.front().copied()
    }

    /// Takes the step that was peeked at.
    pub(super) fn advance(&mut self) {
        self.ready.pop_front();
    }

    /// Random bytes for a `Garbage` step.
    pub(super) fn garbage(&mut self) -> Vec<u8> {
        let length = self.rng.random_range(1..=4096);
        let mut bytes = vec![0; length];
        self.rng.fill(&mut bytes[..]);
        bytes
    }

    /// How often each kind was planned since the last call, in the order of [`FaultKind::ALL`].
    pub(super) fn take_counts(&mut self) -> [u64; FaultKind::ALL.len()] {
        std::mem::take(&mut self.counts)
    }

    fn plan_next(&mut self) {
        let tick = self.next;
        self.next += 1;
        let step = |frame, fault| Step { frame, tick, fault };
        let Some(kind) = self.draw() else {
            self.ready.push_back(step(tick, None));
            return;
        };
        let has_next = self.end.is_none_or(|end| self.next < end);
        if kind == FaultKind::Swap && !has_next {
            self.ready.push_back(step(tick, None));
            return;
        }
        self.counts[kind as usize] += 1;
        match kind {
            FaultKind::Lose => {}
            FaultKind::Repeat => self.ready.extend([step(tick, None), step(tick, None)]),
            FaultKind::Swap => {
                self.next += 1;
                self.ready.extend([step(tick + 1, None), Step { frame: tick, tick: tick + 1, fault: None }]);
            }
            FaultKind::Truncate | FaultKind::Stall | FaultKind::Disconnect | FaultKind::Garbage => {
                self.ready.push_back(step(tick, Some(kind)));
            }
        }
    }

    fn draw(&mut self) -> Option<FaultKind> {
        if !self.is_faulty {
            return None;
        }
        let mut hit = None;
        for kind in FaultKind::ALL {
            let probability = self.probabilities[kind as usize];
            if probability > 0.0 && self.rng.random::<f64>() < probability && hit.is_none() {
                hit = Some(kind);
            }
        }
        hit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(faults: &[Fault], seed: u64, frames: u64) -> (Vec<Step>, [u64; 7]) {
        let mut script = Script::new(faults, seed, 0, Some(frames));
        let mut steps = Vec::new();
        while let Some(step) = script.peek() {
            steps.push(step);
            script.advance();
        }
        (steps, script.take_counts())
    }

    /// Without faults every frame comes once and in order; equal seeds give equal scripts, others do not.
    #[test]
    fn scripts_repeat_by_seed() {
        let (plain, counts) = steps(&[], 1, 100);
        assert!(plain.iter().enumerate().all(|(i, s)| s.frame == i as u64 && s.tick == s.frame && s.fault.is_none()));
        assert_eq!(counts, [0; 7]);
        let faults: Vec<Fault> = FaultKind::ALL.iter().map(|&kind| Fault { kind, probability: 0.05 }).collect();
        assert_eq!(steps(&faults, 7, 2000), steps(&faults, 7, 2000));
        assert_ne!(steps(&faults, 7, 2000).0, steps(&faults, 8, 2000).0);
    }

    /// The frames of a faulty script are those of the plain one, less the lost, plus the repeated; each kind occurs.
    #[test]
    fn counts_explain_the_frames() {
        let faults: Vec<Fault> = FaultKind::ALL.iter().map(|&kind| Fault { kind, probability: 0.05 }).collect();
        let (steps, counts) = steps(&faults, 3, 5000);
        assert!(counts.iter().all(|&count| count > 100));
        assert_eq!(steps.len() as u64, 5000 - counts[0] + counts[1]);
        assert_eq!(steps.windows(2).filter(|w| w[0].frame == w[1].frame + 1).count() as u64, counts[2]);
        assert!(steps.windows(2).all(|w| w[0].tick <= w[1].tick));
    }

    /// What users type is checked with the allowed names in the message.
    #[test]
    fn faults_are_parsed() {
        assert_eq!("lose=0.5".parse(), Ok(Fault { kind: FaultKind::Lose, probability: 0.5 }));
        assert!("loose=0.5".parse::<Fault>().is_err_and(|message| message.contains("disconnect")));
        assert!("lose=2".parse::<Fault>().is_err());
        assert!("lose".parse::<Fault>().is_err());
    }
}
