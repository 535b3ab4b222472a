//! Writes whole HDF5 files of metadata: groups, attributes, small arrays, and arrays whose elements lie elsewhere.
//!
//! # Place in the path
//! Companions and exports are built with it, in memory, from the leaves up: an object is written once everything that
//! it links to has its address. Pixels of an export follow behind the metadata and never pass through here.
//!
//! ```text
//! 0    48   superblock version 2
//! 48   ...  object headers (version 2), small arrays, one global heap per virtual array, one for all texts
//! ```
//!
//! # Limits
//! One attribute or link: 65 535 bytes. Texts of one file: 65 535.
//!
//! # Why this way
//! `docs/decisions/0010-own-hdf5-metadata-writer.md`. Section numbers are those of the HDF5 File Format
//! Specification, version 3.0; the order of bytes was compared with files of h5py 3.16.

use super::chunks;
use super::space::{Mapping, Slab, mapping_list};
use super::{UNDEFINED, lookup3, message};
use crate::format::u64_at;
use crate::{ByteOrder, PixelKind, PixelType};

/// Smallest global heap that the library reads.
const HEAP_BYTES_MIN: usize = 4096;
/// Arrays behind the metadata begin at a multiple of this.
const PAGE_BYTES: u64 = 4096;
const SUPERBLOCK_BYTES: usize = 48;
/// Where the superblock has the address of the root group.
const ROOT_PLACE: usize = 36;

/// Address of an object of the file being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Object(u64);

/// Content of an attribute or of a small array.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// One text.
    Text(String),
    /// A list of texts.
    Texts(Vec<String>),
    /// One number.
    Int(i64),
    /// One number.
    Float(f64),
    /// Yes or no, as h5py stores it: an enumeration of one byte.
    Bool(bool),
    /// A list of numbers.
    Floats(Vec<f64>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// Type of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// A pixel, in either byte order.
    Pixel(PixelType),
    /// Signed, 8 bytes, little-endian.
    I64,
    /// IEEE, 8 bytes, little-endian.
    F64,
    /// UTF-8 of any length.
    Text,
    /// One byte, `FALSE` or `TRUE`.
    Bool,
}

/// Where the elements of an array are.
#[derive(Debug)]
pub enum Storage<'a> {
    /// In this file: C order, byte order of the type.
    Bytes(&'a [u8]),
    /// In other data sets.
    Virtual(&'a [Mapping]),
    /// Behind the metadata of this file, at a whole page; arrays are there in the order in which they were written.
    Behind,
    /// In this file, in chunks of bit-transposed LZ4 (filter 32008), one for each element of the first axis. Behind the metadata
    /// is room for their [`ChunkIndex`](super::ChunkIndex); the chunks follow behind everything else.
    Chunks,
}

/// An array of many elements.
#[derive(Debug)]
pub struct Array<'a> {
    /// Type of an element.
    pub element: Element,
    /// Extent of every axis, slow first.
    pub shape: &'a [u64],
    /// Where the elements are.
    pub storage: Storage<'a>,
    /// Attributes.
    pub attributes: &'a [(&'a str, Value)],
    /// How many links will lead to it.
    pub link_count: u32,
}

/// The bytes of a finished file, and where its other arrays, and indices of chunks, go.
#[derive(Debug)]
pub struct Written {
    /// Everything but the arrays behind.
    pub bytes: Vec<u8>,
    /// Offsets of the arrays and indices behind.
    pub behind: Vec<u64>,
    /// Length of the whole file but for chunks, in bytes.
    pub file_bytes: u64,
}

impl Written {
    /// Makes the file `file_bytes` long: chunks have been put behind everything else.
    pub fn extend(&mut self, file_bytes: u64) {
        self.file_bytes = file_bytes;
        let mut superblock = Vec::with_capacity(SUPERBLOCK_BYTES);
        super::superblock(&mut superblock, 0, file_bytes, u64_at(&self.bytes, ROOT_PLACE));
        put(&mut self.bytes, 0, &superblock);
    }
}

/// A file that grows object by object.
#[derive(Debug)]
pub struct FileWriter {
    out: Vec<u8>,
    /// Start and end of every object header: its checksum is set at the end.
    headers: Vec<(usize, usize)>,
    texts: Vec<Vec<u8>>,
    /// Where the address of the heap of texts belongs.
    text_places: Vec<usize>,
    /// Where the addresses of arrays behind belong, and how many bytes they are.
    behind: Vec<(usize, u64)>,
}

impl Default for FileWriter {
    fn default() -> Self {
        let (out, headers) = (vec![0; SUPERBLOCK_BYTES], Vec::new());
        Self { out, headers, texts: Vec::new(), text_places: Vec::new(), behind: Vec::new() }
    }
}

impl FileWriter {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// A group with its attributes and what it links to.
    pub fn group(&mut self, attributes: &[(&str, Value)], links: &[(&str, Object)]) -> Object {
        let start = self.begin();
        message(&mut self.out, 0x02, 0, 18); // link info: version, flags, fractal heap, name index
        self.out.extend([0, 0]);
        self.out.extend(UNDEFINED.to_le_bytes());
        self.out.extend(UNDEFINED.to_le_bytes());
        message(&mut self.out, 0x0a, 1, 2); // group info: version, flags
        self.out.extend([0, 0]);
        for (name, object) in links {
            message(&mut self.out, 0x06, 0, 11 + name.len() as u16); // hard link: version, flags, name, address
            self.out.extend([1, 0, name.len() as u8]);
            self.out.extend(name.as_bytes());
            self.out.extend(object.0.to_le_bytes());
        }
        self.attributes(attributes);
        self.end(start)
    }

    /// A small array, or one element.
    pub fn value(&mut self, value: &Value, attributes: &[(&str, Value)]) -> Object {
        let (element, shape, bytes, texts) = parts(value);
        let at = self.align();
        self.out.extend(bytes);
        self.intern(&texts);
        let size = (self.out.len() - at) as u64;
        let start = self.begin();
        self.describe(element, shape.as_deref(), false);
        self.contiguous(at as u64, size);
        self.attributes(attributes);
        self.end(start)
    }

    /// An array.
    pub fn array(&mut self, array: &Array<'_>) -> Object {
        let place = match &array.storage {
            Storage::Bytes(bytes) => {
                let at = self.align();
                self.out.extend_from_slice(bytes);
                at as u64
            }
            Storage::Virtual(mappings) => {
                let at = self.align();
                heap(&mut self.out, &[mapping_list(mappings)]);
                at as u64
            }
            Storage::Behind | Storage::Chunks => UNDEFINED,
        };
        let bytes = array.shape.iter().product::<u64>() * element_bytes(array.element);
        let start = self.begin();
        let is_endless = |mapping: &Mapping| mapping.target.first().is_some_and(Slab::is_endless);
        let grows = matches!(array.storage, Storage::Virtual(mappings) if mappings.iter().any(is_endless));
        self.describe(array.element, Some(array.shape), grows);
        match array.storage {
            Storage::Virtual(_) => {
                message(&mut self.out, 0x08, 0, 14); // layout: version, virtual, heap, object in it
                self.out.extend([4, 3]);
                self.out.extend(place.to_le_bytes());
                self.out.extend(1_u32.to_le_bytes());
            }
            Storage::Chunks => self.chunked(array, bytes),
            Storage::Behind => {
                self.contiguous(place, bytes);
                self.behind.push((self.out.len() - 16, bytes));
            }
            Storage::Bytes(_) => self.contiguous(place, bytes),
        }
        if array.link_count > 1 {
            message(&mut self.out, 0x16, 0, 5); // reference count: version, count
            self.out.push(0);
            self.out.extend(array.link_count.to_le_bytes());
        }
        self.attributes(array.attributes);
        self.end(start)
    }

    /// Completes the file with this root group.
    pub fn finish(mut self, root: Object) -> Written {
        let heap_at = self.align();
        if !self.texts.is_empty() {
            heap(&mut self.out, &self.texts);
        }
        for &place in &self.text_places {
            put(&mut self.out, place, &(heap_at as u64).to_le_bytes());
        }
        let (mut end, mut behind) = (self.out.len() as u64, Vec::new());
        for &(place, bytes) in &self.behind {
            let at = end.next_multiple_of(PAGE_BYTES);
            put(&mut self.out, place, &at.to_le_bytes());
            behind.push(at);
            end = at + bytes;
        }
        for &(start, end) in &self.headers {
            let sum = lookup3(&self.out[start..end]);
            put(&mut self.out, end, &sum.to_le_bytes());
        }
        let mut superblock = Vec::with_capacity(SUPERBLOCK_BYTES);
        super::superblock(&mut superblock, 0, end, root.0);
        put(&mut self.out, 0, &superblock);
        Written { bytes: self.out, behind, file_bytes: end }
    }

    /// Begins an object header without times; four bytes hold the size of its messages.
    fn begin(&mut self) -> usize {
        let start = self.align();
        self.out.extend(b"OHDR\x02\x02\0\0\0\0");
        start
    }

    fn end(&mut self, start: usize) -> Object {
        let messages = (self.out.len() - start - 10) as u32;
        put(&mut self.out, start + 6, &messages.to_le_bytes());
        self.headers.push((start, self.out.len()));
        self.out.extend([0; 4]); // The checksum: addresses are not all known yet.
        Object(start as u64)
    }

    /// Shape, type and fill value; with `grows` the first axis has no end, and is as long as its files make it.
    fn describe(&mut self, element: Element, shape: Option<&[u64]>, grows: bool) {
        let (mut space, mut kind) = (Vec::new(), Vec::new());
        dataspace(&mut space, shape);
        if let Some(shape) = shape.filter(|_| grows) {
            space[2] = 1; // maximum sizes present
            space.extend(UNDEFINED.to_le_bytes());
            shape[1..].iter().for_each(|extent| space.extend(extent.to_le_bytes()));
        }
        datatype(&mut kind, element);
        message(&mut self.out, 0x01, 0, space.len() as u16);
        self.out.extend(space);
        message(&mut self.out, 0x03, 1, kind.len() as u16);
        self.out.extend(kind);
        message(&mut self.out, 0x05, 1, 2); // fill value: version; zero, allocated and written as needed
        self.out.extend([3, 0x0b]);
    }

    fn contiguous(&mut self, at: u64, bytes: u64) {
        message(&mut self.out, 0x08, 0, 18); // layout: version, contiguous, address, bytes
        self.out.extend([3, 1]);
        self.out.extend(at.to_le_bytes());
        self.out.extend(bytes.to_le_bytes());
    }

    fn chunked(&mut self, array: &Array<'_>, bytes: u64) {
        let (item_bytes, count) = (element_bytes(array.element) as u32, array.shape[0]);
        let signal = array.shape[1..].iter().map(|&extent| extent as u32); // Axes are below `AXIS_MAX`.
        let extents: Vec<u32> = [1].into_iter().chain(signal).chain([item_bytes]).collect();
        chunks::bitshuffle_filter(&mut self.out, item_bytes);
        chunks::chunked(&mut self.out, &extents, UNDEFINED);
        self.behind.push((self.out.len() - 8, chunks::fixed_array_bytes(count, bytes / count.max(1))));
    }

    /// Section IV.A.2.m, version 3.
    fn attributes(&mut self, attributes: &[(&str, Value)]) {
        for (name, value) in attributes {
            let (element, shape, bytes, texts) = parts(value);
            let (mut space, mut kind) = (Vec::new(), Vec::new());
            dataspace(&mut space, shape.as_deref());
            datatype(&mut kind, element);
            let size = 10 + name.len() + kind.len() + space.len() + bytes.len() + 16 * texts.len();
            message(&mut self.out, 0x0c, 0, size as u16);
            self.out.extend([3, 0]);
            for bytes in [name.len() + 1, kind.len(), space.len()] {
                self.out.extend((bytes as u16).to_le_bytes());
            }
            self.out.push(0); // The name is ASCII.
            self.out.extend(name.as_bytes());
            self.out.push(0);
            self.out.extend(kind);
            self.out.extend(space);
            self.out.extend(bytes);
            self.intern(&texts);
        }
    }

    /// Section VII.C: a text of any length is its length, and its place in a global heap.
    fn intern(&mut self, texts: &[&str]) {
        for text in texts {
            self.texts.push(text.as_bytes().to_vec());
            self.out.extend((text.len() as u32).to_le_bytes());
            self.text_places.push(self.out.len());
            self.out.extend(UNDEFINED.to_le_bytes());
            self.out.extend((self.texts.len() as u32).to_le_bytes());
        }
    }

    fn align(&mut self) -> usize {
        self.out.resize(self.out.len().next_multiple_of(8), 0);
        self.out.len()
    }
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Type, shape (`None`: one element), bytes, and texts, which have no bytes of their own.
fn parts(value: &Value) -> (Element, Option<Vec<u64>>, Vec<u8>, Vec<&str>) {
    match value {
        Value::Text(text) => (Element::Text, None, Vec::new(), vec![text]),
        Value::Texts(texts) => {
            let shape = Some(vec![texts.len() as u64]);
            (Element::Text, shape, Vec::new(), texts.iter().map(String::as_str).collect())
        }
        Value::Int(number) => (Element::I64, None, number.to_le_bytes().to_vec(), Vec::new()),
        Value::Float(number) => (Element::F64, None, number.to_le_bytes().to_vec(), Vec::new()),
        Value::Bool(is_true) => (Element::Bool, None, vec![u8::from(*is_true)], Vec::new()),
        Value::Floats(numbers) => {
            let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            (Element::F64, Some(vec![numbers.len() as u64]), bytes, Vec::new())
        }
    }
}

fn element_bytes(element: Element) -> u64 {
    match element {
        Element::Pixel(pixel) => pixel.bytes() as u64,
        Element::I64 | Element::F64 => 8,
        Element::Text => 16,
        Element::Bool => 1,
    }
}

/// Section IV.A.2.b, version 2: a scalar, or axes of fixed extent.
fn dataspace(out: &mut Vec<u8>, shape: Option<&[u64]>) {
    let axes = shape.unwrap_or_default();
    out.extend([2, axes.len() as u8, 0, u8::from(shape.is_some())]);
    axes.iter().for_each(|extent| out.extend(extent.to_le_bytes()));
}

/// Section IV.A.2.d: class and version, flags, size, and what the class needs.
fn datatype(out: &mut Vec<u8>, element: Element) {
    match element {
        Element::Pixel(PixelType { kind: PixelKind::F32, order }) => {
            out.extend([0x11, 0x20 | u8::from(order == ByteOrder::Big), 31, 0, 4, 0, 0, 0]);
            out.extend([0, 0, 32, 0, 23, 8, 0, 23]);
            out.extend(127_u32.to_le_bytes());
        }
        Element::Pixel(pixel) => {
            let bytes = pixel.bytes() as u8;
            out.extend([0x10, u8::from(pixel.order == ByteOrder::Big), 0, 0, bytes, 0, 0, 0, 0, 0, 8 * bytes, 0]);
        }
        Element::I64 => out.extend([0x10, 0x08, 0, 0, 8, 0, 0, 0, 0, 0, 64, 0]), // 0x08: signed
        Element::F64 => {
            out.extend([0x11, 0x20, 63, 0, 8, 0, 0, 0]); // 0x20: leading mantissa bit implied; 63: sign bit
            out.extend([0, 0, 64, 0, 52, 11, 0, 52]); // exponent of 11 bits at 52, mantissa of 52 bits at 0
            out.extend(1023_u32.to_le_bytes());
        }
        Element::Text => {
            out.extend([0x19, 1, 1, 0, 16, 0, 0, 0]); // of any length: text, UTF-8
            out.extend([0x10, 0, 0, 0, 1, 0, 0, 0, 0, 0, 8, 0]);
        }
        Element::Bool => {
            out.extend([0x38, 2, 0, 0, 1, 0, 0, 0]); // enumeration of two, of signed bytes
            out.extend([0x10, 0x08, 0, 0, 1, 0, 0, 0, 0, 0, 8, 0]);
            out.extend(b"FALSE\0TRUE\0\0\x01");
        }
    }
}

/// Section III.E: objects are numbered from 1; what is left belongs to object 0.
fn heap(out: &mut Vec<u8>, objects: &[Vec<u8>]) {
    let start = out.len();
    out.extend(b"GCOL\x01\0\0\0");
    out.extend([0; 8]); // Its size, below.
    for (index, object) in (1_u16..).zip(objects) {
        out.extend(index.to_le_bytes());
        out.extend([0; 6]); // references, reserved
        out.extend((object.len() as u64).to_le_bytes());
        out.extend_from_slice(object);
        out.resize(out.len().next_multiple_of(8), 0);
    }
    let used = out.len() - start;
    // A free object needs 16 bytes for its own head.
    let size = HEAP_BYTES_MIN.max((used + 16).next_multiple_of(HEAP_BYTES_MIN));
    out.extend([0; 8]);
    out.extend(((size - used) as u64).to_le_bytes());
    out.resize(start + size, 0);
    put(out, start + 8, &(size as u64).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::hdf5::Slab;
    use crate::format::u32_at;

    /// Every message of an object header with its type, after a look at the checksum.
    fn messages(file: &[u8], at: u64) -> Vec<(u8, Vec<u8>)> {
        let at = at as usize;
        assert_eq!(&file[at..at + 6], b"OHDR\x02\x02");
        let end = at + 10 + u32_at(file, at + 6) as usize;
        assert_eq!(u32_at(file, end), lookup3(&file[at..end]), "checksum of the header at {at}");
        let (mut found, mut next) = (Vec::new(), at + 10);
        while next < end {
            let bytes = usize::from(file[next + 1]) | usize::from(file[next + 2]) << 8;
            found.push((file[next], file[next + 4..next + 4 + bytes].to_vec()));
            next += 4 + bytes;
        }
        assert_eq!(next, end, "messages fill their header");
        found
    }

    fn only(messages: &[(u8, Vec<u8>)], kind: u8) -> Vec<u8> {
        let found: Vec<_> = messages.iter().filter(|message| message.0 == kind).collect();
        assert_eq!(found.len(), 1, "messages of type {kind}");
        found[0].1.clone()
    }

    /// From the superblock over links to a text, a mapping and the places of two arrays behind: all addresses lead there.
    #[test]
    fn addresses_lead_where_they_should() {
        let mut file = FileWriter::new();
        let text = file.value(&"some text".into(), &[("units", "px".into())]);
        let whole = vec![Slab::run(0, 4)];
        let mappings = [Mapping { file: "other".into(), array: "/data", source: whole.clone(), target: whole }];
        let array = |storage| Array { element: Element::F64, shape: &[4], storage, attributes: &[], link_count: 2 };
        let view = file.array(&array(Storage::Virtual(&mappings)));
        let behind = [file.array(&array(Storage::Behind)), file.array(&array(Storage::Behind))];
        let root = file.group(&[], &[("text", text), ("view", view), ("a", behind[0]), ("b", behind[1])]);
        let Written { bytes, behind, file_bytes } = file.finish(root);

        assert_eq!((u32_at(&bytes, 44), u64_at(&bytes, 28)), (lookup3(&bytes[..44]), file_bytes));
        let links = messages(&bytes, u64_at(&bytes, 36)).into_iter().filter(|message| message.0 == 0x06);
        let links: Vec<(String, u64)> = links
            .map(|(_, link)| (String::from_utf8_lossy(&link[3..link.len() - 8]).into(), u64_at(&link, link.len() - 8)))
            .collect();
        assert_eq!(links.iter().map(|link| link.0.as_str()).collect::<Vec<_>>(), ["text", "view", "a", "b"]);

        let at = u64_at(&only(&messages(&bytes, links[0].1), 0x08), 2) as usize;
        let (heap, index) = (u64_at(&bytes, at + 4) as usize, u32_at(&bytes, at + 12));
        assert_eq!((&bytes[heap..heap + 4], index, u32_at(&bytes, at)), (&b"GCOL"[..], 1, 9));
        assert_eq!(&bytes[heap + 32..heap + 41], b"some text");
        let heap = u64_at(&only(&messages(&bytes, links[1].1), 0x08), 2) as usize;
        let size = u64_at(&bytes, heap + 24) as usize;
        let list = &bytes[heap + 32..heap + 32 + size];
        assert_eq!(u32_at(list, size - 4), lookup3(&list[..size - 4]));
        assert_eq!(&list[9..21], b"other\0/data\0");
        for (link, at) in links[2..].iter().zip(&behind) {
            let messages = messages(&bytes, link.1);
            assert_eq!((u64_at(&only(&messages, 0x08), 2), only(&messages, 0x16)), (*at, vec![0, 2, 0, 0, 0]));
        }
        assert_eq!((behind[0] as usize, behind[1] + 32), (bytes.len().next_multiple_of(4096), file_bytes));
    }
}
