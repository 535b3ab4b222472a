//! Turns a TOML text into a [`Plan`] or a [`Recipe`], section by section.

mod conditions;

use std::fs::File;
use std::io::Read;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ronchi_pipeline::reduce::{Reduction, VirtualDetector};
use ronchi_pipeline::{AXIS_MAX, NavShape, Region, Repeats, ScanOrder, SigShape};
use toml::Spanned;
use toml::de::DeTable;

use crate::dectris::{self, DectrisControlPlan};
use crate::document::{Document, Section, Value};
use crate::limits::{LIMITS, RESERVE_RULE, VIRTUAL_MAX, reserve_bytes};
use crate::plan::{
    Compress, DataPlan, Limits, LinkPlan, LivePlan, MerlinControlPlan, MerlinTrigger, Plan, Recipe, ScanPlan,
    SourcePlan,
};
use crate::problem::{Error, Problems};
use crate::value::{
    MERLIN_CONTROL_PORT, check_name, check_result_name, check_virtual, parse_http, parse_live_endpoint, parse_source,
};
use crate::{ValueError, mask_file};

/// What `data.volumes` expects.
const VOLUMES_RULE: &str = "directories on other disks, [\"/nvme1\", \"/nvme2\"]";
/// Most frames of one position, and most passes: so many that sums of them stay far from their limits.
const REPEATS_MAX: u64 = 65_536;
/// Longest configuration that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
const AXIS: RangeInclusive<u32> = 1..=AXIS_MAX;
const SECTIONS: [&str; 10] =
    ["data", "link", "detector", "correct", "scan", "virtual", "reduce", "reduction", "live", "limits"];
const KINDS: &str = "\"disk\", \"ring\", \"disk_aa\", \"ring_aa\", \"rectangle\", \"sector\", \"polygon\", \"npy\"";
const TRIGGERS: [(&str, MerlinTrigger); 6] = [
    ("internal", MerlinTrigger::Internal),
    ("rising_ttl", MerlinTrigger::RisingTtl),
    ("falling_ttl", MerlinTrigger::FallingTtl),
    ("rising_lvds", MerlinTrigger::RisingLvds),
    ("falling_lvds", MerlinTrigger::FallingLvds),
    ("soft", MerlinTrigger::Soft),
];

impl Plan {
    /// Reads a configuration; `file_name` is only shown in messages, relative paths start at `base_dir`.
    ///
    /// Reads the mask files the configuration names, and nothing else.
    ///
    /// ```
    /// use ronchi_config::Plan;
    /// let text = "[data]\ndirectory = '/data'\n[[link]]\nsource = 'merlin://192.168.1.20'\n";
    /// let plan = Plan::from_toml(text, "ronchi.toml", "/etc".as_ref())?;
    /// assert_eq!(plan.links.len(), 1);
    /// # Ok::<(), ronchi_config::Problems>(())
    /// ```
    pub fn from_toml(text: &str, file_name: &str, base_dir: &Path) -> Result<Self, Problems> {
        let doc = Document::new(file_name, text);
        let Some(tree) = parse(&doc, text) else {
            return Err(doc.finish().expect_err("at least one error was reported"));
        };
        let root = Section::open(&doc, "", tree.get_ref(), 0..0, &SECTIONS);
        let plan = Reader { root, base_dir }.plan();
        for (key, message) in plan.findings() {
            doc.report_checked(&key, message);
        }
        doc.finish().map(|()| plan)
    }

    /// Reads a configuration file; relative paths in it start at its directory.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let (text, base_dir) = read_text(path)?;
        Ok(Self::from_toml(&text, &path.to_string_lossy(), base_dir)?)
    }
}

impl Recipe {
    /// Reads what a configuration says of scan and results; sections of a receiver may be there and are not looked at.
    /// Where it gives no shape of the detector, that is `detector`.
    ///
    /// ```
    /// use ronchi_config::Recipe;
    /// use ronchi_pipeline::SigShape;
    /// let text = "[scan]\nshape = [4, 5]\n[[virtual]]\nname = 'bf'\nkind = 'disk'\nradius = 3\n[reduce]\ntotal = false\n";
    /// let recipe = Recipe::from_toml(text, "bf.toml", "/".as_ref(), SigShape { height: 16, width: 16 })?;
    /// assert_eq!(recipe.reductions.len(), 2); // `bf`, and the sum of all frames unless it is turned off.
    /// # Ok::<(), ronchi_config::Problems>(())
    /// ```
    pub fn from_toml(text: &str, file_name: &str, base_dir: &Path, detector: SigShape) -> Result<Self, Problems> {
        let doc = Document::new(file_name, text);
        let Some(tree) = parse(&doc, text) else {
            return Err(doc.finish().expect_err("at least one error was reported"));
        };
        let root = Section::open(&doc, "", tree.get_ref(), 0..0, &SECTIONS);
        let reader = Reader { root, base_dir };
        if let Some(other) = reader.detector().filter(|&other| other != detector) {
            let (got, want) = ([other.height, other.width], [detector.height, detector.width]);
            doc.report_checked("detector.shape", format!("{got:?}, but the frames are {want:?}"));
        }
        let has_scan = reader.root.get("scan").is_some();
        let (conditions, reductions) = (reader.conditions(), reader.reductions(Some(detector)));
        let recipe = Self { scan: has_scan.then(|| reader.scan()), conditions, reductions };
        doc.finish().map(|()| recipe)
    }

    /// As [`Self::from_toml`], from a file; relative paths in it start at its directory.
    pub fn from_file(path: &Path, detector: SigShape) -> Result<Self, Error> {
        let (text, base_dir) = read_text(path)?;
        Ok(Self::from_toml(&text, &path.to_string_lossy(), base_dir, detector)?)
    }
}

/// The tree of a text; `None` when it is no TOML, which is reported.
fn parse<'a>(doc: &Document<'_>, text: &'a str) -> Option<Spanned<DeTable<'a>>> {
    let (tree, errors) = DeTable::parse_recoverable(text);
    let is_good = errors.is_empty();
    for error in errors {
        let message = format!("not TOML: {}", error.message().replace('\n', ", "));
        doc.report(error.span().map_or(0, |span| span.start), "", None, message);
    }
    is_good.then_some(tree)
}

/// The text of a configuration file, and the directory where relative paths in it start.
fn read_text(path: &Path) -> Result<(String, &Path), Error> {
    let unreadable = |source| Error::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let found = std::fs::metadata(path).map_or(bytes.len() as u64, |metadata| metadata.len());
        return Err(Error::TooLong { path: path.to_owned(), bytes: found, max_bytes: FILE_BYTES_MAX });
    }
    let text = String::from_utf8(bytes)
        .map_err(|e| unreadable(std::io::Error::new(std::io::ErrorKind::InvalidData, e.utf8_error())))?;
    Ok((text, path.parent().unwrap_or(Path::new(""))))
}

/// Reads the sections of one document.
#[derive(Debug)]
struct Reader<'a> {
    root: Section<'a>,
    base_dir: &'a Path,
}

impl Reader<'_> {
    fn plan(&self) -> Plan {
        let detector = self.detector();
        let (data, reserve_bytes, compress) = self.data();
        Plan {
            data,
            links: self.root.sections("link").iter().filter_map(|value| link(value, self.base_dir)).collect(),
            detector,
            scan: self.scan(),
            conditions: self.conditions(),
            reductions: self.reductions(detector),
            live: self.live(),
            limits: Limits { reserve_bytes, compress, ..self.limits() },
        }
    }

    /// `[reduce]` and all `[[virtual]]`.
    fn reductions(&self, detector: Option<SigShape>) -> Vec<Reduction> {
        let mut reductions = self.plain_reductions();
        let mut names = Vec::new();
        let virtuals = self.root.sections("virtual");
        for value in virtuals.iter().take(VIRTUAL_MAX) {
            reductions.extend(self.virtual_detector(value, detector, &mut names));
        }
        if virtuals.len() > VIRTUAL_MAX {
            let message = format!("{} virtual detectors, at most {VIRTUAL_MAX} are allowed", virtuals.len());
            self.root.fail("virtual", message);
        }
        for value in self.root.sections("reduction").iter().take(VIRTUAL_MAX) {
            reductions.extend(reduction(value, self.base_dir));
        }
        reductions
    }

    /// Where data sets go, the free space that is left alone there, in bytes, and whether chunks are compressed.
    fn data(&self) -> (DataPlan, Option<u64>, Compress) {
        let mut plan = DataPlan {
            directory: self.base_dir.to_owned(),
            volumes: Vec::new(),
            name: "scan".to_owned(),
            record: true,
        };
        let Some(section) =
            self.root.section("data", &["directory", "volumes", "name", "record", "compress", "reserve_gib"])
        else {
            if self.root.get("data").is_none() {
                self.root.fail("data", "missing; expected [data] with the directory that receives data sets");
            }
            return (plan, None, Compress::default());
        };
        plan.record = section.boolean_or("record", true);
        let expected = "the directory that receives data sets";
        let directory = if plan.record { section.need("directory", expected) } else { section.get("directory") };
        if let Some(path) = directory.and_then(|value| path(&value, expected)) {
            plan.directory = self.base_dir.join(path);
        }
        if let Some(texts) = section.get("volumes").and_then(|value| value.texts(VOLUMES_RULE)) {
            plan.volumes = texts.into_iter().map(|text| self.base_dir.join(text)).collect();
        }
        if let Some(value) = section.get("name")
            && let Some(name) = value.text("the name of the data set")
        {
            value.checked(check_name(name).map_err(|e| e.expected));
            plan.name = name.to_owned();
        }
        let reserve = section.get("reserve_gib");
        let reserve = reserve.and_then(|value| value.checked(reserve_bytes(value.real(RESERVE_RULE)?)));
        let compress = section.get("compress");
        let compress = compress.and_then(|value| value.choice(&[("none", Compress::None), ("lz4", Compress::Lz4)]));
        (plan, reserve, compress.unwrap_or_default())
    }

    fn detector(&self) -> Option<SigShape> {
        let section = self.root.section("detector", &["shape"])?;
        let [height, width] = section.need("shape", "[height, width]")?.ints("[height, width] in pixels", AXIS)?;
        Some(SigShape { height, width })
    }

    fn scan(&self) -> ScanPlan {
        let mut plan = ScanPlan::default();
        let keys = [
            "shape",
            "order",
            "flyback",
            "sync_offset",
            "frames_per_position",
            "passes",
            "repeats",
            "roi",
            "descan",
            "positions",
        ];
        let Some(section) = self.root.section("scan", &keys) else {
            return plan;
        };
        let shape = section.get("shape").and_then(|value| value.ints("[rows, positions per row]", AXIS));
        plan.shape = shape.map(|[height, width]| NavShape { height, width });
        let orders = [("raster", ScanOrder::Raster), ("serpentine", ScanOrder::Serpentine)];
        plan.order = section.get("order").and_then(|value| value.choice(&orders)).unwrap_or_default();
        plan.flyback = section.int_or("flyback", 0, 0..=u64::from(AXIS_MAX)) as u32;
        plan.frames_per_position = section.int_or("frames_per_position", 1, 1..=REPEATS_MAX) as u32;
        plan.passes = section.int_or("passes", 1, 1..=REPEATS_MAX) as u32;
        let policies =
            [Repeats::Sum, Repeats::Mean, Repeats::Last, Repeats::Stack].map(|policy| (policy.word(), policy));
        plan.repeats = section.get("repeats").and_then(|value| value.choice(&policies)).unwrap_or_default();
        let frames = plan.scan(None).map_or(1 << 32, |scan| i64::try_from(scan.frame_count()).unwrap_or(i64::MAX));
        let offset = section.get("sync_offset").and_then(|value| value.signed(1 - frames..=frames - 1));
        plan.sync_offset = offset.unwrap_or(0);
        plan
    }

    fn plain_reductions(&self) -> Vec<Reduction> {
        let section = self.root.section("reduce", &["total", "com", "sum", "max"]);
        let all = [
            ("total", true, Reduction::total()),
            ("com", false, Reduction::centre_of_mass()),
            ("sum", true, Reduction::sum()),
            ("max", false, Reduction::max()),
        ];
        let is_wanted = |key, default| section.as_ref().map_or(default, |section| section.boolean_or(key, default));
        all.into_iter().filter(|&(key, default, _)| is_wanted(key, default)).map(|(_, _, wanted)| wanted).collect()
    }

    /// One `[[virtual]]`; `names` are those of the tables before it.
    fn virtual_detector(
        &self,
        value: &Value<'_>,
        shape: Option<SigShape>,
        names: &mut Vec<String>,
    ) -> Option<Reduction> {
        let own: &[&str] = match value.peek("kind") {
            Some("disk" | "disk_aa") => &["centre", "radius"],
            Some("ring" | "ring_aa") => &["centre", "inner", "outer"],
            Some("rectangle") => &["from", "to"],
            Some("sector") => &["centre", "inner", "outer", "from_deg", "to_deg"],
            Some("polygon") => &["vertices"],
            Some("npy") => &["file"],
            _ => &["centre", "radius", "inner", "outer", "from", "to", "from_deg", "to_deg", "vertices", "file"],
        };
        let section = value.section(&[&["name", "kind"], own].concat())?;
        let name = result_name(&section, names);
        names.push(name.clone().unwrap_or_default());
        let kind = section.need("kind", &format!("one of {KINDS}"))?;
        let detector = match kind.text(&format!("one of {KINDS}"))? {
            "disk" => disk(&section, shape),
            "ring" => ring(&section, shape),
            "disk_aa" => disk(&section, shape).map(softened),
            "ring_aa" => ring(&section, shape).map(softened),
            "rectangle" => rectangle(&section),
            "sector" => sector(&section, shape),
            "polygon" => polygon(&section),
            "npy" => self.npy(&section),
            _ => {
                kind.fail(format!("expected one of {KINDS}"));
                None
            }
        }?;
        kind.checked(check_virtual(&detector, shape))?;
        Some(Reduction::virtual_detector(&name?, detector))
    }

    fn npy(&self, section: &Section<'_>) -> Option<VirtualDetector> {
        let expected = "a NumPy file (.npy) with one weight per detector pixel";
        let value = section.need("file", expected)?;
        let path = self.base_dir.join(path(&value, expected)?);
        value.checked(mask_file::read(&path).map_err(|e| e.to_string()))
    }

    fn live(&self) -> LivePlan {
        const KEYS: [&str; 5] = ["zmq", "karabo", "odin", "http", "update_interval_ms"];
        let mut plan = LivePlan::default();
        let Some(section) = self.root.section("live", &KEYS) else { return plan };
        let endpoint = |key| section.get(key).and_then(|value| parsed(&value, "an endpoint", parse_live_endpoint));
        (plan.zmq, plan.karabo, plan.odin) = (endpoint("zmq"), endpoint("karabo"), endpoint("odin"));
        plan.http = section.get("http").and_then(|value| parsed(&value, "an address and port", parse_http));
        let interval_ms = section.int_or("update_interval_ms", plan.update_interval.as_millis() as u64, 1..=10_000);
        plan.update_interval = Duration::from_millis(interval_ms);
        plan
    }

    fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        let Some(section) = self.root.section("limits", &LIMITS.map(|limit| limit.key)) else { return limits };
        for limit in &LIMITS {
            if let Some(count) = section.get(limit.key).and_then(|value| value.int(limit.range())) {
                (limit.write)(&mut limits, count);
            }
        }
        limits
    }
}

/// One `[[reduction]]`: `kind`, perhaps `name`, and what the kind knows; a `path` starts at `base_dir`, as all paths do.
fn reduction(value: &Value<'_>, base_dir: &Path) -> Option<Reduction> {
    let section = value.open()?;
    let kinds = || Reduction::kinds().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
    let expected = format!("one of {}", kinds());
    let kind = section.need("kind", &expected)?;
    let word = kind.text(&expected)?;
    if !Reduction::kinds().any(|(known, _)| known == word) {
        kind.fail(format!("expected {expected}"));
        return None;
    }
    let name = section.get("name");
    let name = name
        .as_ref()
        .map(|name| name.checked(check_result_name(name.text("a name for the result")?)).and(name.text("")));
    let name = match name {
        Some(name) => Some(name?),
        None => None,
    };
    let mut parameters = section.json(&["kind", "name"]);
    if let Some(serde_json::Value::String(path)) = parameters.get_mut("path") {
        *path = base_dir.join(&*path).to_string_lossy().into_owned();
    }
    Reduction::parse(word, name, parameters)
        .map_err(|error| {
            let key = error.key.as_deref().map(|key| key.split(['.', '[']).next().unwrap_or(key));
            match key.and_then(|key| section.get(key)) {
                Some(parameter) => parameter.fail(error.message.clone()),
                None => value.fail(error.to_string()),
            }
        })
        .ok()
}

fn result_name(section: &Section<'_>, names: &[String]) -> Option<String> {
    let value = section.need("name", "a name for the result")?;
    let name = value.text("a name for the result")?;
    value.checked(check_result_name(name))?;
    if let Some(twin) = names.iter().position(|other| other.eq_ignore_ascii_case(name)) {
        value.fail(format!("the same name as virtual[{twin}]"));
        return None;
    }
    Some(name.to_owned())
}

fn path(value: &Value<'_>, expected: &str) -> Option<PathBuf> {
    let text = value.text(expected)?;
    if text.is_empty() || text.contains('\0') {
        value.fail(format!("expected {expected}"));
        return None;
    }
    Some(PathBuf::from(text))
}

fn parsed<T>(value: &Value<'_>, expected: &str, parse: fn(&str) -> Result<T, ValueError>) -> Option<T> {
    value.text(expected).and_then(|text| value.checked(parse(text).map_err(|e| e.expected)))
}

fn link(value: &Value<'_>, base_dir: &Path) -> Option<LinkPlan> {
    let section = value.section(&["source", "region", "control"])?;
    let region = section.get("region").and_then(|value| value.ints("[y, x, height, width] in pixels", 0..=AXIS_MAX));
    let region = region.map(|[y, x, height, width]| Region { y, x, height, width });
    let source = section.need(
        "source",
        "merlin://HOST, dectris1://HOST, dectris2://HOST, tiles://HOST:PORT, tiles+bind://ADDRESS:PORT or replay:PATH",
    );
    let mut source = source.and_then(|value| parsed(&value, "the address of a detector", parse_source));
    if let Some(table) = section.get("control") {
        match &mut source {
            Some(SourcePlan::Merlin { control, .. }) => {
                *control = table.section(&["port", "frames", "trigger"]).map(|section| merlin_control(&section));
            }
            Some(SourcePlan::Dectris { control, .. }) => *control = dectris_control(&table),
            Some(_) => section.fail("control", "only a merlin://, dectris1:// or dectris2:// link can be armed"),
            None => {}
        }
    }
    if let Some(SourcePlan::Replay { path, .. }) = &mut source {
        *path = base_dir.join(&path);
    }
    // A link without a readable source still counts as a link, so that nobody is told that links are missing.
    let source = source.unwrap_or_else(|| SourcePlan::Merlin { host: String::new(), data_port: 0, control: None });
    Some(LinkPlan { source, region })
}

fn merlin_control(section: &Section<'_>) -> MerlinControlPlan {
    MerlinControlPlan {
        port: section.int_or("port", MERLIN_CONTROL_PORT.into(), 1..=u64::from(u16::MAX)) as u16,
        frame_count: section.get("frames").and_then(|value| value.int(1..=1 << 32)),
        trigger: section.get("trigger").and_then(|value| value.choice(&TRIGGERS)),
    }
}

fn dectris_control(table: &Value<'_>) -> Option<DectrisControlPlan> {
    let section = table.section(&dectris::KEYS)?;
    let values: Vec<_> = dectris::KEYS.iter().filter_map(|key| Some((*key, section.get(key)?))).collect();
    let found = match DectrisControlPlan::parse(&section.json(&[])) {
        Ok(plan) => return Some(plan),
        Err(found) => found,
    };
    for (key, message) in found {
        values.iter().filter(|(known, _)| *known == key).for_each(|(_, value)| value.fail(message.clone()));
    }
    None
}

/// The centre given, or `floor(n / 2)` of the detector when its shape is known.
fn centre(section: &Section<'_>, shape: Option<SigShape>) -> Option<[f64; 2]> {
    match (section.get("centre"), shape) {
        (Some(value), _) => value.point("[y, x] in pixels"),
        (None, Some(shape)) => Some([f64::from(shape.height / 2), f64::from(shape.width / 2)]),
        (None, None) => {
            let why = "the middle of the detector is only known when [detector] shape is given";
            section.fail("centre", format!("missing; expected [y, x] in pixels ({why})"));
            None
        }
    }
}

fn number(section: &Section<'_>, key: &str, expected: &str) -> Option<f64> {
    section.need(key, expected)?.real(expected)
}

fn disk(section: &Section<'_>, shape: Option<SigShape>) -> Option<VirtualDetector> {
    let radius = number(section, "radius", "a radius in pixels");
    let [cy, cx] = centre(section, shape)?;
    Some(VirtualDetector::Disk { cy, cx, radius: radius? })
}

fn ring(section: &Section<'_>, shape: Option<SigShape>) -> Option<VirtualDetector> {
    let inner = number(section, "inner", "the inner radius in pixels");
    let outer = number(section, "outer", "the outer radius in pixels");
    let [cy, cx] = centre(section, shape)?;
    Some(VirtualDetector::Ring { cy, cx, inner: inner?, outer: outer? })
}

/// The same with ramps for edges.
fn softened(detector: VirtualDetector) -> VirtualDetector {
    match detector {
        VirtualDetector::Disk { cy, cx, radius } => VirtualDetector::DiskAa { cy, cx, radius },
        VirtualDetector::Ring { cy, cx, inner, outer } => VirtualDetector::RingAa { cy, cx, inner, outer },
        other => other,
    }
}

fn sector(section: &Section<'_>, shape: Option<SigShape>) -> Option<VirtualDetector> {
    let from_deg = number(section, "from_deg", "the first angle in degrees");
    let to_deg = number(section, "to_deg", "the angle after the last in degrees");
    match ring(section, shape)? {
        VirtualDetector::Ring { cy, cx, inner, outer } => {
            Some(VirtualDetector::Sector { cy, cx, inner, outer, from_deg: from_deg?, to_deg: to_deg? })
        }
        _ => None,
    }
}

fn rectangle(section: &Section<'_>) -> Option<VirtualDetector> {
    let corner = |key, names| section.need(key, names).and_then(|value| value.ints(names, 0..=AXIS_MAX));
    let from = corner("from", "[y, x] of the first pixel");
    let [y1, x1] = corner("to", "[y, x] after the last pixel")?;
    let [y0, x0] = from?;
    Some(VirtualDetector::Rectangle { y0, x0, y1, x1 })
}

fn polygon(section: &Section<'_>) -> Option<VirtualDetector> {
    let expected = "three or more vertices [[y, x], ...]";
    let vertices = section.need("vertices", expected)?.points(expected)?;
    Some(VirtualDetector::Polygon { vertices })
}
