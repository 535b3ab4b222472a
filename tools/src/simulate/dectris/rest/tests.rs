use std::net::SocketAddr;

use ronchi_pipeline::{NavShape, SigShape};

use super::*;
use crate::simulate::dectris::images::Images;
use crate::simulate::dectris::{Compression, DectrisSimulation, Dtype, ImageForm};
use crate::simulate::synth::{Specimen, SynthPlan};

/// A control unit without a sender, just switched on.
fn desk() -> Desk {
    let (scan, detector) = (NavShape { height: 3, width: 4 }, SigShape { height: 20, width: 30 });
    let images = SynthPlan { scan, detector, dose: 10.0, specimen: Specimen::Crystal, seed: 1 };
    let channels = vec!["threshold_1".to_owned(), "difference".to_owned()];
    let form = ImageForm { dtype: Dtype::U16, compression: Compression::Bslz4, channels };
    let rest = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    let plan = DectrisSimulation { rest, rate_hz: 500.0, ..DectrisSimulation::new(images, form) };
    let images = Images::prepare(plan.supply().expect("supply"), plan.form.clone(), 1 << 20).expect("images");
    Desk::new(&plan, &images)
}

fn get(desk: &Desk, path: &str) -> Result<Value, (u16, String)> {
    answer(desk, &Method::GET, path, b"").map_err(|refused| (refused.status.as_u16(), refused.text))
}

fn put(desk: &Desk, path: &str, body: &Value) -> Result<Value, (u16, String)> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    answer(desk, &Method::PUT, path, body.as_bytes()).map_err(|refused| (refused.status.as_u16(), refused.text))
}

fn set(desk: &Desk, key: &str, value: impl Into<Value>) -> Result<Value, (u16, String)> {
    put(desk, &format!("/detector/api/1.8.0/config/{key}"), &json!({ "value": value.into() }))
}

fn initialized() -> Desk {
    let desk = desk();
    assert_eq!(put(&desk, "/detector/api/1.8.0/command/initialize", &Value::Null), Ok(json!({})));
    desk
}

fn value(desk: &Desk, path: &str) -> Value {
    get(desk, path).expect("there")["value"].clone()
}

/// Versions, modules and lists of names; what does not exist is 404, and the answer says what does.
#[test]
fn discovery() {
    let desk = desk();
    for path in ["/detector/api/version", "/stream/api/version/"] {
        assert_eq!(get(&desk, path), Ok(json!({ "value": "1.8.0", "value_type": "string" })));
    }
    let names = get(&desk, "/detector/api/1.8.0/config/keys").expect("names");
    for key in ["nimages", "ntrigger", "trigger_mode", "count_time", "threshold/difference/mode", "roi_mode"] {
        assert!(names.as_array().expect("list").contains(&key.into()), "{key}");
    }
    let commands = get(&desk, "/detector/api/1.8.0/command/keys").expect("commands");
    assert_eq!(commands.as_array().expect("list").len(), 9);
    for path in
        ["/", "/nonsense", "/camera/api/version", "/detector/api/1.6.0/config/nimages", "/detector/api/1.8.0/x/y"]
    {
        assert_eq!(get(&desk, path).map_err(|error| error.0), Err(404), "{path}");
    }
    let missing = get(&desk, "/detector/api/1.8.0/config/nimage").expect_err("no such key");
    assert!(missing.0 == 404 && missing.1.contains("`nimage`") && missing.1.contains("nimages"), "{missing:?}");
    assert_eq!(put(&desk, "/detector/api/1.8.0/command/fire", &Value::Null).map_err(|error| error.0), Err(404));
    let posted = answer(&desk, &Method::POST, "/detector/api/version", b"").map_err(|refused| refused.status);
    assert_eq!(posted, Err(StatusCode::METHOD_NOT_ALLOWED));
}

/// Tables are arrays in base64, columns before rows: here a pixel mask that masks nothing.
#[test]
fn tables_of_pixels() {
    let desk = desk();
    let mask = value(&desk, "/detector/api/1.8.0/config/pixel_mask");
    assert_eq!(
        (&mask["shape"], &mask["type"], &mask["filters"]),
        (&json!([30, 20]), &json!("<u4"), &json!(["base64"]))
    );
    assert_eq!(mask["data"], "A".repeat(3200));
    let flat = value(&desk, "/detector/api/1.8.0/config/flatfield");
    // 0x3f80_0000 is 1, in little-endian bytes, of which three make four digits.
    assert!(flat["data"].as_str().is_some_and(|data| data.starts_with("AACAPwAAgD8AAIA/")), "{flat}");
}

/// Settings come with their rules, and take what these allow; a wrong value is 400 and says what is expected.
#[test]
fn settings_have_rules() {
    let desk = initialized();
    let mode = get(&desk, "/detector/api/1.8.0/config/trigger_mode").expect("there");
    let want = json!({ "value": "exts", "value_type": "string", "access_mode": "rw",
        "allowed_values": ["ints", "inte", "exts", "exte"] });
    assert_eq!(mode, want);
    let width = get(&desk, "/detector/api/1.8.0/config/x_pixels_in_detector").expect("there");
    assert_eq!((&width["value"], &width["access_mode"]), (&json!(30), &json!("r")));
    let energy = get(&desk, "/detector/api/1.8.0/config/threshold/1/energy").expect("there");
    assert_eq!((&energy["unit"], &energy["value_type"], &energy["min"]), (&json!("eV"), &json!("float"), &json!(1.0)));
    assert_eq!(set(&desk, "trigger_mode", "ints"), Ok(json!(["trigger_mode"])));
    assert_eq!(set(&desk, "ntrigger", 5), Ok(json!(["ntrigger"])));
    assert_eq!(value(&desk, "/detector/api/1.8.0/config/ntrigger"), 5);
    assert_eq!(set(&desk, "compression", "bslz4"), Ok(json!(["compression"])));
    for (key, wrong, expected) in [
        ("trigger_mode", json!("soft"), "one of ints"),
        ("ntrigger", json!(0), "a whole number from 1"),
        ("ntrigger", json!("7"), "a whole number from 1"),
        ("count_time", json!(-1.0), "a number from"),
        ("mask_to_zero", json!(1), "true or false"),
        ("x_pixels_in_detector", json!(30), "can only be read"),
        ("compression", json!("lz4"), "were prepared with \"bslz4\""),
    ] {
        let refused = set(&desk, key, wrong).expect_err(key);
        assert!(refused.0 == 400 && refused.1.contains(key) && refused.1.contains(expected), "{refused:?}");
    }
    for body in [json!({}), json!(7), json!([])] {
        assert_eq!(put(&desk, "/detector/api/1.8.0/config/nimages", &body).map_err(|error| error.0), Err(400));
    }
    assert_eq!(value(&desk, "/detector/api/1.8.0/config/ntrigger"), 5, "what is refused changes nothing");
}

/// Times and energies that hang together stay so, and the answer names all that changed.
#[test]
fn settings_follow_each_other() {
    let desk = initialized();
    assert_eq!(value(&desk, "/detector/api/1.8.0/config/frame_time"), 0.002);
    assert_eq!(set(&desk, "count_time", 0.01), Ok(json!(["count_time", "frame_count_time", "frame_time"])));
    let frame_s = value(&desk, "/detector/api/1.8.0/config/frame_time").as_f64().expect("a number");
    assert!((frame_s - 0.010_000_1).abs() < 1e-12);
    assert_eq!(set(&desk, "frame_time", 0.005), Ok(json!(["frame_time", "count_time", "frame_count_time"])));
    assert_eq!(set(&desk, "count_time", 0.001), Ok(json!(["count_time", "frame_count_time"])));
    assert_eq!(set(&desk, "frame_time", 0.002), Ok(json!(["frame_time"])));
    assert_eq!(set(&desk, "incident_energy", 300_000.0), Ok(json!(["incident_energy", "photon_energy", "wavelength"])));
    // Electrons of 300 keV, as textbooks have it.
    let wavelength = value(&desk, "/detector/api/1.8.0/config/wavelength").as_f64().expect("a number");
    assert!((wavelength - 0.019_687).abs() < 1e-5, "{wavelength}");
}

/// Several settings at once: all or none.
#[test]
fn settings_in_a_batch() {
    let desk = initialized();
    let stream = "/stream/api/1.8.0/config";
    let both = json!({ "mode": { "value": "enabled" }, "format": { "value": "legacy" } });
    let changed = put(&desk, stream, &both).expect("changed");
    assert_eq!(changed.as_array().map(Vec::len), Some(2));
    assert_eq!(value(&desk, "/stream/api/1.8.0/config/format"), "legacy");
    let wrong = json!({ "format": { "value": "cbor" }, "mode": { "value": "perhaps" } });
    assert_eq!(put(&desk, stream, &wrong).map_err(|error| error.0), Err(400));
    assert_eq!(value(&desk, "/stream/api/1.8.0/config/format"), "legacy");
    let appendix = json!({ "value": [1, "text"] });
    assert!(put(&desk, "/stream/api/1.8.0/config/image_appendix", &appendix).is_ok());
    assert_eq!(value(&desk, "/stream/api/1.8.0/config/image_appendix"), appendix["value"]);
}

/// What comes at the wrong moment is refused, and states are those of a detector that nobody has armed.
#[test]
fn states_without_a_series() {
    let desk = desk();
    let state = || value(&desk, "/detector/api/1.8.0/status/state");
    let stream = || value(&desk, "/stream/api/1.8.0/status/state");
    let command = |name: &str| put(&desk, &format!("/detector/api/1.8.0/command/{name}"), &Value::Null);
    assert_eq!((state(), stream()), (json!("na"), json!("disabled")));
    assert!(set(&desk, "nimages", 1).is_err_and(|error| error.0 == 400 && error.1.contains("initialize")));
    assert!(command("arm").is_err_and(|error| error.0 == 400 && error.1.contains("initialize")));
    assert!(command("initialize").is_ok());
    assert_eq!(state(), "idle");
    assert!(command("trigger").is_err_and(|error| error.0 == 400 && error.1.contains("arm it")));
    for name in ["disarm", "abort", "cancel"] {
        assert_eq!(command(name), Ok(json!({ "sequence id": 0 })));
    }
    for name in ["status_update", "check_connection", "hv_reset"] {
        assert_eq!(command(name), Ok(json!({})));
    }
    assert!(put(&desk, "/stream/api/1.8.0/config/mode", &json!({ "value": "enabled" })).is_ok());
    assert_eq!(stream(), "ready");
    assert!(put(&desk, "/stream/api/1.8.0/command/initialize", &Value::Null).is_ok());
    assert_eq!(stream(), "disabled");
    let temperature = get(&desk, "/detector/api/1.8.0/status/board_000/th0_temp").expect("there");
    assert!(temperature["value"].is_f64() && temperature["time"].is_string() && temperature["state"] == "normal");
    assert_eq!(value(&desk, "/stream/api/1.8.0/status/dropped"), 0);
    assert!(set(&desk, "ntrigger", 9).is_ok());
    assert!(put(&desk, "/system/api/1.8.0/command/restart", &Value::Null).is_ok());
    assert_eq!((state(), value(&desk, "/detector/api/1.8.0/config/ntrigger")), (json!("na"), json!(3)));
}
