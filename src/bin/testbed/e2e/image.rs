//! Images without a registry and without a builder: a static binary and what it reads, as an archive that `ctr` imports.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Failure;

/// Where the Dockerfile takes the certificate authorities from, and where it puts them.
const AUTHORITIES: &str = "etc/ssl/certs/ca-certificates.crt";
/// The operator's and the prober's user, as in the Dockerfile.
const USER: &str = "65532:65532";

/// The static binaries, as `make e2e` builds them beside this program.
pub fn binary(name: &str) -> Result<PathBuf, Failure> {
    let here = std::env::current_exe()?;
    let target = here.parent().and_then(Path::parent).ok_or("this program lies in no build directory")?;
    let triple = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let path = target.join(triple).join("release").join(name);
    if path.is_file() {
        Ok(path)
    } else {
        Err(format!("{} is not there: `make e2e` builds it", path.display()).into())
    }
}

/// What an image is, beside its files.
pub struct Recipe<'a> {
    /// Names with their tags.
    pub names: &'a [&'a str],
    /// `config` of the image's configuration, but for the user.
    pub config: Value,
}

/// Writes the image of one program at its root, under several names, and gives the archive: the recipe of the Dockerfile's
/// last stage.
pub fn pack(dir: &Path, program: &Path, command: &[&str], names: &[&str]) -> Result<PathBuf, Failure> {
    let name = program.file_name().and_then(|name| name.to_str()).ok_or("a program without a name")?;
    let root = dir.join(format!("{}.root", names[0].replace(['/', ':'], "-")));
    let authorities = root.join(AUTHORITIES);
    fs::create_dir_all(authorities.parent().unwrap_or(&root))?;
    fs::copy(Path::new("/").join(AUTHORITIES), &authorities)?;
    fs::copy(program, root.join(name))?;
    archive(&root, &Recipe { names, config: json!({"Entrypoint": [format!("/{name}")], "Cmd": command}) })
}

/// Makes an image of a directory, which goes, and gives the archive.
pub fn archive(root: &Path, recipe: &Recipe) -> Result<PathBuf, Failure> {
    let image = root.with_extension("image");
    fs::create_dir_all(&image)?;
    let layer = image.join("layer.tar");
    tar(root, &layer, &["."])?;
    let digest = HEXLOWER.encode(&Sha256::digest(fs::read(&layer)?));
    let mut config = recipe.config.clone();
    config["User"] = json!(USER);
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    fs::write(image.join("config.json"), config.to_string())?;
    let manifest = json!([{"Config": "config.json", "RepoTags": recipe.names, "Layers": ["layer.tar"]}]);
    fs::write(image.join("manifest.json"), manifest.to_string())?;
    let archive = root.with_extension("tar");
    tar(&image, &archive, &["manifest.json", "config.json", "layer.tar"])?;
    fs::remove_dir_all(&image)?;
    fs::remove_dir_all(root)?;
    Ok(archive)
}

fn tar(from: &Path, to: &Path, what: &[&str]) -> Result<(), Failure> {
    let output = Command::new("tar")
        .args(["--create", "--owner=0", "--group=0", "--mode=u+rwX,go+rX,go-w", "--file"])
        .arg(to)
        .arg("--directory")
        .arg(from)
        .args(what)
        .output()?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into()) }
}
