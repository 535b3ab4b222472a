//! Electron counting: which pixels of a frame are events.

/// Corrected counts of an event, both excluded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Window {
    pub(super) above: f64,
    pub(super) below: f64,
}

impl Window {
    fn contains(self, value: f32) -> bool {
        self.above < f64::from(value) && f64::from(value) < self.below
    }

    /// Calls `event` with the place (C order) of each event: a pixel inside the window that is greater than each of the
    /// eight around it, where those outside the window count as nothing. Pixels at the border of the frame are none.
    pub(super) fn events(self, frame: &[f32], width: usize, mut event: impl FnMut(usize)) {
        let height = frame.len() / width.max(1);
        for y in 1..height.saturating_sub(1) {
            for x in 1..width.saturating_sub(1) {
                let at = y * width + x;
                let value = frame[at];
                if !self.contains(value) {
                    continue;
                }
                let rows = [at - width - 1, at - 1, at + width - 1].map(|first| &frame[first..first + 3]);
                // The pixel itself is the only one that need not be less.
                let equal_or_more = rows.into_iter().flatten().filter(|&&other| self.contains(other) && other >= value);
                if equal_or_more.count() == 1 {
                    event(at);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A peak, a tie, a neighbour above the window, one below, and a peak at the border.
    #[test]
    fn small_frame() {
        let frame = [
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 9.0_f32],
            [0.0, 8.0, 5.0, 0.0, 7.0, 7.0, 0.0],
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            [0.0, 6.0, 99.0, 0.0, 2.0, 0.0, 0.0],
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        ];
        let mut events = Vec::new();
        Window { above: 3.0, below: 50.0 }.events(&frame.concat(), 7, |at| events.push((at / 7, at % 7)));
        assert_eq!(events, [(1, 1), (3, 1)]);
        Window { above: 3.0, below: 50.0 }.events(&[9.0; 2], 1, |_| panic!("no pixel has eight around it"));
    }
}
