//! `[correct]`, and what `[scan]` says about positions: what holds for all results.

use std::path::Path;
use std::sync::Arc;

use ronchi_pipeline::AXIS_MAX;
use ronchi_pipeline::reduce::{ConditionFile, Conditions, Descan, NoData, Roi};

use super::{Reader, path};
use crate::condition_file::{self, ConditionError, CorrectionFiles};
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
        let Some(scan) = scan else { return conditions };
        if let Some(value) = scan.get("roi") {
            conditions.roi = self.roi(&value, &mut conditions.files).map(Arc::new);
        }
        if let Some(value) = scan.get("positions") {
            let expected = "a NumPy file (.npy) or a text with the position of every frame";
            let positions = self.file(&value, expected, &mut conditions.files, condition_file::positions);
            conditions.positions = positions.map(Arc::new);
            self.check_list(&scan, &value);
        }
        if let Some(value) = scan.get("descan") {
            conditions.descan = self.descan(&value, &mut conditions.files).map(Arc::new);
        }
        conditions
    }

    /// A file, or `{ y = [first, end], x = [first, end] }`.
    fn roi(&self, value: &Value<'_>, files: &mut Vec<ConditionFile>) -> Option<Roi> {
        if value.is_table() {
            let section = value.section(&["y", "x"])?;
            let range = |key| {
                let names = "[first, end after the last]";
                let [first, end] = section.need(key, names)?.ints(names, 0..=AXIS_MAX)?;
                Some(first..end)
            };
            let (rows, columns) = (range("y"), range("x"));
            let roi = Roi::rectangle(rows?, columns?)
                .ok_or_else(|| "holds no position: each end must be above its first".to_owned());
            return value.checked(roi);
        }
        let expected = "a NumPy file (.npy) of the scan's shape, or { y = [first, end], x = [first, end] }";
        self.file(value, expected, files, condition_file::roi)
    }

    /// A file, or `{ offset = [dy, dx], per_row = [dy, dx], per_column = [dy, dx] }`.
    fn descan(&self, value: &Value<'_>, files: &mut Vec<ConditionFile>) -> Option<Descan> {
        if value.is_table() {
            let section = value.section(&["offset", "per_row", "per_column"])?;
            let vector = |key| section.get(key).map_or(Some([0.0; 2]), |value| value.point("[dy, dx] in pixels"));
            let (offset, per_row, per_column) = (vector("offset"), vector("per_row"), vector("per_column"));
            return Descan::linear(offset?, per_row?, per_column?); // Numbers of a file are finite.
        }
        let expected =
            "a NumPy file (.npy) of shifts, or { offset = [dy, dx], per_row = [dy, dx], per_column = [dy, dx] }";
        self.file(value, expected, files, condition_file::descan)
    }

    /// A list says all about order: nothing else may.
    fn check_list(&self, scan: &Section<'_>, list: &Value<'_>) {
        let others = ["order", "flyback", "sync_offset", "frames_per_position", "passes"];
        if let Some(other) = others.into_iter().find(|key| scan.get(key).is_some()) {
            list.fail(format!("says where every frame belongs: leave out `{other}`"));
        } else if scan.get("shape").is_none() {
            list.fail("needs the shape of the scan that they are in: [scan] shape = [rows, positions per row]");
        }
    }

    fn file<T>(
        &self,
        value: &Value<'_>,
        expected: &str,
        files: &mut Vec<ConditionFile>,
        read: fn(&Path) -> Result<(T, ConditionFile), ConditionError>,
    ) -> Option<T> {
        let path = self.base_dir.join(path(value, expected)?);
        let (made, file) = value.checked(read(&path).map_err(|error| error.to_string()))?;
        files.push(file);
        Some(made)
    }

    fn correction(&self, section: &Section<'_>, conditions: &mut Conditions) {
        let file = |key| {
            let value = section.get(key)?;
            Some(self.base_dir.join(path(&value, "a NumPy file (.npy)")?))
        };
        let [dark, gain, bad] = ["dark", "gain", "bad"].map(file);
        let files = CorrectionFiles { dark, gain, bad };
        match condition_file::correction(&files) {
            Ok(None) => {}
            Ok(Some((correction, files))) => {
                conditions.correction = Some(Arc::new(correction));
                conditions.files.extend(files);
            }
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
        false => value.choice(&[("max", NoData::Max), ("none", NoData::None)]),
    }
}
