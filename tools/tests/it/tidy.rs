//! Machine checks of what reviews should not have to say: crate arrows, where unsafe may live, sizes of files and
//! functions, words that must not stay.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// rustfmt keeps code within 120; this is for comments and strings, which it leaves alone.
const LINE_CHARS_MAX: usize = 140;
const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 600;

/// The only files that may say `unsafe`, each with its safety model on top.
const UNSAFE_FILES: [&str; 4] = [
    "pipeline/src/pool.rs",
    "sinks/src/storage/reader/direct.rs",
    "sinks/src/storage/reader/map.rs",
    "sinks/src/storage/uring.rs",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tools/ lies in the workspace").to_owned()
}

/// All Rust sources of the workspace with their path relative to the root.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for folder in ["pipeline", "plugins", "config", "ingest", "sinks", "tools", "benches", "examples"] {
        collect(&root().join(folder), &mut found);
    }
    assert!(found.len() > 20, "the sources are somewhere else");
    found
}

fn collect(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).expect("readable folder").flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root()).expect("inside").display().to_string();
            found.push((name, std::fs::read_to_string(&path).expect("UTF-8 source")));
        }
    }
}

/// `pipeline <- config <- {ingest, sinks} <- tools <- benches`, read from the manifests by cargo itself.
#[test]
fn crates_point_one_way() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let allowed = BTreeMap::from([
        ("ronchi-pipeline", vec![]),
        ("ronchi-plugins", vec!["ronchi-pipeline"]),
        ("ronchi-config", vec!["ronchi-pipeline"]),
        ("ronchi-ingest", vec!["ronchi-config", "ronchi-pipeline"]),
        ("ronchi-sinks", vec!["ronchi-config", "ronchi-pipeline"]),
        ("ronchi", vec!["ronchi-config", "ronchi-ingest", "ronchi-pipeline", "ronchi-plugins", "ronchi-sinks"]),
        ("own-reduction", vec!["ronchi", "ronchi-pipeline"]),
        ("ronchi-benches", vec!["ronchi", "ronchi-config", "ronchi-ingest", "ronchi-pipeline", "ronchi-sinks"]),
    ]);
    let packages = metadata["packages"].as_array().expect("packages");
    assert_eq!(packages.len(), allowed.len(), "a new crate needs its arrows here");
    for package in packages {
        let name = package["name"].as_str().expect("name");
        let ours: BTreeSet<&str> = package["dependencies"]
            .as_array()
            .expect("dependencies")
            .iter()
            .filter_map(|dependency| dependency["name"].as_str())
            .filter(|dependency| dependency.starts_with("ronchi"))
            .collect();
        let may: BTreeSet<&str> = allowed[name].iter().copied().collect();
        assert!(ours.is_subset(&may), "{name} depends on {ours:?}, allowed are {may:?}");
    }
}

/// `unsafe` lives where its safety model is, and those files stay short.
#[test]
fn unsafe_lives_in_named_files() {
    for (name, text) in sources() {
        let opens = text.lines().any(|line| {
            let code = line.split("//").next().unwrap_or_default();
            code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl")
        });
        if opens && name != "tools/tests/it/tidy.rs" {
            assert!(UNSAFE_FILES.contains(&name.as_str()), "{name} uses unsafe; see ARCHITECTURE.md, cross-cutting");
            assert!(text.contains("# Safety model"), "{name} lacks its safety model");
            assert!(text.lines().count() <= 300, "{name} is too long to be reviewed for safety");
        }
    }
}

/// No leftovers, and no line, function or file too long to read at once.
#[test]
fn sources_are_readable() {
    let mut problems = Vec::new();
    for (name, text) in sources() {
        if name != "tools/tests/it/tidy.rs" {
            for word in ["FIXME", "XXX", "HACK", "todo!(", "unimplemented!("] {
                if text.contains(word) {
                    problems.push(format!("{name}: {word}"));
                }
            }
        }
        if text.lines().count() > FILE_LINES_MAX {
            problems.push(format!("{name}: {} lines", text.lines().count()));
        }
        for (number, line) in (1..).zip(text.lines()) {
            if line.chars().count() > LINE_CHARS_MAX {
                problems.push(format!("{name}:{number}: {} characters", line.chars().count()));
            }
        }
        problems.extend(long_functions(&name, &text));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Functions by indentation, as rustfmt leaves them: from the line with `fn` to the closing brace in its column.
fn long_functions(name: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut open: Option<(usize, usize)> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let indent = line.len() - line.trim_start().len();
        let starts = ["fn ", "pub fn ", "pub(crate) fn ", "async fn ", "pub async fn ", "const fn ", "pub const fn "]
            .iter()
            .any(|start| line.trim_start().starts_with(start));
        match open {
            None if starts && !line.trim_end().ends_with(['}', ';']) => open = Some((number, indent)),
            Some((first, column)) if indent == column && line.trim_start().starts_with('}') => {
                if number - first > FUNCTION_LINES_MAX {
                    problems.push(format!("{name}:{first}: function of {} lines", number - first));
                }
                open = None;
            }
            _ => {}
        }
    }
    problems
}
