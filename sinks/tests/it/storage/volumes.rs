//! Segments on several volumes: spread in turn, found through links, and each volume's failure its own.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ronchi_pipeline::format::DataSetState;
use ronchi_pipeline::{GapReason, Region, SigShape};
use ronchi_sinks::storage::{Action, Bytes, Disk, DiskFile, Done, Op, Reader};
use tempfile::TempDir;

use super::rig::{Feed, Rig, Written, check, cut, tempdir};

/// 130 bytes per frame, 3 frames per chunk, 2 chunks per segment: a segment every 6 frames.
const SHAPE: SigShape = SigShape { height: 5, width: 13 };
const PER_SEGMENT: u64 = 6;

/// A rig whose segments go to so many volumes, and where these are.
fn striped(volume_count: usize, announced: Option<u64>) -> (Rig, Vec<TempDir>) {
    let volumes: Vec<TempDir> = (0..volume_count).map(|_| tempdir()).collect();
    let mut rig = Rig::new(SHAPE, "<u2", 3, 2, announced);
    rig.volumes = volumes.iter().map(|volume| volume.path().to_owned()).collect();
    (rig.plan.volume_count, rig.plan.stripe_blocks) = (volume_count, 4);
    (rig, volumes)
}

/// Segments that lie in each volume, by their names.
fn held(volumes: &[TempDir]) -> Vec<Vec<String>> {
    let names = |directory: &Path| -> Vec<PathBuf> {
        fs::read_dir(directory).map(|list| list.map(|entry| entry.expect("entry").path()).collect()).unwrap_or_default()
    };
    let name = |path: &PathBuf| path.file_name().expect("name").to_string_lossy().into_owned();
    let held = |volume: &TempDir| {
        let mut held: Vec<String> =
            names(volume.path()).iter().flat_map(|home| names(home)).map(|p| name(&p)).collect();
        held.sort();
        held
    };
    volumes.iter().map(held).collect()
}

fn feeds(count: u64) -> Vec<Feed> {
    cut(0, 0..count, 3, |_| false)
}

/// Every segment goes to the next volume, and everything reads as if it lay in the data set.
#[test]
fn segments_go_round() {
    let (rig, volumes) = striped(3, Some(31));
    let written = rig.write(&feeds(31));
    written.check_clean();
    assert_eq!(held(&volumes), [vec!["0-0", "0-3"], vec!["0-1", "0-4"], vec!["0-2", "0-5"]]);
    let link = fs::read_link(written.path.join("frames/c/4/0/0")).expect("a link");
    assert!(link.is_absolute() && link.ends_with("scan-30313233.segments/0-4"), "{}", link.display());
}

/// Open-ended, tiled, and with late frames: the segment made ahead is removed with its link.
#[test]
fn tiles_and_open_ends() {
    let (mut rig, volumes) = striped(2, None);
    rig.detector = SigShape { height: 5, width: 26 };
    rig.regions = vec![Region { y: 0, x: 0, height: 5, width: 13 }, Region { y: 0, x: 13, height: 5, width: 13 }];
    let mut all = feeds(14);
    all.extend(cut(1, 0..12, 3, |_| false));
    rig.write(&all).check_clean();
    assert_eq!(held(&volumes), [vec!["0-0", "0-2", "1-1"], vec!["0-1", "1-0"]]);
}

/// Fails every write to one volume from the N-th on.
struct DeadVolume {
    inner: Box<dyn Disk>,
    volume: u8,
    left: Arc<AtomicUsize>,
    fired: Arc<AtomicUsize>,
    refused: Vec<Done>,
}

impl Disk for DeadVolume {
    fn describe(&self) -> String {
        "one volume dies".to_owned()
    }
    fn capacity(&self) -> usize {
        self.inner.capacity()
    }
    fn in_flight(&self) -> usize {
        self.inner.in_flight() + self.refused.len()
    }
    fn attach(&mut self, file: File) -> DiskFile {
        self.inner.attach(file)
    }
    fn detach(&mut self, file: DiskFile) {
        self.inner.detach(file);
    }
    fn submit(&mut self, op: Op) {
        let is_data = matches!(op.action, Action::Write(_, Bytes::Block(..) | Bytes::Page(_)));
        let is_here = is_data && op.tag.volume == self.volume;
        if is_here && self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
        {
            self.fired.fetch_add(1, Ordering::Relaxed);
            let result = Err(io::Error::other("the disk is gone"));
            self.refused.push(Done { op, result });
        } else {
            self.inner.submit(op);
        }
    }
    fn reap(&mut self, patience: Duration, done: &mut Vec<Done>) {
        if self.refused.is_empty() {
            self.inner.reap(patience, done);
        } else {
            done.append(&mut self.refused);
            self.inner.reap(Duration::ZERO, done);
        }
    }
}

/// Whenever a volume dies: frames are lost in its segments only, and segments begun later lie elsewhere.
#[test]
fn a_dead_volume_costs_its_own_segments() {
    let mut losses = 0;
    for writes in 0..14 {
        let (mut rig, volumes) = striped(2, Some(60));
        let (left, fired) = (Arc::new(AtomicUsize::new(writes)), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&fired);
        rig.wrap = Some(Box::new(move |inner| {
            Box::new(DeadVolume { inner, volume: 1, left, fired: counted, refused: Vec::new() })
        }));
        let written = rig.write(&feeds(60));
        written.check();
        let end = &written.ends[0];
        let has_fired = fired.load(Ordering::Relaxed) > 0; // Fewer writes are enough when publication is rare.
        assert!(has_fired || writes > 4, "only {writes} writes to a volume of five segments");
        assert_eq!(end.state == DataSetState::Failed, has_fired, "{end:?}");
        assert!(end.law.holds, "{}", end.law);
        losses += u64::from(end.gaps.frame_count() > 0);
        let is_on_dead = |gap: &ronchi_pipeline::Gap| {
            (gap.first / PER_SEGMENT..=(gap.first + gap.count - 1) / PER_SEGMENT).all(|segment| {
                fs::read_link(written.path.join(format!("frames/c/{segment}/0/0")))
                    .is_ok_and(|target| target.starts_with(volumes[1].path()))
            })
        };
        assert!(end.gaps.iter().all(|gap| gap.reason == GapReason::WriteFailed && is_on_dead(&gap)), "{:?}", end.gaps);
        let held = held(&volumes);
        assert!(held[0].len() >= 5 && held[0].len() + held[1].len() == 10, "{held:?}");
        assert!(check(&written.path).is_intact());
    }
    assert!(losses > 4, "{losses} of 14 runs lost frames");
}

/// A volume that is not mounted is passed over from the first segment on, and is not made; without any, all is lost.
#[test]
fn volumes_that_are_not_there() {
    let (mut rig, volumes) = striped(2, Some(24));
    rig.volumes[0] = volumes[0].path().join("not/mounted");
    let written = rig.write(&feeds(24));
    written.check_clean();
    assert_eq!((held(&volumes)[1].len(), volumes[0].path().join("not").exists()), (4, false));

    let (mut rig, volumes) = striped(1, Some(24));
    rig.volumes[0] = volumes[0].path().join("not/mounted");
    let written = rig.write(&feeds(24));
    written.check();
    assert_eq!((written.ends[0].gaps.frame_count(), written.ends[0].law.holds), (24, true));
}

/// A volume that is no longer mounted is an error for readers, never zeros.
#[test]
fn a_missing_volume_is_an_error_for_readers() {
    let (rig, volumes) = striped(2, Some(12));
    let written: Written = rig.write(&feeds(12));
    fs::rename(volumes[1].path(), volumes[1].path().with_extension("away")).expect("unmounted");
    let reader = Reader::open(&written.path).expect("data set");
    let mut bytes = Vec::new();
    reader.read_frames(0, 0..6, &mut bytes).expect("on the volume that is there");
    let refused = reader.read_frames(0, 0..12, &mut bytes).expect_err("on the other");
    assert!(refused.to_string().contains("frames/c/1/0/0"), "{refused}");
    assert!(!check(&written.path).is_intact());
    fs::rename(volumes[1].path().with_extension("away"), volumes[1].path()).expect("mounted again");
}
