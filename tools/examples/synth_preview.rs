//! Renders what a microscopist would see of a synthetic scan: bright field, dark field, centre of mass, mean pattern.
//!
//! `cargo run --example synth_preview -- DIRECTORY [crystal|particles] [SCAN] [DETECTOR] [DOSE]`

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use ronchi::simulate::synth::{Specimen, SynthPlan, Synthesis};
use ronchi_pipeline::{NavShape, SigShape};

struct Maps {
    bright: Vec<f64>,
    dark: Vec<f64>,
    com: Vec<(f64, f64)>,
    mean: Vec<f64>,
    single: Vec<f64>,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let text = |index: usize, default: &str| arguments.get(index).cloned().unwrap_or_else(|| default.to_owned());
    let directory = text(0, ".");
    let specimen: Specimen = text(1, "crystal").parse().map_err(anyhow::Error::msg)?;
    let (scan, detector): (u32, u32) = (text(2, "128").parse()?, text(3, "128").parse()?);
    let plan = SynthPlan {
        scan: NavShape { height: scan, width: scan },
        detector: SigShape { height: detector, width: detector },
        dose: text(4, "1500").parse()?,
        specimen,
        seed: 1,
    };
    let started = Instant::now();
    let synthesis = Synthesis::new(plan)?;
    println!("specimen in {:.3} s", started.elapsed().as_secs_f64());
    let maps = measure(&synthesis);
    println!("{} frames in {:.3} s", synthesis.frame_count(), started.elapsed().as_secs_f64());
    let (directory, scan, detector) = (Path::new(&directory), scan as usize, detector as usize);
    let mut tiles = Vec::new();
    for map in [&maps.bright, &maps.dark] {
        tiles.push(enlarge(&grey(map), scan, 512 / scan.min(512)));
    }
    tiles.push(enlarge(&vectors(&maps.com), scan, 512 / scan.min(512)));
    let logarithm: Vec<f64> = maps.mean.iter().map(|v| (v + 1e-3).ln()).collect();
    tiles.push(enlarge(&grey(&logarithm), detector, 512 / detector.min(512)));
    let root: Vec<f64> = maps.single.iter().map(|v| v.sqrt()).collect();
    tiles.push(enlarge(&grey(&root), detector, 512 / detector.min(512)));
    for (name, (pixels, edge)) in ["bright", "dark", "com", "mean_log", "single_sqrt"].into_iter().zip(tiles) {
        let path = directory.join(format!("{specimen}_{name}.png"));
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        let mut encoder = png::Encoder::new(BufWriter::new(file), edge as u32, edge as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.write_header()?.write_image_data(&pixels)?;
    }
    Ok(())
}

fn measure(synthesis: &Synthesis) -> Maps {
    let edge = synthesis.plan().detector.width as usize;
    let mut counts = vec![0; edge * edge];
    let mut maps = Maps { bright: vec![], dark: vec![], com: vec![], mean: vec![0.0; edge * edge], single: vec![] };
    let centre = (edge as f64 - 1.0) / 2.0;
    for position in 0..synthesis.frame_count() {
        synthesis.draw(position, &mut counts);
        let (mut bright, mut dark, mut sum, mut sum_y, mut sum_x) = (0.0, 0.0, 1e-9, 0.0, 0.0);
        for (index, &count) in counts.iter().enumerate().filter(|&(_, &count)| count > 0) {
            let count = f64::from(count);
            let (y, x) = ((index / edge) as f64 - centre, (index % edge) as f64 - centre);
            let radii = y.hypot(x) / synthesis.disk_radius_px();
            bright += if radii < 1.0 { count } else { 0.0 };
            dark += if (1.7..2.9).contains(&radii) { count } else { 0.0 };
            sum += count;
            sum_y += count * y;
            sum_x += count * x;
            maps.mean[index] += count / synthesis.frame_count() as f64;
        }
        maps.bright.push(bright);
        maps.dark.push(dark);
        maps.com.push((sum_y / sum, sum_x / sum));
        if position == synthesis.frame_count() / 3 {
            maps.single = counts.iter().map(|&count| f64::from(count)).collect();
        }
    }
    maps
}

/// Grey levels between the 0.2nd and 99.8th percentile.
fn grey(values: &[f64]) -> Vec<[u8; 3]> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let low = sorted[sorted.len() / 500];
    let high = sorted[sorted.len() - 1 - sorted.len() / 500];
    let level = |value: f64| ((value - low) / (high - low).max(1e-9) * 255.0).clamp(0.0, 255.0) as u8;
    values.iter().map(|&value| [level(value); 3]).collect()
}

/// Direction as hue, length as brightness.
fn vectors(values: &[(f64, f64)]) -> Vec<[u8; 3]> {
    let mut lengths: Vec<f64> = values.iter().map(|v| v.0.hypot(v.1)).collect();
    lengths.sort_by(f64::total_cmp);
    let longest = lengths[lengths.len() - 1 - lengths.len() / 200].max(1e-9);
    let colour = |&(y, x): &(f64, f64)| {
        let value = (y.hypot(x) / longest).min(1.0);
        let angle = y.atan2(x);
        let channel = |turn: f64| (255.0 * value * (0.5 + 0.5 * (angle - turn).cos())) as u8;
        [channel(0.0), channel(2.094), channel(4.189)]
    };
    values.iter().map(colour).collect()
}

fn enlarge(pixels: &[[u8; 3]], edge: usize, factor: usize) -> (Vec<u8>, usize) {
    let size = edge * factor;
    let at = |index: usize| pixels[index / size / factor * edge + index % size / factor];
    ((0..size * size).flat_map(at).collect(), size)
}
