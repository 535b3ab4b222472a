//! `ronchi record`: wait for a series, record it, say how it went.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use ronchi_config::{
    DataPlan, Limits, LinkPlan, LivePlan, MerlinControlPlan, MerlinTrigger, Plan, ScanPlan, SourcePlan, ValueError,
    parse_reserve, parse_scan, parse_source, parse_virtual,
};
use ronchi_pipeline::reduce::Reduction;
use ronchi_pipeline::{NavShape, ScanOrder};

use crate::live_ports::{LiveArgs, Wanted};
use crate::receiver::{Options, Receiver};
use crate::{progress, stop};

/// Options of `ronchi record`.
#[derive(Debug, Args)]
pub struct RecordArgs {
    /// Where the frames come from: merlin://HOST[:PORT], tiles://HOST:PORT (connect), tiles+bind://HOST:PORT (listen) or a data
    /// set, replay:PATH[?rate=FRAMES_PER_SECOND][&tile=NUMBER]
    #[arg(value_parser = source)]
    source: SourcePlan,
    /// Data set to make, NAME.ronchi; must not exist
    #[arg(long, required_unless_present = "no_record")]
    out: Option<PathBuf>,
    /// Receive and reduce without writing frames
    #[arg(long)]
    no_record: bool,
    /// Scan shape, rows x positions per row; default is what the detector says
    #[arg(long, value_name = "NYxNX", value_parser = scan)]
    scan: Option<NavShape>,
    /// Odd scan rows run from right to left
    #[arg(long)]
    serpentine: bool,
    /// Frames after each row that belong to no position
    #[arg(long, default_value_t = 0)]
    flyback: u32,
    /// Skip so many frames at the start (positive), or leave so many positions empty (negative)
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    sync_offset: i64,
    /// Virtual detector, repeatable: NAME=disk:CY,CX,R | ring:CY,CX,RI,RO | rect:Y0,X0,Y1,X1 | sector:CY,CX,RI,RO,A0,A1 |
    /// polygon:Y,X;Y,X;... | npy:FILE (pixels, degrees)
    #[arg(long = "virtual", value_name = "NAME=KIND:...", value_parser = virtual_detector)]
    virtuals: Vec<Reduction>,
    /// Total counts per frame
    #[arg(long)]
    total: bool,
    /// Centre of mass per frame
    #[arg(long)]
    com: bool,
    /// Sum of all frames
    #[arg(long)]
    sum: bool,
    /// Maximum over all frames
    #[arg(long)]
    max: bool,
    /// Stop after so many series
    #[arg(long, value_name = "N", default_value_t = 1)]
    series: u64,
    /// A series without frames for so many seconds has ended
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    silence: u64,
    /// Free space that recording leaves alone; 5 % of the disk unless told, at least 2 GiB, at most a quarter
    #[arg(long, value_name = "GIB", value_parser = reserve)]
    reserve_gib: Option<u64>,
    /// Spread the frames over directories on other disks; give it once per disk
    #[arg(long = "volume", value_name = "DIR")]
    volumes: Vec<PathBuf>,
    /// Compress on spare cores: bit-shuffle and LZ4, in Blosc frames
    #[arg(long, value_enum, default_value_t = Compress::None, value_name = "CODEC")]
    compress: Compress,
    #[command(flatten)]
    arm: ArmArgs,
    #[command(flatten)]
    live: LiveArgs,
    /// Print one JSON line per series instead of text
    #[arg(long)]
    json: bool,
}

/// How to arm a detector that has a control port.
#[derive(Debug, Args)]
struct ArmArgs {
    /// Arm the detector over its control port (Merlin)
    #[arg(long)]
    arm: bool,
    /// Control port
    #[arg(long, default_value_t = 6341, requires = "arm")]
    control_port: u16,
    /// Frames to set before arming; default is the scan's
    #[arg(long, requires = "arm")]
    frames: Option<u64>,
    /// Start trigger to set before arming; default leaves the detector's
    #[arg(long, requires = "arm", value_enum)]
    trigger: Option<Trigger>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Compress {
    None,
    Lz4,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Trigger {
    Internal,
    RisingTtl,
    FallingTtl,
    RisingLvds,
    FallingLvds,
    Soft,
}

impl From<Trigger> for MerlinTrigger {
    fn from(trigger: Trigger) -> Self {
        match trigger {
            Trigger::Internal => Self::Internal,
            Trigger::RisingTtl => Self::RisingTtl,
            Trigger::FallingTtl => Self::FallingTtl,
            Trigger::RisingLvds => Self::RisingLvds,
            Trigger::FallingLvds => Self::FallingLvds,
            Trigger::Soft => Self::Soft,
        }
    }
}

fn source(text: &str) -> Result<SourcePlan, ValueError> {
    parse_source(text)
}

fn scan(text: &str) -> Result<NavShape, ValueError> {
    parse_scan(text)
}

fn reserve(text: &str) -> Result<u64, ValueError> {
    parse_reserve(text)
}

fn virtual_detector(text: &str) -> Result<Reduction, ValueError> {
    parse_virtual(text)
}

impl RecordArgs {
    /// Records; the exit code is 0 only if everything announced is durable (or, for a preview, received).
    pub fn run(self) -> Result<ExitCode> {
        let (json, series) = (self.json, self.series);
        let wanted = self.live.wanted()?;
        let plan = self.plan(&wanted)?;
        let stop = stop::on_signals()?;
        let options = Options { series_max: Some(series), exact_name: true, stop };
        let receiver = Receiver::start(plan, options)?;
        if !json {
            eprintln!("{}", receiver.describe());
        }
        let bar = progress::show(receiver.board(), !json);
        let mut whole = 0;
        for summary in receiver.summaries() {
            whole += u64::from(summary.is_whole());
            bar.suspend(|| if json { println!("{}", serde_json::json!(summary)) } else { print!("{summary}") });
        }
        bar.finish();
        receiver.join()?;
        Ok(if whole == series { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn plan(self, live: &Wanted) -> Result<Plan> {
        let data = self.data()?;
        let scan = ScanPlan {
            shape: self.scan,
            order: if self.serpentine { ScanOrder::Serpentine } else { ScanOrder::Raster },
            flyback: self.flyback,
            sync_offset: self.sync_offset,
        };
        let source = self.arm.apply(self.source, &scan)?;
        let mut reductions = self.virtuals;
        let whole = [
            (self.total, Reduction::total()),
            (self.com, Reduction::centre_of_mass()),
            (self.sum, Reduction::sum()),
            (self.max, Reduction::max()),
        ];
        reductions.extend(whole.into_iter().filter_map(|(wanted, reduction)| wanted.then_some(reduction)));
        let plan = Plan {
            data,
            links: vec![LinkPlan { source, region: None }],
            detector: None,
            scan,
            reductions,
            live: LivePlan { zmq: live.zmq.clone(), http: live.http, ..LivePlan::default() },
            limits: Limits {
                silence: Duration::from_secs(self.silence),
                reserve_bytes: self.reserve_gib,
                is_packed: self.compress == Compress::Lz4,
                ..Limits::default()
            },
        };
        plan.check()?;
        Ok(plan)
    }

    fn data(&self) -> Result<DataPlan> {
        let Some(out) = &self.out else {
            return Ok(DataPlan { directory: ".".into(), volumes: Vec::new(), name: "preview".into(), record: false });
        };
        let name = out.file_name().and_then(|name| name.to_str()).context("--out needs a name like scan1.ronchi")?;
        let name = name.strip_suffix(".ronchi").unwrap_or(name);
        let directory = match out.parent() {
            Some(parent) if parent != std::path::Path::new("") => parent.to_owned(),
            _ => ".".into(),
        };
        let volumes = self.volumes.clone();
        Ok(DataPlan { directory, volumes, name: name.into(), record: !self.no_record })
    }
}

impl ArmArgs {
    fn apply(&self, source: SourcePlan, scan: &ScanPlan) -> Result<SourcePlan> {
        match source {
            SourcePlan::Merlin { host, data_port, control } => {
                let frames_of_scan = || scan.scan(None).map(|scan| scan.frame_count());
                let armed = self.arm.then(|| MerlinControlPlan {
                    port: self.control_port,
                    frame_count: self.frames.or_else(frames_of_scan),
                    trigger: self.trigger.map(MerlinTrigger::from),
                });
                Ok(SourcePlan::Merlin { host, data_port, control: armed.or(control) })
            }
            SourcePlan::Tiles { .. } if self.arm => bail!("--arm: a tile stream has no control port"),
            SourcePlan::Replay { .. } if self.arm => bail!("--arm: a recorded data set has no control port"),
            other => Ok(other),
        }
    }
}
