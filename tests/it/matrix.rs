//! The crash matrix itself: cells of each kind run and are judged; the whole of it is `make crash-matrix`.

use std::process::{Command, Stdio};

/// A lost reply, a refusal, frozen watches, a person's edit, a killed process, and one that a rule leaves out.
const CELLS: [&str; 6] = ["S1:3:LA", "S5:5:R500", "S2:3:STALE", "S2:5:EDIT", "S2:2:CA", "S2:4:CA"];

#[test]
fn cells_of_each_kind_are_run_and_pass() {
    let output = Command::new(env!("CARGO_BIN_EXE_testbed"))
        .arg("crash-matrix")
        .arg(format!("--operator={}", env!("CARGO_BIN_EXE_llmkey-operator")))
        .args(CELLS.iter().flat_map(|cell| ["--only", cell]))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert_eq!(text.lines().last(), Some("6 passed, 0 failed, 1 n.a."), "{text}");
}
