//! Answers: refusals as JSON, images as bytes that are counted until the client has them.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::live::{ColourMap, Plane, Stretch};

/// A request that is not served: `{"status": 404, "error": "..."}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) error: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "status": self.status.as_u16(), "error": self.error });
        (self.status, Json(body)).into_response()
    }
}

/// Bytes under way to all clients together.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    bytes: Arc<Semaphore>,
    total: u32,
}

impl Budget {
    pub(super) fn new(total: u32) -> Self {
        Self { bytes: Arc::new(Semaphore::new(total as usize)), total }
    }

    /// Makes a room at least so large; `false` when there is no more. One of everything is as large as any.
    pub(super) fn grow(&self, room: &mut OwnedSemaphorePermit, bytes: usize) -> bool {
        let more = bytes.min(self.total as usize).saturating_sub(room.num_permits());
        self.take(more).map(|more| room.merge(more)).is_ok()
    }

    /// Room for an answer of about this size; an answer larger than everything takes everything.
    pub(super) fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let wanted = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.total);
        Arc::clone(&self.bytes).try_acquire_many_owned(wanted).map_err(|_| {
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "too many images are being sent to slow clients: try again")
        })
    }
}

/// Bytes that give their room back when hyper has sent or dropped them.
struct Held {
    bytes: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// An answer that holds its room until it is sent.
pub(super) fn held(bytes: Vec<u8>, content_type: &'static str, room: OwnedSemaphorePermit) -> Response {
    let body = Body::from(Bytes::from_owner(Held { bytes, _room: room }));
    ([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))], body).into_response()
}

/// An image as PNG: colours between the limits; where nothing was measured it is transparent with a grey hatch.
pub(super) fn png(
    plane: &Plane,
    limits: (f64, f64),
    map: ColourMap,
    stretch: Stretch,
) -> Result<Vec<u8>, png::EncodingError> {
    let mut pixels = Vec::with_capacity(plane.values.len() * 4);
    for (index, fraction) in plane.fractions(limits, stretch).enumerate() {
        let (y, x) = (index / plane.width, index % plane.width);
        let rgba = match fraction.map(|fraction| map.rgb(fraction)) {
            Some([red, green, blue]) => [red, green, blue, 255],
            None if (y + x).is_multiple_of(4) => [128, 128, 128, 255],
            None => [0; 4],
        };
        pixels.extend_from_slice(&rgba);
    }
    let extent = |n: usize| u32::try_from(n).unwrap_or(u32::MAX); // Refused by the encoder below.
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, extent(plane.width), extent(plane.height));
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    encoder.write_header()?.write_image_data(&pixels)?;
    Ok(file)
}
