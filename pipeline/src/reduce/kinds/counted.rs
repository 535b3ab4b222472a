//! Electron counting: how many single electrons a frame holds, and where they come.

use serde::{Deserialize, Serialize};

use super::Kind;
use super::parts::wrong;
use crate::reduce::error::PlanError;
use crate::reduce::events::Window;
use crate::reduce::output::Output;
use crate::reduce::patterns::Accumulator;
use crate::reduce::spec::Needs;

/// Pixels whose corrected counts lie between two thresholds and are more than those of each of the eight around them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Counted {
    /// Noise lies at or below it; a mean and some standard deviations of dark frames.
    above: f64,
    /// X-rays and hits of several electrons lie at or above it; nothing does where not given.
    below: Option<f64>,
    /// Also events per detector pixel over all frames, as `NAME_pattern`.
    #[serde(default = "yes")]
    pattern: bool,
}

fn yes() -> bool {
    true
}

impl Kind for Counted {
    const WORD: &'static str = "counted";
    const ABOUT: &'static str = "events of single electrons, per frame and per detector pixel";

    fn plan(&self, name: &str, needs: &mut Needs<'_>) -> Result<Vec<Output>, PlanError> {
        if !(self.above.is_finite() && self.above >= 0.0) {
            return Err(wrong(name, "above", self.above, "a number that is not negative"));
        }
        let below = self.below.unwrap_or(f64::INFINITY);
        if below.is_nan() || below <= self.above {
            return Err(wrong(name, "below", below, format!("more than `above`, which is {}", self.above)));
        }
        let window = Window { above: self.above, below };
        let events = needs.events(window);
        let mut outputs = vec![Output { unit: "events".into(), ..Output::count(name, events) }];
        if self.pattern {
            let other = needs.patterns().find_map(|known| match known {
                Accumulator::Events(other) if other != window => Some(other),
                _ => None,
            });
            if let Some(other) = other {
                let expected = format!("{}..{} as in the list's other pattern of events", other.above, other.below);
                return Err(wrong(name, "above", format!("{}..{below}", self.above), expected));
            }
            let pattern = needs.pattern(Accumulator::Events(window));
            outputs.push(Output { unit: "events".into(), ..Output::pattern(&format!("{name}_pattern"), pattern) });
        }
        Ok(outputs)
    }
}
