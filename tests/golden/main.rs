//! Parity with numbers computed elsewhere: every tensor of two families, in f64 and f32.
//!
//! Ours is in `data`: `scripts/golden` computes it with PyTorch. The other was computed with the numpy MLP-Mixer that this project
//! replaces. Its folder is named by `NIDS_MIXER_GOLDEN`, and is `../shared/golden` beside the repository otherwise; `make test` runs
//! its tests where there is one. All sizes and settings are read from there, so another folder of the same structure is tested as
//! is. A README in each names the tensors.
#![allow(clippy::print_stderr, reason = "errors are worth a look")]

mod compare;
mod dropout;
mod file;
mod layers;
mod models;
mod networks;
mod optimisers;
mod schedules;

use std::path::{Path, PathBuf};

use nids_nn::{Gemm, Real};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::compare::{Tolerances, is_f64};
use crate::file::File;

/// A folder of files, and what products are made with while they are compared.
struct Golden {
    folder: PathBuf,
    /// Of the whole folder; None where each file has its own, and a version of each precision.
    settings: Option<Value>,
    gemm: Gemm,
}

impl Golden {
    fn ours(gemm: Gemm) -> Self {
        Self { folder: Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/data"), settings: None, gemm }
    }

    fn predecessor(gemm: Gemm) -> Self {
        #[expect(clippy::disallowed_methods, reason = "where the reference lies is told from outside")]
        let named = std::env::var_os("NIDS_MIXER_GOLDEN");
        let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden");
        let folder = named.map_or(beside, PathBuf::from);
        let settings = read_json(&folder.join("settings.json"));
        Self { folder, settings: Some(settings), gemm }
    }

    fn file<R: Real>(&self, name: &str) -> File {
        let read = |name: &str| std::fs::read(self.folder.join(format!("{name}.safetensors"))).unwrap();
        if let Some(settings) = &self.settings {
            return File::new(name, &read(name), settings.clone(), Tolerances::of_predecessor(settings), self.gemm);
        }
        let name = format!("{name}.{}", if is_f64::<R>() { "f64" } else { "f32" });
        let bytes = read(&name);
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let settings = header.metadata().as_ref().and_then(|metadata| metadata.get("settings")).expect("`settings`");
        File::new(&name, &bytes, serde_json::from_str(settings).unwrap(), Tolerances::Ours, self.gemm)
    }

    /// The settings of the predecessor's models.
    fn settings_of_models(&self) -> &Value {
        &self.settings.as_ref().expect("a folder of the predecessor's")["models"]
    }

    /// Names of the models with a file of their own; `dropout` has another structure.
    fn models(&self) -> Vec<&str> {
        let models = self.settings_of_models().as_object().expect("`models` in settings.json");
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
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The tests of a family, each with an attribute: for every check one in f64 and one in f32, with both backends.
macro_rules! parity {
    ($family:ident $attribute:tt $($name:ident: $module:ident::$check:ident;)*) => {
        $(
            mod $name {
                #[test]
                #$attribute
                fn in_f64() {
                    crate::with_backends(crate::Golden::$family, crate::$module::$check::<f64>);
                }

                #[test]
                #$attribute
                fn in_f32() {
                    crate::with_backends(crate::Golden::$family, crate::$module::$check::<f32>);
                }
            }
        )*

        #[test]
        #$attribute
        fn learning_rates() {
            crate::schedules::check(&crate::Golden::$family(nids_nn::Gemm::default()));
        }

        #[test]
        #$attribute
        fn every_file_is_compared() {
            let golden = crate::Golden::$family(nids_nn::Gemm::default());
            let mut compared = compared(&golden);
            compared.sort();
            assert_eq!(golden.stems(), compared);
        }
    };
}

fn with_backends(of_family: fn(Gemm) -> Golden, check: fn(&Golden)) {
    [Gemm::OpenBlas, Gemm::Tiles].map(of_family).iter().for_each(check);
}

mod ours {
    parity! {
        ours [cfg(test)]
        single_layers: layers::check;
        whole_networks: networks::check;
        steps_of_optimisers: optimisers::check;
    }

    fn compared(_: &crate::Golden) -> Vec<String> {
        let both = ["layers", "networks", "optimisers"].map(|name| ["f32", "f64"].map(|precision| format!("{name}.{precision}")));
        // the last two are compared where features are made, in `nids-flows`, and where checkpoints are read, in `nids-pipeline`
        both.into_iter().flatten().chain(["schedules.f64", "features.f64", "checkpoint"].map(str::to_owned)).collect()
    }
}

mod predecessor {
    parity! {
        predecessor [ignore = "needs settings.json in ../shared/golden (NIDS_MIXER_GOLDEN)"]
        single_layers: layers::check;
        whole_models: models::check;
        adam_steps: models::check_adam;
        checkpoints: models::check_checkpoints;
        dropout_replayed: dropout::check;
    }

    fn compared(golden: &crate::Golden) -> Vec<String> {
        let of_models = golden.models().into_iter().flat_map(|name| [name.to_owned(), format!("{name}_adam")]);
        // `features` is compared where features are made, in `nids-flows`
        let others = ["layers", "dropout", "schedules", "features"].map(str::to_owned);
        of_models.chain(golden.checkpoints()).chain(others).collect()
    }
}
