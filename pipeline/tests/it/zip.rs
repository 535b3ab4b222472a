//! Just enough of zip to read `.npz` files in tests.

use std::collections::BTreeMap;
use std::io::Read;

fn number(bytes: &[u8], at: usize, count: usize) -> usize {
    bytes[at..at + count].iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte))
}

/// All members by name; panics on anything odd.
pub(crate) fn members(file: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let end = file.windows(4).rposition(|bytes| bytes == b"PK\x05\x06").expect("end of central directory");
    let mut entry = number(file, end + 16, 4);
    let mut members = BTreeMap::new();
    for _ in 0..number(file, end + 10, 2) {
        assert_eq!(&file[entry..entry + 4], b"PK\x01\x02");
        let [method, packed, name, extra, comment, local] =
            [(10, 2), (20, 4), (28, 2), (30, 2), (32, 2), (42, 4)].map(|(at, count)| number(file, entry + at, count));
        let key = String::from_utf8(file[entry + 46..entry + 46 + name].to_vec()).expect("a name");
        let start = local + 30 + number(file, local + 26, 2) + number(file, local + 28, 2);
        let data = &file[start..start + packed];
        let mut bytes = Vec::new();
        match method {
            0 => bytes.extend_from_slice(data),
            8 => drop(flate2::read::DeflateDecoder::new(data).read_to_end(&mut bytes).expect("deflated")),
            other => panic!("compression method {other}"),
        }
        members.insert(key, bytes);
        entry += 46 + name + extra + comment;
    }
    members
}
