use ronchi_pipeline::{Announcement, Layout, PixelType, Sensor, SigShape};

use super::*;
use crate::storage::NewDataSet;

fn series() -> Arc<Series> {
    let detector = SigShape { height: 2, width: 2 };
    Arc::new(Series {
        acquisition: [1; 16],
        name: "scan".into(),
        link: 0,
        link_count: 1,
        announced: Announcement {
            series_id: "1".into(),
            frame_count: Some(4),
            scan: None,
            detector,
            region: detector.region(),
            pixel: PixelType::from_numpy_name("|u1").expect("pixel type"),
            encoding: ronchi_pipeline::Encoding::Raw,
            vendor_header: String::new(),
            sensor: Sensor::default(),
        },
        scan: None,
        layout: Layout { frame_bytes: 4, frames_per_chunk: 2, chunks_per_segment: 2 },
        is_recorded: true,
    })
}

/// Without its clerk nothing can be finished: the writer dies and says so, instead of waiting for ever.
#[test]
fn a_dead_clerk_ends_the_writer() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let plan = WriterPlan::new(dir.path().to_owned());
    let (disk, report) = plan.choose_disk().expect("disk");
    let parent = dir.path().to_owned();
    let open = Box::new(move |series: &Arc<Series>| {
        let regions = [series.announced.region];
        let (created, software, user) = (String::new(), String::new(), serde_json::Value::Null);
        let new = NewDataSet { series, regions: &regions, scan: None, created, software, user, volumes: &[] };
        DataSet::create(&parent, &new).map(Arc::new)
    });
    let (events, queue) = crossbeam_channel::bounded(4);
    let ended = Box::new(|end| panic!("not finished: {end:?}"));
    // Sent before there is a writer, which may find its clerk dead before it reads an event.
    events.send(Event::Begin(series())).expect("room for an event");
    drop(events);
    let writer = Writer::spawn_with(Clerk::dead(), disk, report, plan, queue, open, ended).expect("writer");
    assert!(writer.join().is_err());
}
