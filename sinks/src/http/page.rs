//! The page, as `web/` builds it: in the binary, so that nothing needs to be installed or fetched.

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::answer::Refusal;

macro_rules! built {
    ($name:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../web/dist/", $name))
    };
}

/// What `web/` builds: name, content type, bytes. Names do not change, and nothing is cached.
const FILES: [(&str, &str, &[u8]); 4] = [
    ("index.html", "text/html; charset=utf-8", built!("index.html")),
    ("app.js", "text/javascript; charset=utf-8", built!("app.js")),
    ("app.css", "text/css; charset=utf-8", built!("app.css")),
    ("icon.svg", "image/svg+xml", built!("icon.svg")),
];

/// The page itself.
pub(super) async fn index() -> Result<Response, Refusal> {
    file(Path("index.html".to_owned())).await
}

/// What the page is made of.
pub(super) async fn file(Path(name): Path<String>) -> Result<Response, Refusal> {
    let found = FILES.iter().find(|(known, ..)| *known == name);
    let (_, content_type, bytes) =
        found.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "the page has no such part"))?;
    Ok(([(header::CONTENT_TYPE, *content_type)], *bytes).into_response())
}
