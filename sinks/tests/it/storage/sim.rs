//! A simulated machine: runs are recorded step by step, then the power goes at any step, and what a disk may have kept is
//! looked at with reader, `verify` and a ledger of our own.
//!
//! Everything follows from a seed. `RONCHI_SIM_SEEDS=100000` tries so many (more than the few of every test run) and fails
//! if some kind of fate never came to pass; `RONCHI_SIM_SEED=4711` tries that one and tells what it did.

mod crash;
mod dice;
mod disk;
mod faults;
mod ledger;
mod record;
mod scripts;
mod stage;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use ronchi_sinks::storage::{Depth, Flaw, Reader, RepairPlan, Verification, repair, verify};

use self::crash::{Crash, Fates, Image, Mode};
use self::disk::Trouble;
use self::ledger::Ledger;
use self::scripts::{Run, Script, scripts};
use self::stage::Stage;

/// Ways in which one script is recorded.
const WAYS: u64 = 8;
/// One crash of so many is repaired as well; compressed data sets cannot be yet.
const REPAIRED_OF: usize = 8;
const SEEDS_QUICK: u64 = 2400;
const MODES: [Mode; 4] = [Mode::Honest, Mode::Honest, Mode::Torn, Mode::Lie];

/// A recorded run with its ledger.
struct Case {
    script: Script,
    run: Run,
    ledger: Ledger,
}

impl Case {
    fn new(script: &Script, way: u64) -> Self {
        let run = script.record(way, false);
        let ledger = Ledger::new(&run, script.is_packed);
        Self { script: script.clone(), run, ledger }
    }

    /// One crash, looked at in every way.
    fn crash(&self, mode: Mode, seed: u64, stage: &mut Stage, fates: &mut Fates) -> Result<(), String> {
        let at = dice::Dice::new(!seed).below(self.run.record.steps as u64 + 1) as usize;
        let mut crash = Crash::new(&self.run.record, mode, at, seed);
        let image = crash.image();
        fates.add(&crash.fates);
        let tell = |what: String| format!("after step {at} of {}: {what}", self.run.record.steps);
        if mode == Mode::Honest {
            self.check(&image, at).map_err(tell)?;
        }
        self.look(mode, at, image, stage).map_err(tell)
    }

    /// With the ledger's eyes.
    fn check(&self, image: &Image, at: usize) -> Result<(), String> {
        self.ledger.check_promises(image, at, !self.script.is_undescribed())?;
        self.ledger.check_claims(image)
    }

    /// With the product's own eyes.
    fn look(&self, mode: Mode, at: usize, image: Image, stage: &mut Stage) -> Result<(), String> {
        let wrong = self.ledger.wrong_chunks(&image);
        let lie = self.ledger.lies(&image);
        stage.show(image.clone());
        let root = stage.path().join("scan.ronchi");
        let found = verify(&root, Depth::Full, &mut |_, _| {});
        let found = match found {
            Ok(found) => found,
            Err(_) if mode != Mode::Honest || !self.ledger.claims_any(at) => return Ok(()),
            Err(error) => return Err(format!("no data set: {error}")),
        };
        let _ = self.read(&root); // Whatever is there: no panic.
        if at.is_multiple_of(REPAIRED_OF) && !self.script.is_packed {
            self.mend(mode, at, &image)?;
        }
        let told = found.flaw_count + found.doubtful;
        if !wrong.is_empty() && told == 0 {
            return Err(format!("verify is silent about {wrong:?}"));
        }
        if let Some(lie) = lie.filter(|_| found.is_intact()) {
            return Err(format!("verify is silent about {lie}"));
        }
        if mode == Mode::Honest { excuse(&self.script, &found) } else { Ok(()) }
    }

    /// What `repair` makes of it keeps every promise, claims nothing else, and is intact.
    fn mend(&self, mode: Mode, at: usize, image: &Image) -> Result<(), String> {
        let mut stage = Stage::new();
        stage.show(image.clone());
        let root = stage.path().join("scan.ronchi");
        match repair(&root, &RepairPlan::default(), &mut |_, _| {}) {
            Ok(_) => {}
            Err(_) if mode != Mode::Honest || !self.ledger.claims_any(at) => return Ok(()),
            Err(error) => return Err(format!("no repair: {error}")),
        }
        let image = stage.load();
        let tell = |what: String| format!("repaired: {what}");
        if mode == Mode::Lie {
            return Ok(()); // Where checksums of frames are lost, too, the watermark is trusted.
        }
        self.ledger.check_claims(&image).map_err(tell)?;
        if mode != Mode::Honest {
            return Ok(());
        }
        self.ledger.check_promises(&image, at, true).map_err(tell)?;
        let found = verify(&root, Depth::Full, &mut |_, _| {}).map_err(|error| tell(error.to_string()))?;
        found.flaws.first().map_or(Ok(()), |flaw| Err(tell(flaw.to_string())))
    }

    fn read(&self, root: &Path) -> Result<(), Box<dyn std::error::Error>> {
        let reader = Reader::open(root)?;
        for (tile, count) in (0..).zip(self.ledger.frame_counts()) {
            let mut bytes = Vec::new();
            reader.progress(tile).map(drop).unwrap_or_default();
            reader.read_frames(tile, 0..count, &mut bytes)?;
            reader.flags(tile, 0..count)?;
        }
        Ok(())
    }
}

/// After an honest crash nothing is wrong but what the format allows for.
fn excuse(script: &Script, found: &Verification) -> Result<(), String> {
    let is_excused = |flaw: &&Flaw| {
        // Half of page 0 may be new; behind the last frame of a segment is part of a sector that was being written.
        let is_torn = flaw.what == "frames present in the trailer" || flaw.what.starts_with("padding");
        // A sector of a refused write may hold anything, also behind the frames it was for; a refused sync may leave
        // page 0 longer than its file.
        let is_refused = match script.trouble {
            Trouble::Write(_) => flaw.expected.contains("nothing was written there"),
            Trouble::Sync(_) => script.is_packed && flaw.what == "place of a chunk",
            _ => false,
        };
        // The lock gets its name with the manifest, or just after.
        is_torn || is_refused || flaw.file == Path::new(".lock")
    };
    match found.flaws.iter().find(|flaw| !is_excused(flaw)) {
        Some(flaw) if !script.is_undescribed() => Err(format!("verify: {flaw}")),
        _ => Ok(()), // Where the disk refused a sync of table or log, what they say is not promised any more.
    }
}

/// Tries seeds, and returns the first problem of each kind with the number of its kind.
fn try_seeds(seeds: Range<u64>, fates: &mut Fates) -> BTreeMap<String, (u64, String)> {
    let scripts = scripts();
    let count = scripts.len() as u64;
    let (mut problems, mut stage) = (BTreeMap::new(), Stage::new());
    for (number, script) in (0..).zip(&scripts) {
        for way in 0..WAYS {
            let is_mine = |seed: &u64| seed % count == number && seed / count % WAYS == way;
            let mut mine = seeds.clone().filter(is_mine).peekable();
            if mine.peek().is_none() {
                continue;
            }
            let case = Case::new(script, way);
            for seed in mine {
                let mode = MODES[(seed / count / WAYS % 4) as usize];
                if let Err(problem) = case.crash(mode, seed, &mut stage, fates) {
                    let kind: String = problem.chars().filter(|letter| !letter.is_ascii_digit()).collect();
                    let text = || (0, format!("RONCHI_SIM_SEED={seed} ({}, {mode:?}): {problem}", script.name));
                    problems.entry(kind).or_insert_with(text).0 += 1;
                }
            }
        }
    }
    problems
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// Whatever an honest disk kept of what was not synced: what was called durable is there, and nothing else is claimed.
/// Whatever a lying one kept: nothing wrong stays unnoticed.
#[test]
fn power_cuts() {
    let one = number("RONCHI_SIM_SEED");
    let seeds = one.map_or(0..number("RONCHI_SIM_SEEDS").unwrap_or(SEEDS_QUICK), |seed| seed..seed + 1);
    let mut fates = Fates::default();
    let problems = try_seeds(seeds, &mut fates);
    println!("{fates:?}");
    assert!(problems.is_empty(), "{problems:#?}");
    assert!(one.is_some() || fates.are_all_seen(), "not everything came to pass: {fates:?}");
}

/// Every step of every run is survived when all that is not durable is lost, or all but one kind of file, and in a few
/// other ways.
#[test]
fn power_cuts_at_every_step() {
    for (script, way) in scripts().iter().flat_map(|script| [(script, WAYS), (script, WAYS + 1)]) {
        let case = Case::new(script, way);
        let record = &case.run.record;
        for at in 0..=record.steps {
            let losing = [
                Crash::losing_all(record, at),
                Crash::keeping(record, at, "progress.json"),
                Crash::keeping(record, at, "frame_table"),
            ];
            let other = Crash::new(record, Mode::Honest, at, way << 32 | at as u64);
            for mut crash in losing.into_iter().chain([other]) {
                let result = case.check(&crash.image(), at);
                assert_eq!(result, Ok(()), "{}, way {way}, after step {at} of {}", script.name, record.steps);
            }
        }
    }
}

/// The same seed takes the same steps, whatever wall time does meanwhile: no interval comes from there.
#[test]
fn wall_time_decides_nothing() {
    for script in scripts() {
        let (steady, jumping) = (script.record(5, false), script.record(5, true));
        assert!(steady.record.has_same_steps(&jumping.record), "{}", script.name);
        assert_eq!(steady.record.words, jumping.record.words, "{}", script.name);
    }
}
