//! `/api/v1/openapi.json`: the whole API for programs. The document is written by hand; a test asks for every route and
//! method of it, and of the router.

use axum::http::header;
use axum::response::{IntoResponse, Response};

/// Where it is.
pub(super) const PATH: &str = "/api/v1/openapi.json";

/// OpenAPI 3.1.
pub(super) const DOCUMENT: &str = include_str!("openapi.json");

pub(super) async fn document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT).into_response()
}
