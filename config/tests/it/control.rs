//! How a DECTRIS detector is driven: counts that follow from the scan, and keys from files and command lines.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use ronchi_config::{
    DectrisCompression, DectrisControlPlan, DectrisTrigger, HeaderDetail, Plan, SourcePlan, TriggerPer, parse_control,
};

fn plan(scan: &str, control: &str) -> Plan {
    let text = format!(
        "[data]\ndirectory = '/d'\n[scan]\n{scan}\n[[link]]\nsource = 'dectris2://[fd00::1]'\n[link.control]\n{control}\n"
    );
    Plan::from_toml(&text, "r.toml", Path::new("/")).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

fn control(plan: &Plan) -> &DectrisControlPlan {
    match &plan.links[0].source {
        SourcePlan::Dectris { control: Some(control), .. } => control,
        other => panic!("{other:?}"),
    }
}

/// The same from a file and from the command line, with every key.
#[test]
fn every_key() {
    let pairs = [
        "port=8081",
        "trigger=exts",
        "trigger_per=line",
        "count_time_s=1e-4",
        "frame_time_s=0.00025",
        "bit_depth=16",
        "roi=merge2x2",
        "compression=bslz4",
        "header_detail=all",
        "detector.threshold/1/energy=9000",
        "detector.auto_summation=true",
    ];
    let file = "port = 8081\ntrigger = 'exts'\ntrigger_per = 'line'\ncount_time_s = 1e-4\nframe_time_s = 0.00025\nbit_depth = 16\n\
                roi = 'merge2x2'\ncompression = 'bslz4'\nheader_detail = 'all'\n\
                detector = { 'threshold/1/energy' = 9000, auto_summation = true }";
    let want = DectrisControlPlan {
        port: 8081,
        trigger: Some(DectrisTrigger::Exts),
        trigger_per: Some(TriggerPer::Line),
        count_time: Some(Duration::from_micros(100)),
        frame_time: Some(Duration::from_micros(250)),
        bit_depth: Some(16),
        roi: Some("merge2x2".into()),
        compression: Some(DectrisCompression::Bslz4),
        header_detail: Some(HeaderDetail::All),
        detector: [("threshold/1/energy".into(), 9000.into()), ("auto_summation".into(), true.into())]
            .into_iter()
            .collect(),
        ..DectrisControlPlan::default()
    };
    assert_eq!(parse_control(&pairs).as_ref(), Ok(&want));
    let plan = plan("shape = [3, 4]", file);
    assert_eq!(control(&plan), &want);
    assert!(plan.describe().contains("DECTRIS STREAM2 of tcp://[fd00::1]:31001, driven over port 8081"), "{plan}");
    assert_eq!(parse_control(&[""; 0]), Ok(DectrisControlPlan::default()));
}

/// What is wrong on the command line is told with the pair it is in.
#[test]
fn wrong_pairs() {
    for (pairs, message) in [
        (&["trigger"][..], "trigger: expected KEY=VALUE"),
        (&["speed=5"], "speed=5: expected one of port, trigger"),
        (&["nimages=4", "nimages=5"], "nimages=5: `nimages` is there twice"),
        (&["detector.a=1", "detector.a=2"], "detector.a=2: `detector.a` is there twice"),
        (&["nimages=0"], "nimages=0: expected a whole number from 1 to 2000000000"),
        (&["count_time_s=nan"], "count_time_s=nan: expected seconds"),
        (&["detector.a b=1"], "detector: `a b` is no key"),
        (
            &["trigger=exte", "nimages=2"],
            "nimages=2: in trigger mode exte each trigger starts one image; for several take exts",
        ),
    ] {
        let error = parse_control(pairs).expect_err(message).to_string();
        assert!(error.starts_with(message), "{error}");
    }
}

proptest! {
    /// Triggers times images are the frames of the scan, whatever one trigger starts: flyback, repeats and passes included.
    #[test]
    fn counts_follow_from_the_scan(
        (height, width) in (1_u64..50, 1_u64..50),
        (flyback, each, passes) in (0_u64..5, 1_u64..4, 1_u64..4),
    ) {
        let scan = format!("shape = [{height}, {width}]\nflyback = {flyback}\nframes_per_position = {each}\npasses = {passes}");
        let row = width * each + flyback;
        let frames = row * height * passes;
        for (per, ntrigger, nimages) in [("frame", frames, 1), ("line", height * passes, row), ("scan", passes, row * height)] {
            let plan = plan(&scan, &format!("trigger_per = '{per}'"));
            let frame_count = plan.scan.frame_count(&plan.conditions);
            prop_assert_eq!(frame_count, Some(frames));
            prop_assert_eq!(control(&plan).counts(&plan.scan, frame_count), (Some(ntrigger), Some(nimages)));
            prop_assert_eq!(ntrigger * nimages, frames);
        }
    }
}

/// With an offset the scan is not where the frames are: any number may be meant.
#[test]
fn counts_with_an_offset() {
    let plan = plan("shape = [3, 4]\nsync_offset = 2", "ntrigger = 14\nnimages = 1");
    assert_eq!(control(&plan).counts(&plan.scan, Some(12)), (Some(14), Some(1)));
}
