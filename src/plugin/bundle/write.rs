//! Writes a bundle: as an archive, or as a directory. Only the user may read it, and nothing that is there is overwritten.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

/// One file of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path in the bundle.
    pub name: String,
    /// What it holds.
    pub text: String,
}

/// How names of archives end.
const ARCHIVES: [&str; 2] = [".tar.gz", ".tgz"];

/// The name without its ending, if the path means an archive.
fn archived(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    ARCHIVES.iter().find_map(|ending| name.strip_suffix(ending))
}

/// Writes the files; `seconds` since 1970 is their time.
pub fn write(path: &Path, entries: &[Entry], seconds: u64) -> io::Result<()> {
    match archived(path) {
        Some(root) => archive(path, root, entries, seconds),
        None => directory(path, entries),
    }
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn archive(path: &Path, root: &str, entries: &[Entry], seconds: u64) -> io::Result<()> {
    let mut tar = tar::Builder::new(GzEncoder::new(new_file(path)?, Compression::default()));
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(entry.text.len().try_into().unwrap_or(u64::MAX));
        header.set_mode(0o600);
        header.set_mtime(seconds);
        tar.append_data(&mut header, format!("{root}/{}", entry.name), entry.text.as_bytes())?;
    }
    tar.into_inner()?.finish()?.sync_all()
}

fn directory(path: &Path, entries: &[Entry]) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)?;
    for entry in entries {
        let place = path.join(&entry.name);
        if let Some(parent) = place.parent() {
            fs::DirBuilder::new().mode(0o700).recursive(true).create(parent)?;
        }
        new_file(&place)?.write_all(entry.text.as_bytes())?;
    }
    Ok(())
}
