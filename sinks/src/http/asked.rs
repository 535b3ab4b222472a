//! Bodies of requests: JSON, and nothing else.
//!
//! # Limits
//! [`BODY_BYTES_MAX`] bytes within [`BODY_TIME_MAX`], nested [`DEPTH_MAX`] deep: looked at before anything is parsed.

use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;

use super::answer::Refusal;

/// Longest body.
pub(super) const BODY_BYTES_MAX: usize = 64 << 10;
/// Longest time for a body to come.
const BODY_TIME_MAX: Duration = Duration::from_secs(30);
/// Deepest nesting.
const DEPTH_MAX: usize = 32;

/// What a client asks for, from the body of its request.
///
/// A page from elsewhere cannot send it: JSON needs its consent asked first, which nothing here answers.
pub(super) struct Asked<T>(pub(super) T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Asked<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        if !is_json(request.headers()) {
            let error = "the body must be JSON, with content-type: application/json";
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error));
        }
        let late = |_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time");
        let broken = |_| Refusal::new(StatusCode::BAD_REQUEST, "the body did not come whole");
        let body = tokio::time::timeout(BODY_TIME_MAX, to_bytes(request.into_body(), BODY_BYTES_MAX));
        let body = body.await.map_err(late)?.map_err(broken)?;
        if depth(&body) > DEPTH_MAX {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, format!("JSON nested deeper than {DEPTH_MAX}")));
        }
        serde_json::from_slice(&body).map(Self).map_err(|error| {
            let fits = if error.is_data() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::BAD_REQUEST };
            Refusal::new(fits, format!("the body: {error}"))
        })
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// Most brackets that are open at once, those in strings not counted.
fn depth(text: &[u8]) -> usize {
    let (mut open, mut most, mut in_string, mut is_escaped) = (0_usize, 0, false, false);
    for byte in text {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => open += 1,
            b']' | b'}' if !in_string => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The depth of a tree, by its definition.
    fn depth_of(value: &serde_json::Value) -> usize {
        match value {
            serde_json::Value::Array(items) => 1 + items.iter().map(depth_of).max().unwrap_or(0),
            serde_json::Value::Object(items) => 1 + items.values().map(depth_of).max().unwrap_or(0),
            _ => 0,
        }
    }

    fn tree() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![Just(serde_json::Value::Null), "[\\[\\]{}\"\\\\a]{0,6}".prop_map(Into::into)];
        leaf.prop_recursive(6, 40, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::hash_map("[\\[{\"]{0,3}", inner, 0..4)
                    .prop_map(|items| serde_json::Value::Object(items.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Brackets in strings and escapes do not count.
        #[test]
        fn nesting_is_that_of_the_tree(tree in tree()) {
            prop_assert_eq!(depth(tree.to_string().as_bytes()), depth_of(&tree));
        }
    }
}
