//! The fork of the path: every sealed block goes to the raw queue, which waits, and to the live queue, which skips.
//!
//! # Place in the path
//! Called by the receive loop, once per block. Raw outranks live: the raw queue makes the caller wait when it is full
//! (back-pressure to the detector). The live queue never waits while blocks are recorded: what it skips is counted and
//! reduced later from disk. A block is offered to the live queue first, which takes no time: so whoever sees a frame on
//! disk knows that it is in the live queue by then, was reduced, or was skipped. Without recording there is no disk to
//! come back to and nothing that outranks the picture, so then the live queue waits and the picture is complete.
//!
//! # Limits
//! Both queues are bounded channels of block handles; their depths are part of the printed plan.

use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::block::Block;
use crate::series::{End, Event, LinkCounters, Series};

/// Both queues of one link.
#[derive(Debug, Clone)]
pub struct FanOut {
    /// Queue of the block writer; `None` when nothing is recorded.
    pub raw: Option<Sender<Event>>,
    /// Queue of the reducers; `None` when nothing is reduced.
    pub live: Option<Sender<Block>>,
    /// The link's counters.
    pub counters: Arc<LinkCounters>,
}

/// The writer is gone: nothing more can be recorded.
#[derive(Debug, thiserror::Error)]
#[error("the block writer has stopped: recording cannot go on")]
pub struct WriterGone;

impl FanOut {
    /// Tells the writer that a series begins.
    pub fn begin(&self, series: &Arc<Series>) -> Result<(), WriterGone> {
        self.send_raw(Event::Begin(Arc::clone(series)))
    }

    /// Hands a sealed block on.
    pub fn block(&self, block: Block) -> Result<(), WriterGone> {
        LinkCounters::add(&self.counters.blocks, 1);
        if self.live.is_some() {
            self.send_live(block.clone());
        }
        self.send_raw(Event::Block(block))
    }

    /// Tells the writer that the series has ended.
    pub fn end(&self, end: &Arc<End>) -> Result<(), WriterGone> {
        self.send_raw(Event::End(Arc::clone(end)))
    }

    fn send_raw(&self, event: Event) -> Result<(), WriterGone> {
        let Some(raw) = &self.raw else { return Ok(()) };
        raw.send(event).map_err(|_| WriterGone)
    }

    fn send_live(&self, block: Block) {
        let Some(live) = &self.live else { return };
        let frame_count = u64::from(block.present_count());
        let sent = match &self.raw {
            Some(_) => live.try_send(block).is_ok(),
            None => live.send(block).is_ok(),
        };
        if !sent {
            LinkCounters::add(&self.counters.live_skipped_frames, frame_count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::tests::series;
    use crate::{BlockMut, Pool};
    use crossbeam_channel::bounded;
    use std::time::Duration;

    fn block(pool: &Pool, series: &Arc<Series>, first: u64) -> Block {
        let mut block = BlockMut::new(pool.take(Duration::ZERO).expect("free slot"), Arc::clone(series), first);
        block.commit(0, first + 1, 0);
        block.seal().expect("one frame")
    }

    /// While recording, a full live queue skips and counts, the raw queue gets everything, and no slot leaks.
    #[test]
    fn live_skips_and_raw_does_not() {
        let (series, pool) = (series(10, 1, 8), Pool::new(3, 4096).expect("pool"));
        let (raw, raw_rx) = bounded(8);
        let (live, live_rx) = bounded(1);
        let path = FanOut { raw: Some(raw), live: Some(live), counters: Arc::default() };
        for first in 0..3 {
            path.block(block(&pool, &series, first)).expect("writer is there");
        }
        assert_eq!((raw_rx.len(), live_rx.len()), (3, 1));
        assert_eq!(LinkCounters::read(&path.counters.live_skipped_frames), 2);
        drop((raw_rx, live_rx));
        assert!(path.begin(&series).is_err(), "a series cannot begin without its writer");
        drop(path);
        assert_eq!(pool.free_count(), 3);
    }
}
