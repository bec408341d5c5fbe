//! Writes the CRDs as YAML, one file for each: `crdgen [DIR…]`. Default: the places in this repository
//! that hold them, `crds/` and the chart, whose templates cannot read files outside of it; then also the page of all fields, and what the
//! docs tell of each provider.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use llmkey_operator::provider::{support_sources, with_support_matrix};

const PLACES: [&str; 2] = ["crds", "charts/llmkey-operator/files/crds"];

fn main() -> Result<(), Box<dyn Error>> {
    let mut directories: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if directories.is_empty() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        directories.extend(PLACES.iter().map(|place| repository.join(place)));
        fs::write(repository.join("docs/reference.md"), llmkey_operator::api::reference())?;
        let providers = repository.join("docs/providers.md");
        let page = with_support_matrix(&fs::read_to_string(&providers)?);
        fs::write(providers, page.ok_or("docs/providers.md has lost the marks of its support matrix")?)?;
        fs::write(repository.join("docs/provider-matrix.md"), support_sources())?;
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
