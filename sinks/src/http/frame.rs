//! `/api/v1/acq/<id>/frame/<which>`: one recorded frame, as a picture.
//!
//! # Place in the path
//! Reads the data set like any other reader, on a thread that may wait for the disk; nothing of it is kept.
//!
//! # Limits
//! [`PIXELS_MAX`] pixels; what it takes comes out of the budget of the server's answers.

use std::path::{Path, PathBuf};

use axum::http::StatusCode;
use ronchi_pipeline::{FrameFlag, FrameIndex, PixelKind, Scan, ScanPos};

use super::answer::Refusal;
use crate::live::{Acquisition, Axis, Header, ImageHeader, ImageRegion, Kind, Message, Precision, Quality, header};
use crate::storage::{Reader, StorageError};

/// Largest frame, in pixels.
const PIXELS_MAX: usize = 1 << 26;

/// Which frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// The newest that can be read.
    Latest,
    /// By its number.
    Number(FrameIndex),
    /// The first one of a scan position.
    At(ScanPos),
}

impl Which {
    /// `latest`, `4711`, or `17,42` (`y,x`).
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text == "latest" {
            return Some(Self::Latest);
        }
        match text.split_once(',') {
            Some((y, x)) => Some(Self::At(ScanPos { y: y.parse().ok()?, x: x.parse().ok()? })),
            None => text.parse().ok().map(Self::Number),
        }
    }
}

/// A frame to be read: what is known of it without touching the disk.
#[derive(Debug)]
pub(super) struct Wanted {
    path: PathBuf,
    which: Which,
    visible: FrameIndex,
    header: Header,
    /// Most bytes that the frame takes while it is answered.
    pub(super) bytes: usize,
}

fn not_found(error: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, error)
}

impl Wanted {
    /// This frame of an acquisition.
    pub(super) fn of(acquisition: &Acquisition, which: Which) -> Result<Self, Refusal> {
        let path = acquisition.path.clone().filter(|_| acquisition.recording);
        let path = path.ok_or_else(|| not_found("frames of this acquisition are not recorded"))?;
        let header = header(Kind::Array, acquisition, 0..0);
        // Stored pixels have a byte or more, a number takes 8; twice, and once more while it is encoded.
        let bytes = usize::try_from(acquisition.frame_bytes).unwrap_or(usize::MAX).saturating_mul(3 * size_of::<f64>());
        Ok(Self { path, which, visible: acquisition.visible(), header, bytes })
    }

    /// Reads it. Waits for the disk.
    pub(super) fn read(self) -> Result<Message, Refusal> {
        let reader = Reader::open(&self.path).map_err(|error| unreadable(&self.path, &error))?;
        let frame = self.index(&reader)?;
        let [height, width] = reader.manifest().detector.shape.map(|extent| extent as usize);
        let count = height.checked_mul(width).filter(|&count| count <= PIXELS_MAX);
        let count = count.ok_or_else(|| not_found(format!("a frame of more than {PIXELS_MAX} pixels")))?;
        let (values, precision) =
            numbers(&reader, frame, width, count).map_err(|error| unreadable(&self.path, &error))?;
        let mut header = self.header;
        (header.frame_from, header.frame_to) = (frame, frame + 1);
        header.image = Some(described([height, width], precision, &values));
        Ok(Message { topic: String::new(), header, values: Some(values) })
    }

    fn index(&self, reader: &Reader) -> Result<FrameIndex, Refusal> {
        let frame = match self.which {
            Which::Number(frame) => frame,
            Which::Latest => self.visible.checked_sub(1).ok_or_else(|| not_found("no frame can be read yet"))?,
            Which::At(position) => {
                let scan = reader.manifest().scan.map(Scan::from);
                let scan = scan.ok_or_else(|| not_found("the frames lie on no raster: ask for one by its number"))?;
                scan.first_frame(position).ok_or_else(|| not_found("no frame was taken at this position"))?
            }
        };
        if frame >= self.visible {
            return Err(not_found(format!("frame {frame} cannot be read yet: {} can", self.visible)));
        }
        Ok(frame)
    }
}

/// Says nothing of paths to the client; the log of the receiver does.
fn unreadable(path: &Path, error: &StorageError) -> Refusal {
    tracing::warn!(path = %path.display(), %error, "a frame that a viewer asked for cannot be read");
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the frame cannot be read: the receiver's log says why")
}

/// The whole detector, NaN where no tile of the frame is there; and how these numbers are sent without loss.
fn numbers(
    reader: &Reader,
    frame: FrameIndex,
    width: usize,
    count: usize,
) -> Result<(Vec<f64>, Precision), StorageError> {
    let mut values = vec![f64::NAN; count];
    let (mut bytes, mut precision) = (Vec::new(), Precision::Single);
    for tile in reader.tiles() {
        let flags = reader.flags(tile.id, frame..frame + 1)?;
        if flags.iter().any(|&flag| FrameFlag::from_row(flag) != FrameFlag::Ok) {
            continue;
        }
        reader.read_frames(tile.id, frame..frame + 1, &mut bytes)?;
        if tile.array.pixel.kind == PixelKind::U32 {
            precision = Precision::Double;
        }
        let pixels = tile.array.pixel.numbers(&bytes);
        let (first_y, first_x, row) = (tile.region.y as usize, tile.region.x as usize, tile.region.width as usize);
        for (y, part) in pixels.chunks_exact(row.max(1)).enumerate() {
            let start = (first_y + y) * width + first_x;
            if let Some(place) = values.get_mut(start..start + part.len()) {
                place.copy_from_slice(part); // Tiles lie within the detector: the manifest was checked.
            }
        }
    }
    Ok((values, precision))
}

fn described([height, width]: [usize; 2], precision: Precision, values: &[f64]) -> ImageHeader {
    let is_missing = values.iter().any(|value| value.is_nan());
    ImageHeader {
        dtype: precision,
        shape: vec![height, width],
        blob: 0,
        rows: vec![[0, height]],
        region: Some(ImageRegion { origin: vec![0, 0], shape: vec![height, width] }),
        full_shape: vec![height, width],
        axes: vec![Axis::pixels("sig_y"), Axis::pixels("sig_x")],
        fill: "nan".to_owned(),
        cfg: 0,
        quality: Quality { missing: u64::from(is_missing), dropped: 0 },
        params: serde_json::Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three ways to name a frame, and nothing else.
    #[test]
    fn which_frame() {
        let at = Which::At(ScanPos { y: 17, x: 4 });
        for (text, wanted) in [("latest", Some(Which::Latest)), ("0", Some(Which::Number(0))), ("17,4", Some(at))] {
            assert_eq!(Which::parse(text), wanted);
        }
        for text in ["", "-1", "1,2,3", "1,", ",1", "1.5", "newest", "18446744073709551616", "4294967296,0"] {
            assert_eq!(Which::parse(text), None, "{text}");
        }
    }

    /// What is not recorded, and what has not come yet, is refused without looking at a disk.
    #[test]
    fn frames_that_are_not_there() {
        let mut acquisition = crate::live::testing::acquisition(1, Vec::new());
        let error = Wanted::of(&acquisition, Which::Latest).expect_err("a preview");
        assert_eq!(error.status, StatusCode::NOT_FOUND);
        acquisition.recording = true;
        acquisition.path = Some("/nowhere.ronchi".into());
        let wanted = Wanted::of(&acquisition, Which::Number(3)).expect("recorded");
        assert_eq!(wanted.read().expect_err("nothing there").status, StatusCode::INTERNAL_SERVER_ERROR);
    }
}
