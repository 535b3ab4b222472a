//! Values that files and command lines share: names, addresses, shapes, virtual detectors.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use ronchi_pipeline::reduce::{Descan, NoData, Reduction, VirtualDetector};
use ronchi_pipeline::{AXIS_MAX, NavShape, SigShape};

use crate::limits::{RESERVE_RULE, reserve_bytes};
use crate::mask_file;
use crate::plan::{DectrisStream, SourcePlan};
use crate::problem::ValueError;

/// Merlin's data port unless told otherwise.
pub(crate) const MERLIN_DATA_PORT: u16 = 6342;
const DECTRIS_LEGACY_PORT: u16 = 9999;
const DECTRIS_CBOR_PORT: u16 = 31_001;
/// Most sockets of a DECTRIS stream: each has a thread.
const SOCKETS_MAX: u32 = 16;
/// Merlin's control port unless told otherwise.
pub const MERLIN_CONTROL_PORT: u16 = 6341;
/// Names that reductions without a mask give their results.
pub(crate) const RESULT_NAMES: [&str; 4] = ["total", "com", "sum", "max"];

const NAME_RULE: &str =
    "expected 1 to 128 letters, digits, `.`, `_` or `-`, beginning with a letter or digit, without `..`";
const SOURCE_RULE: &str = "expected merlin://HOST[:PORT], dectris1://HOST[:PORT][?sockets=1..16], \
     dectris2://HOST[:PORT][?sockets=1..16], \
     tiles://HOST:PORT (connect), tiles+bind://ADDRESS:PORT (listen), ports from 1 to 65535, or \
     replay:PATH[?rate=FRAMES_PER_SECOND][&tile=NUMBER]";
const REPLAY_RULE: &str =
    "expected replay:PATH[?rate=FRAMES_PER_SECOND][&tile=NUMBER], rates from 0.001 to 10000000, tiles from 0";
/// Fastest and slowest replay, in frames per second.
const RATES: std::ops::RangeInclusive<f64> = 0.001..=10_000_000.0;
const VIRTUAL_RULE: &str = "expected NAME=disk:CY,CX,R, NAME=ring:CY,CX,RI,RO, NAME=rect:Y0,X0,Y1,X1, \
     NAME=disk_aa:CY,CX,R, NAME=ring_aa:CY,CX,RI,RO, NAME=sector:CY,CX,RI,RO,A0,A1, NAME=polygon:Y,X;Y,X;Y,X or NAME=npy:FILE";
const VERTICES_MAX: usize = 1000;
const ANGLE_MAX_DEG: f64 = 720.0;
/// Names that some operating systems keep for devices: data sets get copied.
const DEVICE_NAMES: [&str; 4] = ["con", "prn", "aux", "nul"];

/// Checks the name of a data set or result: `^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`, no `..`, no trailing dot, no device
/// name.
pub fn check_name(name: &str) -> Result<(), ValueError> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let has_form = (1..=128).contains(&name.len())
        && name.chars().all(is_allowed)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !name.contains("..")
        && !name.ends_with('.');
    if !has_form {
        return Err(ValueError::new(name, NAME_RULE));
    }
    let stem = name.split('.').next().unwrap_or(name).to_ascii_lowercase();
    let is_port = |prefix| stem.strip_prefix(prefix).is_some_and(|n| n.len() == 1 && n.as_bytes()[0].is_ascii_digit());
    if DEVICE_NAMES.contains(&stem.as_str()) || is_port("com") || is_port("lpt") {
        return Err(ValueError::new(name, "reserved by some operating systems; choose another name"));
    }
    Ok(())
}

/// Reads `merlin://HOST[:6342]`, `dectris1://HOST[:9999]`, `dectris2://HOST[:31001]` (both with `?sockets=COUNT`),
/// `tiles://HOST:PORT` (connect), `tiles+bind://ADDRESS:PORT` (listen) or
/// `replay:PATH[?rate=FRAMES_PER_SECOND][&tile=NUMBER]`, also written `replay://PATH`.
///
/// ```
/// use ronchi_config::{SourcePlan, parse_source};
/// let source = parse_source("tiles+bind://127.0.0.1:7001")?;
/// assert_eq!(source, SourcePlan::Tiles { endpoint: "tcp://127.0.0.1:7001".into(), bind: true });
/// # Ok::<(), ronchi_config::ValueError>(())
/// ```
pub fn parse_source(text: &str) -> Result<SourcePlan, ValueError> {
    let wrong = |expected: &str| ValueError::new(text, expected);
    if let Some(rest) = text.strip_prefix("replay:") {
        return replay(rest.strip_prefix("//").unwrap_or(rest)).ok_or_else(|| wrong(REPLAY_RULE));
    }
    let (scheme, address) = text.split_once("://").ok_or_else(|| wrong(SOURCE_RULE))?;
    let (address, sockets) = match address.rsplit_once("?sockets=") {
        Some((address, count)) if scheme.starts_with("dectris") => (address, count.parse().ok()),
        _ => (address, Some(1)),
    };
    let sockets = sockets.filter(|count| (1..=SOCKETS_MAX).contains(count)).ok_or_else(|| wrong(SOURCE_RULE))?;
    let (host, port) = host_and_port(address).ok_or_else(|| wrong(SOURCE_RULE))?;
    let dectris = |stream, usual| {
        let endpoint = format!("tcp://{host}:{}", port.unwrap_or(usual));
        Ok(SourcePlan::Dectris { stream, endpoint, sockets, control: None })
    };
    match (scheme, port) {
        ("merlin", port) => {
            let data_port = port.unwrap_or(MERLIN_DATA_PORT);
            Ok(SourcePlan::Merlin { host: bare(host).to_owned(), data_port, control: None })
        }
        ("dectris1", _) => dectris(DectrisStream::Legacy, DECTRIS_LEGACY_PORT),
        ("dectris2", _) => dectris(DectrisStream::Cbor, DECTRIS_CBOR_PORT),
        ("tiles", Some(port)) => Ok(SourcePlan::Tiles { endpoint: format!("tcp://{host}:{port}"), bind: false }),
        ("tiles+bind", Some(port)) => {
            let host = if host == "localhost" { "127.0.0.1" } else { host };
            let address: Result<IpAddr, _> = bare(host).parse();
            let address = address.map_err(|_| wrong("listening needs the address of one interface, e.g. 127.0.0.1"))?;
            if address.is_unspecified() || address.is_multicast() {
                return Err(wrong(
                    "listening on every interface is refused; name the address of the detector's interface",
                ));
            }
            Ok(SourcePlan::Tiles { endpoint: format!("tcp://{host}:{port}"), bind: true })
        }
        ("tiles" | "tiles+bind", None) => {
            Err(wrong("the port is missing; expected HOST:PORT with a port from 1 to 65535"))
        }
        _ => Err(wrong(SOURCE_RULE)),
    }
}

/// `PATH[?rate=R][&tile=N]`; a path may hold question marks before the last one.
fn replay(text: &str) -> Option<SourcePlan> {
    let (path, options) = text.rsplit_once('?').unwrap_or((text, ""));
    let (mut interval, mut tile) = (None, None);
    for option in options.split('&').filter(|option| !option.is_empty()) {
        match option.split_once('=')? {
            ("rate", rate) if interval.is_none() => {
                let rate = rate.parse().ok().filter(|rate| RATES.contains(rate))?;
                interval = Some(Duration::from_secs_f64(1.0 / rate));
            }
            ("tile", number) if tile.is_none() => tile = Some(number.parse().ok()?),
            _ => return None,
        }
    }
    let is_path = !path.is_empty() && !path.contains('\0');
    is_path.then(|| SourcePlan::Replay { path: path.into(), interval, tile })
}

/// Splits `HOST`, `HOST:PORT`, `[V6]` or `[V6]:PORT`; the host keeps its brackets. `None` when malformed.
fn host_and_port(address: &str) -> Option<(&str, Option<u16>)> {
    let host_end =
        if address.starts_with('[') { address.find(']')? + 1 } else { address.find(':').unwrap_or(address.len()) };
    let (host, rest) = address.split_at_checked(host_end)?;
    let port = match rest.strip_prefix(':') {
        Some(port) => Some(port.parse::<u16>().ok().filter(|&p| p > 0 && port.bytes().all(|b| b.is_ascii_digit()))?),
        None if rest.is_empty() => None,
        None => return None,
    };
    let is_v6 = host.starts_with('[') && bare(host).parse::<std::net::Ipv6Addr>().is_ok();
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
    };
    let is_name = host.len() <= 253 && host.split('.').all(is_label);
    (is_v6 || is_name).then_some((host, port))
}

fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host)
}

/// Reads a scan shape `NYxNX`, e.g. `256x512`: rows first.
pub fn parse_scan(text: &str) -> Result<NavShape, ValueError> {
    let axis = |text: &str| text.parse::<u32>().ok().filter(|n| (1..=AXIS_MAX).contains(n));
    let shape = text.split_once('x').and_then(|(ny, nx)| Some(NavShape { height: axis(ny)?, width: axis(nx)? }));
    shape.ok_or_else(|| ValueError::new(text, format!("expected NYxNX, rows x positions, each from 1 to {AXIS_MAX}")))
}

/// Reads the value of pixels without data: `max`, the largest of their type, `none`, or a number.
pub fn parse_nodata(text: &str) -> Result<NoData, ValueError> {
    match text {
        "max" => Ok(NoData::Max),
        "none" => Ok(NoData::None),
        _ => text.parse().map(NoData::Value).map_err(|_| {
            ValueError::new(text, format!("expected max, none, or a whole number from 0 to {}", u32::MAX))
        }),
    }
}

/// Reads chosen scan positions as a rectangle: `Y0..Y1,X0..X1`, without the last ones; `None` for any other text.
pub fn parse_rectangle(text: &str) -> Option<(Range<u32>, Range<u32>)> {
    let range = |text: &str| {
        let (first, end) = text.split_once("..")?;
        Some(first.parse().ok()?..end.parse().ok()?)
    };
    let (y, x) = text.split_once(',')?;
    Some((range(y)?, range(x)?))
}

/// Reads a linear descan, six numbers: `OY,OX,RY,RX,CY,CX`, the shift at the first position and its change per row and per
/// column; `None` for any other text.
pub fn parse_descan(text: &str) -> Option<Descan> {
    let numbers: Vec<f64> = text.split(',').map(|number| number.parse().ok()).collect::<Option<_>>()?;
    let &[oy, ox, ry, rx, cy, cx] = &numbers[..] else { return None };
    Descan::linear([oy, ox], [ry, rx], [cy, cx])
}

/// Reads how much free space recording leaves alone, in GiB (`0`, `0.5`, `20`); in bytes.
pub fn parse_reserve(text: &str) -> Result<u64, ValueError> {
    let bytes = text.parse().ok().and_then(|gib| reserve_bytes(gib).ok());
    bytes.ok_or_else(|| ValueError::new(text, format!("expected {RESERVE_RULE}")))
}

/// Reads a virtual detector: `NAME=disk:CY,CX,R`, `NAME=ring:CY,CX,RI,RO`, `NAME=rect:Y0,X0,Y1,X1`,
/// `NAME=sector:CY,CX,RI,RO,A0,A1`, `NAME=polygon:Y,X;Y,X;...` or `NAME=npy:FILE`; pixels and degrees, `y` first.
///
/// ```
/// use ronchi_config::parse_virtual;
/// assert!(parse_virtual("adf=ring:127.5,127.5,40,90").is_ok());
/// ```
pub fn parse_virtual(text: &str) -> Result<Reduction, ValueError> {
    let wrong = |expected: String| ValueError::new(text, expected);
    let rule = || wrong(VIRTUAL_RULE.to_owned());
    let (name, shape) = text.split_once('=').ok_or_else(rule)?;
    check_result_name(name).map_err(wrong)?;
    let (kind, parameters) = shape.split_once(':').ok_or_else(rule)?;
    let detector = virtual_detector(kind, parameters).map_err(wrong)?.ok_or_else(rule)?;
    check_virtual(&detector, None).map_err(wrong)?;
    Ok(Reduction::virtual_detector(name, detector))
}

/// Reads a reduction: `KIND`, `NAME=KIND` or either with parameters behind a colon, `KEY=VALUE` separated by commas; values
/// are numbers, `true`, `false`, words, or lists in brackets.
///
/// ```
/// use ronchi_config::parse_reduction;
/// let profile = parse_reduction("profile=radial:bins=64,centre=[127.5,128]")?;
/// assert_eq!((profile.name(), profile.kind()), ("profile", "radial"));
/// # Ok::<(), ronchi_config::ValueError>(())
/// ```
pub fn parse_reduction(text: &str) -> Result<Reduction, ValueError> {
    let wrong = |expected: String| ValueError::new(text, expected);
    let (head, parameters) = text.split_once(':').unwrap_or((text, ""));
    let (name, kind) = head.split_once('=').map_or((None, head), |(name, kind)| (Some(name), kind));
    name.map_or(Ok(()), check_result_name).map_err(wrong)?;
    let mut values = serde_json::Map::new();
    for parameter in split_outside_brackets(parameters) {
        let Some((key, value)) = parameter.split_once('=') else {
            return Err(wrong(format!("expected KEY=VALUE, got `{parameter}`")));
        };
        let value = value.trim();
        values.insert(key.trim().to_owned(), serde_json::from_str(value).unwrap_or_else(|_| words(value)));
    }
    Reduction::parse(kind, name, values).map_err(|error| wrong(error.to_string()))
}

/// A word, or words in brackets.
fn words(text: &str) -> serde_json::Value {
    match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        Some(words) => words.split(',').map(str::trim).collect(),
        None => text.into(),
    }
}

/// Pieces between commas that are not in brackets; none of an empty text.
fn split_outside_brackets(text: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    let pieces = text.split(|c| {
        depth += i32::from(c == '[') - i32::from(c == ']');
        c == ',' && depth <= 0
    });
    pieces.filter(|piece| !piece.trim().is_empty()).collect()
}

/// `Ok(None)` when the parameters do not have the right number or form.
fn virtual_detector(kind: &str, parameters: &str) -> Result<Option<VirtualDetector>, String> {
    let detector = match (kind, reals(parameters).as_deref()) {
        ("disk", Some(&[cy, cx, radius])) => VirtualDetector::Disk { cy, cx, radius },
        ("ring", Some(&[cy, cx, inner, outer])) => VirtualDetector::Ring { cy, cx, inner, outer },
        ("disk_aa", Some(&[cy, cx, radius])) => VirtualDetector::DiskAa { cy, cx, radius },
        ("ring_aa", Some(&[cy, cx, inner, outer])) => VirtualDetector::RingAa { cy, cx, inner, outer },
        ("sector", Some(&[cy, cx, inner, outer, from_deg, to_deg])) => {
            VirtualDetector::Sector { cy, cx, inner, outer, from_deg, to_deg }
        }
        ("rect", Some(numbers)) => match numbers.iter().map(|&n| whole(n)).collect::<Option<Vec<u32>>>().as_deref() {
            Some(&[y0, x0, y1, x1]) => VirtualDetector::Rectangle { y0, x0, y1, x1 },
            _ => return Ok(None),
        },
        ("polygon", _) => match parameters.split(';').map(vertex).collect() {
            Some(vertices) => VirtualDetector::Polygon { vertices },
            None => return Ok(None),
        },
        ("npy", _) => mask_file::read(Path::new(parameters)).map_err(|e| e.to_string())?,
        _ => return Ok(None),
    };
    Ok(Some(detector))
}

fn reals(text: &str) -> Option<Vec<f64>> {
    text.split(',').map(|n| n.trim().parse().ok()).collect()
}

fn whole(number: f64) -> Option<u32> {
    (number.fract() == 0.0 && (0.0..=f64::from(AXIS_MAX)).contains(&number)).then_some(number as u32)
}

fn vertex(text: &str) -> Option<[f64; 2]> {
    reals(text)?.try_into().ok()
}

/// A result's name must be a name, and not one that another reduction uses.
pub(crate) fn check_result_name(name: &str) -> Result<(), String> {
    check_name(name).map_err(|e| e.expected)?;
    if RESULT_NAMES.contains(&name) {
        return Err(format!("the names {} belong to [reduce]; choose another", RESULT_NAMES.join(", ")));
    }
    Ok(())
}

/// Checks the numbers of a virtual detector, and that it touches the detector where its shape is known.
pub fn check_virtual(detector: &VirtualDetector, shape: Option<SigShape>) -> Result<(), String> {
    check_numbers(detector)?;
    let Some(shape) = shape else { return Ok(()) };
    let (height, width) = (f64::from(shape.height), f64::from(shape.width));
    let size = format!("{} x {}", shape.height, shape.width);
    if let VirtualDetector::Image { height, width, .. } = detector {
        return match (*height, *width) == (shape.height, shape.width) {
            true => Ok(()),
            false => Err(format!("mask of {height} x {width} for a detector of {size}: the shapes must be equal")),
        };
    }
    if let VirtualDetector::Rectangle { y1, x1, .. } = detector
        && (*y1 > shape.height || *x1 > shape.width)
    {
        return Err(format!("ends at [{y1}, {x1}], outside the detector of {size}"));
    }
    let ([y0, x0], [y1, x1]) = bounds(detector);
    if y1 < 0.0 || x1 < 0.0 || y0 > height - 1.0 || x0 > width - 1.0 {
        return Err(format!("covers no pixel of the detector of {size}"));
    }
    Ok(())
}

fn check_numbers(detector: &VirtualDetector) -> Result<(), String> {
    let axis_max = f64::from(AXIS_MAX);
    let place = |numbers: &[f64]| match numbers.iter().all(|n| (-axis_max..=axis_max).contains(n)) {
        true => Ok(()),
        false => Err(format!("coordinates must lie between -{AXIS_MAX} and {AXIS_MAX} px")),
    };
    let radii = |inner: f64, outer: f64| match 0.0 <= inner && inner < outer && outer <= 2.0 * axis_max {
        true => Ok(()),
        false => Err(format!("radii must obey 0 <= inner < outer <= {} px, got {inner} and {outer}", 2 * AXIS_MAX)),
    };
    match *detector {
        VirtualDetector::Disk { cy, cx, radius } | VirtualDetector::DiskAa { cy, cx, radius } => {
            place(&[cy, cx])?;
            match (0.0..=2.0 * axis_max).contains(&radius) {
                true => Ok(()),
                false => Err(format!("the radius must lie between 0 and {} px, got {radius}", 2 * AXIS_MAX)),
            }
        }
        VirtualDetector::Ring { cy, cx, inner, outer } | VirtualDetector::RingAa { cy, cx, inner, outer } => {
            place(&[cy, cx]).and_then(|()| radii(inner, outer))
        }
        VirtualDetector::Rectangle { y0, x0, y1, x1 } => match y0 < y1 && x0 < x1 && y1.max(x1) <= AXIS_MAX {
            true => Ok(()),
            false => Err(format!("a rectangle must obey y0 < y1 and x0 < x1, at most {AXIS_MAX} px")),
        },
        VirtualDetector::Sector { cy, cx, inner, outer, from_deg, to_deg } => {
            place(&[cy, cx])?;
            radii(inner, outer)?;
            let is_turn = |deg: f64| (-ANGLE_MAX_DEG..=ANGLE_MAX_DEG).contains(&deg);
            match is_turn(from_deg) && is_turn(to_deg) && from_deg < to_deg && to_deg - from_deg <= 360.0 {
                true => Ok(()),
                false => Err(format!(
                    "angles must obey -{ANGLE_MAX_DEG} <= from < to <= {ANGLE_MAX_DEG} and span at most 360 degrees, \
                     got {from_deg} and {to_deg}"
                )),
            }
        }
        VirtualDetector::Polygon { ref vertices } => match (3..=VERTICES_MAX).contains(&vertices.len()) {
            true => place(vertices.as_flattened()),
            false => Err(format!("a polygon has 3 to {VERTICES_MAX} vertices, got {}", vertices.len())),
        },
        VirtualDetector::Image { height, width, ref weights } => {
            let has_size = u64::from(height) * u64::from(width) == weights.len() as u64;
            match has_size && weights.iter().all(|w| w.is_finite()) {
                true => Ok(()),
                false => Err("a mask must have one finite weight per pixel".to_owned()),
            }
        }
    }
}

/// Smallest rectangle around a detector given by numbers: first and last `[y, x]`.
fn bounds(detector: &VirtualDetector) -> ([f64; 2], [f64; 2]) {
    match *detector {
        VirtualDetector::Disk { cy, cx, radius: r }
        | VirtualDetector::DiskAa { cy, cx, radius: r }
        | VirtualDetector::Ring { cy, cx, outer: r, .. }
        | VirtualDetector::RingAa { cy, cx, outer: r, .. }
        | VirtualDetector::Sector { cy, cx, outer: r, .. } => ([cy - r, cx - r], [cy + r, cx + r]),
        VirtualDetector::Rectangle { y0, x0, y1, x1 } => {
            ([y0.into(), x0.into()], [f64::from(y1) - 1.0, f64::from(x1) - 1.0])
        }
        VirtualDetector::Polygon { ref vertices } => {
            let low = |i: usize| vertices.iter().map(|v| v[i]).fold(f64::INFINITY, f64::min);
            let high = |i: usize| vertices.iter().map(|v| v[i]).fold(f64::NEG_INFINITY, f64::max);
            ([low(0), low(1)], [high(0), high(1)])
        }
        VirtualDetector::Image { height, width, .. } => ([0.0, 0.0], [f64::from(height), f64::from(width)]),
    }
}

/// Reads a listener of the HTTP server. Whether it may be one that other machines reach, the whole plan decides.
pub fn parse_http(text: &str) -> Result<SocketAddr, ValueError> {
    let expected = "expected an address and port, e.g. 127.0.0.1:8480 or [::1]:8480";
    text.parse().map_err(|_| ValueError::new(text, expected))
}

/// Reads an endpoint of the live stream: `tcp://127.0.0.1:PORT`, `tcp://[::1]:PORT` or `ipc://PATH`.
pub fn parse_live_endpoint(text: &str) -> Result<String, ValueError> {
    let expected = "expected tcp://127.0.0.1:PORT, tcp://[::1]:PORT or ipc:///PATH";
    let is_loopback = text
        .strip_prefix("tcp://")
        .is_some_and(|address| parse_http(address).is_ok_and(|a| a.ip().is_loopback() && a.port() > 0));
    let is_ipc = text.strip_prefix("ipc://").is_some_and(|path| path.starts_with('/') && path.len() <= 100);
    if is_loopback || is_ipc {
        return Ok(text.to_owned());
    }
    Err(ValueError::new(text, format!("the live stream is not encrypted, so it stays on this machine; {expected}")))
}
