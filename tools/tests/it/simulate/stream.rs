//! What is on the data socket: lengths, headers, pixels, time.

use std::time::{SystemTime, UNIX_EPOCH};

use ronchi::simulate::merlin::{ChipLayout, FrameSource, MerlinPixels, MerlinSimulation, MerlinSimulator, TriggerMode};
use ronchi::simulate::synth::{SynthPlan, Synthesis};

use super::client::{Frame, connect, frames, message, small, synth_plan};

const FORMATS: [(ChipLayout, MerlinPixels, usize); 14] = [
    (ChipLayout::Single, MerlinPixels::U8, 65_921),
    (ChipLayout::Single, MerlinPixels::U16, 131_457),
    (ChipLayout::Single, MerlinPixels::U32, 262_529),
    (ChipLayout::Single, MerlinPixels::Raw1, 8_577),
    (ChipLayout::Single, MerlinPixels::Raw6, 65_921),
    (ChipLayout::Single, MerlinPixels::Raw12, 131_457),
    (ChipLayout::Single, MerlinPixels::Raw24, 262_529),
    (ChipLayout::Quad, MerlinPixels::U8, 262_913),
    (ChipLayout::Quad, MerlinPixels::U16, 525_057),
    (ChipLayout::Quad, MerlinPixels::Raw1, 33_537),
    (ChipLayout::Quad, MerlinPixels::Raw6, 262_913),
    (ChipLayout::Quad, MerlinPixels::Raw12, 525_057),
    (ChipLayout::QuadGap, MerlinPixels::U16, 529_161),
    (ChipLayout::QuadGap, MerlinPixels::Raw12, 525_057),
];

/// One big-endian number.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// Pixel `p` of raw words, straight from the formula of the protocol page.
fn raw_pixel(bytes: &[u8], p: usize, bits: usize) -> u64 {
    let per_word = 64 / bits;
    let word = number(&bytes[p / per_word * 8..][..8]);
    let mask = if bits == 1 { 1 } else { (1 << bits) - 1 };
    word >> (p % per_word * bits) & mask
}

/// The decoded image, pixel by pixel.
fn decode(plan: &SynthPlan, layout: ChipLayout, pixels: MerlinPixels, bytes: &[u8]) -> Vec<u64> {
    let (height, width) = (plan.detector.height as usize, plan.detector.width as usize);
    let bits = match pixels {
        MerlinPixels::Raw1 => 1,
        MerlinPixels::U8 | MerlinPixels::Raw6 => 8,
        MerlinPixels::U32 => 32,
        _ => 16,
    };
    let at = |y: usize, x: usize| -> u64 {
        if matches!(pixels, MerlinPixels::U8 | MerlinPixels::U16 | MerlinPixels::U32) {
            return number(&bytes[(y * width + x) * bits / 8..][..bits / 8]);
        }
        if pixels == MerlinPixels::Raw24 {
            let (high, low) = bytes.split_at(bytes.len() / 2);
            return (raw_pixel(high, y * width + x, 16) << 12) + raw_pixel(low, y * width + x, 16);
        }
        if layout == ChipLayout::Single {
            return raw_pixel(bytes, y * width + x, bits);
        }
        let gap = width - 512;
        if (256..256 + gap).contains(&y) || (256..256 + gap).contains(&x) {
            return 0;
        }
        let (y, x) = (if y < 256 { y } else { y - gap }, if x < 256 { x } else { x - gap });
        let (row, slot, j) = match (y < 256, x < 256) {
            (true, true) => (y, 3, x),
            (true, false) => (y, 2, x - 256),
            (false, true) => (511 - y, 1, 255 - x),
            (false, false) => (511 - y, 0, 511 - x),
        };
        raw_pixel(bytes, (row * 4 + slot) * 256 + j, bits)
    };
    (0..height * width).map(|index| at(index / width, index % width)).collect()
}

/// Every format: message length, header fields, and pixels equal to what the specimen gives.
#[test]
fn every_format_carries_the_same_picture() {
    for (layout, pixels, length) in FORMATS {
        let edge = match layout {
            ChipLayout::Single => 256,
            ChipLayout::Quad => 512,
            ChipLayout::QuadGap => 514,
        };
        let plan = SynthPlan { dose: 3e5, ..synth_plan((1, 2), (edge, edge)) };
        let source = FrameSource::Synthetic { plan, pixels, layout };
        let simulation = MerlinSimulation { trigger: TriggerMode::Now, runs: 1, ..MerlinSimulation::new(source) };
        let running = MerlinSimulator::start(simulation).expect("start");
        let mut data = connect(running.data_address);
        assert_eq!(message(&mut data).expect("header").len() + 1, 2049);
        let synthesis = Synthesis::new(plan).expect("plan");
        let mut counts = vec![0; (edge * edge) as usize];
        for position in 0..2 {
            let body = message(&mut data).expect("frame");
            assert_eq!(body.len() + 1, length, "{layout:?} {pixels}");
            let frame = Frame::parse(&body);
            check_fields(&frame, layout, pixels, edge);
            synthesis.draw(position, &mut counts);
            let decoded = decode(&plan, layout, pixels, &frame.pixels);
            let differs = counts.iter().zip(&decoded).enumerate().find(|&(index, (&count, &pixel))| {
                let (y, x) = (index as u32 / edge, index as u32 % edge);
                let is_gap = edge == 514 && ((256..258).contains(&y) || (256..258).contains(&x));
                pixel != if is_gap { 0 } else { u64::from(count.min(pixels.count_max())) }
            });
            assert_eq!(differs, None, "{layout:?} {pixels}");
        }
        assert!(message(&mut data).is_none());
    }
}

fn check_fields(frame: &Frame, layout: ChipLayout, pixels: MerlinPixels, edge: u32) {
    let chips = if layout == ChipLayout::Single { 1 } else { 4 };
    let raw = pixels.field() == "R64";
    let (x, y) = match (raw, layout, pixels) {
        (true, ChipLayout::Single, MerlinPixels::Raw24) => (512, 256),
        (true, ChipLayout::Quad | ChipLayout::QuadGap, _) => (1024, 256),
        _ => (edge, edge),
    };
    let expected = [
        "MQ1".to_owned(),
        frame.fields[1].clone(),
        format!("{:05}", 256 + 128 * chips),
        format!("{chips:02}"),
        format!("{x:04}"),
        format!("{y:04}"),
        pixels.field().to_owned(),
        format!("{:>6}", layout.name()),
        if chips == 1 { "01".to_owned() } else { "0F".to_owned() },
    ];
    assert_eq!(frame.fields[..9], expected);
    assert_eq!(frame.fields[1].len(), 6);
    // 22 fields, 28 per chip, then MQ1A, time, shutter, depth.
    assert_eq!(frame.fields.len(), 22 + 28 * chips + 4);
    for chip in 0..chips {
        let block = &frame.fields[22 + 28 * chip..][..28];
        assert_eq!(block[0], "3RX");
        assert!(block[1..].iter().all(|dac| dac.len() == 3 && dac.bytes().all(|byte| byte.is_ascii_digit())));
    }
    let extension = &frame.fields[22 + 28 * chips..];
    assert_eq!((extension[0].as_str(), extension[2].as_str()), ("MQ1A", "1000000ns"));
    assert_eq!(extension[3], pixels.counter_depth().to_string());
    // Both stamps show one time, in microseconds and in nanoseconds.
    assert_eq!(frame.fields[9], extension[1][..26].replace('T', " "));
}

/// Time stamps are the wall clock at the moment of sending, and paced frames are never early.
#[test]
fn stamps_and_pace() {
    let rate_hz = 2000.0;
    let plan = MerlinSimulation { trigger: TriggerMode::Now, runs: 1, rate_hz, ..small((10, 20)) };
    let running = MerlinSimulator::start(plan).expect("start");
    let of_day = || SystemTime::now().duration_since(UNIX_EPOCH).expect("clock").as_nanos() as u64 % 86_400_000_000_000;
    let before = of_day();
    let mut data = connect(running.data_address);
    message(&mut data).expect("header");
    let stamps: Vec<u64> = frames(&mut data).iter().map(Frame::utc_ns).collect();
    let after = of_day();
    assert_eq!(stamps.len(), 200);
    if before < after {
        // Not across midnight.
        assert!(stamps.is_sorted() && before <= stamps[0] && stamps[199] <= after);
    }
    let report = running.wait();
    assert!(report.sending_s >= 199.0 / rate_hz, "{}", report.sending_s);
}

/// Frames drawn while sending equal frames held in memory; a ring that is too small repeats whole rows.
#[test]
fn supplies_agree() {
    let receive = |rate_hz: f64, memory_max_bytes: usize| {
        let plan = MerlinSimulation { trigger: TriggerMode::Now, runs: 1, rate_hz, memory_max_bytes, ..small((6, 10)) };
        let running = MerlinSimulator::start(plan).expect("start");
        let kind = (running.is_drawing(), running.distinct_frame_count());
        let mut data = connect(running.data_address);
        message(&mut data).expect("header");
        let frames: Vec<(u64, Vec<u8>)> = frames(&mut data).into_iter().map(|f| (f.sequence(), f.pixels)).collect();
        (kind, frames)
    };
    let frame_bytes = 384 + 64 * 64 * 2;
    let (held_kind, held) = receive(0.0, 1 << 30);
    let (drawn_kind, drawn) = receive(5000.0, 0);
    let (ring_kind, ring) = receive(0.0, 25 * frame_bytes);
    assert_eq!((held_kind, drawn_kind, ring_kind), ((false, 60), (true, 60), (false, 20)));
    assert!(held == drawn);
    for (index, (sequence, pixels)) in ring.iter().enumerate() {
        assert_eq!(*sequence, index as u64 + 1);
        assert!(*pixels == held[index % 20].1);
    }
}
