//! What companions and HDF5 exports say: the same facts as NeXus (NXem) and as EMD 1.0.
//!
//! # Units
//! Nothing is known of step, camera length or energy: axes are numbered in scan positions and pixels, and say so.

use std::ops::Range;

use ronchi_pipeline::format::hdf5::{Array, Element, FileWriter, Mapping, Object, Slab, Storage, Value};

use ronchi_pipeline::{ByteOrder, PixelKind};

use super::*;

/// Most pieces of one virtual array: some 20 MB of mappings.
pub const MAPPINGS_MAX: usize = 65_536;
/// Most frames whose positions are listed where they cannot be mapped.
const POSITIONS_MAX: u64 = 1 << 24;
const FRAMES: &str = "/entry/instrument/detector/data";

/// Where the pixels of an HDF5 file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pixels {
    /// In the segments of the data set that it lies in.
    Segments,
    /// Behind the metadata: all frames, in order.
    Behind,
    /// Behind the metadata, compressed, each frame a chunk.
    Chunks,
}

impl Pixels {
    pub(super) fn behind(is_compressed: bool) -> Self {
        if is_compressed { Self::Chunks } else { Self::Behind }
    }

    /// Where the frames are; the segments, where it is they, by these mappings.
    fn storage(self, mappings: &[Mapping]) -> Storage<'_> {
        match self {
            Self::Segments => Storage::Virtual(mappings),
            Self::Behind => Storage::Behind,
            Self::Chunks => Storage::Chunks,
        }
    }
}

/// What is known of a data set.
pub(super) struct Content {
    manifest: Manifest,
    pub(super) scan: Option<Scan>,
    pub(super) frame_count: u64,
    /// Nobody knows yet how many frames there will be: what there is now is `frame_count`.
    pub(super) grows: bool,
    pub(super) detector: SigShape,
    pub(super) pixel: PixelType,
    tiles: Vec<Tile>,
}

struct Tile {
    region: Region,
    layout: Layout,
    /// Directory of its segments, relative to the data set.
    prefix: String,
}

impl Content {
    /// `None` if no frame can be described.
    pub(super) fn of(reader: &Reader) -> Option<Self> {
        let manifest = reader.manifest().clone();
        let [height, width] = manifest.detector.shape;
        let detector = SigShape { height, width };
        let is_axis = |extent: u32| (1..=AXIS_MAX).contains(&extent);
        let fits = |scan: &Scan| [scan.shape.height, scan.shape.width].into_iter().all(is_axis);
        let scan = manifest.scan.map(Scan::from).filter(|scan| fits(scan) && scan.flyback <= AXIS_MAX);
        let is_alone = manifest.detector.tiles.len() <= 1;
        let prefix = |id: u32| if is_alone { "frames/c".to_owned() } else { format!("tiles/{id}/c") };
        let tile = |tile: &crate::storage::ReaderTile| {
            (tile.region.fits(detector)).then(|| Tile {
                region: tile.region,
                layout: tile.array.layout,
                prefix: prefix(tile.id),
            })
        };
        let tiles: Vec<Tile> = reader.tiles().iter().filter_map(tile).collect();
        let pixel = PixelType::from_numpy_name(&manifest.detector.pixel)?;
        let of_scan = scan.map(|scan| scan.frame_count().saturating_add_signed(scan.sync_offset.max(0)));
        let longest = reader.tiles().iter().map(|tile| tile.array.frame_count).max();
        let known = manifest.frame_count.or(of_scan);
        let grows = known.is_none() && !reader.condition().is_finished();
        let frame_count = known.or(longest).filter(|&count| count > 0 || grows)?;
        let is_sane = is_axis(height) && is_axis(width) && frame_count < u64::MAX / 16;
        let frame_bytes = detector.pixel_count() * pixel.bytes() as u64;
        let is_sane = is_sane && frame_count.checked_mul(frame_bytes).is_some();
        is_sane.then_some(Self { manifest, scan, frame_count, grows, detector, pixel, tiles })
    }

    /// The file `scan.nxs`; `None` if even its frames need too many mappings.
    pub(super) fn nexus(&self, pixels: Pixels) -> Option<Written> {
        let mappings = if pixels == Pixels::Segments { self.frame_mappings()? } else { Vec::new() };
        let mut file = FileWriter::new();
        let positions = self.position_mappings(pixels);
        let has_positions = positions.is_some();
        let data = self.frames(&mut file, pixels.storage(&mappings), if has_positions { 1 } else { 2 });
        let instrument = self.instrument(&mut file, data, pixels, has_positions);
        let image = match positions {
            Some(mappings) => self.positions(&mut file, &mappings, &[("interpretation", "image".into())]),
            None => data,
        };
        let image = self.image_group(&mut file, image, has_positions);
        let sample = self.sample(&mut file);
        let record = file.value(&self.manifest_text(), &[]);
        let notes = file.group(&[("NX_class", "NXcollection".into())], &[("manifest", record)]);
        let text = |file: &mut FileWriter, text: &str| file.value(&text.into(), &[]);
        let program = file.value(&"ronchi".into(), &[("version", self.manifest.software.as_str().into())]);
        let links = [
            ("definition", text(&mut file, "NXem")),
            ("title", text(&mut file, &self.manifest.name)),
            ("start_time", text(&mut file, &self.manifest.created)),
            ("entry_identifier_uuid", text(&mut file, &self.manifest.uuid)),
            ("program_name", program),
            ("data", image),
            ("instrument", instrument),
            ("sampleID", sample),
            ("ronchi", notes),
        ];
        let entry = file.group(&[("NX_class", "NXentry".into()), ("default", "data".into())], &links);
        let root = [("NX_class", "NXroot".into()), ("default", "entry".into())];
        let root = file.group(&root, &[("entry", entry)]);
        Some(file.finish(root))
    }

    /// The file `scan.emd`; `None` without a scan that can be mapped.
    pub(super) fn emd(&self, pixels: Pixels) -> Option<Written> {
        let scan = self.scan?;
        let mappings = self.position_mappings(pixels)?;
        let mut file = FileWriter::new();
        let frames = match pixels {
            Pixels::Segments => None,
            _ => Some((self.frames(&mut file, pixels.storage(&[]), 1), self.flags(&mut file))),
        };
        let cube = self.positions(&mut file, &mappings, &[("units", "pixel intensity".into())]);
        let extents = [scan.shape.height, scan.shape.width, self.detector.height, self.detector.width];
        let mut links = vec![("data".to_owned(), cube)];
        for (axis, (name, extent)) in (["Rx", "Ry", "Qx", "Qy"].into_iter().zip(extents)).enumerate() {
            // Two numbers stand for all that follow at their distance.
            let numbers: Vec<f64> = (0..extent.min(2)).map(f64::from).collect();
            let attributes = [("name", name.into()), ("units", "pixels".into())];
            links.push((format!("dim{axis}"), file.value(&Value::Floats(numbers), &attributes)));
        }
        let bundle = file.group(&[("emd_group_type", "metadatabundle".into())], &[]);
        links.push(("metadatabundle".to_owned(), bundle));
        let links: Vec<(&str, Object)> = links.iter().map(|(name, object)| (name.as_str(), *object)).collect();
        let kind = |group: &str, class: &str| [("emd_group_type", group.into()), ("python_class", class.into())];
        let cube = file.group(&kind("array", "DataCube"), &links);
        let root = file.group(&kind("root", "Root"), &[("datacube", cube)]);
        let top = [
            ("emd_group_type", "file".into()),
            ("version_major", Value::Int(1)),
            ("version_minor", Value::Int(0)),
            ("authoring_program", "ronchi".into()),
            ("authoring_user", "".into()),
            ("UUID", self.manifest.uuid.as_str().into()),
        ];
        let mut roots = vec![("datacube_root", root)];
        roots.extend(frames.map(|(frames, flags)| ("entry", nest(&mut file, frames, flags))));
        let top = file.group(&top, &roots);
        Some(file.finish(top))
    }

    /// The 3-D array `(frame, y, x)`.
    fn frames(&self, file: &mut FileWriter, storage: Storage<'_>, link_count: u32) -> Object {
        let SigShape { height, width } = self.detector;
        file.array(&Array {
            element: Element::Pixel(self.pixel),
            shape: &[self.frame_count, height.into(), width.into()],
            storage,
            attributes: &[("interpretation", "image".into()), ("units", "counts".into())],
            link_count,
        })
    }

    /// The 4-D array `(scan_y, scan_x, y, x)`.
    fn positions(&self, file: &mut FileWriter, mappings: &[Mapping], attributes: &[(&str, Value)]) -> Object {
        let nav = self.nav();
        let SigShape { height, width } = self.detector;
        file.array(&Array {
            element: Element::Pixel(self.pixel),
            shape: &[nav.height.into(), nav.width.into(), height.into(), width.into()],
            storage: Storage::Virtual(mappings),
            attributes,
            link_count: 1,
        })
    }

    fn nav(&self) -> NavShape {
        self.scan.map_or(NavShape { height: 1, width: 1 }, |scan| scan.shape)
    }

    /// NXinstrument with one NXdetector.
    fn instrument(&self, file: &mut FileWriter, data: Object, pixels: Pixels, has_positions: bool) -> Object {
        let bits = file.value(&Value::Int(8 * self.pixel.bytes() as i64), &[]);
        let mut links = vec![("data", data), ("bit_depth_readout", bits)];
        links.extend((pixels != Pixels::Segments).then(|| ("frame_flags", self.flags(file))));
        if let Some(scan) = self.scan.filter(|_| !has_positions && self.frame_count <= POSITIONS_MAX) {
            links.push(("scan_position", self.position_list(file, &scan)));
        }
        let detector = file.group(&[("NX_class", "NXdetector".into())], &links);
        file.group(&[("NX_class", "NXinstrument".into())], &[("detector", detector)])
    }

    /// One byte per frame, behind the pixels.
    fn flags(&self, file: &mut FileWriter) -> Object {
        let meaning = "0 ok, 1 missing, 2 corrupt, 3 truncated: pixels of frames that are not ok are zeros";
        file.array(&Array {
            element: Element::Pixel(PixelType::new(PixelKind::U8, ByteOrder::Little)),
            shape: &[self.frame_count],
            storage: Storage::Behind,
            attributes: &[("long_name", meaning.into())],
            link_count: 1,
        })
    }

    /// `(y, x)` of every frame, -1 where it belongs to no position.
    fn position_list(&self, file: &mut FileWriter, scan: &Scan) -> Object {
        let place = |frame| scan.position(frame).map_or([-1, -1], |place| [i64::from(place.y), i64::from(place.x)]);
        let bytes: Vec<u8> = (0..self.frame_count).flat_map(place).flat_map(i64::to_le_bytes).collect();
        file.array(&Array {
            element: Element::I64,
            shape: &[self.frame_count, 2],
            storage: Storage::Bytes(&bytes),
            attributes: &[("long_name", "scan position (y, x) of every frame, -1 for none".into())],
            link_count: 1,
        })
    }

    /// NXdata: the array that is shown first, with its axes.
    fn image_group(&self, file: &mut FileWriter, data: Object, has_positions: bool) -> Object {
        let (nav, SigShape { height, width }) = (self.nav(), self.detector);
        let scan = [("scan_y", u64::from(nav.height), "scan y"), ("scan_x", nav.width.into(), "scan x")];
        let mut axes: Vec<(&str, u64, &str)> = if has_positions { scan.to_vec() } else { Vec::new() };
        // A list of many millions of numbers would say nothing: without a scan, frames are just counted.
        axes.extend([("q_y", height.into(), "detector y"), ("q_x", width.into(), "detector x")]);
        let names = axes.iter().map(|(name, ..)| (*name).to_owned());
        let names: Vec<String> = (!has_positions).then(|| ".".to_owned()).into_iter().chain(names).collect();
        let first = names.len() - axes.len();
        let mut attributes = vec![
            ("NX_class".to_owned(), "NXdata".into()),
            ("signal".to_owned(), "data".into()),
            ("interpretation".to_owned(), "image".into()),
        ];
        let mut links = vec![("data", data)];
        for (index, &(name, extent, long_name)) in axes.iter().enumerate() {
            let numbers = (0..extent).map(|number| number as f64).collect();
            let about = [("units", "px".into()), ("long_name", long_name.into())];
            links.push((name, file.value(&Value::Floats(numbers), &about)));
            attributes.push((format!("{name}_indices"), Value::Int((first + index) as i64)));
        }
        attributes.push(("axes".to_owned(), Value::Texts(names)));
        let attributes: Vec<(&str, Value)> =
            attributes.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        file.group(&attributes, &links)
    }

    /// NXsample, from the user's notes (`sample`) where they have it: NXem demands these fields.
    fn sample(&self, file: &mut FileWriter) -> Object {
        let note = |key: &str| self.manifest.user.get("sample").and_then(|sample| sample.get(key));
        let text = |key: &str, otherwise: &str| note(key).and_then(Json::as_str).unwrap_or(otherwise).to_owned();
        let is_simulation = note("is_simulation").and_then(Json::as_bool).unwrap_or(false);
        let is_simulation = file.value(&Value::Bool(is_simulation), &[]);
        let mut field = |key: &str, otherwise: &str| file.value(&Value::Text(text(key, otherwise)), &[]);
        // A sample that nobody described was prepared at the latest when it was recorded.
        let links = [
            ("name", field("name", "unknown")),
            ("preparation_date", field("preparation_date", &self.manifest.created)),
            ("atom_types", field("atom_types", "unknown")),
            ("is_simulation", is_simulation),
        ];
        file.group(&[("NX_class", "NXsample".into())], &links)
    }

    fn manifest_text(&self) -> Value {
        // A manifest that was read can be written.
        Value::Text(serde_json::to_string(&self.manifest).unwrap_or_default())
    }

    /// Segment by segment into the 3-D array; `None` if there are too many.
    fn frame_mappings(&self) -> Option<Vec<Mapping>> {
        if self.grows {
            return Some(self.tiles.iter().map(endless).collect());
        }
        let mut mappings = Vec::new();
        for tile in &self.tiles {
            for (segment, frames) in self.segments(tile)? {
                let count = frames.end - frames.start;
                let [source, target] = signal(tile.region);
                mappings.push(Mapping {
                    file: format!("{}/{segment}/0/0", tile.prefix),
                    array: "/data",
                    source: [&[Slab::run(0, count)][..], &source].concat(),
                    target: [&[Slab::run(frames.start, count)][..], &target].concat(),
                });
            }
        }
        (mappings.len() <= MAPPINGS_MAX).then_some(mappings)
    }

    /// Into the 4-D array; `None` without a scan, if there are too many, or if positions have several frames.
    fn position_mappings(&self, pixels: Pixels) -> Option<Vec<Mapping>> {
        let scan = self.scan?;
        let mut mappings = Vec::new();
        let mut add = |file: &str, array, region: Region, frames: Range<u64>, origin: u64| {
            for run in scan.runs(frames)? {
                let [source, target] = signal(region);
                let frames = Slab { start: run.frames.start - origin, ..run.frames };
                mappings.push(Mapping {
                    file: file.to_owned(),
                    array,
                    source: [&[frames][..], &source].concat(),
                    target: [&[run.y, run.x][..], &target].concat(),
                });
            }
            (mappings.len() <= MAPPINGS_MAX).then_some(())
        };
        match pixels {
            Pixels::Behind | Pixels::Chunks => add(".", FRAMES, self.detector.region(), 0..self.frame_count, 0)?,
            Pixels::Segments => {
                for tile in &self.tiles {
                    for (segment, frames) in self.segments(tile)? {
                        let file = format!("{}/{segment}/0/0", tile.prefix);
                        add(&file, "/data", tile.region, frames.clone(), frames.start)?;
                    }
                }
            }
        }
        Some(mappings)
    }

    /// Segments of a tile and their frames; `None` if there are too many.
    fn segments(&self, tile: &Tile) -> Option<impl Iterator<Item = (u64, Range<u64>)>> {
        let (per_segment, end) = (tile.layout.frames_per_segment(), self.frame_count);
        let count = end.div_ceil(per_segment);
        let frames = move |segment: u64| segment * per_segment..((segment + 1) * per_segment).min(end);
        (count <= MAPPINGS_MAX as u64).then(|| (0..count).map(move |segment| (segment, frames(segment))))
    }
}

/// All segments of a tile, those included that are still to come.
fn endless(tile: &Tile) -> Mapping {
    let [_, target] = signal(tile.region);
    Mapping {
        file: format!("{}/%b/0/0", tile.prefix),
        array: "/data",
        source: Vec::new(),
        target: [&[Slab::endless(tile.layout.frames_per_segment())][..], &target].concat(),
    }
}

/// Rows and columns of a tile: in its own segments, and on the detector.
fn signal(region: Region) -> [[Slab; 2]; 2] {
    let run = |start: u32, count: u32| Slab::run(start.into(), count.into());
    let Region { y, x, height, width } = region;
    [[run(0, height), run(0, width)], [run(y, height), run(x, width)]]
}

/// The groups that lead to [`FRAMES`], below the root.
fn nest(file: &mut FileWriter, frames: Object, flags: Object) -> Object {
    let detector = file.group(&[], &[("data", frames), ("frame_flags", flags)]);
    let instrument = file.group(&[], &[("detector", detector)]);
    file.group(&[], &[("instrument", instrument)])
}
