//! What page 0 and the log say of a segment, and what becomes of it.

use std::ops::Range;

use ronchi_pipeline::CrcJoin;
use ronchi_pipeline::format::{ChunkRecord, Page0, Trailer};

use super::{FrameState, Publication, SECTOR, Segment};
use crate::storage::disk::Page;

impl Segment {
    /// What page 0 says of the frames complete now; `final_page` also gives incomplete chunks their checksum.
    pub(in crate::storage) fn publication(&mut self, uuid: [u8; 16], tile: u32, final_page: bool) -> Publication {
        let join = CrcJoin::new(self.layout.frame_bytes);
        let mut log = Vec::new();
        for chunk in 0..self.chunks.len() {
            if !self.dirty_chunks[chunk] && !final_page {
                continue;
            }
            self.dirty_chunks[chunk] = false;
            let (frames, entry) = self.chunk_entry(chunk, &join, final_page);
            let is_news = entry != self.chunks[chunk];
            self.chunks[chunk] = entry;
            if let Some(crc32c) = entry.filter(|_| is_news || !final_page) {
                let place = self.packed.as_ref().and_then(|packed| packed.place(chunk));
                let sector = place.map_or(0, |place| (place.offset / SECTOR) as u32); // Files end below 16 TiB.
                let (segment, chunk) = (self.number, chunk as u32);
                let record = ChunkRecord { segment, chunk, frames, crc32c, epoch: 1, sector };
                log.extend(record.encode());
            }
        }
        let is_there = |state: &FrameState| (FrameState::Complete..=FrameState::Durable).contains(state);
        let last = self.frames.iter().rposition(is_there).map_or(0, |last| last + 1);
        let frames_written = self.frames.iter().filter(|state| is_there(state)).count();
        let trailer = Trailer {
            uuid,
            tile,
            is_sealed: final_page,
            has_gaps: frames_written < last,
            segment: self.number,
            first_frame: self.first_frame(),
            frames_written: frames_written as u32,
            frames_per_chunk: self.layout.frames_per_chunk,
        };
        let pages = match &self.packed {
            Some(packed) => packed.pages(trailer).to_vec(),
            None => vec![Page0 { trailer, chunks: self.chunks.clone() }.encode(self.layout.frame_bytes)],
        };
        let pages = pages.into_iter().zip(0..).map(|(page, number)| (number * SECTOR, Box::new(Page(*page)))).collect();
        Publication { pages, log, frames: std::mem::take(&mut self.completed) }
    }

    /// Frames present in a chunk, and its entry: checksums of frames joined, zeros where frames are missing.
    fn chunk_entry(&self, chunk: usize, join: &CrcJoin, final_page: bool) -> (u32, Option<u32>) {
        let k = self.layout.frames_per_chunk as usize;
        let states = &self.frames[chunk * k..(chunk + 1) * k];
        let is_there = |state: &FrameState| (FrameState::Complete..=FrameState::Durable).contains(state);
        let present = states.iter().filter(|state| is_there(state)).count();
        if let Some(packed) = &self.packed {
            return (present as u32, packed.place(chunk).map(|place| place.crc32c));
        }
        let is_known = present == k || final_page && !states.contains(&FrameState::Failed);
        let crc = |place: usize| if is_there(&self.frames[place]) { self.crcs[place] } else { join.zeros() };
        let entry = match (present, is_known) {
            (0, _) => None,
            (_, true) => Some(join.join_all((chunk * k..(chunk + 1) * k).map(crc))),
            (_, false) => Some(0),
        };
        (present as u32, entry)
    }

    /// Page 0 names these frames, or its write failed and they wait for the next one.
    pub(in crate::storage) fn finish_publication(&mut self, frames: Vec<Range<usize>>, is_ok: bool) {
        if is_ok {
            self.page_failures = 0;
            for range in &frames {
                self.advance(range.clone(), FrameState::Published);
            }
            self.published.extend(frames);
        } else {
            self.page_failures += 1;
            for range in frames {
                self.touch(range.clone());
                self.completed.push(range);
            }
        }
    }
}
