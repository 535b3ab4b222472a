//! Seeded faults: which frames are lost, doubled, swapped, cut, delayed or spoilt, and what goes wrong with whole series.
//!
//! # Invariants
//! - I1: the schedule of an acquisition depends on the seed, its number and the fault plan only, so equal seeds give
//!   equal bytes (time stamps aside).
//! - I2: at most one fault meets a frame; kinds are tried in the order of [`FaultKind::ALL`].

use std::collections::VecDeque;
use std::fmt;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What can go wrong. A simulator knows those that its protocol allows.
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
    /// Random bytes stand before the frame: in a stream the receiver loses synchronisation, as a message they mean nothing.
    Garbage,
    /// The frame is sent as one of another series.
    WrongSeries,
    /// The pixels of the frame are big-endian, and said to be.
    BigEndian,
    /// The hash of the frame is that of nothing.
    WrongHash,
    /// Zeros stand in place of the header of compressed pixels.
    ZeroHeader,
    /// Images and the end of an older series come before the series.
    Stale,
    /// The header of the series comes in two messages.
    SplitHeader,
    /// The series ends somewhere in the middle, as if aborted.
    Abort,
    /// The end of the series comes a while after its last frame.
    LateEnd,
    /// The end of the series is not sent.
    NoEnd,
    /// The end of the series is sent twice.
    SecondEnd,
}

impl FaultKind {
    /// All kinds, in the order in which they are tried.
    pub const ALL: [Self; 17] = [
        Self::Lose,
        Self::Repeat,
        Self::Swap,
        Self::Truncate,
        Self::Stall,
        Self::Disconnect,
        Self::Garbage,
        Self::WrongSeries,
        Self::BigEndian,
        Self::WrongHash,
        Self::ZeroHeader,
        Self::Stale,
        Self::SplitHeader,
        Self::Abort,
        Self::LateEnd,
        Self::NoEnd,
        Self::SecondEnd,
    ];

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
            Self::WrongSeries => "wrong-series",
            Self::BigEndian => "big-endian",
            Self::WrongHash => "wrong-hash",
            Self::ZeroHeader => "zero-header",
            Self::Stale => "stale",
            Self::SplitHeader => "split-header",
            Self::Abort => "abort",
            Self::LateEnd => "late-end",
            Self::NoEnd => "no-end",
            Self::SecondEnd => "second-end",
        }
    }

    /// Whether it meets a whole series, and not a frame.
    pub fn is_of_series(self) -> bool {
        matches!(self, Self::Stale | Self::SplitHeader | Self::Abort | Self::LateEnd | Self::NoEnd | Self::SecondEnd)
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
    /// Probability per frame, or per series for kinds that meet a whole one; 0 to 1.
    pub probability: f64,
}

impl Fault {
    /// Reads `KIND=PROBABILITY`, where the kind is one of these. Errors: a sentence that says what is expected.
    pub fn parse(text: &str, kinds: &[FaultKind]) -> Result<Self, String> {
        let (name, probability) = text.split_once('=').ok_or_else(|| format!("`{text}` is not KIND=PROBABILITY"))?;
        let kind = kinds.iter().copied().find(|kind| kind.name() == name).ok_or_else(|| {
            let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
            format!("`{name}` is not one of {}", names.join(", "))
        })?;
        let probability: f64 = probability.parse().map_err(|_| format!("`{probability}` is not a number"))?;
        let fault = Self { kind, probability };
        fault.check(kinds)?;
        Ok(fault)
    }

    /// Whether its probability is one, and its kind one of these. Errors: a sentence.
    pub(super) fn check(self, kinds: &[FaultKind]) -> Result<(), String> {
        if !kinds.contains(&self.kind) {
            return Err(format!("fault {}: this detector does not have it", self.kind));
        }
        if !(0.0..=1.0).contains(&self.probability) {
            return Err(format!("fault {}: probability {} is outside 0 to 1", self.kind, self.probability));
        }
        Ok(())
    }
}

/// How often each kind has happened, in the order of [`FaultKind::ALL`].
pub(super) type FaultCounts = [u64; FaultKind::ALL.len()];

/// One thing the sender does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    /// Which frame, from 0.
    pub(super) frame: u64,
    /// Whose turn it takes: the place in the time table of a paced acquisition.
    pub(super) tick: u64,
    /// What happens to it; kinds that show in the order of frames alone are left out.
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
    /// What meets the whole series.
    of_series: Vec<FaultKind>,
    counts: FaultCounts,
}

impl Script {
    /// The script of acquisition number `acquisition` with `frames` frames, `None` for endless.
    pub(super) fn new(faults: &[Fault], seed: u64, acquisition: u64, frames: Option<u64>) -> Self {
        let mut probabilities = [0.0; FaultKind::ALL.len()];
        for fault in faults {
            probabilities[fault.kind as usize] = fault.probability;
        }
        let mut script = Self {
            probabilities,
            is_faulty: FaultKind::ALL.iter().zip(probabilities).any(|(kind, p)| p > 0.0 && !kind.is_of_series()),
            rng: StdRng::seed_from_u64(seed ^ (acquisition + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            next: 0,
            end: frames,
            ready: VecDeque::with_capacity(4),
            of_series: Vec::new(),
            counts: [0; FaultKind::ALL.len()],
        };
        script.plan_series();
        script
    }

    /// Whether this meets the whole series.
    pub(super) fn has(&self, kind: FaultKind) -> bool {
        self.of_series.contains(&kind)
    }

    fn plan_series(&mut self) {
        for kind in FaultKind::ALL.into_iter().filter(|kind| kind.is_of_series()) {
            if self.happens(kind) {
                self.of_series.push(kind);
                self.counts[kind as usize] += 1;
            }
        }
        if self.has(FaultKind::Abort) {
            self.end = self.end.map(|end| self.rng.random_range(0..end.max(1)));
        }
    }

    fn happens(&mut self, kind: FaultKind) -> bool {
        let probability = self.probabilities[kind as usize];
        probability > 0.0 && self.rng.random::<f64>() < probability
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
    pub(super) fn take_counts(&mut self) -> FaultCounts {
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
            _ => self.ready.push_back(step(tick, Some(kind))),
        }
    }

    fn draw(&mut self) -> Option<FaultKind> {
        if !self.is_faulty {
            return None;
        }
        let mut hit = None;
        for kind in FaultKind::ALL.into_iter().filter(|kind| !kind.is_of_series()) {
            if self.happens(kind) && hit.is_none() {
                hit = Some(kind);
            }
        }
        hit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(faults: &[Fault], seed: u64, frames: u64) -> (Vec<Step>, FaultCounts) {
        let mut script = Script::new(faults, seed, 0, Some(frames));
        let mut steps = Vec::new();
        while let Some(step) = script.peek() {
            steps.push(step);
            script.advance();
        }
        (steps, script.take_counts())
    }

    /// All that meets frames.
    fn of_frames(probability: f64) -> Vec<Fault> {
        let kinds = FaultKind::ALL.into_iter().filter(|kind| !kind.is_of_series());
        kinds.map(|kind| Fault { kind, probability }).collect()
    }

    /// Without faults every frame comes once and in order; equal seeds give equal scripts, others do not.
    #[test]
    fn scripts_repeat_by_seed() {
        let (plain, counts) = steps(&[], 1, 100);
        assert!(plain.iter().enumerate().all(|(i, s)| s.frame == i as u64 && s.tick == s.frame && s.fault.is_none()));
        assert_eq!(counts, [0; FaultKind::ALL.len()]);
        let faults = of_frames(0.05);
        assert_eq!(steps(&faults, 7, 2000), steps(&faults, 7, 2000));
        assert_ne!(steps(&faults, 7, 2000).0, steps(&faults, 8, 2000).0);
    }

    /// The frames of a faulty script are those of the plain one, less the lost, plus the repeated; each kind occurs.
    #[test]
    fn counts_explain_the_frames() {
        let faults = of_frames(0.05);
        let (steps, counts) = steps(&faults, 3, 5000);
        let met = FaultKind::ALL.into_iter().filter(|kind| !kind.is_of_series());
        assert!(
            met.clone().all(|kind| counts[kind as usize] > 100)
                && counts.iter().filter(|&&n| n > 0).count() == met.count()
        );
        assert_eq!(steps.len() as u64, 5000 - counts[0] + counts[1]);
        assert_eq!(steps.windows(2).filter(|w| w[0].frame == w[1].frame + 1).count() as u64, counts[2]);
        assert!(steps.windows(2).all(|w| w[0].tick <= w[1].tick));
    }

    /// What users type is checked with the allowed names in the message.
    #[test]
    fn faults_are_parsed() {
        let parse = |text| Fault::parse(text, &FaultKind::ALL[..7]);
        assert_eq!(parse("lose=0.5"), Ok(Fault { kind: FaultKind::Lose, probability: 0.5 }));
        assert!(parse("loose=0.5").is_err_and(|message| message.contains("disconnect") && !message.contains("no-end")));
        assert!(parse("no-end=0.5").is_err());
        assert!(parse("lose=2").is_err());
        assert!(parse("lose").is_err());
    }

    /// What meets series meets as many as it should, and an aborted one ends early.
    #[test]
    fn faults_of_series() {
        let faults = [FaultKind::Abort, FaultKind::NoEnd].map(|kind| Fault { kind, probability: 0.5 });
        let (mut aborted, mut endless) = (0, 0);
        for series in 0..200 {
            let mut script = Script::new(&faults, 5, series, Some(100));
            let mut frames = 0;
            while script.peek().is_some() {
                frames += 1;
                script.advance();
            }
            assert_eq!(frames < 100, script.has(FaultKind::Abort));
            aborted += u64::from(script.has(FaultKind::Abort));
            endless += u64::from(script.has(FaultKind::NoEnd));
            assert_eq!(script.take_counts().iter().sum::<u64>(), script.of_series.len() as u64);
        }
        assert!((70..130).contains(&aborted) && (70..130).contains(&endless), "{aborted}, {endless}");
    }
}
