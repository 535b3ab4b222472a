//! `ronchi simulate dectris`: the command line of the simulator.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use ronchi_pipeline::{NavShape, SigShape};
use serde_json::Value;

use super::args::{describe_faults, parse_shape, summarise};
use super::dectris::{
    Compression, DectrisSimulation, DectrisSimulator, Dtype, FAULTS, HeaderDetail, ImageForm, Running, STREAM1_PORT,
    STREAM2_PORT, StreamFormat,
};
use super::fault::Fault;
use super::synth::{Specimen, SynthPlan};

/// Pretend to be a DECTRIS detector: send synthetic or recorded images as STREAM or STREAM2, at once or when told to by REST.
#[derive(Debug, Clone, Args)]
pub struct SimulateDectrisArgs {
    /// Which stream: legacy (STREAM), cbor (STREAM2), or both with the same images
    #[arg(long, value_enum, default_value_t = StreamFormat::Cbor)]
    format: StreamFormat,
    /// Wait for commands at this address, as a control unit does; without it a series begins when a receiver connects
    #[arg(long, value_name = "HOST:PORT")]
    rest: Option<SocketAddr>,
    /// Where STREAM listens, port 0 for any free one
    #[arg(long, value_name = "HOST:PORT", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, STREAM1_PORT)))]
    stream1: SocketAddr,
    /// Where STREAM2 listens, port 0 for any free one
    #[arg(long, value_name = "HOST:PORT", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, STREAM2_PORT)))]
    stream2: SocketAddr,
    /// Send the frames of this data set, all of them there, instead of synthetic ones
    #[arg(long, value_name = "NAME.ronchi", conflicts_with_all = ["scan", "detector", "dtype", "specimen", "counts"])]
    replay: Option<PathBuf>,
    /// Scan rows and positions per row
    #[arg(long, value_name = "NYxNX", default_value = "256x256", value_parser = parse_shape)]
    scan: (u32, u32),
    /// Detector rows and columns
    #[arg(long, value_name = "HxW", default_value = "192x192", value_parser = parse_shape)]
    detector: (u32, u32),
    /// Pixels
    #[arg(long, value_enum, value_name = "TYPE", default_value_t = Dtype::U16)]
    dtype: Dtype,
    /// How images are compressed
    #[arg(long, value_enum, default_value_t = Compression::Bslz4)]
    compression: Compression,
    /// Channels of STREAM2, of threshold_1, threshold_2 and difference; STREAM sends the first one
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', default_value = "threshold_1")]
    channels: Vec<String>,
    /// How much the header of a series says
    #[arg(long, value_enum, default_value_t = HeaderDetail::Basic)]
    header_detail: HeaderDetail,
    /// Text or JSON to send with the header
    #[arg(long, value_name = "TEXT", value_parser = parse_appendix)]
    header_appendix: Option<Value>,
    /// Text or JSON to send with every image
    #[arg(long, value_name = "TEXT", value_parser = parse_appendix)]
    image_appendix: Option<Value>,
    /// What lies under the beam: crystal or particles
    #[arg(long, default_value = "crystal")]
    specimen: Specimen,
    /// Mean electrons per frame
    #[arg(long, value_name = "ELECTRONS", default_value_t = 1500.0)]
    counts: f64,
    /// Frames per second where triggers come by themselves; 0 for as fast as they are taken
    #[arg(long, value_name = "FRAMES_PER_S", default_value_t = 1000.0)]
    rate: f64,
    /// End after this many series, 0 for never; 1 without `--rest`, else 0
    #[arg(long, value_name = "N")]
    runs: Option<u64>,
    /// Pause between series that follow by themselves
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pause_ms: u64,
    /// Equal seeds give equal specimens, electrons and faults
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Let something go wrong, with its probability per frame: lose, repeat, swap, truncate, stall, garbage, wrong-series,
    /// big-endian, wrong-hash, zero-header; or per series: stale, split-header, abort, late-end, no-end, second-end
    #[arg(long = "fault", value_name = "KIND=PROBABILITY", value_parser = |text: &str| Fault::parse(text, &FAULTS))]
    faults: Vec<Fault>,
    /// How long a stall lasts, and how late a late end is
    #[arg(long, value_name = "MS", default_value_t = 500)]
    stall_ms: u64,
    /// Most memory for prepared frames; longer scans repeat
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    memory_mib: usize,
    /// Print nothing but one line with the report at the end
    #[arg(long)]
    json: bool,
}

/// JSON where it is some, else text.
#[expect(clippy::unnecessary_wraps, reason = "clap takes parsers that may fail")]
fn parse_appendix(text: &str) -> Result<Value, String> {
    Ok(serde_json::from_str(text).unwrap_or_else(|_| text.into()))
}

impl SimulateDectrisArgs {
    /// Runs the simulator until it ends by itself or the process is told to.
    pub fn run(self) -> Result<()> {
        let (is_json, replay) = (self.json, self.replay.clone());
        let plan = self.plan();
        let plan = match replay {
            Some(dataset) => plan.replaying(&dataset)?,
            None => plan,
        };
        let running = DectrisSimulator::start(plan.clone())?;
        let mut out = std::io::stdout().lock();
        if !is_json {
            out.write_all(describe(&plan, &running).as_bytes())?;
            out.flush()?;
        }
        let report = running.wait();
        if is_json {
            writeln!(out, "{}", serde_json::to_string(&report)?)?;
            return Ok(());
        }
        out.write_all(summarise(&report).as_bytes())?;
        if report.messages_dropped > 0 {
            writeln!(out, "{} messages were dropped: nobody took them", report.messages_dropped)?;
        }
        Ok(())
    }

    /// The plan these arguments stand for.
    pub fn plan(self) -> DectrisSimulation {
        let images = SynthPlan {
            scan: NavShape { height: self.scan.0, width: self.scan.1 },
            detector: SigShape { height: self.detector.0, width: self.detector.1 },
            dose: self.counts,
            specimen: self.specimen,
            seed: self.seed,
        };
        let form = ImageForm { dtype: self.dtype, compression: self.compression, channels: self.channels };
        DectrisSimulation {
            format: self.format,
            stream1: self.stream1,
            stream2: self.stream2,
            rest: self.rest,
            header_detail: self.header_detail,
            header_appendix: self.header_appendix.unwrap_or_default(),
            image_appendix: self.image_appendix.unwrap_or_default(),
            rate_hz: self.rate,
            runs: self.runs.unwrap_or(u64::from(self.rest.is_none())),
            pause: Duration::from_millis(self.pause_ms),
            faults: self.faults,
            stall: Duration::from_millis(self.stall_ms),
            memory_max_bytes: self.memory_mib.saturating_mul(1 << 20),
            ..DectrisSimulation::new(images, form)
        }
    }
}

/// What the simulator is and does, for people.
fn describe(plan: &DectrisSimulation, running: &Running) -> String {
    let (images, form) = (&plan.images, &plan.form);
    let (all, distinct) = (running.frame_count(), running.distinct_frame_count());
    let supply = if distinct < all {
        format!("{all} frames, of which the first {distinct} repeat (raise --memory-mib)")
    } else {
        format!("{all} frames")
    };
    let rate = if plan.rate_hz > 0.0 {
        let megabytes = plan.rate_hz * running.image_bytes() / 1e6;
        format!("{} frames per second, {megabytes:.1} MB/s", plan.rate_hz)
    } else {
        "as fast as they are taken".to_owned()
    };
    let what = match &plan.replay {
        Some(dataset) => format!("frames of {}", dataset.display()),
        None => format!("{} specimen, {} electrons per frame", images.specimen, images.dose),
    };
    let mut text = format!(
        "DECTRIS simulator\n  {what}, scan {}x{}, detector {}x{} ({}, {}, {})\n  {supply}, {rate}\n",
        images.scan.height,
        images.scan.width,
        images.detector.height,
        images.detector.width,
        form.dtype.name(),
        form.compression.name(),
        form.channels.join(" + ")
    );
    for (name, scheme, endpoint) in
        [("STREAM: ", "dectris1", &running.stream1), ("STREAM2:", "dectris2", &running.stream2)]
    {
        if let Some(address) = endpoint.as_ref().map(|endpoint| endpoint.trim_start_matches("tcp://")) {
            text += &format!("{name}  {scheme}://{address}\n");
        }
    }
    text += &describe_faults(&plan.faults);
    text += &match running.rest {
        Some(address) => format!("waiting for commands at http://{address}/detector/api/1.8.0/command/\n"),
        None => "starting as soon as a receiver connects\n".to_owned(),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: SimulateDectrisArgs,
    }

    /// Arguments reach the plan; with commands it never ends by itself; appendices are JSON where they can be.
    #[test]
    fn arguments_make_a_plan() {
        let plan = |line: &str| Line::try_parse_from(line.split(' ')).map(|line| line.args.plan());
        let got = plan("sim --rest 127.0.0.1:0 --dtype uint8 --channels threshold_2,difference --fault no-end=1")
            .expect("valid");
        assert_eq!((got.runs, got.form.dtype, got.form.channels.len()), (0, Dtype::U8, 2));
        assert_eq!((got.stream1.port(), got.stream2.port(), got.faults.len()), (9999, 31001, 1));
        let got = plan("sim --image-appendix [1,2] --header-appendix run-7 --scan 16x32 --rate 0").expect("valid");
        assert_eq!((got.runs, got.image_appendix, got.header_appendix), (1, serde_json::json!([1, 2]), "run-7".into()));
        for line in
            ["sim --scan 16", "sim --dtype u12", "sim --fault disconnect=1", "sim --rest nowhere", "sim --format nexus"]
        {
            assert!(plan(line).is_err(), "{line}");
        }
    }
}
