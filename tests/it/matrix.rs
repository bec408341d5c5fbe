//! The crash matrix itself: cells of each kind run and are judged; the whole of it is `make crash-matrix`.

use std::process::{Command, Stdio};

/// A lost reply, a refusal, frozen watches, a person's edit, a killed process, one that a rule leaves out, a second replica while a
/// key is made, a leader that is paused and one that is cut off, clocks that are wrong, a key that the provider has lost, one
/// that a pod goes on using, an outage, and a lost reply while nothing but an older ledger is there.
const CELLS: [&str; 14] = [
    "S1:3:LA",
    "S5:5:R500",
    "S2:3:STALE",
    "S2:5:EDIT",
    "S2:2:CA",
    "S2:4:CA",
    "S1:3:TWO",
    "S2:2:PAUSE",
    "S2:2:PARTL",
    "S2:9:SKEW+",
    "S9:8:PARTK",
    "S15:5:LB",
    "S14:2:PARTP",
    "S13a:4:LA",
];

fn matrix(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_testbed"))
        .arg("crash-matrix")
        .arg(format!("--operator={}", env!("CARGO_BIN_EXE_llmkey-operator")))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    text
}

#[test]
fn cells_of_each_kind_are_run_and_pass() {
    let only: Vec<&str> = CELLS.iter().flat_map(|cell| ["--only", cell]).collect();
    let text = matrix(&only);
    assert_eq!(text.lines().last(), Some("14 passed, 0 failed, 1 n.a."), "{text}");
}

#[test]
fn the_way_back_from_a_crash_is_struck_as_well() {
    // Killed when the key was made, and again before the next one is.
    let text = matrix(&["--pairs", "--only", "S1:3:CA+1:CB", "--only", "S1:3:CA+2:LA"]);
    assert_eq!(text.lines().last(), Some("3 passed, 0 failed, 0 n.a."), "{text}");
}
