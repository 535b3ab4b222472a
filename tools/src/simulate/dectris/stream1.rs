//! Messages of STREAM, the older of both: JSON and pixels in parts.

use ronchi_pipeline::ByteOrder;
use serde_json::{Value, json};

use super::images::Compression;
use super::series::{Exposure, HeaderDetail, Series, SeriesId, appendix_text, count_rate_table};

/// Parts of a message.
pub(super) type Parts = Vec<zmq::Message>;

/// The start of a series; in two messages, as a simulator in the field sends it, when asked for.
pub(super) fn header(series: &Series, is_split: bool) -> Vec<Parts> {
    let (width, height) = (series.shape.width, series.shape.height);
    let detail = series.detail;
    let mut parts = vec![text(&json!({
        "htype": "dheader-1.0", "series": series.number, "header_detail": detail.name(),
    }))];
    if detail != HeaderDetail::None {
        parts.push(text(&Value::Object(series.configuration.clone())));
    }
    if detail == HeaderDetail::All {
        let pixels = u64::from(width) * u64::from(height);
        let flat: Vec<u8> = (0..pixels).flat_map(|_| 1_f32.to_le_bytes()).collect();
        let mask = vec![0; flat.len()];
        let table: Vec<u8> = count_rate_table().flatten().flat_map(f32::to_le_bytes).collect();
        for (kind, shape, of, bytes) in [
            ("dflatfield-1.0", [width as usize, height as usize], "float32", flat),
            ("dpixelmask-1.0", [width as usize, height as usize], "uint32", mask),
            ("dcountrate_table-1.0", [2, count_rate_table().len()], "float32", table),
        ] {
            parts.push(text(&json!({ "htype": kind, "shape": shape, "type": of })));
            parts.push(bytes.into());
        }
    }
    parts.extend(appendix_text(&series.header_appendix).map(|appendix| appendix.as_str().into()));
    if is_split && parts.len() > 1 {
        let rest = parts.split_off(1);
        return vec![parts, rest];
    }
    vec![parts]
}

/// An image.
pub(super) fn image(series: &Series, exposure: &Exposure<'_>) -> Parts {
    let &Exposure { id, frame, start_ns, count_ns, image } = exposure;
    let payload = image.single();
    let (width, height) = (series.shape.width, series.shape.height);
    let form = &series.form;
    let bits = 8 * form.dtype.bytes();
    let order = if image.order == ByteOrder::Little { '<' } else { '>' };
    let encoding = match form.compression {
        Compression::None => String::new(),
        Compression::Lz4 => "lz4".to_owned(),
        Compression::Bslz4 => format!("bs{bits}-lz4"),
    };
    let stop_ns = start_ns + count_ns;
    // Written by hand: a tree of values would cost more than the pixels of a small image.
    let mut parts: Parts = Vec::with_capacity(5);
    parts.push(
        format!(r#"{{"htype":"dimage-1.0","series":{},"frame":{frame},"hash":"{}"}}"#, id.number, image.hash)
            .as_str()
            .into(),
    );
    parts.push(
        format!(
            r#"{{"htype":"dimage_d-1.0","shape":[{width},{height}],"type":"{}","encoding":"{encoding}{order}","size":{}}}"#,
            form.dtype.name(),
            payload.len()
        )
        .as_str()
        .into(),
    );
    parts.push(payload.into());
    parts.push(
        format!(r#"{{"htype":"dconfig-1.0","start_time":{start_ns},"stop_time":{stop_ns},"real_time":{count_ns}}}"#)
            .as_str()
            .into(),
    );
    parts.extend(appendix_text(&series.image_appendix).map(|appendix| appendix.as_str().into()));
    parts
}

/// The end of a series.
pub(super) fn end(id: SeriesId<'_>) -> Parts {
    vec![text(&json!({ "htype": "dseries_end-1.0", "series": id.number }))]
}

fn text(value: &Value) -> zmq::Message {
    value.to_string().as_str().into()
}
