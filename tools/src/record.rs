//! `ronchi record`: wait for a series, record it, say how it went.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::output::{note_line, say, say_line};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use ronchi_config::{
    Compress, DataPlan, DectrisControlPlan, Limits, LinkPlan, LivePlan, MERLIN_CONTROL_PORT, MerlinControlPlan,
    MerlinTrigger, Plan, SourcePlan, ValueError, parse_control, parse_reserve, parse_source,
};

use crate::asked::{ReductionArgs, ScanArgs};
use crate::condition_args::ConditionArgs;
use crate::live_ports::{LiveArgs, Wanted};
use crate::receiver::{Options, Receiver};
use crate::{progress, stop};

/// Options of `ronchi record`.
#[derive(Debug, Args)]
pub struct RecordArgs {
    /// Where the frames come from: merlin://HOST[:PORT], dectris1://HOST[:PORT], dectris2://HOST[:PORT], tiles://HOST:PORT
    /// (connect), tiles+bind://HOST:PORT (listen) or a data set, replay:PATH[?rate=FRAMES_PER_SECOND][&tile=NUMBER]
    #[arg(value_parser = source)]
    source: SourcePlan,
    /// Data set to make, NAME.ronchi; must not exist
    #[arg(long, required_unless_present = "no_record")]
    out: Option<PathBuf>,
    /// Receive and reduce without writing frames
    #[arg(long)]
    no_record: bool,
    #[command(flatten)]
    scan: ScanArgs,
    #[command(flatten)]
    reductions: ReductionArgs,
    #[command(flatten)]
    conditions: ConditionArgs,
    /// Stop after so many series
    #[arg(long, value_name = "N", default_value_t = 1)]
    series: u64,
    /// A series without frames for so many seconds has ended
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    silence: u64,
    /// Free space that recording leaves alone; 5 % of the disk unless told, at least 2 GiB, at most a quarter
    #[arg(long, value_name = "GIB", value_parser = reserve)]
    reserve_gib: Option<u64>,
    /// Most payload of a block, also the largest frame
    #[arg(long, value_name = "MIB")]
    block_mib: Option<u64>,
    /// Spread the frames over directories on other disks; give it once per disk
    #[arg(long = "volume", value_name = "DIR")]
    volumes: Vec<PathBuf>,
    /// lz4: compress on spare cores, bit-shuffle and LZ4 in Blosc frames; none: store pixels, whatever comes. Default: pixels as
    /// they are, and what comes compressed stays compressed
    #[arg(long, value_enum, value_name = "CODEC")]
    compress: Option<Codec>,
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
    /// Set and arm the detector over its control port: Merlin, DECTRIS
    #[arg(long)]
    arm: bool,
    /// Control port; 6341 (Merlin), 80 (DECTRIS) unless told
    #[arg(long, requires = "arm", value_parser = clap::value_parser!(u16).range(1..))]
    control_port: Option<u16>,
    /// Frames to set before arming (Merlin); default is the scan's
    #[arg(long, requires = "arm")]
    frames: Option<u64>,
    /// Trigger to set before arming; default leaves the detector's. inte to exts are DECTRIS', the others Merlin's
    #[arg(long, requires = "arm", value_enum)]
    trigger: Option<Trigger>,
    /// Set more before arming (DECTRIS), once for each: trigger_per=frame, line or scan, count_time_s=1e-4, compression=bslz4, any
    /// key of [link.control] in docs/configuration.md
    #[arg(long = "set", requires = "arm", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Codec {
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
    Inte,
    Ints,
    Exte,
    Exts,
}

impl From<Codec> for Compress {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::None => Self::None,
            Codec::Lz4 => Self::Lz4,
        }
    }
}

impl Trigger {
    fn word(self) -> String {
        clap::ValueEnum::to_possible_value(&self).map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn of_merlin(self) -> Result<MerlinTrigger> {
        Ok(match self {
            Self::Internal => MerlinTrigger::Internal,
            Self::RisingTtl => MerlinTrigger::RisingTtl,
            Self::FallingTtl => MerlinTrigger::FallingTtl,
            Self::RisingLvds => MerlinTrigger::RisingLvds,
            Self::FallingLvds => MerlinTrigger::FallingLvds,
            Self::Soft => MerlinTrigger::Soft,
            Self::Inte | Self::Ints | Self::Exte | Self::Exts => {
                bail!("--trigger {}: a Merlin has no such", self.word())
            }
        })
    }
}

fn source(text: &str) -> Result<SourcePlan, ValueError> {
    parse_source(text)
}

fn reserve(text: &str) -> Result<u64, ValueError> {
    parse_reserve(text)
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
            note_line!("{}", receiver.describe());
        }
        let bar = progress::show(receiver.board(), !json);
        let mut whole = 0;
        for summary in receiver.summaries() {
            whole += u64::from(summary.is_whole());
            bar.suspend(|| if json { say_line!("{}", serde_json::json!(summary)) } else { say!("{summary}") });
        }
        bar.finish();
        receiver.join()?;
        Ok(if whole == series { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn plan(self, live: &Wanted) -> Result<Plan> {
        let data = self.data()?;
        let scan = self.scan.plan();
        let conditions = self.conditions.read()?;
        let source = self.arm.apply(self.source, scan.frame_count(&conditions))?;
        let limits = Limits::default();
        let plan = Plan {
            data,
            links: vec![LinkPlan { source, region: None }],
            detector: None,
            scan,
            conditions,
            reductions: self.reductions.reductions(),
            live: LivePlan { zmq: live.zmq.clone(), http: live.http, ..LivePlan::default() },
            limits: Limits {
                silence: Duration::from_secs(self.silence),
                reserve_bytes: self.reserve_gib,
                compress: self.compress.map_or(Compress::AsReceived, Compress::from),
                block_bytes: self.block_mib.map_or(limits.block_bytes, |mib| mib.saturating_mul(1 << 20)),
                ..limits
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
    /// `frame_count` is that of the scan.
    fn apply(&self, source: SourcePlan, frame_count: Option<u64>) -> Result<SourcePlan> {
        match source {
            source if !self.arm => Ok(source),
            SourcePlan::Merlin { host, data_port, .. } => {
                let control = Some(self.merlin(frame_count)?);
                Ok(SourcePlan::Merlin { host, data_port, control })
            }
            SourcePlan::Dectris { stream, endpoint, sockets, .. } => {
                let control = Some(self.dectris()?);
                Ok(SourcePlan::Dectris { stream, endpoint, sockets, control })
            }
            SourcePlan::Tiles { .. } => bail!("--arm: a tile stream has no control port"),
            SourcePlan::Replay { .. } => bail!("--arm: a recorded data set has no control port"),
        }
    }

    fn merlin(&self, frame_count: Option<u64>) -> Result<MerlinControlPlan> {
        ensure!(self.settings.is_empty(), "--set: a Merlin takes --frames and --trigger");
        Ok(MerlinControlPlan {
            port: self.control_port.unwrap_or(MERLIN_CONTROL_PORT),
            frame_count: self.frames.or(frame_count),
            trigger: self.trigger.map(Trigger::of_merlin).transpose()?,
        })
    }

    fn dectris(&self) -> Result<DectrisControlPlan> {
        ensure!(
            self.frames.is_none(),
            "--frames: a DECTRIS detector takes --set trigger_per=..., or ntrigger and nimages"
        );
        let port = self.control_port.map(|port| format!("port={port}"));
        let trigger = self.trigger.map(|trigger| format!("trigger={}", trigger.word()));
        let pairs: Vec<String> = port.into_iter().chain(trigger).chain(self.settings.iter().cloned()).collect();
        parse_control(&pairs).context("--set")
    }
}
