//! Writes the CRDs as YAML, one file for each: `crdgen [DIR…]`. Default: the places in this repository
//! that hold them, `crds/` and the chart, whose templates cannot read files outside of it, and the page of all fields.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

const PLACES: [&str; 2] = ["crds", "charts/llmkey-operator/files/crds"];

fn main() -> Result<(), Box<dyn Error>> {
    let mut directories: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if directories.is_empty() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        directories.extend(PLACES.iter().map(|place| repository.join(place)));
        fs::write(repository.join("docs/reference.md"), llmkey_operator::api::reference())?;
    }
    for directory in directories {
        fs::create_dir_all(&directory)?;
        for crd in llmkey_operator::api::crds() {
            let plural = crd["spec"]["names"]["plural"].as_str().ok_or("a CRD without a plural")?;
            fs::write(directory.join(format!("{plural}.yaml")), serde_saphyr::to_string(&crd)?)?;
        }
    }
    Ok(())
}
