//! Fitted heads as tensors beside the weights of a network, under `heads.`.

use std::collections::BTreeMap;

use ndarray::{Array1, Array2};
use nids_config::Head;
use nids_heads::{Boosting, ExtraTrees, KernelMachine, KernelParts, LogisticParts, LogisticRegression, Pca, PcaParts, TreeParts};
use nids_nn::tensor_file::{Dtype, NamedTensor, TensorView};

use crate::committee::Committee;

/// What the names of all heads begin with.
pub(crate) const PREFIX: &str = "heads.";

/// A type of number that tensors hold.
trait Number: Copy {
    const DTYPE: Dtype;
    type Bytes: AsRef<[u8]>;
    fn bytes(self) -> Self::Bytes;
    fn read(bytes: &[u8]) -> Vec<Self>;
}

macro_rules! number {
    ($type:ty, $dtype:ident) => {
        impl Number for $type {
            const DTYPE: Dtype = Dtype::$dtype;
            type Bytes = [u8; size_of::<$type>()];
            fn bytes(self) -> Self::Bytes {
                self.to_le_bytes()
            }
            fn read(bytes: &[u8]) -> Vec<Self> {
                bytes.as_chunks().0.iter().map(|&bytes| <$type>::from_le_bytes(bytes)).collect()
            }
        }
    };
}
number!(f64, F64);
number!(f32, F32);
number!(u32, U32);
number!(u8, U8);

fn tensor<T: Number>(name: &str, shape: &[usize], numbers: impl IntoIterator<Item = T>) -> NamedTensor<'static> {
    let bytes: Vec<u8> = numbers.into_iter().flat_map(|number| number.bytes().as_ref().to_vec()).collect();
    NamedTensor { name: format!("{PREFIX}{name}").into(), dtype: T::DTYPE, shape: shape.to_vec(), bytes: bytes.into() }
}

/// The tensors of a committee.
pub(crate) fn tensors(committee: &Committee) -> Vec<NamedTensor<'static>> {
    let mut out = Vec::new();
    let mut vector = |name: &str, numbers: &Array1<f64>| out.push(tensor(name, &[numbers.len()], numbers.iter().copied()));
    if let Some(pca) = &committee.pca {
        let PcaParts { mean, rstd, centre, variance, .. } = pca.parts();
        for (name, numbers) in [("mean", mean), ("rstd", rstd), ("centre", centre), ("variance", variance)] {
            vector(&format!("pca.{name}"), numbers);
        }
    }
    if let Some(LogisticParts { weight, intercept }) = committee.logistic.as_ref().map(LogisticRegression::parts) {
        vector("logistic.weight", weight);
        vector("logistic.intercept", &Array1::from_elem(1, *intercept));
    }
    let kernel = committee.kernel_machine.as_ref().map(KernelMachine::parts);
    if let Some(KernelParts { dual, bias, gamma, slope, offset, .. }) = kernel {
        vector("kernel_machine.dual", dual);
        for (name, number) in [("bias", bias), ("gamma", gamma), ("slope", slope), ("offset", offset)] {
            vector(&format!("kernel_machine.{name}"), &Array1::from_elem(1, *number));
        }
    }
    let mut matrix = |name: &str, numbers: &Array2<f64>| out.push(tensor(name, numbers.shape(), numbers.iter().copied()));
    committee.pca.iter().for_each(|pca| matrix("pca.weight", &pca.parts().weight));
    if let Some(parts) = kernel {
        matrix("kernel_machine.rows", &parts.rows);
    }
    let trees = [
        ("extra_trees", committee.extra_trees.as_ref().map(ExtraTrees::parts)),
        ("boosting", committee.boosting.as_ref().map(Boosting::parts)),
    ];
    for (head, parts) in trees {
        let Some(TreeParts { n_features, base, root, feature, threshold, missing_left, child, value }) = parts else { continue };
        let name = |part: &str| format!("{head}.{part}");
        out.push(tensor(&name("n_features"), &[1], [*n_features as u32]));
        out.push(tensor(&name("base"), &[1], [*base]));
        for (part, numbers) in [("root", root), ("feature", feature), ("child", child)] {
            out.push(tensor(&name(part), &[numbers.len()], numbers.iter().copied()));
        }
        out.push(tensor(&name("threshold"), &[threshold.len()], threshold.iter().copied()));
        out.push(tensor(&name("missing_left"), &[missing_left.len()], missing_left.iter().copied()));
        out.push(tensor(&name("value"), &[value.len()], value.iter().copied()));
    }
    out
}

/// The tensors of a file that are under `heads.`, each to be taken once.
struct Tensors<'f>(BTreeMap<String, TensorView<'f>>);

impl Tensors<'_> {
    fn numbers<T: Number>(&mut self, name: &str, dims: usize) -> Result<(Vec<usize>, Vec<T>), String> {
        let view = self.0.remove(name).ok_or_else(|| format!("`{PREFIX}{name}` is missing"))?;
        if view.dtype() != T::DTYPE || view.shape().len() != dims {
            let (found, shape) = (view.dtype(), view.shape());
            return Err(format!("`{PREFIX}{name}` is {found:?} {shape:?}, expected {:?} in {dims} dimensions", T::DTYPE));
        }
        Ok((view.shape().to_vec(), T::read(view.data())))
    }

    fn vector<T: Number>(&mut self, name: &str) -> Result<Array1<T>, String> {
        Ok(self.numbers(name, 1)?.1.into())
    }

    fn matrix(&mut self, name: &str) -> Result<Array2<f64>, String> {
        let (shape, numbers) = self.numbers(name, 2)?;
        Array2::from_shape_vec((shape[0], shape[1]), numbers).map_err(|error| format!("`{PREFIX}{name}`: {error}"))
    }

    fn number<T: Number>(&mut self, name: &str) -> Result<T, String> {
        match self.numbers(name, 1)?.1[..] {
            [number] => Ok(number),
            ref numbers => Err(format!("`{PREFIX}{name}` has {} numbers, expected 1", numbers.len())),
        }
    }

    fn trees(&mut self, head: &str) -> Result<TreeParts, String> {
        let name = |part: &str| format!("{head}.{part}");
        Ok(TreeParts {
            n_features: self.number::<u32>(&name("n_features"))? as usize,
            base: self.number(&name("base"))?,
            root: self.vector(&name("root"))?,
            feature: self.vector(&name("feature"))?,
            threshold: self.vector(&name("threshold"))?,
            missing_left: self.vector(&name("missing_left"))?,
            child: self.vector(&name("child"))?,
            value: self.vector(&name("value"))?,
        })
    }
}

/// The committee of a file's tensors, for rows of `n_features` features and `width` numbers to find components in. Every array is
/// checked.
///
/// # Errors
/// A text that says what is wrong.
pub(crate) fn committee(
    all: BTreeMap<String, TensorView<'_>>,
    heads: &[Head],
    n_features: usize,
    width: usize,
) -> Result<Committee, String> {
    let own = all.into_iter().filter_map(|(name, view)| Some((name.strip_prefix(PREFIX)?.to_owned(), view)));
    let mut tensors = Tensors(own.collect());
    let refuse = |head: &'static str| move |error: nids_heads::Error| format!("`{PREFIX}{head}`: {error}");
    let mut committee = Committee::default();
    if tensors.0.keys().any(|name| name.starts_with("pca.")) {
        let parts = PcaParts {
            mean: tensors.vector("pca.mean")?,
            rstd: tensors.vector("pca.rstd")?,
            centre: tensors.vector("pca.centre")?,
            weight: tensors.matrix("pca.weight")?,
            variance: tensors.vector("pca.variance")?,
        };
        if parts.mean.len() != width {
            return Err(format!("`{PREFIX}pca.mean` has {} numbers, and a row has {width}", parts.mean.len()));
        }
        committee.pca = Some(Pca::from_parts(parts).map_err(refuse("pca"))?);
    }
    let components = committee.pca.as_ref().map_or(0, Pca::n_components);
    let columns = |name: &str, found: usize, wanted: usize| {
        let message = || format!("`{PREFIX}{name}` is fitted on {found} columns, and a row has {wanted}");
        if found == wanted { Ok(()) } else { Err(message()) }
    };
    for head in heads {
        match head {
            Head::Logistic => {
                let parts = LogisticParts {
                    weight: tensors.vector("logistic.weight")?,
                    intercept: tensors.number("logistic.intercept")?,
                };
                columns("logistic", parts.weight.len(), components)?;
                committee.logistic = Some(LogisticRegression::from_parts(parts).map_err(refuse("logistic"))?);
            }
            Head::KernelMachine => {
                let parts = KernelParts {
                    rows: tensors.matrix("kernel_machine.rows")?,
                    dual: tensors.vector("kernel_machine.dual")?,
                    bias: tensors.number("kernel_machine.bias")?,
                    gamma: tensors.number("kernel_machine.gamma")?,
                    slope: tensors.number("kernel_machine.slope")?,
                    offset: tensors.number("kernel_machine.offset")?,
                };
                columns("kernel_machine", parts.rows.ncols(), components)?;
                committee.kernel_machine = Some(KernelMachine::from_parts(parts).map_err(refuse("kernel_machine"))?);
            }
            Head::ExtraTrees => {
                let parts = tensors.trees("extra_trees")?;
                columns("extra_trees", parts.n_features, n_features)?;
                committee.extra_trees = Some(ExtraTrees::from_parts(parts).map_err(refuse("extra_trees"))?);
            }
            Head::Boosting => {
                let parts = tensors.trees("boosting")?;
                columns("boosting", parts.n_features, n_features)?;
                committee.boosting = Some(Boosting::from_parts(parts).map_err(refuse("boosting"))?);
            }
        }
    }
    let foreign: Vec<String> = tensors.0.keys().map(|name| format!("`{PREFIX}{}`", name.escape_debug())).collect();
    if foreign.is_empty() { Ok(committee) } else { Err(format!("of no head of this run: {}", foreign.join(", "))) }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;
    use nids_heads::{BoostingConfig, ExtraTreesConfig, KernelConfig};
    use nids_kernels::Key;
    use nids_nn::tensor_file::{self, TensorFile};

    use super::*;

    const N_FEATURES: usize = 3;
    const WIDTH: usize = 5;

    /// All four heads, fitted on 40 rows.
    fn fitted() -> Committee {
        let number = |row: usize, column: usize| ((row * 7 + column * 3 + 1) as f32).powi(2).sin();
        let tokens = Array2::from_shape_fn((40, WIDTH), |(row, column)| number(row, column));
        let features = Array2::from_shape_fn((40, N_FEATURES), |(row, column)| number(row, column + 9));
        let target: Vec<f64> = (0..40).map(|row| f64::from(u8::from(number(row, 0) + number(row, 9) > 0.0))).collect();
        let pca = Pca::fit(&tokens, 4).unwrap();
        let x = pca.transform(&tokens);
        let trees = ExtraTreesConfig { n_trees: 5, ..ExtraTreesConfig::default() };
        let few = BoostingConfig { n_trees: 5, min_leaf: 3, ..BoostingConfig::default() };
        Committee {
            logistic: Some(LogisticRegression::fit(&x, &target, None, 1.0).unwrap()),
            kernel_machine: Some(KernelMachine::fit(&x, &target, None, KernelConfig::default()).unwrap()),
            extra_trees: Some(ExtraTrees::fit(&features, &target, None, trees, Key::new(1)).unwrap()),
            boosting: Some(Boosting::fit(&features, &target, None, few).unwrap()),
            pca: Some(pca),
        }
    }

    /// What is read of tensors for the heads that a config names.
    fn read(tensors: &[NamedTensor<'_>], heads: &[Head], [n_features, width]: [usize; 2]) -> Result<Committee, String> {
        let bytes = tensor_file::to_bytes(tensors, "{}");
        committee(TensorFile::read(&bytes).unwrap().tensors(), heads, n_features, width)
    }

    #[test]
    fn what_was_written_is_read_to_the_bit() {
        let all = fitted();
        assert_eq!(read(&tensors(&all), &Head::ALL, [N_FEATURES, WIDTH]), Ok(all.clone()));
        for head in Head::ALL {
            let mut one = Committee { pca: all.pca.clone().filter(|_| head.needs_components()), ..Committee::default() };
            match head {
                Head::Logistic => one.logistic.clone_from(&all.logistic),
                Head::KernelMachine => one.kernel_machine.clone_from(&all.kernel_machine),
                Head::ExtraTrees => one.extra_trees.clone_from(&all.extra_trees),
                Head::Boosting => one.boosting.clone_from(&all.boosting),
            }
            assert_eq!((one.heads(), read(&tensors(&one), &[head], [N_FEATURES, WIDTH])), (vec![head], Ok(one.clone())));
        }
    }

    #[test]
    fn heads_of_another_run_are_refused() {
        let all = tensors(&fitted());
        let refused = |tensors: &[NamedTensor<'_>], heads: &[Head], sizes| read(tensors, heads, sizes).unwrap_err();
        let mut found = vec![
            refused(&all, &Head::ALL, [N_FEATURES, WIDTH + 1]),
            refused(&all, &Head::ALL, [N_FEATURES - 1, WIDTH]),
            refused(&all, &[Head::Logistic, Head::KernelMachine, Head::ExtraTrees], [N_FEATURES, WIDTH]),
        ];
        let without = |name: &str| all.iter().filter(|tensor| !tensor.name.starts_with(name)).cloned().collect::<Vec<_>>();
        for name in ["heads.pca", "heads.logistic.weight", "heads.boosting"] {
            found.push(refused(&without(name), &Head::ALL, [N_FEATURES, WIDTH]));
        }
        let with = |other: NamedTensor<'static>| [without(&other.name), vec![other]].concat();
        for other in [
            tensor("logistic.intercept", &[2], [0.5, 0.5]),
            tensor("logistic.intercept", &[1], [0.5_f32]),
            tensor("logistic.intercept", &[1], [f64::NAN]),
            tensor("logistic.weight", &[3], [0.5; 3]),
            tensor("kernel_machine.rows", &[2, 3], [0.5; 6]),
            tensor("kernel_machine.gamma", &[1], [0.0]),
            tensor("pca.weight", &[1], [0.5]),
            tensor("boosting.root", &[1], [9999_u32]),
        ] {
            found.push(refused(&with(other), &Head::ALL, [N_FEATURES, WIDTH]));
        }
        insta::assert_snapshot!(found.join("\n"), @r"
        `heads.pca.mean` has 5 numbers, and a row has 6
        `heads.extra_trees` is fitted on 3 columns, and a row has 2
        of no head of this run: `heads.boosting.base`, `heads.boosting.child`, `heads.boosting.feature`, `heads.boosting.missing_left`, `heads.boosting.n_features`, `heads.boosting.root`, `heads.boosting.threshold`, `heads.boosting.value`
        `heads.logistic` is fitted on 4 columns, and a row has 0
        `heads.logistic.weight` is missing
        `heads.boosting.n_features` is missing
        `heads.logistic.intercept` has 2 numbers, expected 1
        `heads.logistic.intercept` is F32 [1], expected F64 in 1 dimensions
        `heads.logistic`: invalid parts: a number is not finite
        `heads.logistic` is fitted on 3 columns, and a row has 4
        `heads.kernel_machine` is fitted on 3 columns, and a row has 4
        `heads.kernel_machine`: invalid parts: `gamma` is not positive
        `heads.pca.weight` is F64 [1], expected F64 in 2 dimensions
        `heads.boosting`: invalid parts: roots out of order
        ");
    }
}
