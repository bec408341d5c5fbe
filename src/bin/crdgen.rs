//! Prints the CRDs as YAML, or writes one file for each into a directory: `crdgen [DIR]`.

use std::io::Write;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::args_os().nth(1);
    for crd in llmkey_operator::api::crds() {
        let yaml = serde_saphyr::to_string(&crd)?;
        match &directory {
            Some(dir) => {
                let plural = crd["spec"]["names"]["plural"].as_str().ok_or("a CRD without a plural")?;
                std::fs::write(std::path::Path::new(dir).join(format!("{plural}.yaml")), yaml)?;
            }
            None => write!(std::io::stdout(), "---\n{yaml}")?,
        }
    }
    Ok(())
}
