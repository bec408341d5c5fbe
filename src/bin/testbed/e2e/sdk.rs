//! A workload that is not ours: Python and `OpenAI`'s own SDK, out of the Python of this machine and of its package index.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde_json::json;

use super::Failure;
use super::image::{self, Recipe};

/// In the image: Python, the SDK beside it, and the program.
const HOME: &str = "/python";
const PACKAGES: &str = "/packages";
const PROGRAM: &str = "/use_key.py";
/// Parts of Python's library that no service loads, and that are larger than the rest.
const LEFT_OUT: [&str; 7] =
    ["site-packages", "dist-packages", "test", "idlelib", "ensurepip", "tkinter", "__pycache__"];
/// Where the outer half of the test leaves what it fetched.
const FETCHED: &str = "sdk";
/// What a Python must say of itself.
const ASK: &str = "import json, os, sys, sysconfig; print(json.dumps({'executable': os.path.realpath(sys.executable), \
                   'stdlib': sysconfig.get_path('stdlib')}))";

#[derive(Deserialize)]
struct Python {
    executable: PathBuf,
    stdlib: PathBuf,
}

/// Fetches the SDK, while there still is a network.
///
/// # Errors
/// There is no Python 3 with pip, or no package index that it reaches: a sentence.
pub fn fetch(dir: &Path) -> Result<(), String> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-compile", "--only-binary=:all:", "--target"]);
    output(pip.arg(dir.join(FETCHED)).arg("openai")).map(drop).map_err(|error| {
        let last = error.lines().last().unwrap_or_default();
        format!("the workload with OpenAI's SDK is left out, since pip does not install the package openai: {last}")
    })
}

/// Version of the SDK that was fetched; none: it was not.
pub fn version(dir: &Path) -> Option<String> {
    let entries = fs::read_dir(dir.join(FETCHED)).ok()?.flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names
        .into_iter()
        .find_map(|name| Some(name.strip_prefix("openai-")?.strip_suffix(".dist-info")?.to_owned()))
}

/// Writes the image, and gives the archive.
pub fn pack(dir: &Path, name: &str) -> Result<PathBuf, Failure> {
    let python: Python = serde_json::from_str(&output(Command::new("python3").args(["-c", ASK]))?)?;
    let root = dir.join("sdk.root");
    let library = python.stdlib.file_name().ok_or("Python's library has no name")?;
    let (bin, library) = (root.join("python/bin"), root.join("python/lib").join(library));
    let packages = root.join(PACKAGES.trim_start_matches('/'));
    fs::create_dir_all(&bin)?;
    let interpreter = bin.join("python3");
    fs::copy(&python.executable, &interpreter)?;
    copy(&python.stdlib, &library)?;
    copy(&dir.join(FETCHED), &packages)?;
    fs::write(root.join(PROGRAM.trim_start_matches('/')), include_str!("use_key.py"))?;
    let mut programs = vec![python.executable];
    shared_objects(&library, &mut programs)?;
    shared_objects(&packages, &mut programs)?;
    for needed in needed(&programs)? {
        let place = root.join(needed.strip_prefix("/")?);
        // The interpreter's own library lies wherever this machine has it: it is found beside the interpreter.
        let python = needed.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libpython"));
        let place =
            if python { root.join("python/lib").join(place.file_name().unwrap_or_default()) } else { place };
        fs::create_dir_all(place.parent().unwrap_or(&root))?;
        fs::copy(&needed, &place)?;
    }
    image::archive(
        &root,
        &Recipe {
            names: &[name],
            config: json!({
                "Entrypoint": [format!("{HOME}/bin/python3"), "-u", PROGRAM],
                "Env": [
                    format!("PYTHONHOME={HOME}"), format!("PYTHONPATH={PACKAGES}"), "PYTHONDONTWRITEBYTECODE=1".to_owned(),
                    format!("LD_LIBRARY_PATH={HOME}/lib"),
                ],
            }),
        },
    )
}

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        if LEFT_OUT.iter().any(|left| *name == **left) {
            continue;
        }
        if path.is_dir() {
            copy(&path, &to.join(name))?;
        } else {
            fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}

fn shared_objects(dir: &Path, found: &mut Vec<PathBuf>) -> Result<(), Failure> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            shared_objects(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "so") {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            found.push(path);
        }
    }
    Ok(())
}

/// What the loader would load for these programs, the loader itself included. What it does not find is no loss here: a part of
/// the library that cannot be loaded on this machine is not loaded in the image.
fn needed(programs: &[PathBuf]) -> Result<BTreeSet<PathBuf>, Failure> {
    let told = output(Command::new("ldd").args(programs))?;
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    // A line without an address is the heading of a program's part.
    Ok(told.lines().filter(|line| line.contains("(0x")).filter_map(path).collect())
}

fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}
