//! The program knows its own kinds of reductions by name and by parameter.

use std::process::Command;

/// Before anything is opened, as of any other kind.
#[test]
fn wrong_parameters_are_refused() {
    let program = env!("CARGO_BIN_EXE_own-reduction");
    let output = Command::new(program).args(["reprocess", "nowhere.ronchi", "--reduce", "peak:abvoe=3"]).output();
    let output = output.expect("the program starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("abvoe") && error.contains("above"), "{error}");
}
