//! Values to colours: limits by percentile, colour maps, components of vector images. For looking only, never for data.
//!
//! # Units
//! A value becomes a fraction `0..=1` between two limits, the fraction an 8-bit sRGB colour. A value that was not
//! measured (NaN) has no colour: whoever draws shows it as a hole, never as zero.

use super::message::ImageHeader;

/// Fractions of the finite values that lie below the lower and the upper limit.
const PERCENTILES: (f64, f64) = (0.01, 0.99);

/// How a fraction becomes a colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ColourMap {
    /// Black to white.
    #[default]
    Gray,
    /// Dark blue over green to yellow: equal steps look equal, also to the colour-blind.
    Viridis,
    /// A closed wheel, for angles: 0 and 1 are the same colour.
    Cyclic,
}

/// Coefficients of a polynomial of degree 6 in the fraction, lowest first, for red, green and blue: within 0.02 of
/// the viridis table.
const VIRIDIS: [[f64; 7]; 3] = [
    [0.277_727, 0.105_093, -0.330_862, -4.634_230, 6.228_270, 4.776_385, -5.435_456],
    [0.005_407, 1.404_614, 0.214_848, -5.799_101, 14.179_933, -13.745_145, 4.645_853],
    [0.334_100, 1.384_590, 0.095_095, -19.332_441, 56.690_553, -65.353_033, 26.312_435],
];

impl ColourMap {
    /// Names that `parse` understands.
    pub const NAMES: &'static str = "gray, viridis, cyclic";

    /// A map by its name.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "gray" | "grey" => Some(Self::Gray),
            "viridis" => Some(Self::Viridis),
            "cyclic" => Some(Self::Cyclic),
            _ => None,
        }
    }

    /// Red, green and blue of a fraction; fractions outside `0..=1` get the nearest colour.
    pub fn rgb(self, fraction: f64) -> [u8; 3] {
        let t = fraction.clamp(0.0, 1.0);
        let channel = |value: f64| (value.clamp(0.0, 1.0) * 255.0).round() as u8;
        match self {
            Self::Gray => [channel(t); 3],
            Self::Viridis => VIRIDIS.map(|c| channel(c.iter().rev().fold(0.0, |sum, factor| sum * t + factor))),
            Self::Cyclic => {
                [0.0, 1.0, 2.0].map(|third| channel(0.5 + 0.4 * (std::f64::consts::TAU * (t - third / 3.0)).cos()))
            }
        }
    }
}

/// How values are stretched between the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stretch {
    /// As they are.
    #[default]
    Linear,
    /// Square root: shows weak beside strong.
    Sqrt,
    /// Logarithm of 1 + value above the lower limit.
    Log,
}

impl Stretch {
    /// Names that `parse` understands.
    pub const NAMES: &'static str = "linear, sqrt, log";

    /// A stretch by its name.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "linear" => Some(Self::Linear),
            "sqrt" => Some(Self::Sqrt),
            "log" => Some(Self::Log),
            _ => None,
        }
    }
}

/// Part of a vector image whose last axis is `(y, x)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Component {
    /// First component.
    Y,
    /// Second component.
    X,
    /// Length of the vector, measured from the mean of all.
    #[default]
    Magnitude,
    /// Its direction, `atan2(y, x)` in radians, clockwise on screen, measured from the mean of all.
    Angle,
}

impl Component {
    /// Names that `parse` understands.
    pub const NAMES: &'static str = "y, x, magnitude, angle";

    /// A component by its name.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "y" => Some(Self::Y),
            "x" => Some(Self::X),
            "magnitude" => Some(Self::Magnitude),
            "angle" => Some(Self::Angle),
            _ => None,
        }
    }

    /// What a vector is measured from: its mean over all measured positions where length or direction are asked for,
    /// since the centre of mass of an undeflected beam is anywhere; otherwise nothing.
    fn origin(self, pairs: &[[f64; 2]]) -> [f64; 2] {
        if matches!(self, Self::Y | Self::X) {
            return [0.0; 2];
        }
        let measured = pairs.iter().filter(|[y, x]| y.is_finite() && x.is_finite());
        let (count, sum) = measured.fold((0.0, [0.0; 2]), |(count, [sy, sx]), [y, x]| (count + 1.0, [sy + y, sx + x]));
        sum.map(|sum| sum / f64::max(count, 1.0))
    }

    fn of(self, [y, x]: [f64; 2]) -> f64 {
        match self {
            Self::Y => y,
            Self::X => x,
            Self::Magnitude => y.hypot(x),
            Self::Angle => y.atan2(x),
        }
    }
}

/// An image with one value per pixel, C order.
#[derive(Debug, Clone, PartialEq)]
pub struct Plane {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// `height * width` values; NaN = not measured.
    pub values: Vec<f64>,
}

/// Whether the image has a last axis of `(y, x)` components.
pub fn is_vector(image: &ImageHeader) -> bool {
    let last_axis = image.axes.last().is_some_and(|axis| axis.name == "component");
    last_axis && image.axes.len() > 1 && image.full_shape.last() == Some(&2)
}

impl Plane {
    /// One plane of a whole image; a line becomes one row. `None` when it is not flat even after choosing a component.
    pub fn of(image: &ImageHeader, values: Vec<f64>, component: Component) -> Option<Self> {
        let (shape, values) = if is_vector(image) {
            let (pairs, _) = values.as_chunks::<2>();
            let origin = component.origin(pairs);
            let values = pairs.iter().map(|&[y, x]| component.of([y - origin[0], x - origin[1]])).collect();
            (&image.full_shape[..image.full_shape.len() - 1], values)
        } else {
            (&image.full_shape[..], values)
        };
        let (height, width) = match *shape {
            [width] => (1, width),
            [height, width] => (height, width),
            _ => return None,
        };
        (height.checked_mul(width)? == values.len()).then_some(Self { height, width, values })
    }

    /// Lower and upper limit: the 1st and 99th percentile of the finite values; `None` when there are none.
    pub fn limits(&self) -> Option<(f64, f64)> {
        let mut finite: Vec<f64> = self.values.iter().copied().filter(|value| value.is_finite()).collect();
        let last = finite.len().checked_sub(1)?;
        let mut at =
            |part: f64| *finite.select_nth_unstable_by((last as f64 * part).round() as usize, f64::total_cmp).1;
        Some((at(PERCENTILES.0), at(PERCENTILES.1)))
    }

    /// Every value as a fraction between the limits; `None` where nothing was measured.
    pub fn fractions(&self, limits: (f64, f64), stretch: Stretch) -> impl Iterator<Item = Option<f64>> + '_ {
        let (low, high) = limits;
        let span = high - low;
        let fraction = move |value: f64| match stretch {
            _ if span <= 0.0 => 0.5,
            Stretch::Linear => (value - low) / span,
            Stretch::Sqrt => ((value - low).max(0.0) / span).sqrt(),
            Stretch::Log => (value - low).max(0.0).ln_1p() / span.ln_1p(),
        };
        self.values.iter().map(move |&value| value.is_finite().then(|| fraction(value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::testing::{FakePicture, acquisition};

    /// The polynomial meets the published ends and middle of viridis, and the wheel closes.
    #[test]
    fn maps_have_their_colours() {
        for (fraction, wanted) in [(0.0, [68, 1, 84]), (0.5, [33, 145, 140]), (1.0, [253, 231, 37])] {
            let rgb = ColourMap::Viridis.rgb(fraction);
            assert!(rgb.iter().zip(wanted).all(|(&a, b): (&u8, u8)| a.abs_diff(b) <= 6), "{fraction}: {rgb:?}");
        }
        assert_eq!(ColourMap::Cyclic.rgb(0.0), ColourMap::Cyclic.rgb(1.0));
        assert_ne!(ColourMap::Cyclic.rgb(0.0), ColourMap::Cyclic.rgb(0.5));
        assert_eq!(ColourMap::Gray.rgb(7.0), [255; 3]);
        assert_eq!(ColourMap::Gray.rgb(f64::NEG_INFINITY), [0; 3]);
    }

    /// Limits leave out the extremes and NaN; fractions have holes where nothing was measured.
    #[test]
    fn limits_are_percentiles() {
        let mut values: Vec<f64> = (0..=1000).rev().map(f64::from).collect();
        values[500] = f64::NAN;
        let plane = Plane { height: 7, width: 143, values };
        let (low, high) = plane.limits().expect("finite values");
        assert_eq!((low, high), (10.0, 990.0));
        let fractions: Vec<Option<f64>> = plane.fractions((low, high), Stretch::Linear).collect();
        assert_eq!((fractions[990], fractions[10], fractions[500]), (Some(0.0), Some(1.0), None));
        let empty = Plane { height: 1, width: 1, values: vec![f64::NAN] };
        assert_eq!(empty.limits(), None);
        let flat = Plane { height: 1, width: 1, values: vec![3.0] };
        assert_eq!(flat.fractions((3.0, 3.0), Stretch::Log).next(), Some(Some(0.5)));
    }

    /// A vector image gives four planes, a plain one itself, a line one row.
    #[test]
    fn planes_of_vectors() {
        let mut com = FakePicture::new("com", &[1, 3, 2]);
        com.values = vec![13.0, 24.0, f64::NAN, f64::NAN, 7.0, 16.0]; // The mean is (10, 20).
        let acquisition = acquisition(1, vec![com, FakePicture::new("line", &[5])]);
        let message = crate::live::snapshot(&acquisition, "com").expect("com");
        let image = message.header.image.expect("image");
        for (component, value) in [("y", 13.0), ("x", 24.0), ("magnitude", 5.0), ("angle", 3_f64.atan2(4.0))] {
            let component = Component::parse(component).expect("known");
            let plane = Plane::of(&image, message.values.clone().expect("values"), component).expect("flat");
            assert_eq!((plane.height, plane.width, plane.values[0]), (1, 3, value));
            assert!(plane.values[1].is_nan());
        }
        let message = crate::live::snapshot(&acquisition, "line").expect("line");
        let line = Plane::of(&message.header.image.expect("image"), message.values.expect("values"), Component::Y);
        assert_eq!(line.map(|plane| (plane.height, plane.width)), Some((1, 5)));
    }
}
