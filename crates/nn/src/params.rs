//! The one table of parameters: dotted names, shapes and where each lies in the flat buffer.

use std::collections::BTreeSet;

use nids_kernels::{Buffer, Real};
use rand::{RngExt as _, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal, Uniform};

/// Parameters start on a cache line.
const ALIGN: usize = 16;

/// A handle on one parameter: where its numbers lie in every flat buffer of its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    offset: usize,
    len: usize,
}

impl Param {
    /// Its numbers in `buffer` (parameters, gradients, moments).
    pub fn of<R>(self, buffer: &[R]) -> &[R] {
        &buffer[self.offset..self.offset + self.len]
    }

    /// Its numbers in `buffer`, to write.
    pub fn of_mut<R>(self, buffer: &mut [R]) -> &mut [R] {
        &mut buffer[self.offset..self.offset + self.len]
    }

    /// First index in a flat buffer: what tells parameters, and the layers that own them, apart.
    pub fn offset(self) -> usize {
        self.offset
    }
}

/// Where a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// U(-1/√fan_in, 1/√fan_in): Kaiming uniform (He et al. 2015) with a = √5, as torch.nn.Linear starts weights and biases.
    KaimingUniform {
        /// Inputs of the unit.
        fan_in: usize,
    },
    /// 0
    Zeros,
    /// 1
    Ones,
    /// N(0, std²)
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// N(1, std²)
    AroundOne {
        /// Standard deviation.
        std: f64,
    },
    /// -1 or 1, the one as likely as the other.
    Signs,
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct ParamSpec {
    /// Dotted name, such as `encoder.blocks.3.token_mixing.linear1.weight`.
    pub name: String,
    /// Sizes, row-major.
    pub shape: Vec<usize>,
    /// Where its numbers lie.
    pub param: Param,
    /// How it starts.
    pub init: Init,
}

impl ParamSpec {
    /// Whether weight decay applies by default: to matrices, not to biases, norms, registers and mask tokens.
    pub fn decays(&self) -> bool {
        matches!(self.init, Init::KaimingUniform { .. }) && self.shape.len() > 1
    }
}

/// Every parameter of a network, in the order in which its layers were built.
#[derive(Clone, Debug, Default)]
pub struct ParamTable {
    specs: Vec<ParamSpec>,
    names: BTreeSet<String>,
    len: usize,
    sites: u32,
}

impl ParamTable {
    /// The scope in which a network's layers are built.
    pub fn root(&mut self) -> Scope<'_> {
        Scope { table: self, prefix: String::new() }
    }

    /// The table's lines.
    pub fn specs(&self) -> &[ParamSpec] {
        &self.specs
    }

    /// Length of a flat buffer, padding included.
    pub fn buffer_len(&self) -> usize {
        self.len
    }

    /// Number of parameters, padding not counted.
    pub fn n_params(&self) -> usize {
        self.specs.iter().map(|spec| spec.param.len).sum()
    }

    /// Zeros for every parameter.
    pub fn zeros<R: Real>(&self) -> Buffer<R> {
        Buffer::zeros(self.len)
    }

    /// Every parameter at its start. A parameter's numbers depend on the seed and its name alone, so that adding a layer
    /// leaves the others as they were.
    pub fn init<R: Real>(&self, seed: u64) -> Buffer<R> {
        let mut params = self.zeros();
        for spec in &self.specs {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(fnv1a(&spec.name));
            let values = spec.param.of_mut::<R>(&mut params);
            match spec.init {
                Init::Zeros => {}
                Init::Ones => values.fill(R::one()),
                Init::KaimingUniform { fan_in } => {
                    let bound = 1.0 / (fan_in as f64).sqrt();
                    let uniform = Uniform::new(-bound, bound).expect("a fan-in is above zero, so the bound is finite");
                    values.fill_with(|| R::from_f64(uniform.sample(&mut rng)));
                }
                Init::Normal { std } | Init::AroundOne { std } => {
                    let mean = if matches!(spec.init, Init::AroundOne { .. }) { 1.0 } else { 0.0 };
                    let normal = Normal::new(mean, std).expect("a standard deviation is finite");
                    values.fill_with(|| R::from_f64(normal.sample(&mut rng)));
                }
                Init::Signs => values.fill_with(|| if rng.random() { R::one() } else { -R::one() }),
            }
        }
        params
    }
}

/// FNV-1a, 64 bits: a fixed hash of a name.
fn fnv1a(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A place in the tree of names, where a layer adds its parameters.
#[derive(Debug)]
pub struct Scope<'t> {
    table: &'t mut ParamTable,
    prefix: String,
}

impl Scope<'_> {
    /// The scope `name` below this one.
    pub fn at(&mut self, name: impl std::fmt::Display) -> Scope<'_> {
        let prefix = format!("{}{name}.", self.prefix);
        Scope { table: self.table, prefix }
    }

    /// Adds a parameter.
    ///
    /// # Panics
    /// If the name is taken.
    pub fn param(&mut self, name: &str, shape: &[usize], init: Init) -> Param {
        let name = format!("{}{name}", self.prefix);
        assert!(self.table.names.insert(name.clone()), "two parameters are called `{name}`");
        // a network that config or file claims, and no memory could hold, is still to be compared with the weights
        let len = shape.iter().fold(1, |len: usize, &size| len.saturating_mul(size));
        let param = Param { offset: self.table.len, len };
        self.table.len = self.table.len.saturating_add(len.checked_next_multiple_of(ALIGN).unwrap_or(usize::MAX));
        self.table.specs.push(ParamSpec { name, shape: shape.to_vec(), param, init });
        param
    }

    /// A number for a place where randomness is used (a dropout, a drop-path), different from all others of the network.
    pub fn site(&mut self) -> u32 {
        self.table.sites += 1;
        self.table.sites
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "two parameters are called `a.weight`")]
    fn a_name_is_taken_once() {
        let mut table = ParamTable::default();
        let mut scope = table.root();
        scope.at("a").param("weight", &[1], Init::Zeros);
        scope.at("a").param("weight", &[1], Init::Zeros);
    }

    #[test]
    fn a_parameter_starts_the_same_whatever_was_built_before_it() {
        let build = |first: bool| {
            let mut table = ParamTable::default();
            if first {
                table.root().param("other", &[7, 3], Init::Normal { std: 1.0 });
            }
            let weight = table.root().at("l").param("weight", &[5, 4], Init::KaimingUniform { fan_in: 4 });
            let params = table.init::<f32>(9);
            weight.of(&params).to_vec()
        };
        let weight = build(true);
        assert_eq!(weight, build(false));
        assert!(weight.iter().all(|w| w.abs() <= 0.5) && weight.iter().any(|w| w.abs() > 0.3));
    }
}
