//! `[correct]`, and what `[scan]` says about positions: what holds for all results.

use std::path::PathBuf;
use std::sync::Arc;

use ronchi_pipeline::reduce::{Conditions, NoData};

use super::{Reader, path};
use crate::condition_file::{self, CorrectionFiles};
use crate::document::{Section, Value};

impl Reader<'_> {
    pub(super) fn conditions(&self) -> Conditions {
        let mut conditions = Conditions::default();
        if let Some(section) = self.root.section("correct", &["dark", "gain", "bad", "nodata"]) {
            self.correction(&section, &mut conditions);
            conditions.nodata = section.get("nodata").and_then(|value| nodata(&value));
        }
        // What else is in the section is read as the scan.
        let scan = self.root.get("scan").and_then(|value| value.open());
        if let Some(value) = scan.as_ref().and_then(|section| section.get("roi")) {
            let read = |path: PathBuf| condition_file::roi(&path).map_err(|error| error.to_string());
            let path = path(&value, "a NumPy file (.npy) of the scan's shape").map(|path| self.base_dir.join(path));
            conditions.roi = path.and_then(|path| value.checked(read(path))).map(Arc::new);
        }
        conditions
    }

    fn correction(&self, section: &Section<'_>, conditions: &mut Conditions) {
        let file = |key| {
            let value = section.get(key)?;
            Some(self.base_dir.join(path(&value, "a NumPy file (.npy)")?))
        };
        let [dark, gain, bad] = ["dark", "gain", "bad"].map(file);
        let files = CorrectionFiles { dark, gain, bad };
        match condition_file::correction(&files) {
            Ok(correction) => conditions.correction = correction.map(Arc::new),
            Err(error) => {
                let at_fault = section.get(error.key(&files));
                at_fault.and_then(|value| value.checked(Err::<(), _>(error.to_string())));
            }
        }
    }
}

fn nodata(value: &Value<'_>) -> Option<NoData> {
    match value.is_integer() {
        true => value.int(0..=u64::from(u32::MAX)).map(|number| NoData::Value(number as u32)),
        false => value.choice(&[("max", NoData::Max)]),
    }
}
