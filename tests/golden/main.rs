//! Parity with the numpy MLP-Mixer that this project replaces: every tensor of the golden folder, in f64 and f32.
//!
//! The folder is named by `NIDS_MIXER_GOLDEN`, and is `../shared/golden` beside the repository otherwise; without one these
//! tests say so and pass. All sizes and settings are read from it, so another folder of the same structure is tested as is.
//! Its README names the tensors and the tolerances.
#![allow(clippy::print_stderr, reason = "a test that was skipped says so, and errors are worth a look")]

mod compare;
mod dropout;
mod file;
mod layers;
mod models;
mod schedules;

use std::path::{Path, PathBuf};

use nids_nn::Gemm;
use serde_json::Value;

use crate::file::File;

/// The folder and its settings.
struct Golden {
    folder: PathBuf,
    settings: Value,
    gemm: Gemm,
}

impl Golden {
    /// None, and a line that says so, where there is no folder.
    fn find() -> Option<Self> {
        #[expect(clippy::disallowed_methods, reason = "where the reference lies is told from outside")]
        let named = std::env::var_os("NIDS_MIXER_GOLDEN");
        let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden");
        let folder = named.map_or(beside, PathBuf::from);
        if !folder.join("settings.json").is_file() {
            eprintln!("skipped: no `settings.json` in {}; name the golden folder in `NIDS_MIXER_GOLDEN`", folder.display());
            return None;
        }
        let settings = read_json(&folder.join("settings.json"));
        Some(Self { folder, settings, gemm: Gemm::default() })
    }

    /// The folder for each backend; none where there is no folder.
    fn of_backends() -> impl Iterator<Item = Self> {
        [Gemm::OpenBlas, Gemm::Tiles].into_iter().filter_map(|gemm| Some(Self { gemm, ..Self::find()? }))
    }

    fn file(&self, name: &str) -> File {
        File::read(&self.folder, name, &self.settings, self.gemm)
    }

    /// Names of the models with a file of their own; `dropout` has another structure.
    fn models(&self) -> Vec<&str> {
        let models = self.settings["models"].as_object().expect("`models` in settings.json");
        models.keys().map(String::as_str).filter(|&name| name != "dropout").collect()
    }

    /// Stems of the checkpoints.
    fn checkpoints(&self) -> Vec<String> {
        self.stems().into_iter().filter(|stem| stem.starts_with("checkpoint_")).collect()
    }

    /// Stems of the safetensors files.
    fn stems(&self) -> Vec<String> {
        let files = self.folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut stems: Vec<String> = files.filter_map(|file| file.strip_suffix(".safetensors").map(str::to_owned)).collect();
        stems.sort();
        stems
    }
}

fn read_json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A test in f64 and one in f32, each with both backends.
macro_rules! parity {
    ($($name:ident: $module:ident::$check:ident;)*) => {$(
        mod $name {
            #[test]
            fn in_f64() {
                for golden in super::Golden::of_backends() {
                    crate::$module::$check::<f64>(&golden);
                }
            }

            #[test]
            fn in_f32() {
                for golden in super::Golden::of_backends() {
                    crate::$module::$check::<f32>(&golden);
                }
            }
        }
    )*};
}

parity! {
    single_layers: layers::check;
    whole_models: models::check;
    adam_steps: models::check_adam;
    checkpoints: models::check_checkpoints;
    dropout_replayed: dropout::check;
}

#[test]
fn learning_rates() {
    if let Some(golden) = Golden::find() {
        schedules::check(&golden);
    }
}

#[test]
fn every_file_is_compared() {
    let Some(golden) = Golden::find() else { return };
    let of_models = golden.models().into_iter().flat_map(|name| [name.to_owned(), format!("{name}_adam")]);
    let mut compared: Vec<String> = of_models.chain(golden.checkpoints()).collect();
    // `features` is compared where features are made, in `nids-flows`
    compared.extend(["layers", "dropout", "schedules", "features"].map(str::to_owned));
    compared.sort();
    assert_eq!(golden.stems(), compared);
}
