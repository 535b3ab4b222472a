//! Any text as a configuration, and as each of the values that the command line takes.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use ronchi_config::{Plan, check_name, parse_http, parse_live_endpoint, parse_scan, parse_source, parse_virtual};

fuzz_target!(|text: &str| {
    // Mask files have a target of their own; here no path that a fuzzer makes up may lead to a real file.
    if text.contains("npy") && text.contains('/') {
        return;
    }
    match Plan::from_toml(text, "plan.toml", Path::new("/nonexistent")) {
        Ok(plan) => assert_eq!(plan.check(), Ok(()), "a plan from a file obeys the rules for plans"),
        Err(problems) => {
            let line_count = text.split('\n').count();
            assert!(problems.iter().count() > 0);
            assert!(problems.iter().all(|problem| (1..=line_count).contains(&problem.line)), "{problems}");
            let shown = problems.to_string();
            assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
        }
    }
    let _ = (check_name(text), parse_scan(text), parse_http(text), parse_live_endpoint(text));
    let _ = (parse_source(text), parse_virtual(text));
});
