//! `ronchi simulate merlin`: the command line of the simulator.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use ronchi_pipeline::{NavShape, SigShape};

use super::fault::Fault;
use super::merlin::{
    CONTROL_PORT, ChipLayout, DATA_PORT, FAULTS, FrameSource, MerlinPixels, MerlinSimulation, MerlinSimulator, Running,
    TriggerMode,
};
use super::synth::{Specimen, SynthPlan};
use super::tally::SimulatorReport;

/// Pretend to be a Merlin detector: serve its control and data sockets with recorded or synthetic frames.
#[derive(Debug, Clone, Args)]
pub struct SimulateMerlinArgs {
    /// Replay this recording, byte for byte; give all files of a set (uses the .hdr beside them)
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["scan", "detector", "dtype", "layout"])]
    mib: Vec<PathBuf>,
    /// Give replayed frames new sequence numbers and time stamps
    #[arg(long, requires = "mib")]
    restamp: bool,
    /// Scan rows and positions per row
    #[arg(long, value_name = "NYxNX", default_value = "128x128", value_parser = parse_shape)]
    scan: (u32, u32),
    /// Detector rows and columns; the full size of the layout unless told
    #[arg(long, value_name = "HxW", value_parser = parse_shape)]
    detector: Option<(u32, u32)>,
    /// Pixels on the wire: u8, u16, u32, or raw r64-1, r64-6, r64-12, r64-24
    #[arg(long, value_name = "TYPE", default_value = "u16")]
    dtype: MerlinPixels,
    /// Chips: 1x1, 2x2, or 2x2G with a gap between them
    #[arg(long, default_value = "1x1")]
    layout: ChipLayout,
    /// What lies under the beam: crystal or particles
    #[arg(long, default_value = "crystal")]
    specimen: Specimen,
    /// Mean electrons per frame
    #[arg(long, value_name = "ELECTRONS", default_value_t = 1500.0)]
    counts: f64,
    /// Frames per second; 0 for as fast as the link goes
    #[arg(long, value_name = "FRAMES_PER_S", default_value_t = 1000.0)]
    rate: f64,
    /// Address to listen on
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// Data port, 0 for any free one
    #[arg(long, default_value_t = DATA_PORT)]
    data_port: u16,
    /// Control port, 0 for any free one
    #[arg(long, default_value_t = CONTROL_PORT)]
    control_port: u16,
    /// Start on commands (wait) or as soon as a client connects (now)
    #[arg(long, value_enum, default_value_t = Trigger::Wait)]
    trigger: Trigger,
    /// When armed for a hardware trigger, give it after this many milliseconds
    #[arg(long, value_name = "MS", default_value_t = 100)]
    external_trigger_ms: u64,
    /// End after this many acquisitions, 0 for never; 1 with `--trigger now`, else 0
    #[arg(long, value_name = "N")]
    runs: Option<u64>,
    /// Pause between acquisitions that follow by themselves
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pause_ms: u64,
    /// Equal seeds give equal specimens, electrons and faults
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Let something go wrong: lose, repeat, swap, truncate, stall, disconnect or garbage, with its probability
    #[arg(long = "fault", value_name = "KIND=PROBABILITY", value_parser = |text: &str| Fault::parse(text, &FAULTS))]
    faults: Vec<Fault>,
    /// How long a stall lasts
    #[arg(long, value_name = "MS", default_value_t = 500)]
    stall_ms: u64,
    /// Send random bytes to every data client first, as old detector software does
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    garbage_on_connect: usize,
    /// Count control responses one byte short, as another simulator does
    #[arg(long)]
    short_responses: bool,
    /// Most memory for prepared frames; longer scans are drawn as they go or repeat
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    memory_mib: usize,
    /// Print nothing but one line with the report at the end
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Trigger {
    Wait,
    Now,
}

impl SimulateMerlinArgs {
    /// Runs the simulator until it ends by itself or the process is told to.
    pub fn run(self) -> Result<()> {
        let is_json = self.json;
        let plan = self.plan();
        let running = MerlinSimulator::start(plan.clone())?;
        let mut out = std::io::stdout().lock();
        if !is_json {
            out.write_all(describe(&plan, &running).as_bytes())?;
            out.flush()?;
        }
        let report = running.wait();
        if is_json {
            writeln!(out, "{}", serde_json::to_string(&report)?)?;
        } else {
            out.write_all(summarise(&report).as_bytes())?;
        }
        Ok(())
    }

    /// The plan these arguments stand for.
    pub fn plan(self) -> MerlinSimulation {
        let full = self.layout.full_shape();
        let (height, width) = self.detector.unwrap_or((full.height, full.width));
        let frames = if self.mib.is_empty() {
            let plan = SynthPlan {
                scan: NavShape { height: self.scan.0, width: self.scan.1 },
                detector: SigShape { height, width },
                dose: self.counts,
                specimen: self.specimen,
                seed: self.seed,
            };
            FrameSource::Synthetic { plan, pixels: self.dtype, layout: self.layout }
        } else {
            FrameSource::Files(self.mib)
        };
        let trigger = if self.trigger == Trigger::Now { TriggerMode::Now } else { TriggerMode::Wait };
        MerlinSimulation {
            frames,
            host: self.host,
            data_port: self.data_port,
            control_port: self.control_port,
            trigger,
            external_trigger_after: Some(Duration::from_millis(self.external_trigger_ms)),
            rate_hz: self.rate,
            runs: self.runs.unwrap_or(u64::from(trigger == TriggerMode::Now)),
            pause: Duration::from_millis(self.pause_ms),
            seed: self.seed,
            faults: self.faults,
            stall: Duration::from_millis(self.stall_ms),
            garbage_on_connect_bytes: self.garbage_on_connect,
            short_response_lengths: self.short_responses,
            restamp: self.restamp,
            memory_max_bytes: self.memory_mib.saturating_mul(1 << 20),
        }
    }
}

/// What the simulator is and does, for people.
fn describe(plan: &MerlinSimulation, running: &Running) -> String {
    let what = match &plan.frames {
        FrameSource::Files(paths) => format!("replaying {} file(s)", paths.len()),
        FrameSource::Synthetic { plan, pixels, layout } => format!(
            "{} specimen, scan {}x{}, detector {}x{} ({pixels}, {}), {} electrons per frame",
            plan.specimen,
            plan.scan.height,
            plan.scan.width,
            plan.detector.height,
            plan.detector.width,
            layout.name(),
            plan.dose
        ),
    };
    let (all, distinct) = (running.frame_count(), running.distinct_frame_count());
    let supply = match (running.is_drawing(), distinct < all) {
        (true, _) => format!("{all} frames, drawn while they are sent"),
        (false, true) => {
            format!("{all} frames, of which the first {distinct} repeat (raise --memory-mib, or lower --rate)")
        }
        (false, false) => format!("{all} frames"),
    };
    let rate = if plan.rate_hz > 0.0 {
        let megabytes = plan.rate_hz * running.message_bytes() as f64 / 1e6;
        format!("{} frames per second, {megabytes:.1} MB/s", plan.rate_hz)
    } else {
        "as fast as the link goes".to_owned()
    };
    let start = match plan.trigger {
        TriggerMode::Wait => "waiting for STARTACQUISITION on the control socket",
        TriggerMode::Now => "starting as soon as a data client connects",
    };
    let faults = describe_faults(&plan.faults);
    format!(
        "Merlin simulator\n  {what}\n  {supply}, {rate}\ndata:     {}\ncontrol:  {}\n{faults}{start}\n",
        running.data_address, running.control_address
    )
}

/// A line on what goes wrong, for people; nothing when nothing does.
pub(super) fn describe_faults(faults: &[Fault]) -> String {
    let faults: Vec<String> = faults.iter().map(|f| format!("{} {}", f.kind, f.probability)).collect();
    if faults.is_empty() { String::new() } else { format!("faults:   {}\n", faults.join(", ")) }
}

/// The report, for people.
pub(super) fn summarise(report: &SimulatorReport) -> String {
    let rate = report.bytes_sent as f64 / report.sending_s.max(1e-9) / 1e9;
    let faults: Vec<String> = report.faults.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let faults = if faults.is_empty() { "none".to_owned() } else { faults.join(", ") };
    format!(
        "sent {} frames in {} acquisition(s), {:.3} GB in {:.3} s ({rate:.3} GB/s); faults: {faults}\n",
        report.frames_sent,
        report.acquisitions,
        report.bytes_sent as f64 / 1e9,
        report.sending_s
    )
}

/// Parses `NYxNX`.
pub(super) fn parse_shape(text: &str) -> Result<(u32, u32), String> {
    let parsed = text.split_once(['x', 'X']).and_then(|(y, x)| Some((y.parse().ok()?, x.parse().ok()?)));
    parsed.filter(|&(y, x): &(u32, u32)| y > 0 && x > 0).ok_or_else(|| format!("`{text}` is not like 128x256"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: SimulateMerlinArgs,
    }

    /// Arguments reach the plan; the layout gives the detector shape, free running gives one run.
    #[test]
    fn arguments_make_a_plan() {
        let line =
            "sim --scan 16x32 --dtype r64-6 --layout 2x2G --trigger now --fault lose=0.1 --fault stall=0.5 --rate 0";
        let plan = Line::try_parse_from(line.split(' ')).map(|line| line.args.plan()).expect("valid line");
        assert_eq!((plan.runs, plan.faults.len(), plan.rate_hz), (1, 2, 0.0));
        let FrameSource::Synthetic { plan, pixels, .. } = plan.frames else { panic!("synthetic") };
        assert_eq!((plan.scan.width, plan.detector.height, pixels), (32, 514, MerlinPixels::Raw6));
        for line in ["sim --scan 16", "sim --dtype u12", "sim --fault lose", "sim --mib a.mib --dtype u8"] {
            assert!(Line::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
