use super::*;
use std::collections::VecDeque;

/// A peer that gives each response after one request, a few bytes per read.
struct Peer {
    responses: VecDeque<Vec<u8>>,
    coming: VecDeque<u8>,
    sent: Vec<u8>,
}

impl Peer {
    fn new(responses: &[&str]) -> MerlinControl<Self> {
        let responses = responses.iter().map(|text| text.as_bytes().to_vec()).collect();
        let peer = Self { responses, coming: VecDeque::new(), sent: Vec::new() };
        MerlinControl::over(peer, "peer".into(), Duration::from_secs(5))
    }
}

impl Read for Peer {
    fn read(&mut self, place: &mut [u8]) -> io::Result<usize> {
        let count = place.len().min(self.coming.len()).min(7);
        if count == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        for byte in &mut place[..count] {
            *byte = self.coming.pop_front().expect("counted");
        }
        Ok(count)
    }
}

impl Write for Peer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sent.extend_from_slice(bytes);
        self.coming.extend(self.responses.pop_front().unwrap_or_default());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ControlStream for Peer {
    fn set_patience(&mut self, _patience: Duration) -> io::Result<()> {
        Ok(())
    }
}

/// Requests as documented, and their answers.
#[test]
fn requests_and_answers() {
    let mut control = Peer::new(&[
        "MPX,0000000025,SET,NUMFRAMESTOACQUIRE,0",
        "MPX,0000000027,GET,NUMFRAMESTOACQUIRE,1,0",
        "MPX,0000000023,CMD,STARTACQUISITION,0",
    ]);
    control.set("NUMFRAMESTOACQUIRE", "1").expect("set");
    assert_eq!(control.get("NUMFRAMESTOACQUIRE").expect("get"), "1");
    control.command("STARTACQUISITION").expect("command");
    let expected = b"MPX,0000000025,SET,NUMFRAMESTOACQUIRE,1MPX,0000000023,GET,NUMFRAMESTOACQUIREMPX,0000000021,CMD,STARTACQUISITION";
    assert_eq!(control.stream().sent.as_slice(), &expected[..]);
}

/// A length that leaves out its comma is tolerated; the next exchange is not disturbed.
#[test]
fn short_lengths() {
    let mut control =
        Peer::new(&["MPX,0000000016,GET,IMAGEX,256,0", "MPX,0000000012,SET,IMAGEX,2", "MPX,0000000010,CMD,STOP,0"]);
    assert_eq!(control.get("IMAGEX").expect("tolerated"), "256");
    let error = control.set("IMAGEX", "1").expect_err("refused");
    assert!(matches!(error, SourceError::Control { code: 2, .. }), "{error}");
    control.command("STOP").expect("in step");
}

/// Values may hold commas; answers to something else are passed over; a refusal tells its number.
#[test]
fn odd_answers() {
    let mut control = Peer::new(&["MPX,0000000012,CMD,OLDER,0MPX,0000000022,GET,FILES,a,b,c.mib,0"]);
    assert_eq!(control.get("FILES").expect("get"), "a,b,c.mib");
    let mut control = Peer::new(&["MPX,0000000011,SET,GAIN,3"]);
    assert!(matches!(control.set("GAIN", "9"), Err(SourceError::Control { code: 3, .. })));
}

/// Silence, garbage and overlong answers are errors, not hangs or allocations.
#[test]
fn failures() {
    assert!(matches!(Peer::new(&[]).get("X"), Err(SourceError::Lost { .. })));
    assert!(matches!(Peer::new(&["HTTP/1.1 400 Bad"]).get("X"), Err(SourceError::Lost { .. })));
    assert!(matches!(Peer::new(&["MPX,9999999999,GET,X"]).get("X"), Err(SourceError::Lost { .. })));
    assert!(matches!(Peer::new(&["MPX,0000000009,GET,X,a,b"]).get("X"), Err(SourceError::Protocol { .. })));
}
