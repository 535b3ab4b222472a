//! A plain page that lists what there is; no scripts, reloaded by the browser every two seconds.

use std::fmt::Write;

use crate::live::{AcquisitionStatus, Status};

pub(super) const STYLE: &str = "\
body { background: #101214; color: #e6e8eb; font: 13px/1.5 system-ui, sans-serif; margin: 16px; }
a { color: #5ab0f6; }
figure { display: inline-block; margin: 0 16px 16px 0; }
img { display: block; width: 256px; image-rendering: pixelated; background: #181b1f; border: 1px solid #2a2f36; }
figcaption, p, td { color: #9aa3ad; font-variant-numeric: tabular-nums; }
";

/// Text with nothing in it that HTML would take for markup.
fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
        out
    })
}

/// Text for a path segment of a URL.
fn segment(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}"); // Writing to a String cannot fail.
        }
        out
    })
}

/// The page.
pub(super) fn index(status: &Status) -> String {
    let acquisitions: String = status.acquisitions.iter().map(acquisition).collect();
    let acquisitions = if acquisitions.is_empty() {
        "<p>No acquisition yet: start the detector, or a simulated one with <code>ronchi simulate</code>.</p>\n"
            .to_owned()
    } else {
        acquisitions
    };
    let frames: u64 = status.links.iter().map(|link| link.counter("frames")).sum();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"2\">\
         <title>ronchi</title><link rel=\"stylesheet\" href=\"/style.css\"></head>\n<body>\n<h1>ronchi {version}</h1>\n\
         <p>{frames} frames received. <a href=\"/api/v1/status\">status</a> - <a href=\"/metrics\">metrics</a></p>\n\
         {acquisitions}</body>\n</html>\n",
        version = escape(&status.version),
    )
}

fn acquisition(acquisition: &AcquisitionStatus) -> String {
    let total = acquisition.frame_count.map_or("open-ended".to_owned(), |count| format!("of {count}"));
    let recording = if acquisition.recording { "recording" } else { "not recording" };
    // Reasons are counted at the end; what the disk refuses is missing at once.
    let lost = acquisition.gaps.values().sum::<u64>().max(acquisition.missing);
    let mut out = format!(
        "<h2>{name}</h2>\n<p>{state}, {recording}; {visible} frames visible ({total}), {durable} durable, {lost} missing\
         </p>\n",
        name = escape(&acquisition.name),
        state = acquisition.state.word(),
        visible = acquisition.visible,
        durable = acquisition.durable_count,
    );
    for result in acquisition.results.iter().filter(|result| result.axes.len() <= 3) {
        let link = format!("/api/v1/acq/{}/result/{}", segment(&acquisition.id), segment(&result.name));
        let name = escape(&result.name);
        let _ = writeln!(
            out,
            "<figure><a href=\"{link}.png?map=viridis\"><img src=\"{link}.png?map=viridis\" alt=\"{name}\"></a>\
             <figcaption>{name} - <a href=\"{link}.npy\">npy</a></figcaption></figure>",
        ); // Writing to a String cannot fail.
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names cannot break out of text, attributes or links.
    #[test]
    fn names_are_escaped() {
        assert_eq!(escape("<a href='x'>&\""), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;");
        assert_eq!(segment("../a b?\"ü"), "..%2Fa%20b%3F%22%C3%BC");
    }
}
