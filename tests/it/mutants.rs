//! The deliberate faults of `make mutants` are patches: each must fit the program as it is, and say what catches it.

use std::fs;
use std::path::Path;

/// What a file held before a hunk of a patch, with the line that names the file.
fn hunks(patch: &str) -> Vec<(String, String)> {
    let mut hunks: Vec<(String, String)> = Vec::new();
    let mut file = String::new();
    for line in patch.lines() {
        if let Some(path) = line.strip_prefix("--- a/") {
            path.clone_into(&mut file);
        } else if line.starts_with("@@") {
            hunks.push((file.clone(), String::new()));
        } else if line.starts_with("+++") || file.is_empty() {
        } else if let Some((_, before)) = hunks.last_mut()
            && let Some(kept) = line.strip_prefix([' ', '-'])
        {
            before.push_str(kept);
            before.push('\n');
        }
    }
    hunks
}

#[test]
fn every_fault_fits_the_program_and_names_its_catcher() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut faults = 0;
    for entry in fs::read_dir(root.join("tests/mutants")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "patch") {
            continue;
        }
        let fault = fs::read_to_string(&path).unwrap();
        let catcher = fault.lines().find_map(|line| line.strip_prefix("Caught by: "));
        let kind = catcher.and_then(|words| words.split(' ').next());
        assert!(matches!(kind, Some("build" | "lib" | "it")), "{}: {catcher:?}", path.display());
        let hunks = hunks(&fault);
        assert!(!hunks.is_empty(), "{}", path.display());
        for (file, before) in hunks {
            let text = fs::read_to_string(root.join(&file)).unwrap();
            assert!(text.contains(&before), "{}: {file} does not hold\n{before}", path.display());
        }
        faults += 1;
    }
    assert!(faults >= 25, "only {faults}");
}
