//! The settings and states of a simulated control unit (protocol page: `docs/detectors/dectris.md`).

use ronchi_pipeline::{AXIS_MAX, SigShape};
use serde_json::{Value, json};

use super::images::ImageForm;
use super::settings::{Access, Rule, Settings};
use super::{DectrisSimulation, StreamFormat};

/// Time between two exposures that the detector needs, in s.
pub(super) const READOUT_S: f64 = 100e-9;
/// Longest exposure, in s.
const EXPOSURE_MAX_S: f64 = 1800.0;
/// Most triggers of a series.
const TRIGGERS_MAX: u64 = 2_000_000_000;
/// Energy of the electrons at first, in eV.
const ENERGY_EV: f64 = 200_000.0;

const ON_OFF: Rule = Rule::Choice(&["enabled", "disabled"]);

/// Wavelength of electrons of an energy in eV, in angstrom (relativistic de Broglie).
pub(super) fn wavelength_angstrom(energy_ev: f64) -> f64 {
    12.264_259 / (energy_ev * (1.0 + 0.978_475_6e-6 * energy_ev)).sqrt()
}

/// `detector/config`.
pub(super) fn detector(plan: &DectrisSimulation, shape: SigShape, form: &ImageForm) -> Settings {
    let bits = 8 * form.dtype.bytes() as u64;
    let (read, write, prepared) = (Access::Read, Access::Write, Access::Prepared);
    let count = |max: u64| (Rule::Uint(0, max), "");
    let switch = (Rule::Bool, "");
    let is_enabled = |channel: &str| if form.channels.iter().any(|it| it == channel) { "enabled" } else { "disabled" };
    geometry(energies(exposures(plan)), shape)
        .with("compression", prepared, (Rule::Choice(&["none", "lz4", "bslz4"]), ""), form.compression.name())
        .with("bit_depth_image", read, count(32), bits)
        .with("bit_depth_readout", read, count(32), bits.min(16))
        .with("roi_bit_depth", prepared, count(32), bits.min(16))
        .with("threshold/1/mode", prepared, (ON_OFF, ""), is_enabled("threshold_1"))
        .with("threshold/2/mode", prepared, (ON_OFF, ""), is_enabled("threshold_2"))
        .with("threshold/difference/mode", prepared, (ON_OFF, ""), is_enabled("difference"))
        .with("auto_summation", write, switch, true)
        .with("counting_mode", write, (Rule::Choice(&["normal", "retrigger"]), ""), "normal")
        .with("mask_to_zero", write, switch, false)
        .with("fast_arm", write, switch, false)
        .with("pixel_mask_applied", write, switch, true)
        .with("flatfield_correction_applied", write, switch, true)
        .with("countrate_correction_applied", write, switch, true)
        .with("virtual_pixel_correction_applied", write, switch, true)
        .with("countrate_correction_count_cutoff", read, count(u64::from(u32::MAX)), form.dtype.max() - 1)
}

/// When images are exposed.
fn exposures(plan: &DectrisSimulation) -> Settings {
    let scan = plan.images.scan;
    let frame_s = if plan.rate_hz > 0.0 { (1.0 / plan.rate_hz).min(EXPOSURE_MAX_S) } else { 1e-3 };
    let count_s = (frame_s - READOUT_S).max(READOUT_S);
    let (read, write) = (Access::Read, Access::Write);
    let seconds = |min_s: f64, max_s: f64| (Rule::Float(min_s, max_s), "s");
    let triggers = |min: u64| (Rule::Uint(min, TRIGGERS_MAX), "");
    let modes = Rule::Choice(&["ints", "inte", "exts", "exte"]);
    Settings::default()
        .with("trigger_mode", write, (modes, ""), "exts")
        .with("nimages", write, triggers(1), scan.width)
        .with("ntrigger", write, triggers(1), scan.height)
        .with("ntriggers_skipped", write, triggers(0), 0)
        .with("count_time", write, seconds(READOUT_S, EXPOSURE_MAX_S), count_s)
        .with("frame_time", write, seconds(2.0 * READOUT_S, EXPOSURE_MAX_S + READOUT_S), frame_s)
        .with("frame_count_time", read, seconds(READOUT_S, EXPOSURE_MAX_S), count_s)
        .with("detector_readout_time", read, seconds(0.0, 1.0), READOUT_S)
        .with("trigger_start_delay", write, seconds(0.0, 100.0), 0.0)
        .with("data_collection_date", read, (Rule::Text, ""), "")
}

fn energies(settings: Settings) -> Settings {
    let energy = (Rule::Float(1.0, 1e6), "eV");
    let write = Access::Write;
    settings
        .with("incident_energy", write, energy, ENERGY_EV)
        .with("photon_energy", write, energy, ENERGY_EV)
        .with("incident_particle_type", write, (Rule::Choice(&["electron"]), ""), "electron")
        .with("wavelength", Access::Read, (Rule::Float(0.0, 1e3), "angstrom"), wavelength_angstrom(ENERGY_EV))
        .with("threshold_energy", write, energy, ENERGY_EV / 4.0)
        .with("threshold/1/energy", write, energy, ENERGY_EV / 4.0)
        .with("threshold/2/energy", write, energy, ENERGY_EV / 2.0)
}

/// What the detector is, and where.
fn geometry(settings: Settings, shape: SigShape) -> Settings {
    let (width, height) = (u64::from(shape.width), u64::from(shape.height));
    let (read, write, prepared) = (Access::Read, Access::Write, Access::Prepared);
    let count = |max: u64| (Rule::Uint(0, max), "");
    let metres = (Rule::Float(0.0, 1e3), "m");
    let pixels = (Rule::Float(-1e6, 1e6), "pixel");
    let text = (Rule::Text, "");
    settings
        .with("description", read, text, "ronchi simulator of a DECTRIS detector")
        .with("detector_number", read, text, "E-00-0000")
        .with("software_version", read, text, super::rest::VERSION)
        .with("eiger_fw_version", read, text, super::rest::VERSION)
        .with("x_pixels_in_detector", read, count(AXIS_MAX.into()), width)
        .with("y_pixels_in_detector", read, count(AXIS_MAX.into()), height)
        .with("roi_mode", prepared, text, "disabled")
        .with("roi_y_size", prepared, count(AXIS_MAX.into()), height)
        .with("x_pixel_size", read, metres, 100e-6)
        .with("y_pixel_size", read, metres, 100e-6)
        .with("sensor_material", read, text, "Si")
        .with("sensor_thickness", read, metres, 450e-6)
        .with("number_of_excluded_pixels", read, count(u64::from(u32::MAX)), 0)
        .with("pixel_mask", read, (Rule::Table, ""), Value::Null)
        .with("flatfield", read, (Rule::Table, ""), Value::Null)
        .with("beam_center_x", write, pixels, (width as f64 - 1.0) / 2.0)
        .with("beam_center_y", write, pixels, (height as f64 - 1.0) / 2.0)
        .with("detector_distance", write, metres, 0.0)
}

/// `stream/config`.
pub(super) fn stream(plan: &DectrisSimulation) -> Settings {
    let format = if plan.format == StreamFormat::Legacy { "legacy" } else { "cbor" };
    let details = Rule::Choice(&["none", "basic", "all"]);
    let mode = if plan.rest.is_some() { "disabled" } else { "enabled" };
    Settings::default()
        .with("mode", Access::Write, (ON_OFF, ""), mode)
        .with("format", Access::Write, (Rule::Choice(&["legacy", "cbor"]), ""), format)
        .with("header_detail", Access::Write, (details, ""), plan.header_detail.name())
        .with("header_appendix", Access::Write, (Rule::Any, ""), plan.header_appendix.clone())
        .with("image_appendix", Access::Write, (Rule::Any, ""), plan.image_appendix.clone())
}

/// `monitor/config`; nothing is monitored.
pub(super) fn monitor() -> Settings {
    let size = (Rule::Uint(1, 1000), "");
    Settings::default().with("mode", Access::Write, (ON_OFF, ""), "disabled").with(
        "buffer_size",
        Access::Write,
        size,
        10,
    )
}

/// `filewriter/config`; nothing is written.
pub(super) fn filewriter() -> Settings {
    let count = (Rule::Uint(0, 100_000), "");
    Settings::default()
        .with("mode", Access::Write, (ON_OFF, ""), "disabled")
        .with("format", Access::Write, (Rule::Choice(&["hdf5 nexus legacy nxmx"]), ""), "hdf5 nexus legacy nxmx")
        .with("compression_enabled", Access::Write, (Rule::Bool, ""), true)
        .with("name_pattern", Access::Write, (Rule::Text, ""), "series_$id")
        .with("nimages_per_file", Access::Write, count, 1000)
        .with("image_nr_start", Access::Write, count, 1)
}

/// `detector/status`, less what changes by itself.
pub(super) fn detector_status() -> Settings {
    let words = (Rule::Text, "");
    let up_down = (Rule::Choice(&["up", "down"]), "");
    let mut status = Settings::default();
    for (name, (rule, unit), value) in [
        ("state", words, json!("na")),
        ("error", (Rule::List, ""), json!([])),
        ("time", words, json!("")),
        ("series_unique_id", words, json!("")),
        ("link_0", up_down, json!("up")),
        ("link_1", up_down, json!("up")),
        ("link_2", up_down, json!("up")),
        ("link_3", up_down, json!("up")),
        ("high_voltage/state", words, json!("READY")),
        ("board_000/th0_temp", (Rule::Float(-50.0, 150.0), "C"), json!(24.5)),
        ("board_000/th0_humidity", (Rule::Float(0.0, 100.0), "%"), json!(4.5)),
        ("builder/dcu_buffer_free", (Rule::Float(0.0, 100.0), "%"), json!(100.0)),
    ] {
        status = status.with(name, Access::Read, (rule, unit), value);
    }
    status
}

/// `stream/status`, less what changes by itself.
pub(super) fn stream_status() -> Settings {
    let none: Value = json!([]);
    Settings::default()
        .with("state", Access::Read, (Rule::Text, ""), "disabled")
        .with("error", Access::Read, (Rule::List, ""), none)
        .with("dropped", Access::Read, (Rule::Uint(0, u64::MAX), ""), 0)
}

/// `monitor/status` and `filewriter/status`, which never change.
pub(super) fn idle_status() -> Settings {
    Settings::default().with("state", Access::Read, (Rule::Text, ""), "disabled").with(
        "error",
        Access::Read,
        (Rule::List, ""),
        json!([]),
    )
}
