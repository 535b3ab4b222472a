//! Golden messages for bad files: `bad.txt` holds the files, each followed by exactly what is said about it.

use std::path::Path;

use proptest::prelude::*;
use ronchi_config::{Plan, check_name, parse_scan, parse_source, parse_virtual};

const CASES: &str = include_str!("bad.txt");

struct Case<'a> {
    name: &'a str,
    toml: &'a str,
    want: &'a str,
}

fn cases() -> Vec<Case<'static>> {
    let split = |case: &'static str| {
        let (name, rest) = case.split_once('\n').expect("a name");
        let (toml, want) = rest.split_once("--->\n").expect("messages");
        Case { name, toml, want: want.trim_end() }
    };
    CASES.split("=== ").skip(1).map(split).collect()
}

fn messages(toml: &str) -> String {
    Plan::from_toml(toml, "bad.toml", Path::new("/nowhere")).expect_err("a bad file").to_string()
}

/// Every bad file gets exactly its messages. To change many at once, set `RONCHI_BLESS=1` and read the difference.
#[test]
fn golden_messages() {
    let cases = cases();
    assert!(cases.len() >= 60, "only {} cases", cases.len());
    if std::env::var_os("RONCHI_BLESS").is_some() {
        let text = cases.iter().map(|c| format!("=== {}\n{}--->\n{}\n\n", c.name, c.toml, messages(c.toml)));
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/bad.txt");
        std::fs::write(path, text.collect::<String>().trim_end().to_owned() + "\n").expect("written");
        return;
    }
    for case in cases {
        assert_eq!(messages(case.toml), case.want, "case `{}`", case.name);
    }
}

/// A file of the largest size with a problem on every line is refused in no time, with its first hundred problems.
#[test]
fn many_problems() {
    let lines = |line: &str| line.repeat((1 << 20) / line.len());
    let links: String = (0..36_000).map(|i| format!("[[link]]\nsource = 'merlin://h{i}'\n")).collect();
    let keys: String = (0..100_000).map(|i| format!("k{i} = 1\n")).collect();
    for text in [lines("= \n"), lines("[[link]]\n"), lines("[[virtual]]\n"), keys] {
        let shown = messages(&text);
        assert_eq!(shown.lines().count(), 101);
        assert!(shown.ends_with(": more problems"), "{shown}");
    }
    assert!(messages(&links).contains("link: 36000 links, at most 64 are allowed"));
    let names: String = (0..25_000).map(|i| format!("[[virtual]]\nname = 'a{i}'\n")).collect();
    assert!(messages(&names).contains("virtual: 25000 virtual detectors, at most 64 are allowed"));
}

/// Values on the command line are refused with the value and the rule.
#[test]
fn command_line_values() {
    let virtual_error = |text| parse_virtual(text).expect_err(text).to_string();
    assert_eq!(
        parse_scan("256").expect_err("one axis").to_string(),
        "256: expected NYxNX, rows x positions, each from 1 to 65536"
    );
    assert!(parse_scan("0x5").is_err() && parse_scan("5x65537").is_err() && parse_scan("+5x5").is_ok());
    assert!(virtual_error("bf=disk:1,2").starts_with("bf=disk:1,2: expected NAME=disk:CY,CX,R"));
    assert!(virtual_error("sum=disk:1,2,3").contains("belong to [reduce]"));
    assert!(virtual_error("a=ring:1,2,9,3").contains("inner < outer"));
    assert!(virtual_error("a=rect:0,0,1.5,2").contains("expected NAME="));
    assert!(virtual_error("a=polygon:0,0;1,1").contains("3 to 1000"));
    assert!(virtual_error("a=disk:nan,0,1").contains("must lie between"));
    assert!(virtual_error("a=npy:/nowhere/m.npy").contains("cannot be read"));
    assert!(parse_source("merlin://a b").is_err() && parse_source("merlin://user@host").is_err());
    for bad in ["", ".a", "a/b", "a..b", "CON", "con.x", "lpt1", "a.", "ä", &"a".repeat(129)] {
        assert!(check_name(bad).is_err(), "{bad}");
    }
    for good in ["a", "2024-05-01_gold.1", "control", "com10", &"a".repeat(128)] {
        assert!(check_name(good).is_ok(), "{good}");
    }
}

/// Pieces that make texts close to real configurations.
fn piece() -> impl Strategy<Value = String> {
    let words = "data link detector scan virtual reduce live limits directory name record source region control shape \
                 order flyback sync_offset frames_per_position passes \
                 repeats kind centre radius inner outer from to vertices file zmq http block_mib \
                 port frames trigger";
    let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
    let values = [
        "true",
        "1",
        "-1",
        "1e400",
        "0x7fff_ffff_ffff_ffff",
        "nan",
        "inf",
        "[1, 2]",
        "[0, 0, 4, 4]",
        "[[1,2],[3,4],[5,6]]",
        "'ring'",
        "'merlin://h:1'",
        "'tiles+bind://127.0.0.1:70'",
        "{}",
        "{ shape = [2, 2] }",
        "1979-05-27",
        "\"\\u0000\"",
    ];
    let word = prop::sample::select(words);
    prop_oneof![
        (word.clone(), prop::sample::select(values.to_vec())).prop_map(|(key, value)| format!("{key} = {value}\n")),
        word.clone().prop_map(|word| format!("[{word}]\n")),
        word.prop_map(|word| format!("[[{word}]]\n")),
        "\\PC{0,12}\n",
    ]
}

proptest! {
    /// No text panics, and every problem names a line of the text.
    #[test]
    fn any_text(pieces in prop::collection::vec(piece(), 0..12), junk in prop::option::of("(?s).{0,80}")) {
        let text = pieces.concat() + &junk.unwrap_or_default();
        if let Err(problems) = Plan::from_toml(&text, "x", Path::new("/nowhere")) {
            let lines = text.matches('\n').count() + 1;
            prop_assert!(problems.iter().count() > 0);
            prop_assert!(problems.iter().all(|p| (1..=lines).contains(&p.line)), "{}", problems);
            prop_assert!(problems.iter().all(|p| !p.to_string().chars().any(char::is_control)), "{}", problems);
        }
    }

    /// No value on the command line panics.
    #[test]
    fn any_value(text in "(?s).{0,40}", tail in "[-0-9.,;e]{0,20}", kind in "disk|ring|rect|sector|polygon|npy|merlin|tiles") {
        let _ = (parse_scan(&text), parse_source(&text), parse_virtual(&text), check_name(&text));
        let _ = (parse_virtual(&format!("a={kind}:{tail}")), parse_source(&format!("{kind}://{text}{tail}")));
    }
}
