//! What the subscribers of a feed want to hear of.

use std::collections::BTreeSet;

/// Most subscription prefixes told apart; beyond it everything is published.
const PREFIXES_MAX: usize = 256;

/// The topics anybody wants: the union of all subscriptions.
#[derive(Debug, Clone, Default)]
pub struct Interest {
    prefixes: BTreeSet<Vec<u8>>,
    everything: bool,
}

impl Interest {
    /// Everything is wanted.
    pub fn everything() -> Self {
        Self { prefixes: BTreeSet::new(), everything: true }
    }

    pub(super) fn add(&mut self, prefix: &[u8]) {
        if self.prefixes.len() < PREFIXES_MAX || self.prefixes.contains(prefix) {
            self.prefixes.insert(prefix.to_vec());
        } else {
            self.everything = true;
        }
    }

    pub(super) fn remove(&mut self, prefix: &[u8]) {
        self.prefixes.remove(prefix);
    }

    /// Whether anybody wants this topic.
    pub fn wants(&self, topic: &str) -> bool {
        self.everything || self.prefixes.iter().any(|prefix| topic.as_bytes().starts_with(prefix))
    }
}
