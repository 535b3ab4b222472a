//! Vector fields over a scan: orientation, regression, derivatives, integration.
//!
//! # Units
//! Vectors `(y, x)` in detector pixels; derivatives per scan pixel; NaN where nothing was measured.

use nalgebra::{Matrix3, Vector3};
use rustfft::num_complex::Complex64;
use rustfft::{FftDirection, FftPlanner};

use super::parts::Orientation;

/// One vector per scan position, `[ny, nx]`, C order.
#[derive(Debug, Clone)]
pub(super) struct Field {
    height: usize,
    width: usize,
    y: Vec<f64>,
    x: Vec<f64>,
}

/// How a phase is made of its gradient.
#[derive(Debug, Clone, Copy)]
pub(super) struct Integration {
    /// Gradient per unit of the field.
    pub(super) scale: f64,
    pub(super) mirror: bool,
    /// Cycles per pixel.
    pub(super) high_pass: f64,
}

impl Field {
    /// Centres of mass (y, x, y, x, ...) minus the centre.
    pub(super) fn of_com(com: &[f64], [height, width]: [usize; 2], centre: [f64; 2]) -> Self {
        let component = |which: usize| com.iter().skip(which).step_by(2).map(|&value| value - centre[which]).collect();
        Self { height, width, y: component(0), x: component(1) }
    }

    /// Flipped and turned into the axes of the scan.
    pub(super) fn turned(mut self, orientation: Orientation) -> Self {
        for (y, x) in self.y.iter_mut().zip(&mut self.x) {
            [*y, *x] = orientation.turn([*y, *x]);
        }
        self
    }

    /// Minus its mean (order 0) or its plane (order 1).
    pub(super) fn flattened(mut self, order: Option<u8>) -> Self {
        let [constant, per_row, per_column] = self.regression(order);
        for index in 0..self.y.len() {
            let (row, column) = ((index / self.width) as f64, (index % self.width) as f64);
            self.y[index] -= constant[0] + row * per_row[0] + column * per_column[0];
            self.x[index] -= constant[1] + row * per_row[1] + column * per_column[1];
        }
        self
    }

    /// Coefficients of 1, row and column, each `(y, x)`: least squares over measured positions. A slope that the
    /// positions do not determine is 0.
    pub(super) fn regression(&self, order: Option<u8>) -> [[f64; 2]; 3] {
        let mut none = [[0.0; 2]; 3];
        let measured: Vec<usize> =
            (0..self.y.len()).filter(|&at| self.y[at].is_finite() && self.x[at].is_finite()).collect();
        let Some(order) = order.filter(|_| !measured.is_empty()) else { return none };
        let count = measured.len() as f64;
        let mean = |of: &dyn Fn(usize) -> f64| measured.iter().map(|&at| of(at)).sum::<f64>() / count;
        let (row, column) = (|at: usize| (at / self.width) as f64, |at: usize| (at % self.width) as f64);
        let (mean_row, mean_column) = (mean(&row), mean(&column));
        let (mean_y, mean_x) = (mean(&|at| self.y[at]), mean(&|at| self.x[at]));
        none[0] = [mean_y, mean_x];
        if order == 0 {
            return none;
        }
        // About the means, which keeps the equations well conditioned.
        let mut normal = Matrix3::zeros();
        let mut sides = [Vector3::zeros(); 2];
        for &at in &measured {
            let basis = Vector3::new(1.0, row(at) - mean_row, column(at) - mean_column);
            normal += basis * basis.transpose();
            sides[0] += basis * (self.y[at] - mean_y);
            sides[1] += basis * (self.x[at] - mean_x);
        }
        for axis in 1..3 {
            if normal[(axis, axis)] == 0.0 {
                normal[(axis, axis)] = 1.0; // One row or column: its slope stays 0.
            }
        }
        let Some(inverse) = normal.try_inverse() else { return none };
        let [y, x] = sides.map(|side| inverse * side);
        [
            [
                mean_y + y[0] - y[1] * mean_row - y[2] * mean_column,
                mean_x + x[0] - x[1] * mean_row - x[2] * mean_column,
            ],
            [y[1], x[1]],
            [y[2], x[2]],
        ]
    }

    /// (y, x, y, x, ...).
    pub(super) fn interleaved(&self) -> Vec<f64> {
        self.y.iter().zip(&self.x).flat_map(|(&y, &x)| [y, x]).collect()
    }

    /// Lengths.
    pub(super) fn magnitude(&self) -> Vec<f64> {
        self.y.iter().zip(&self.x).map(|(y, x)| y.hypot(*x)).collect()
    }

    /// `atan2(y, x)`.
    pub(super) fn direction(&self) -> Vec<f64> {
        self.y.iter().zip(&self.x).map(|(y, x)| y.atan2(*x)).collect()
    }

    /// `d y / d row + d x / d column`.
    pub(super) fn divergence(&self) -> Vec<f64> {
        add(&self.along_rows(&self.y), &self.along_columns(&self.x), 1.0)
    }

    /// `d y / d column - d x / d row`: LiberTEM's sign.
    pub(super) fn curl(&self) -> Vec<f64> {
        add(&self.along_columns(&self.y), &self.along_rows(&self.x), -1.0)
    }

    /// Derivative in steps of a row.
    fn along_rows(&self, of: &[f64]) -> Vec<f64> {
        let at = |row: usize, column: usize| of[row * self.width + column];
        let slope = |row, column| gradient(self.height, row, |row| at(row, column));
        (0..of.len()).map(|index| slope(index / self.width, index % self.width)).collect()
    }

    /// Derivative in steps of a column.
    fn along_columns(&self, of: &[f64]) -> Vec<f64> {
        let slope = |index: usize| {
            let row = &of[index / self.width * self.width..][..self.width];
            gradient(self.width, index % self.width, |column| row[column])
        };
        (0..of.len()).map(slope).collect()
    }

    /// Without and with a flip: the rotation in degrees (from -90 to 270) that leaves the least curl, and its root mean
    /// square, over all but the last row and column. A field turned by 180 degrees has the same curl: the half turn is
    /// taken for which divergences reach further below zero than above, as between atoms.
    pub(super) fn least_curl(&self) -> [[f64; 2]; 2] {
        [false, true].map(|flip_y| {
            let field = self.clone().turned(Orientation { flip_y, rotation_deg: 0.0 });
            let (curl, divergence) = (field.curl(), field.divergence());
            let inner = |index: &usize| {
                let (row, column) = (index / self.width, index % self.width);
                row + 1 < self.height && column + 1 < self.width && (curl[*index] + divergence[*index]).is_finite()
            };
            let inner: Vec<usize> = (0..curl.len()).filter(inner).collect();
            let mean = |of: &dyn Fn(usize) -> f64| inner.iter().map(|&at| of(at)).sum::<f64>() / inner.len() as f64;
            let aa = mean(&|at| curl[at] * curl[at]);
            let bb = mean(&|at| divergence[at] * divergence[at]);
            let ab = mean(&|at| curl[at] * divergence[at]);
            // curl(t) = a cos t + b sin t; its mean square is (aa + bb) / 2 + (aa - bb) / 2 cos 2t + ab sin 2t.
            let angle = 0.5 * (-ab).atan2(0.5 * (bb - aa));
            let (sin, cos) = angle.sin_cos();
            let square = aa * cos * cos + 2.0 * ab * sin * cos + bb * sin * sin;
            let turned = |at: usize| divergence[at] * cos - curl[at] * sin;
            let tails = inner.iter().map(|&at| turned(at).powi(3)).sum::<f64>();
            let half_turn = if tails > 0.0 { 180.0 } else { 0.0 };
            [angle.to_degrees() + half_turn, square.max(0.0).sqrt()]
        })
    }

    /// The phase with this gradient and mean 0: `PHI = -i (ky Gy + kx Gx) / (2 pi k^2)`, k in cycles per pixel. What was
    /// not measured has no gradient.
    pub(super) fn phase(&self, integration: Integration) -> Vec<f64> {
        let (height, width) = (self.height, self.width);
        let times = if integration.mirror { 2 } else { 1 };
        let (padded_height, padded_width) = (height * times, width * times);
        if padded_height * padded_width == 0 {
            return Vec::new();
        }
        let sample = |of: &[f64], row: usize, column: usize, odd_in_row: bool| {
            // Behind the end the scan runs backwards; what points across the mirror changes its sign.
            let (flipped_row, flipped_column) = (row >= height, column >= width);
            let row = if flipped_row { 2 * height - 1 - row } else { row };
            let column = if flipped_column { 2 * width - 1 - column } else { column };
            let value = of[row * width + column] * integration.scale;
            let turns = if odd_in_row { flipped_row } else { flipped_column };
            if value.is_nan() {
                0.0
            } else if turns {
                -value
            } else {
                value
            }
        };
        let padded = |of: &[f64], odd_in_row: bool| -> Vec<Complex64> {
            let at = |index: usize| sample(of, index / padded_width, index % padded_width, odd_in_row);
            (0..padded_height * padded_width).map(|index| Complex64::new(at(index), 0.0)).collect()
        };
        let (mut y, mut x) = (padded(&self.y, true), padded(&self.x, false));
        transform(&mut y, padded_width, FftDirection::Forward);
        transform(&mut x, padded_width, FftDirection::Forward);
        for index in 0..y.len() {
            let ky = frequency(index / padded_width, padded_height);
            let kx = frequency(index % padded_width, padded_width);
            let square = ky * ky + kx * kx;
            let cut = integration.high_pass * integration.high_pass;
            let weight = if square == 0.0 { 0.0 } else { 1.0 / (std::f64::consts::TAU * (square + cut)) };
            y[index] = Complex64::new(0.0, -weight) * (y[index] * ky + x[index] * kx);
        }
        transform(&mut y, padded_width, FftDirection::Inverse);
        let scale = 1.0 / y.len() as f64;
        let mut phase: Vec<f64> =
            (0..height * width).map(|index| y[index / width * padded_width + index % width].re * scale).collect();
        let mean = phase.iter().sum::<f64>() / phase.len() as f64;
        phase.iter_mut().for_each(|value| *value -= mean);
        phase
    }
}

fn add(a: &[f64], b: &[f64], sign: f64) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + sign * b).collect()
}

/// Central difference, one-sided at the ends; NaN on an axis of length 1.
fn gradient(length: usize, at: usize, value: impl Fn(usize) -> f64) -> f64 {
    match at {
        _ if length < 2 => f64::NAN,
        0 => value(1) - value(0),
        _ if at + 1 == length => value(at) - value(at - 1),
        _ => (value(at + 1) - value(at - 1)) / 2.0,
    }
}

/// Of a Fourier coefficient, in cycles per sample.
fn frequency(index: usize, count: usize) -> f64 {
    let signed = if index < count.div_ceil(2) { index as f64 } else { index as f64 - count as f64 };
    signed / count as f64
}

/// Two-dimensional transform in place, not normalised.
fn transform(values: &mut [Complex64], width: usize, direction: FftDirection) {
    let height = values.len() / width;
    let mut planner = FftPlanner::new();
    let rows = planner.plan_fft(width, direction);
    values.chunks_exact_mut(width).for_each(|row| rows.process(row));
    let columns = planner.plan_fft(height, direction);
    let mut column = vec![Complex64::default(); height];
    for x in 0..width {
        column.iter_mut().enumerate().for_each(|(y, value)| *value = values[y * width + x]);
        columns.process(&mut column);
        column.iter().enumerate().for_each(|(y, value)| values[y * width + x] = *value);
    }
}
