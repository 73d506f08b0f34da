//! The grid of settings that successive halving tries.

use std::str::FromStr;

use nids_kernels::Key;
use rand::seq::SliceRandom;

use nids_store::{Error, Result};
use nids_train::stream;

/// One setting and the values to try: `finetune.lr=1e-3,2e-3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axis {
    key: String,
    values: Vec<String>,
}

impl FromStr for Axis {
    type Err = String;

    /// Values are separated by commas outside of brackets and braces.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let Some((key, list)) = text.split_once('=').filter(|(key, list)| !key.trim().is_empty() && !list.trim().is_empty())
        else {
            return Err("expected `dotted.key=value,value`".to_owned());
        };
        let mut values = vec![String::new()];
        let mut depth = 0_usize;
        for c in list.chars() {
            match c {
                '{' | '[' => depth += 1,
                '}' | ']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if c == ',' && depth == 0 {
                values.push(String::new());
            } else if let Some(value) = values.last_mut() {
                value.push(c);
            }
        }
        for value in &mut values {
            *value = value.trim().to_owned();
        }
        if values.iter().any(String::is_empty) {
            return Err(format!("an empty value for `{}`", key.trim()));
        }
        Ok(Self { key: key.trim().to_owned(), values })
    }
}

/// Every combination of the axes' values, or `most` of them, drawn by seed.
pub(super) fn candidates(grid: &[Axis], most: usize, seed: u64) -> Result<Vec<Vec<String>>> {
    const TOO_MANY: usize = 100_000;
    if grid.is_empty() {
        let message = "`sweep.strategy: halving` chooses among settings: name them, as in `--grid finetune.lr=1e-3,2e-3,4e-3`";
        return Err(Error::Usage(message.to_owned()));
    }
    let count = grid.iter().try_fold(1_usize, |n, axis| n.checked_mul(axis.values.len()).filter(|&n| n <= TOO_MANY));
    if count.is_none() {
        return Err(Error::Usage(format!("`--grid` names more than {TOO_MANY} combinations: leave some values out")));
    }
    let mut all: Vec<Vec<String>> = vec![Vec::new()];
    for Axis { key, values } in grid {
        all = all
            .iter()
            .flat_map(|settings| values.iter().map(move |value| [settings.as_slice(), &[format!("{key}={value}")]].concat()))
            .collect();
    }
    if all.len() > most {
        all.shuffle(&mut Key::new(seed).child(stream::SWEEP).stream(0, 0));
        all.truncate(most);
    }
    Ok(all)
}

/// The name of a trial's folder: `dim=32,depth=4,steps=150`, with only characters that are safe in a path.
pub(super) fn name(settings: &[String], steps: u64) -> String {
    let short = |setting: &String| {
        let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
        format!("{}={value}", key.rsplit('.').next().unwrap_or(key))
    };
    let parts: Vec<String> = settings.iter().map(short).chain([format!("steps={steps}")]).collect();
    let plain = |c: char| if c.is_ascii_alphanumeric() || "=,.-_+".contains(c) { c } else { '_' };
    parts.join(",").chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_is_every_combination_or_a_seeded_share_of_them() {
        let grid: Vec<Axis> = ["model.dim=16, 32", "finetune.lr=1e-3,2e-3,4e-3"].map(|text| text.parse().unwrap()).to_vec();
        let all = candidates(&grid, 100, 1).unwrap();
        assert_eq!(all.len(), 6);
        assert_eq!(all[1], ["model.dim=16", "finetune.lr=2e-3"]);
        let some = candidates(&grid, 4, 1).unwrap();
        assert!(some.len() == 4 && some.iter().all(|candidate| all.contains(candidate)));
        assert_eq!(some, candidates(&grid, 4, 1).unwrap());
        assert!(candidates(&[], 4, 1).is_err());
    }

    #[test]
    fn values_with_commas_of_their_own_are_one_value() {
        let axis: Axis = "finetune.schedule={ cosine: { warmup: 0.1, min_lr: 0 } },constant".parse().unwrap();
        assert_eq!(axis.values, ["{ cosine: { warmup: 0.1, min_lr: 0 } }", "constant"]);
        for bad in ["", "key", "key=", "=1", "key=1,,2"] {
            assert!(bad.parse::<Axis>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_is_a_plain_folder() {
        let settings = ["model.dim=32".to_owned(), "finetune.schedule={ a: ../b }".to_owned()];
        assert_eq!(name(&settings, 150), "dim=32,schedule=__a__.._b__,steps=150");
    }
}
