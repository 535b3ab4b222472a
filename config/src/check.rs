//! What must hold between the parts of a plan, whether it came from a file or from the command line.

use ronchi_pipeline::Region;

use crate::dectris::Finding;
use crate::limits::{LIMITS, VIRTUAL_MAX};
use crate::plan::{LinkPlan, Plan, SourcePlan, VOLUMES_MAX};
use crate::problem::{Problem, Problems, quoted};
use crate::value::{check_name, check_result_name, check_virtual, parse_live_endpoint};

/// Most links of one receiver: each has a thread of its own.
const LINKS_MAX: usize = 64;
/// Largest pool, in bytes.
const POOL_BYTES_MAX: u64 = 1 << 38;

impl Plan {
    /// Checks a plan that was put together by hand, with the rules that also hold for files.
    pub fn check(&self) -> Result<(), Problems> {
        let mut found = self.findings();
        found.extend(check_name(&self.data.name).err().map(|e| ("data.name".to_owned(), e.expected)));
        self.check_reductions(&mut found);
        for limit in LIMITS.iter().filter(|limit| !limit.range().contains(&(limit.read)(&self.limits))) {
            let range = limit.range();
            let message = format!("expected {} to {}, got {}", range.start(), range.end(), (limit.read)(&self.limits));
            found.push((format!("limits.{}", limit.key), message));
        }
        let problem = |(key, message)| Problem { file: String::new(), line: 0, key, value: None, message };
        if found.is_empty() { Ok(()) } else { Err(Problems(found.into_iter().map(problem).collect())) }
    }

    /// What is wrong between the parts of this plan that are not tied to one place of a file.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        self.check_links(&mut found);
        self.check_regions(&mut found);
        self.check_controls(&mut found);
        self.check_conditions(&mut found);
        self.check_live(&mut found);
        self.check_volumes(&mut found);
        let pool_bytes = self.pool_bytes();
        if pool_bytes > POOL_BYTES_MAX {
            let message = format!(
                "the pool would take {} GiB, at most {} GiB are allowed: lower block_mib or the queues",
                pool_bytes >> 30,
                POOL_BYTES_MAX >> 30
            );
            found.push(("limits".to_owned(), message));
        }
        found
    }

    fn check_volumes(&self, found: &mut Vec<Finding>) {
        let volumes = &self.data.volumes;
        if volumes.len() > VOLUMES_MAX {
            let message = format!("{} volumes, at most {VOLUMES_MAX} are allowed", volumes.len());
            found.push(("data.volumes".to_owned(), message));
        }
        if let Some(twice) =
            volumes.iter().enumerate().find_map(|(i, path)| volumes[..i].contains(path).then_some(path))
        {
            let message = format!("{} is there twice; expected each directory once", quoted(&twice.to_string_lossy()));
            found.push(("data.volumes".to_owned(), message));
        }
    }

    fn check_links(&self, found: &mut Vec<Finding>) {
        if self.links.is_empty() {
            let message = "missing; expected at least one [[link]] with the address of a detector";
            found.push(("link".to_owned(), message.to_owned()));
        }
        if self.links.len() > LINKS_MAX {
            found.push(("link".to_owned(), format!("{} links, at most {LINKS_MAX} are allowed", self.links.len())));
        }
        // Links beyond the limit are not compared with each other: there may be any number of them.
        for (i, link) in self.links.iter().enumerate().take(LINKS_MAX) {
            let twin = self.links[..i].iter().position(|other| is_same_peer(&other.source, &link.source));
            if let Some(twin) = twin {
                found.push((format!("link[{i}].source"), format!("the same address as link[{twin}]")));
            }
        }
    }

    fn check_regions(&self, found: &mut Vec<Finding>) {
        let is_tiled = self.links.len() > 1;
        if is_tiled && self.detector.is_none() {
            let message = "missing; several links need the shape of the whole detector";
            found.push(("detector.shape".to_owned(), message.to_owned()));
        }
        for (i, link) in self.links.iter().enumerate().take(LINKS_MAX) {
            let key = format!("link[{i}].region");
            match link.region {
                None if is_tiled => {
                    found.push((key, "missing; with several links each needs [y, x, height, width]".to_owned()));
                }
                None => {}
                Some(region) => {
                    found.extend(self.region_finding(region, &self.links[..i]).map(|message| (key, message)));
                }
            }
        }
    }

    fn region_finding(&self, region: Region, earlier: &[LinkPlan]) -> Option<String> {
        if region.height == 0 || region.width == 0 {
            return Some("the region is empty; height and width must be 1 or more".to_owned());
        }
        if let Some(shape) = self.detector.filter(|&shape| !region.fits(shape)) {
            return Some(format!("reaches outside the detector of {} x {}", shape.height, shape.width));
        }
        if region.pixel_count() > self.limits.block_bytes {
            return Some(format!(
                "a frame of {} pixels does not fit into a block; raise limits.block_mib",
                region.pixel_count()
            ));
        }
        let twin = earlier.iter().position(|link| link.region.is_some_and(|other| overlaps(region, other)));
        twin.map(|twin| format!("overlaps the region of link[{twin}]; tiles must be disjoint"))
    }

    fn check_reductions(&self, found: &mut Vec<Finding>) {
        let named = self.reductions.iter();
        let named: Vec<(&str, _)> = named.filter_map(|wanted| Some((wanted.name(), wanted.detector()?))).collect();
        if named.len() > VIRTUAL_MAX {
            let message = format!("{} virtual detectors, at most {VIRTUAL_MAX} are allowed", named.len());
            found.push(("virtual".to_owned(), message));
        }
        for (i, (name, detector)) in named.iter().enumerate() {
            let key = |field| format!("virtual[{i}]{field}");
            if let Some(twin) = named[..i].iter().position(|(other, _)| other.eq_ignore_ascii_case(name)) {
                found.push((key(".name"), format!("the same name as virtual[{twin}]")));
            }
            found.extend(check_result_name(name).err().map(|message| (key(".name"), message)));
            found.extend(check_virtual(detector, self.detector).err().map(|message| (key(""), message)));
        }
    }

    /// Triggers and images of a detector that is driven agree with the scan.
    fn check_controls(&self, found: &mut Vec<Finding>) {
        for (i, link) in self.links.iter().enumerate().take(LINKS_MAX) {
            let SourcePlan::Dectris { control: Some(control), .. } = &link.source else { continue };
            let finding = control.scan_finding(self);
            found.extend(finding.map(|(key, message)| (format!("link[{i}].control.{key}"), message)));
        }
    }

    fn check_conditions(&self, found: &mut Vec<Finding>) {
        let correction = self.conditions.correction.as_ref().map(|correction| correction.detector());
        if let (Some(own), Some(shape)) = (correction, self.detector)
            && own != shape
        {
            let (own, shape) = ((own.height, own.width), (shape.height, shape.width));
            found.push(("correct".to_owned(), format!("files of shape {own:?}, the detector has {shape:?}")));
        }
        let Some(scan) = self.scan.shape else { return };
        let shape = (scan.height, scan.width);
        if let Some(roi) = self.conditions.roi.as_ref().filter(|roi| !roi.fits(scan)) {
            let own = (roi.shape().height, roi.shape().width);
            let message = match roi.as_rectangle() {
                Some(_) => format!("reaches to {own:?}, the scan has {shape:?}"),
                None => format!("file of shape {own:?}, the scan has {shape:?}"),
            };
            found.push(("scan.roi".to_owned(), message));
        }
        let table = self.conditions.descan.as_ref().and_then(|descan| descan.shape());
        if let Some(own) = table.filter(|&own| own != scan) {
            let own = (own.height, own.width);
            found.push(("scan.descan".to_owned(), format!("file of shape {own:?}, the scan has {shape:?}")));
        }
    }

    fn check_live(&self, found: &mut Vec<Finding>) {
        if let Some(http) = self.live.http.filter(|&http| !self.live.may_listen_on(http)) {
            let message = format!(
                "{http} is reached by other machines, unencrypted; use 127.0.0.1 or [::1] and a tunnel, or \
                 insecure_listen = true"
            );
            found.push(("live.http".to_owned(), message));
        }
        let http = self.live.http.filter(|http| http.port() > 0).map(|http| ("http", format!("tcp://{http}")));
        let mut taken: Vec<(&str, String)> = http.into_iter().collect();
        for (key, endpoint) in self.live.endpoints() {
            let name = format!("live.{key}");
            found.extend(parse_live_endpoint(endpoint).err().map(|e| (name.clone(), e.expected)));
            if let Some((other, _)) = taken.iter().find(|(_, other)| is_same_port(other, endpoint)) {
                found.push((name, format!("uses the port of live.{other}")));
            }
            taken.push((key, endpoint.to_owned()));
        }
        for (i, link) in self.links.iter().enumerate() {
            let SourcePlan::Tiles { endpoint, bind: true } = &link.source else { continue };
            if taken.iter().any(|(_, other)| is_same_port(other, endpoint)) {
                found.push((format!("link[{i}].source"), "listens on a port that [live] uses".to_owned()));
            }
        }
    }
}

fn is_same_peer(a: &SourcePlan, b: &SourcePlan) -> bool {
    match (a, b) {
        (SourcePlan::Merlin { host, data_port, .. }, SourcePlan::Merlin { host: other, data_port: other_port, .. }) => {
            !host.is_empty() && host.eq_ignore_ascii_case(other) && data_port == other_port
        }
        (SourcePlan::Tiles { endpoint, .. }, SourcePlan::Tiles { endpoint: other, .. }) => {
            endpoint.eq_ignore_ascii_case(other)
        }
        (SourcePlan::Dectris { endpoint, .. }, SourcePlan::Dectris { endpoint: other, .. }) => {
            endpoint.eq_ignore_ascii_case(other)
        }
        (SourcePlan::Replay { path, tile, .. }, SourcePlan::Replay { path: other, tile: other_tile, .. }) => {
            path == other && tile == other_tile
        }
        _ => false,
    }
}

fn overlaps(a: Region, b: Region) -> bool {
    let meets = |first: u32, count: u32, other: u32, other_count: u32| {
        u64::from(first) < u64::from(other) + u64::from(other_count)
            && u64::from(other) < u64::from(first) + u64::from(count)
    };
    meets(a.y, a.height, b.y, b.height) && meets(a.x, a.width, b.x, b.width)
}

/// Whether both listen in the same place, as far as this machine goes: any address of it, or one path.
fn is_same_port(a: &str, b: &str) -> bool {
    a == b || port(a).is_some_and(|a| port(b) == Some(a))
}

fn port(endpoint: &str) -> Option<u16> {
    endpoint.strip_prefix("tcp://")?.rsplit_once(':')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn region() -> impl Strategy<Value = Region> {
        (0_u32..8, 0_u32..8, 1_u32..6, 1_u32..6).prop_map(|(y, x, height, width)| Region { y, x, height, width })
    }

    proptest! {
        /// Two regions overlap exactly when they share a pixel.
        #[test]
        fn overlap_is_a_shared_pixel(a in region(), b in region()) {
            let has = |r: Region, y, x| (r.y..r.y + r.height).contains(&y) && (r.x..r.x + r.width).contains(&x);
            let shared = (0..16).any(|y| (0..16).any(|x| has(a, y, x) && has(b, y, x)));
            prop_assert_eq!(overlaps(a, b), shared);
        }
    }
}
