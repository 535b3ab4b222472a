//! `RONCHI_PANIC`: tells a stage of the receiver to panic, for tests of what becomes of a recording then.
//!
//! # Errors
//! Whatever the variable holds that is no stage and number ends the receiver before it begins: nobody sets it by accident
//! and goes on.

use anyhow::{Context, Result, ensure};
use ronchi_pipeline::fault::{Stage, arm};

const VARIABLE: &str = "RONCHI_PANIC";

/// Arms what `RONCHI_PANIC=STAGE:NUMBER` asks for, e.g. `write:12`: the writer's twelfth block.
pub(crate) fn arm_from_environment() -> Result<()> {
    let Some(text) = std::env::var_os(VARIABLE) else { return Ok(()) };
    let (stage, number) = text.to_str().and_then(parse).with_context(|| {
        let stages = Stage::ALL.map(Stage::word).join(", ");
        format!(
            "{VARIABLE} is set to {text:?}; it is for tests only, and must be a stage ({stages}), a colon and a number"
        )
    })?;
    ensure!(arm(stage, number), "{VARIABLE} works for one receiver of a process only");
    tracing::warn!("{VARIABLE} is set: stage {} is going to panic, at its pass number {number}", stage.word());
    Ok(())
}

fn parse(text: &str) -> Option<(Stage, u64)> {
    let (word, number) = text.split_once(':')?;
    let stage = Stage::ALL.into_iter().find(|stage| stage.word() == word)?;
    number.parse().ok().filter(|&number| number > 0).map(|number| (stage, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stages by their words, passes from 1 on; nothing else.
    #[test]
    fn what_can_be_asked_for() {
        assert_eq!(parse("write:12"), Some((Stage::Write, 12)));
        assert!(Stage::ALL.iter().all(|stage| parse(&format!("{}:1", stage.word())) == Some((*stage, 1))));
        for wrong in ["", "write", "write:", "write:0", "write:-1", "writer:1", "write:1:2", " write:1"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
