//! `ronchi verify` and `ronchi ls`, as they are called.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ronchi::simulate::merlin::MerlinSimulator;
use serde_json::Value;

use crate::system::{merlin, plan, record, simulation};

/// Exit code, standard output and standard error of `ronchi`.
fn ronchi(args: &[&str], path: &Path) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_ronchi")).args(args).arg(path).output().expect("ronchi runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("it ended by itself"), text(output.stdout), text(output.stderr))
}

/// A recorded data set of this name.
fn data_set(directory: &Path, name: &str, faults: &[&str]) -> PathBuf {
    let simulator = MerlinSimulator::start(simulation(faults)).expect("simulator");
    let mut plan = plan(directory, vec![merlin(simulator.data_address)]);
    plan.data.name = name.into();
    let summary = record(plan);
    summary.dataset.expect("recorded")
}

/// Intact is 0, flawed is 1, no data set is 2; text names the file, JSON has the same in fields.
#[test]
fn verify_tells_by_its_exit_code() {
    let directory = tempfile::tempdir().expect("folder");
    let path = data_set(directory.path(), "good", &["lose=0.1"]);
    let (code, text, errors) = ronchi(&["verify"], &path);
    assert_eq!((code, errors.as_str()), (0, ""), "{text}");
    assert!(text.contains("good.ronchi: intact\n  complete, 192 frames\n"), "{text}");
    assert!(text.contains(" never arrived\n") && text.contains(" with the right checksum\n"), "{text}");
    let (code, text, _) = ronchi(&["verify", "--json"], &path);
    let json: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        (code, &json["intact"], &json["condition"], &json["flaws"]),
        (0, &true.into(), &"complete".into(), &Value::Array(vec![]))
    );
    assert_eq!(json["frames_present"].as_u64().zip(json["frames_missing"].as_u64()).map(|(a, b)| a + b), Some(192));

    let segment = path.join("frames/c/0/0/0");
    let mut bytes = fs::read(&segment).expect("segment");
    bytes[9000] ^= 1;
    fs::write(&segment, bytes).expect("segment");
    assert_eq!(ronchi(&["verify", "--quick"], &path).0, 0, "--quick does not read pixels");
    let (code, text, _) = ronchi(&["verify"], &path);
    assert_eq!(code, 1);
    assert!(text.contains("good.ronchi: 1 FLAW\n"), "{text}");
    assert!(text.contains("  FLAW: frames/c/0/0/0: checksum of chunk 0 (frames 0 to "), "{text}");
    let (code, text, _) = ronchi(&["verify", "--json"], &path);
    let json: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, json["flaw_count"].as_u64()), (1, Some(1)));
    assert_eq!(json["flaws"][0]["file"], "frames/c/0/0/0");

    for (args, path) in [(&["verify"][..], directory.path()), (&["verify", "--slow"], &path)] {
        let (code, text, errors) = ronchi(args, path);
        assert_eq!((code, text.as_str()), (2, ""), "{errors}");
        assert!(errors.contains("cannot be checked: cannot read") || errors.contains("--slow"), "{errors}");
    }
}

/// Whole, with gaps, left behind by its receiver, broken: each has its line, in order, and only the broken one fails.
#[test]
fn ls_shows_what_there_is() {
    let directory = tempfile::tempdir().expect("folder");
    let (code, text, errors) = ronchi(&["ls"], directory.path());
    assert_eq!((code, text.as_str()), (0, ""));
    assert!(errors.starts_with("No data sets"), "{errors}");
    data_set(directory.path(), "a", &[]);
    data_set(directory.path(), "b", &["lose=0.1"]);
    let died = data_set(directory.path(), "c", &[]);
    let manifest = died.join("zarr.json");
    let text = fs::read_to_string(&manifest).expect("manifest");
    fs::write(&manifest, text.replace("\"complete\"", "\"running\"")).expect("manifest");
    fs::write(directory.path().join("notes.txt"), "not a data set").expect("file");
    let (code, text, errors) = ronchi(&["ls"], directory.path());
    assert_eq!((code, errors.as_str()), (0, ""), "{text}");
    let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0][..5], ["NAME", "STATE", "SCAN", "DETECTOR", "TYPE"]);
    assert_eq!(words[1][..8], ["a", "complete", "12x16", "48x48", ">u2", "192/192", "0", "885"], "{text}");
    assert_eq!(words[2][..2], ["b", "complete"]);
    assert_ne!(words[2][6], "0", "missing frames: {text}");
    assert_eq!(words[3][..2], ["c", "died"]);
    assert_eq!(words.len(), 4);

    fs::create_dir(directory.path().join("b2.ronchi")).expect("folder");
    let (code, text, _) = ronchi(&["ls"], directory.path());
    assert_eq!((code, text.lines().count()), (1, 5));
    let broken = text.lines().nth(3).expect("a line");
    assert!(broken.starts_with("b2") && broken.contains("CANNOT BE READ: cannot read zarr.json"), "{broken}");
    let (code, text, _) = ronchi(&["ls", "--json"], directory.path());
    let json: Value = serde_json::from_str(&text).expect("JSON");
    let list = json.as_array().expect("a list");
    assert_eq!((code, list.len()), (1, 4));
    assert_eq!(
        (&list[0]["state"], &list[0]["durable"], &list[0]["bytes"]),
        (&"complete".into(), &192.into(), &(192 * 48 * 48 * 2).into())
    );
    assert!(list[2]["error"].as_str().is_some_and(|error| error.contains("zarr.json")), "{text}");
    assert_eq!(list[3]["state"], "died");

    assert_eq!(ronchi(&["ls"], &directory.path().join("nowhere")).0, 2);
    assert_eq!(ronchi(&["ls"], &died).1.lines().count(), 2, "one data set by itself");
}

/// A data set whose receiver died is repaired once; text and exit code tell, JSON has the counts.
#[test]
fn repair_finishes_what_a_crash_left() {
    let directory = tempfile::tempdir().expect("folder");
    let path = data_set(directory.path(), "left", &["lose=0.1"]);
    let manifest = path.join("zarr.json");
    let text = fs::read_to_string(&manifest).expect("manifest");
    fs::write(&manifest, text.replace("\"complete\"", "\"running\"")).expect("manifest");
    fs::write(path.join("progress.json"), "").expect("progress");
    let (code, text, _) = ronchi(&["repair", "--dry-run"], &path);
    assert_eq!((code, text.contains(" changes would be made\n  its receiver had died\n")), (0, true), "{text}");
    assert!(text.contains("  would be changed: zarr.json: written anew\n"), "{text}");
    let (code, text, errors) = ronchi(&["repair", "--json"], &path);
    let json: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        (code, &json["before"], &json["lost"], &json["flaws"]),
        (0, &"died".into(), &0.into(), &Value::Array(vec![])),
        "{errors}"
    );
    assert_eq!(ronchi(&["verify"], &path).0, 0);
    let (code, text, _) = ronchi(&["repair"], &path);
    assert_eq!((code, text.contains("left.ronchi: nothing to repair\n")), (0, true), "{text}");
    assert_eq!(ronchi(&["repair"], directory.path()).0, 2);
}
