//! The plan in words: what a receiver prints at start, every limit as a number.

use std::fmt::{self, Write};

use ronchi_pipeline::Layout;
use ronchi_pipeline::reduce::{NoData, Reduction};

use crate::plan::{Compress, DectrisStream, LinkPlan, Plan, SourcePlan};
use crate::problem::quoted;

impl Plan {
    /// Several lines of text, `name  value` each: data set, links, results, and every limit in force.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        let _ = self.write_description(&mut text); // Writing to a string cannot fail.
        text
    }

    fn write_description(&self, out: &mut String) -> fmt::Result {
        if self.data.record {
            writeln!(out, "record    {}/{}.ronchi", self.data.directory.display(), quoted(&self.data.name))?;
        } else {
            writeln!(out, "record    nothing: live preview only")?;
        }
        for volume in self.data.volumes.iter().filter(|_| self.data.record) {
            writeln!(out, "volume    {}", volume.display())?;
        }
        match self.limits.reserve_bytes {
            _ if !self.data.record => {}
            Some(bytes) => writeln!(out, "reserve   {bytes} bytes of the disk stay free")?,
            None => writeln!(out, "reserve   5 % of the disk, at least 2 GiB, at most a quarter, stay free")?,
        }
        match self.limits.compress {
            Compress::Lz4 if self.data.record => {
                writeln!(out, "compress  bit-shuffle and LZ4, {} threads", self.limits.packer_count)?;
            }
            Compress::AsReceived if self.is_packing() => {
                writeln!(out, "compress  what comes compressed stays so, {} threads", self.limits.packer_count)?;
            }
            _ => {}
        }
        for (i, link) in self.links.iter().enumerate() {
            writeln!(out, "link {i:<4} {}", link_text(link))?;
        }
        if let Some(shape) = self.detector {
            writeln!(out, "detector  {} x {} px", shape.height, shape.width)?;
        }
        match self.scan.shape {
            Some(shape) => writeln!(
                out,
                "scan      {} x {}, {:?}, flyback {}, sync offset {}",
                shape.height, shape.width, self.scan.order, self.scan.flyback, self.scan.sync_offset
            )?,
            None => writeln!(out, "scan      as the detector announces it")?,
        }
        if self.scan.frames_per_position > 1 || self.scan.passes > 1 {
            let (each, passes, repeats) = (self.scan.frames_per_position, self.scan.passes, self.scan.repeats.word());
            writeln!(out, "repeats   {each} frames per position, {passes} passes, kept as {repeats}")?;
        }
        if let Some(correction) = &self.conditions.correction {
            writeln!(out, "correct   dark counts and gain, {} bad pixels", correction.bad_count())?;
        }
        if let Some(text) = self.nodata_text() {
            writeln!(out, "no data   {text}")?;
        }
        match self.conditions.roi.as_ref().map(|roi| (roi.position_count(), roi.shape(), roi.as_rectangle())) {
            Some((_, _, Some((y, x)))) => {
                writeln!(out, "roi       rows {} to {}, columns {} to {}", y.start, y.end, x.start, x.end)?;
            }
            Some((count, shape, None)) => writeln!(out, "roi       {count} of {} positions", shape.position_count())?,
            None => {}
        }
        if let Some(positions) = &self.conditions.positions {
            writeln!(out, "positions of {} frames, from a list", positions.frame_count())?;
        }
        if self.conditions.descan.is_some() {
            writeln!(out, "descan    masks follow the beam")?;
        }
        let results: Vec<&str> = self.reductions.iter().map(Reduction::name).collect();
        writeln!(out, "results   {}", results.join(", "))?;
        self.write_live(out)?;
        self.write_limits(out)
    }

    fn write_live(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "live zmq  {}", self.live.zmq.as_deref().unwrap_or("off"))?;
        for (key, endpoint) in self.live.endpoints().filter(|&(key, _)| key != "zmq") {
            writeln!(out, "{:<9} {endpoint}", format!("live {key}"))?;
        }
        let http = self.live.http.map_or("off".to_owned(), |address| format!("http://{address}"));
        writeln!(out, "live http {http}, update every {} ms", self.live.update_interval.as_millis())?;
        match &self.live.auth {
            _ if self.live.http.is_none() => {}
            Some(auth) => writeln!(out, "access    by tokens of {}", auth.tokens.display())?,
            None => writeln!(out, "access    whoever reaches it may do everything")?,
        }
        match self.live.http.filter(|http| !http.ip().is_loopback()) {
            Some(_) => writeln!(out, "INSECURE  other machines reach it, and nothing is encrypted"),
            None => Ok(()),
        }
    }

    fn nodata_text(&self) -> Option<String> {
        let announces = |link: &LinkPlan| matches!(link.source, SourcePlan::Dectris { .. });
        match self.conditions.nodata {
            Some(NoData::None) => Some("none: all pixels count".to_owned()),
            Some(nodata) => Some(format!("pixels of value {nodata}")),
            None => self.links.iter().any(announces).then(|| "as the detector announces it".to_owned()),
        }
    }

    fn write_limits(&self, out: &mut String) -> fmt::Result {
        let limits = &self.limits;
        let slot_bytes = Layout::slot_bytes(limits.block_bytes);
        let pool_mib = self.pool_bytes().div_ceil(1 << 20);
        writeln!(out, "pool      {} slots of {slot_bytes} bytes = {pool_mib} MiB", self.slot_count())?;
        writeln!(
            out,
            "blocks    up to {} bytes, sealed after {} ms",
            limits.block_bytes,
            limits.seal_after.as_millis()
        )?;
        writeln!(
            out,
            "queues    {} blocks raw, {} writes in flight, {} blocks live, {} reducers",
            limits.raw_queue_blocks, limits.write_depth, limits.live_queue_blocks, limits.reducer_count
        )?;
        writeln!(
            out,
            "times     series end after {} s of silence, data sync every {} ms",
            limits.silence.as_secs(),
            limits.sync_interval.as_millis()
        )?;
        writeln!(
            out,
            "network   messages up to {} bytes, {} subscribers per endpoint",
            limits.message_bytes, limits.subscriber_count
        )
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

fn link_text(link: &LinkPlan) -> String {
    let source = match &link.source {
        SourcePlan::Merlin { host, data_port, control: None } => format!("merlin at {host}, data port {data_port}"),
        SourcePlan::Merlin { host, data_port, control: Some(control) } => {
            format!("merlin at {host}, data port {data_port}, armed over port {}", control.port)
        }
        SourcePlan::Dectris { stream, endpoint, sockets, control } => {
            let name = if *stream == DectrisStream::Legacy { "STREAM" } else { "STREAM2" };
            let by = if *sockets > 1 { format!(" by {sockets} sockets") } else { String::new() };
            let driven = control.as_ref().map(|control| format!(", driven over port {}", control.port));
            format!("DECTRIS {name} of {endpoint}{by}{}", driven.unwrap_or_default())
        }
        SourcePlan::Tiles { endpoint, bind: false } => format!("tiles, connecting to {endpoint}"),
        SourcePlan::Tiles { endpoint, bind: true } => format!("tiles, listening on {endpoint}"),
        SourcePlan::Replay { path, interval, tile } => {
            let tile = tile.map(|tile| format!(" tile {tile} of")).unwrap_or_default();
            let rate = interval.map(|interval| format!(", {:.3} frames/s", 1.0 / interval.as_secs_f64()));
            format!("replay of{tile} {}{}", quoted(&path.to_string_lossy()), rate.as_deref().unwrap_or(", flat out"))
        }
    };
    match link.region {
        Some(r) => format!("{source}, region y {} x {} of {} x {} px", r.y, r.x, r.height, r.width),
        None => source,
    }
}
