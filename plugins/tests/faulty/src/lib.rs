//! Counts of every frame, until it does what `{"fault":"..."}` says.

use std::hint::black_box;
use std::sync::OnceLock;

wit_bindgen::generate!({ path: "../../wit" });

/// What it was asked to do.
static PARAMETERS: OnceLock<String> = OnceLock::new();

struct Faulty;

fn is(fault: &str) -> bool {
    PARAMETERS.get().is_some_and(|parameters| parameters.contains(&format!("\"{fault}\"")))
}

/// Never returns, if it is to do that.
fn misbehave(when: &str) {
    if is(&format!("{when}loop")) {
        loop {
            black_box(0);
        }
    }
    if is(&format!("{when}hog")) {
        loop {
            std::mem::forget(black_box(Vec::<u8>::with_capacity(1 << 20)));
        }
    }
    if is(&format!("{when}deep")) {
        black_box(dig(1));
    }
    assert!(!is(&format!("{when}trap")), "it was to panic");
}

fn dig(depth: u64) -> u64 {
    if depth == 0 { 0 } else { black_box(dig(black_box(depth + 1))) + depth }
}

impl Guest for Faulty {
    fn describe(_detector: Detector, parameters: String) -> Result<Description, String> {
        PARAMETERS.get_or_init(|| parameters);
        misbehave("describe_");
        let length = if is("describe_huge") { u32::MAX } else { 1 };
        let name = if is("describe_name") { "not a name\n" } else { "counts" };
        let over = if is("merge_loop") { Over::All } else { Over::Scan };
        let axes = vec![Axis { name: name.into(), length }];
        Ok(Description { over, axes, unit: "counts".into(), empty: vec![0.0] })
    }

    fn reduce(frame: Frame, pixels: Vec<f64>, partial: Vec<f64>) -> Result<Vec<f64>, String> {
        misbehave("");
        if is("refuse") {
            return Err(format!("frame {} is\nnot to its taste{}", frame.index, ".".repeat(1 << 20)));
        }
        let counts = partial[0] + pixels.iter().sum::<f64>();
        Ok(if is("nonsense") { vec![counts; 1000] } else { vec![counts] })
    }

    fn merge(partial: Vec<f64>, other: Vec<f64>) -> Result<Vec<f64>, String> {
        misbehave("merge_");
        Ok(vec![partial[0] + other[0]])
    }

    fn finish(partial: Vec<f64>) -> Result<Vec<f64>, String> {
        misbehave("finish_");
        Ok(if is("finish_nonsense") { vec![] } else { partial })
    }
}

export!(Faulty);
