//! Where a frame is brightest: row, column and counts of its brightest pixel, of several equal ones the first in C order.
//! NaN where none is above `above`. See `docs/plugins.md`.
//!
//! Build it: `cargo build --release --target wasm32-unknown-unknown`

use std::sync::OnceLock;

use serde::Deserialize;

wit_bindgen::generate!({ path: "../../plugins/wit" });

/// What was asked for; an instance is one reduction.
static PEAK: OnceLock<Peak> = OnceLock::new();

/// The parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Peak {
    /// Counts that are not a peak yet.
    #[serde(default)]
    above: f64,
}

impl Guest for Peak {
    fn describe(_detector: Detector, parameters: String) -> Result<Description, String> {
        let peak: Peak = serde_json::from_str(&parameters).map_err(|error| error.to_string())?;
        PEAK.get_or_init(|| peak);
        // A partial: row, column, counts. That of no frame loses against every pixel.
        let empty = vec![f64::INFINITY, f64::INFINITY, f64::NEG_INFINITY];
        let axes = vec![Axis { name: "peak".into(), length: 3 }];
        Ok(Description { over: Over::Scan, axes, unit: "px, px, counts".into(), empty })
    }

    fn reduce(frame: Frame, pixels: Vec<f64>, mut partial: Vec<f64>) -> Result<Vec<f64>, String> {
        let rows = pixels.chunks_exact(frame.width as usize);
        for (y, row) in (frame.y..).zip(rows) {
            for (x, &counts) in (frame.x..).zip(row) {
                if counts > partial[2] {
                    partial = vec![f64::from(y), f64::from(x), counts];
                }
            }
        }
        Ok(partial)
    }

    /// Two tiles of one frame, in any order: the brighter one, else the one that comes first on the detector.
    fn merge(partial: Vec<f64>, other: Vec<f64>) -> Result<Vec<f64>, String> {
        let is_first = (other[0], other[1]) < (partial[0], partial[1]);
        let is_other = other[2] > partial[2] || other[2] == partial[2] && is_first;
        Ok(if is_other { other } else { partial })
    }

    fn finish(partial: Vec<f64>) -> Result<Vec<f64>, String> {
        let peak = PEAK.get().ok_or("not described")?;
        Ok(if partial[2] > peak.above { partial } else { vec![f64::NAN; 3] })
    }
}

export!(Peak);
