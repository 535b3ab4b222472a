//! A live image in half blocks and 24-bit colour: every character cell shows two pixels, one above the other.

use std::fmt::Write;

use anyhow::{Context, Result};
use ronchi_sinks::live::{ColourMap, Component, Plane, Stretch, unframe};

/// Where nothing was measured.
const HOLE: [u8; 3] = [40, 44, 50];
const HOLE_HATCH: [u8; 3] = [70, 74, 80];

/// Draws an image, framed as the receiver answers it, into at most `(rows, columns)` character cells.
pub(super) fn draw(framed: &[u8], (rows, columns): (usize, usize)) -> Result<String> {
    let (header, blob) = unframe(framed).context("the answer is cut short")?;
    let image = header.image.context("the answer is not an image")?;
    let values = image.dtype.decode(blob);
    let plane = Plane::of(&image, values, Component::Magnitude).context("it is not flat")?;
    Ok(cells(&scaled(&plane, (2 * rows, columns))))
}

/// The image in at most `height * width` pixels of equal aspect: means over what is measured of each source rectangle
/// when it shrinks; it never grows beyond whole multiples.
fn scaled(plane: &Plane, (height, width): (usize, usize)) -> Plane {
    if plane.values.is_empty() || height == 0 || width == 0 {
        return Plane { height: 0, width: 0, values: Vec::new() };
    }
    let shrink = (plane.height as f64 / height as f64).max(plane.width as f64 / width as f64);
    let factor = if shrink > 1.0 { shrink } else { 1.0 / (1.0 / shrink).floor() };
    let extent = |source: usize, most: usize| ((source as f64 / factor).round() as usize).clamp(1, most);
    let (new_height, new_width) = (extent(plane.height, height), extent(plane.width, width));
    let range = |i: usize, new: usize, old: usize| {
        let start = i * old / new;
        start..((i + 1) * old / new).max(start + 1)
    };
    let mut values = Vec::with_capacity(new_height * new_width);
    for y in 0..new_height {
        for x in 0..new_width {
            let columns = range(x, new_width, plane.width);
            let (mut sum, mut count) = (0.0, 0_u32);
            for row in range(y, new_height, plane.height) {
                for value in &plane.values[row * plane.width..][columns.clone()] {
                    if value.is_finite() {
                        sum += value;
                        count += 1;
                    }
                }
            }
            values.push(if count == 0 { f64::NAN } else { sum / f64::from(count) });
        }
    }
    Plane { height: new_height, width: new_width, values }
}

fn cells(plane: &Plane) -> String {
    let limits = plane.limits().unwrap_or((0.0, 1.0));
    let colours: Vec<[u8; 3]> = plane
        .fractions(limits, Stretch::Linear)
        .enumerate()
        .map(|(index, fraction)| match fraction {
            Some(fraction) => ColourMap::Viridis.rgb(fraction),
            None if (index / plane.width + index % plane.width).is_multiple_of(4) => HOLE_HATCH,
            None => HOLE,
        })
        .collect();
    let mut out = String::new();
    for y in (0..plane.height).step_by(2) {
        for x in 0..plane.width {
            let [r, g, b] = colours[y * plane.width + x];
            let _ = write!(out, "\x1b[38;2;{r};{g};{b}m"); // Writing to a String cannot fail.
            if let Some([r, g, b]) = colours.get((y + 1) * plane.width + x) {
                let _ = write!(out, "\x1b[48;2;{r};{g};{b}m");
            }
            out.push('\u{2580}');
        }
        out.push_str("\x1b[0m\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plane(height: usize, width: usize) -> Plane {
        Plane { height, width, values: (0..height * width).map(|i| i as f64).collect() }
    }

    /// Shrinking takes means and keeps the aspect, growing takes whole multiples, and holes stay holes.
    #[test]
    fn images_fit_their_room() {
        let small = scaled(&plane(4, 8), (40, 4));
        assert_eq!((small.height, small.width), (2, 4));
        assert_eq!(small.values[0], (0.0 + 1.0 + 8.0 + 9.0) / 4.0);
        let large = scaled(&plane(4, 8), (13, 80));
        assert_eq!((large.height, large.width), (12, 24));
        assert_eq!(large.values[24 * 3 + 3], 9.0);
        let mut holes = plane(4, 4);
        holes.values[..8].fill(f64::NAN);
        let holes = scaled(&holes, (2, 2));
        assert!(holes.values[0].is_nan() && holes.values[2] == 10.5);
        assert_eq!(scaled(&plane(4, 4), (0, 9)).values.len(), 0);
        for height in 1..20 {
            let odd = scaled(&plane(height, 7), (9, 5));
            assert!(odd.height <= 9 && odd.width <= 5 && odd.values.len() == odd.height * odd.width);
        }
    }

    /// Every line ends by giving the colours back, and an odd last row has no lower half.
    #[test]
    fn cells_reset_their_colours() {
        let text = cells(&plane(3, 2));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|line| line.ends_with("\x1b[0m") && line.matches('\u{2580}').count() == 2));
        assert!(lines[0].contains("\x1b[48;2;") && !lines[1].contains("\x1b[48;2;"));
    }
}
