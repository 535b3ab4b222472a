//! Any bytes as a header of the tile stream; what is read can be written in both forms and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ronchi_ingest::tiles::{BEGIN_BYTES_MAX, Header, SERIES_BYTES_MAX, parse_header};

fuzz_target!(|bytes: &[u8]| {
    let header = match parse_header(bytes) {
        Ok(header) => header,
        // Messages go into logs: they repeat at most a piece of what came.
        Err(error) => return assert!(error.to_string().len() < 1000),
    };
    let series = match &header {
        Header::Begin(begin) => &begin.series,
        Header::Tile(tile) => &tile.series,
        Header::End(end) => &end.series,
    };
    assert!((1..=SERIES_BYTES_MAX).contains(&series.len()));
    for again in [header.to_json(), header.to_cbor()] {
        // Escapes may make metadata longer than a header may be.
        if again.len() <= BEGIN_BYTES_MAX {
            assert_eq!(parse_header(&again).as_ref(), Ok(&header));
        }
    }
});
