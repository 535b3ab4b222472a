//! Any bytes as answers of the control port.
#![no_main]

use std::io::{self, Read, Write};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use ronchi_ingest::merlin::MerlinControl;
use ronchi_ingest::merlin::control::{ControlStream, parse_response};

struct Peer<'a>(&'a [u8]);

impl Read for Peer<'_> {
    fn read(&mut self, place: &mut [u8]) -> io::Result<usize> {
        let count = place.len().min(5);
        self.0.read(&mut place[..count])
    }
}

impl Write for Peer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ControlStream for Peer<'_> {
    fn set_patience(&mut self, _patience: Duration) -> io::Result<()> {
        Ok(())
    }
}

fuzz_target!(|bytes: &[u8]| {
    let _ = parse_response(bytes);
    let mut control = MerlinControl::over(Peer(bytes), "peer".into(), Duration::from_secs(60));
    let _ = control.get("IMAGEX");
    let _ = control.set("GAIN", "1");
    let _ = control.command("STARTACQUISITION");
});
