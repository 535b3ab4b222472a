//! The control protocol without sockets: requests in, responses out, variables kept.
//!
//! # Invariants
//! - I1: every request gets exactly one response that echoes its kind and name.
//! - I2: a variable never holds a value outside its [`Rule`].
//!
//! # Errors
//! Protocol errors travel as numbers: 0 done, 1 busy or out of place, 2 unknown, 3 out of range.
//!
//! # Why this way
//! `COUNTERDEPTH` and `FILEFORMAT` accept only what the prepared frames have (error 3 otherwise): a script that asks
//! for other data than it gets should hear so.

use super::format::FrameFormat;
use super::header::prefix;

/// Request carried out.
pub(super) const DONE: u8 = 0;
/// Not now: busy, or nothing is armed.
pub(super) const BUSY: u8 = 1;
/// No such variable or command.
pub(super) const UNKNOWN: u8 = 2;
/// Value not allowed.
pub(super) const RANGE: u8 = 3;

/// Longest request body that is read, in bytes.
pub(super) const REQUEST_BYTES_MAX: usize = 65_536;

/// Which values a variable takes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Rule {
    /// Whole numbers in a closed range.
    Whole(u64, u64),
    /// Decimal numbers in a closed range.
    Decimal(f64, f64),
    /// Anything up to 4096 bytes.
    Text,
    /// Only what it already holds: a property of the prepared frames.
    Fixed,
    /// Cannot be set.
    ReadOnly,
}

/// Settings a client may read and write: name, rule, value after power-up.
const VARIABLES: &[(&str, Rule, &str)] = &[
    ("SOFTWAREVERSION", Rule::ReadOnly, "1.5.0.0"),
    ("GETSOFTWAREREVISION", Rule::ReadOnly, "1.5.0.0"),
    ("DETECTORSTATUS", Rule::ReadOnly, "0"),
    ("TEMPERATURE", Rule::ReadOnly, "41.5"),
    ("IMAGEX", Rule::ReadOnly, "0"),
    ("IMAGEY", Rule::ReadOnly, "0"),
    ("NUMFRAMESTOACQUIRE", Rule::Whole(0, u32::MAX as u64), "1"),
    ("NUMFRAMESPERTRIGGER", Rule::Whole(1, u32::MAX as u64), "1"),
    ("ACQUISITIONTIME", Rule::Decimal(0.0, 1e9), "1.0"),
    ("ACQUISITIONPERIOD", Rule::Decimal(0.0, 1e9), "1.0"),
    ("COUNTERDEPTH", Rule::Fixed, "12"),
    ("FILEFORMAT", Rule::Fixed, "0"),
    ("CONTINUOUSRW", Rule::Whole(0, 1), "1"),
    ("ENABLECOUNTER1", Rule::Whole(0, 2), "0"),
    ("TRIGGERSTART", Rule::Whole(0, 5), "0"),
    ("TRIGGERSTOP", Rule::Whole(0, 4), "0"),
    ("THRESHOLD0", Rule::Decimal(0.0, 999.0), "40"),
    ("THRESHOLD1", Rule::Decimal(0.0, 999.0), "511"),
    ("THRESHOLD2", Rule::Decimal(0.0, 999.0), "0"),
    ("THRESHOLD3", Rule::Decimal(0.0, 999.0), "0"),
    ("THRESHOLD4", Rule::Decimal(0.0, 999.0), "0"),
    ("THRESHOLD5", Rule::Decimal(0.0, 999.0), "0"),
    ("THRESHOLD6", Rule::Decimal(0.0, 999.0), "0"),
    ("THRESHOLD7", Rule::Decimal(0.0, 999.0), "0"),
    ("OPERATINGENERGY", Rule::Decimal(0.0, 999.0), "60"),
    ("GAIN", Rule::Whole(0, 3), "0"),
    ("COLOURMODE", Rule::Whole(0, 1), "0"),
    ("CHARGESUMMING", Rule::Whole(0, 1), "0"),
    ("FILEENABLE", Rule::Whole(0, 1), "0"),
    ("FILEDIRECTORY", Rule::Text, "C:\\"),
    ("FILENAME", Rule::Text, "default"),
    ("IMAGESPERFILE", Rule::Whole(1, u32::MAX as u64), "1"),
    ("USETIMESTAMPING", Rule::Whole(0, 1), "0"),
    ("RUNHEADLESS", Rule::Whole(0, 1), "0"),
];

/// The detector's variables.
#[derive(Debug, Clone)]
pub(super) struct Variables {
    values: Vec<String>,
    defaults: Vec<String>,
}

impl Variables {
    /// Variables after power-up, with those that follow from the prepared frames.
    pub(super) fn new(properties: &[(&str, u64)]) -> Self {
        let mut defaults: Vec<String> = VARIABLES.iter().map(|&(_, _, value)| value.to_owned()).collect();
        for &(name, value) in properties {
            if let Some(index) = index_of(name) {
                defaults[index] = value.to_string();
            }
        }
        Self { values: defaults.clone(), defaults }
    }

    /// What `COUNTERDEPTH`, `FILEFORMAT`, `IMAGEX` and `IMAGEY` say about frames of this format.
    pub(super) fn of_format(format: &FrameFormat) -> [(&'static str, u64); 4] {
        [
            ("COUNTERDEPTH", u64::from(format.pixels().counter_depth())),
            ("FILEFORMAT", if format.pixels().is_raw() { 2 } else { 0 }),
            ("IMAGEX", u64::from(format.shape().width)),
            ("IMAGEY", u64::from(format.shape().height)),
        ]
    }

    /// The value of a whole-number variable; 0 for others.
    pub(super) fn whole(&self, name: &str) -> u64 {
        index_of(name).and_then(|index| self.values[index].parse().ok()).unwrap_or(0)
    }

    /// Back to the state after power-up.
    pub(super) fn reset(&mut self) {
        self.values.clone_from(&self.defaults);
    }

    fn read(&self, name: &str) -> Option<&str> {
        index_of(name).map(|index| self.values[index].as_str())
    }

    fn write(&mut self, name: &str, value: &str) -> u8 {
        let Some(index) = index_of(name) else { return UNKNOWN };
        let held = &self.values[index];
        let is_allowed = match VARIABLES[index].1 {
            Rule::Whole(min, max) => value.parse().is_ok_and(|number: u64| (min..=max).contains(&number)),
            Rule::Decimal(min, max) => value.parse().is_ok_and(|number: f64| (min..=max).contains(&number)),
            Rule::Text => value.len() <= 4096,
            Rule::Fixed => value == held,
            Rule::ReadOnly => return UNKNOWN,
        };
        if !is_allowed {
            return RANGE;
        }
        value.clone_into(&mut self.values[index]);
        DONE
    }
}

fn index_of(name: &str) -> Option<usize> {
    VARIABLES.iter().position(|&(known, _, _)| known == name)
}

/// What a command asks of the detector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// `STARTACQUISITION`
    Start,
    /// `SOFTTRIGGER`
    SoftTrigger,
    /// `STOPACQUISITION`
    Stop,
    /// `ABORT`
    Abort,
    /// `RESET`
    Reset,
}

/// The part of the detector that carries out commands.
pub(super) trait Detector {
    /// Carries out a command and returns its error number.
    fn command(&mut self, command: Command) -> u8;
    /// Whether an acquisition is armed or running.
    fn is_busy(&self) -> bool;
    /// The variables.
    fn variables(&mut self) -> &mut Variables;
}

/// Answers the body of one request with a whole response, prefix included.
///
/// `short_length` imitates a known simulator that leaves the comma behind the length out of the count.
pub(super) fn answer(body: &[u8], detector: &mut dyn Detector, short_length: bool) -> Vec<u8> {
    let text = String::from_utf8_lossy(body);
    let text = text.trim_end_matches(['\r', '\n', '\0']);
    let (kind, rest) = text.split_once(',').unwrap_or((text, ""));
    let (name, value) = rest.split_once(',').unwrap_or((rest, ""));
    let response = match kind {
        "GET" => answer_get(name, detector),
        "SET" => format!("SET,{name},{}", detector.variables().write(name, value.trim())),
        "CMD" => {
            let command = match name {
                "STARTACQUISITION" => Some(Command::Start),
                "SOFTTRIGGER" => Some(Command::SoftTrigger),
                "STOPACQUISITION" => Some(Command::Stop),
                "ABORT" => Some(Command::Abort),
                "RESET" => Some(Command::Reset),
                _ => None,
            };
            format!("CMD,{name},{}", command.map_or(UNKNOWN, |command| detector.command(command)))
        }
        _ => format!("{kind},{name},{UNKNOWN}"),
    };
    let counted = response.len() - usize::from(short_length);
    [&prefix(counted)[..], response.as_bytes()].concat()
}

fn answer_get(name: &str, detector: &mut dyn Detector) -> String {
    if name == "DETECTORSTATUS" {
        return format!("GET,{name},{},{DONE}", u8::from(detector.is_busy()));
    }
    match detector.variables().read(name) {
        Some(value) => format!("GET,{name},{value},{DONE}"),
        None => format!("GET,{name},0,{UNKNOWN}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        variables: Variables,
        busy: bool,
        commands: Vec<Command>,
    }

    impl Detector for Bench {
        fn command(&mut self, command: Command) -> u8 {
            self.commands.push(command);
            DONE
        }
        fn is_busy(&self) -> bool {
            self.busy
        }
        fn variables(&mut self) -> &mut Variables {
            &mut self.variables
        }
    }

    fn ask(bench: &mut Bench, body: &str) -> String {
        String::from_utf8(answer(body.as_bytes(), bench, false)).expect("text")
    }

    fn bench() -> Bench {
        let variables = Variables::new(&[("COUNTERDEPTH", 6), ("IMAGEX", 512)]);
        Bench { variables, busy: false, commands: Vec::new() }
    }

    /// The three exchanges printed in the vendor's document, byte for byte, and their variants with a dummy value.
    #[test]
    fn documented_exchanges() {
        let mut bench = bench();
        assert_eq!(ask(&mut bench, "SET,NUMFRAMESTOACQUIRE,1"), "MPX,0000000025,SET,NUMFRAMESTOACQUIRE,0");
        for body in ["GET,NUMFRAMESTOACQUIRE", "GET,NUMFRAMESTOACQUIRE,0"] {
            assert_eq!(ask(&mut bench, body), "MPX,0000000027,GET,NUMFRAMESTOACQUIRE,1,0");
        }
        for body in ["CMD,STARTACQUISITION", "CMD,STARTACQUISITION,0"] {
            assert_eq!(ask(&mut bench, body), "MPX,0000000023,CMD,STARTACQUISITION,0");
        }
        assert_eq!(bench.commands, [Command::Start, Command::Start]);
    }

    /// Unknown names answer 2, values out of range 3, and neither changes anything.
    #[test]
    fn wrong_requests() {
        let mut bench = bench();
        let end = |response: String| response.rsplit(',').next().map(str::to_owned);
        let cases = [
            ("GET,NOSUCHTHING", "2"),
            ("SET,NOSUCHTHING,1", "2"),
            ("CMD,NOSUCHTHING", "2"),
            ("HUH,NOSUCHTHING", "2"),
            ("", "2"),
            ("SET,IMAGEX,3", "2"),
            ("SET,TRIGGERSTART,6", "3"),
            ("SET,TRIGGERSTART,", "3"),
            ("SET,NUMFRAMESTOACQUIRE,-1", "3"),
            ("SET,COUNTERDEPTH,12", "3"),
            ("SET,COUNTERDEPTH,6", "0"),
            ("SET,FILEDIRECTORY,D:\\a,b", "0"),
        ];
        for (body, code) in cases {
            assert_eq!(end(ask(&mut bench, body)).as_deref(), Some(code), "{body}");
        }
        assert!(ask(&mut bench, "GET,FILEDIRECTORY").ends_with("GET,FILEDIRECTORY,D:\\a,b,0"));
        assert!(ask(&mut bench, "GET,TRIGGERSTART").ends_with("GET,TRIGGERSTART,0,0"));
    }

    /// The length quirk of section 2.2, with the example printed there.
    #[test]
    fn short_lengths_on_request() {
        let mut bench = bench();
        bench.variables = Variables::new(&[("IMAGEX", 256)]);
        assert_eq!(answer(b"GET,IMAGEX", &mut bench, true), b"MPX,0000000016,GET,IMAGEX,256,0");
        assert_eq!(answer(b"GET,IMAGEX", &mut bench, false), b"MPX,0000000017,GET,IMAGEX,256,0");
    }

    /// The status follows the detector, and a reset brings the values of power-up back.
    #[test]
    fn status_and_reset() {
        let mut bench = bench();
        assert!(ask(&mut bench, "GET,DETECTORSTATUS").ends_with(",0,0"));
        bench.busy = true;
        assert!(ask(&mut bench, "GET,DETECTORSTATUS").ends_with(",1,0"));
        ask(&mut bench, "SET,GAIN,2");
        assert_eq!(bench.variables.whole("GAIN"), 2);
        bench.variables.reset();
        assert_eq!(bench.variables.whole("GAIN"), 0);
    }
}
