//! Every operation of disk and file system is refused once, and at every named step something happens: it fails, the
//! thread dies, or it hangs.

use std::collections::{BTreeMap, BTreeSet};

use ronchi_pipeline::GapReason;
use ronchi_pipeline::format::DataSetState;

use super::crash::Crash;
use super::disk::{Act, Step, Trouble};
use super::scripts::{Run, SEGMENT, Script, scripts};
use super::{Case, Mode};

fn script(name: &str, trouble: Trouble) -> Script {
    let mut script = scripts().into_iter().find(|script| script.name == name).expect("a script");
    script.trouble = trouble;
    script
}

/// Whether rows of the frame table may have been lost: the disk refused it, or the log beside it.
fn is_undescribed(hit: &str) -> bool {
    ["frame_table", "SyncSmall", "sync a small file", "write", "node", "Small"].iter().any(|part| hit.contains(part))
}

/// Whatever the process left, and whatever a power cut would leave of it: no promise is broken.
fn check_promises(case: &Case, hit: &str) {
    let record = &case.run.record;
    let kept = [Crash::keeping_all(record), Crash::losing_all(record, record.steps)];
    let others = (0..8).map(|seed| {
        let at = super::dice::Dice::new(!seed).below(record.steps as u64 + 1) as usize;
        Crash::new(record, Mode::Honest, at, seed)
    });
    for mut crash in kept.into_iter().chain(others) {
        let (at, image) = (crash.at(), crash.image());
        let promises = case.ledger.check_promises(&image, at, !is_undescribed(hit));
        assert_eq!(promises, Ok(()), "{} with {:?} ({hit}), step {at}", case.script.name, case.script.trouble);
        let claims = case.ledger.check_claims(&image);
        assert!(claims.is_ok() || is_undescribed(hit), "{claims:?} with {:?} ({hit}), step {at}", case.script.trouble);
    }
}

/// Frames are missing of one segment at most, and then the tile says that something failed.
fn check_loss(run: &Run, hit: &str) {
    for end in &run.ends {
        let refused = end.gaps.iter().filter(|gap| gap.reason == GapReason::WriteFailed);
        let lost: Vec<u64> = refused.flat_map(|gap| gap.first..gap.first + gap.count).collect();
        let is_refused = end.written_count == 0; // Its arrays could not be made.
        let segments: BTreeSet<u64> = lost.iter().map(|frame| frame / SEGMENT).collect();
        assert!(is_refused || segments.len() <= 1, "{hit}: {:?}", end.gaps);
        assert!(lost.is_empty() || end.state == DataSetState::Failed, "{hit}: {end:?}");
    }
}

/// Each operation of either trait, from the first directory to the last document, is refused once: every frame is durable
/// or a gap, what was durable stays so, and the next segment goes on.
#[test]
fn every_operation_of_disk_and_file_system_fails_once() {
    for name in ["seams", "tiles", "open-ended"] {
        let mut kinds: BTreeMap<String, u32> = BTreeMap::new();
        for number in 1.. {
            let broken = script(name, Trouble::Any(number));
            let case = Case::new(&broken, 3);
            let Some(hit) = case.run.record.hit.clone() else {
                assert!(number > 100, "only {number} operations");
                break;
            };
            *kinds.entry(hit.split(' ').next().unwrap_or_default().replace(char::is_numeric, "")).or_default() += 1;
            check_loss(&case.run, &hit);
            check_promises(&case, &hit);
        }
        println!("{name}: {kinds:?}");
    }
}

/// At every named step, the first few times that it is passed: an error, a panic, a long wait.
#[test]
fn every_named_step() {
    for step in Step::ALL {
        for act in [Act::Error, Act::Panic, Act::Hang] {
            let mut hits = 0;
            for nth in [1, 2, 3, 4, 7, 12, 20, 33] {
                let broken = script("seams", Trouble::At(step, nth, act));
                let case = Case::new(&broken, 2);
                let Some(hit) = case.run.record.hit.clone() else { break };
                hits += 1;
                match act {
                    Act::Error => check_loss(&case.run, &hit),
                    Act::Panic => assert!(case.run.is_cut_short, "{step:?}: it went on"),
                    Act::Hang => {
                        let whole = case.run.ends.iter().all(|end| end.error.is_none() && end.gaps.frame_count() == 0);
                        assert!(whole && !case.run.is_cut_short, "{step:?}: {:?}", case.run.ends);
                    }
                }
                check_promises(&case, &hit);
            }
            assert!(hits > 0, "{step:?} is never passed");
        }
    }
}

/// With real threads: wherever writer or clerk panic, the writer ends, says so, and what it had promised is there.
#[test]
fn a_panic_anywhere_ends_the_writer() {
    let mut hits = 0;
    for step in Step::ALL {
        for nth in [2, 6, 11, 17] {
            let broken = script("seams", Trouble::At(step, nth + u32::from(step < Step::BeforeAck) * 5, Act::Panic));
            let (run, result) = broken.run_threads();
            let Some(hit) = run.record.hit.clone() else { continue };
            hits += 1;
            assert!(result.is_err(), "{step:?} of {hit}: the writer ends as if nothing had happened");
            assert!(run.ends.is_empty(), "{step:?} of {hit}: {:?}", run.ends);
            let ledger = super::Ledger::new(&run, false);
            check_promises(&Case { script: broken, run, ledger }, &hit);
        }
    }
    assert!(hits > 20, "only {hits} panics");
}
