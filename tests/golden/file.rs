//! One file of the folder, and who has looked at what of it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use nids_nn::{Gemm, ParamTable, Real};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::compare::{Kind, Tolerances};

/// A tensor of any type, as f64, which holds each of its numbers exactly.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<f64>,
}

/// A file whose every tensor must be compared, or be left out for a reason.
pub(crate) struct File {
    name: String,
    /// What its numbers were made with.
    pub(crate) settings: Value,
    /// What passes over the file multiply matrices with.
    pub(crate) gemm: Gemm,
    tensors: BTreeMap<String, Stored>,
    tolerances: Tolerances,
    seen: RefCell<BTreeSet<String>>,
    wrong: RefCell<Vec<String>>,
    /// Largest error of each kind, and the largest share of its tolerance.
    worst: RefCell<BTreeMap<Kind, [f64; 2]>>,
}

impl File {
    pub(crate) fn new(name: &str, bytes: &[u8], settings: Value, tolerances: Tolerances, gemm: Gemm) -> Self {
        let tensors = SafeTensors::deserialize(bytes).unwrap();
        let tensors = tensors.iter().map(|(name, view)| {
            let data = view.data();
            let data = match view.dtype() {
                Dtype::F32 => data.as_chunks().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect(),
                Dtype::F64 => data.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).collect(),
                Dtype::I64 => data.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b) as f64).collect(),
                Dtype::U8 => data.iter().map(|&b| f64::from(b)).collect(),
                other => panic!("`{name}` is {other:?}"),
            };
            (name.to_owned(), Stored { shape: view.shape().to_vec(), data })
        });
        Self {
            name: name.to_owned(),
            settings,
            gemm,
            tensors: tensors.collect(),
            tolerances,
            seen: RefCell::default(),
            wrong: RefCell::default(),
            worst: RefCell::default(),
        }
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Stored> {
        let stored = self.tensors.get(name)?;
        self.seen.borrow_mut().insert(name.to_owned());
        Some(stored)
    }

    pub(crate) fn get(&self, name: &str) -> &Stored {
        self.find(name).unwrap_or_else(|| panic!("{}: no tensor `{name}`", self.name))
    }

    /// The one number of a tensor.
    pub(crate) fn number(&self, name: &str) -> f64 {
        let [number] = self.get(name).data[..] else { panic!("{}: `{name}` is not one number", self.name) };
        number
    }

    /// In the number type of a test.
    pub(crate) fn values<R: Real>(&self, name: &str) -> Vec<R> {
        reals(&self.get(name).data)
    }

    /// Leaves out the tensors whose name starts with `prefix`. Why is said where it is called.
    pub(crate) fn leave_out(&self, prefix: &str) {
        self.seen.borrow_mut().extend(self.names().filter(|name| name.starts_with(prefix)).map(str::to_owned));
    }

    /// Compares numbers with the tensor `name`.
    pub(crate) fn compare<R: Real>(&self, kind: Kind, name: &str, ours: &[R]) {
        self.compare_with(kind, name, &self.get(name).data, ours);
    }

    /// Compares numbers with a reference that is no tensor of the file.
    pub(crate) fn compare_with<R: Real>(&self, kind: Kind, name: &str, want: &[f64], ours: &[R]) {
        self.compare_in_group(kind, name, want, 0.0, ours);
    }

    fn compare_in_group<R: Real>(&self, kind: Kind, name: &str, want: &[f64], max_of_group: f64, ours: &[R]) {
        let max = largest(want);
        assert_eq!(ours.len(), want.len(), "{}: numbers of `{name}`", self.name);
        for (i, (&want, ours)) in want.iter().zip(ours).enumerate() {
            let error = (Real::to_f64(*ours) - want).abs();
            let tolerance = self.tolerances.of::<R>(kind, want, max, max_of_group);
            let mut worst = self.worst.borrow_mut();
            let worst = worst.entry(kind).or_default();
            *worst = [worst[0].max(error), worst[1].max(error / tolerance)];
            if error > tolerance || error.is_nan() {
                self.wrong(format!("`{name}`[{i}] is {ours}, not {want}: off by {error:.1e}, allowed {tolerance:.1e}"));
                break;
            }
        }
    }

    pub(crate) fn wrong(&self, what: String) {
        self.wrong.borrow_mut().push(what);
    }

    /// Sets every parameter of `table` from `{prefix}{name}`. Names here have no `encoder.`.
    pub(crate) fn parameters<R: Real>(&self, table: &ParamTable, prefix: &str) -> Vec<R> {
        let mut params = vec![R::zero(); table.buffer_len()];
        for spec in table.specs() {
            let name = format!("{prefix}{}", short(&spec.name));
            assert_eq!(self.get(&name).shape, spec.shape, "{}: shape of `{name}`", self.name);
            spec.param.of_mut(&mut params).copy_from_slice(&self.values(&name));
        }
        params
    }

    /// Compares every parameter's part of `buffer` with `{prefix}{name}`; all of them are a group.
    pub(crate) fn compare_parameters<R: Real>(&self, kind: Kind, table: &ParamTable, prefix: &str, buffer: &[R]) {
        let names = || table.specs().iter().map(|spec| format!("{prefix}{}", short(&spec.name)));
        let max_of_group = names().map(|name| largest(&self.get(&name).data)).fold(0.0, f64::max);
        for (spec, name) in table.specs().iter().zip(names()) {
            self.compare_in_group(kind, &name, &self.get(&name).data, max_of_group, spec.param.of(buffer));
        }
    }

    /// # Panics
    /// If a number was wrong, or a tensor was compared by nobody.
    pub(crate) fn finish<R: Real>(self) {
        let Self { name, tensors, seen, wrong, worst, .. } = self;
        for (kind, [error, share]) in worst.into_inner() {
            eprintln!(
                "{name}, {}: {kind:?} off by {error:.1e} at most, {share:.3} of what is allowed",
                std::any::type_name::<R>()
            );
        }
        let mut wrong = wrong.into_inner();
        let seen = seen.into_inner();
        wrong
            .extend(tensors.keys().filter(|&tensor| !seen.contains(tensor)).map(|tensor| format!("`{tensor}` was not compared")));
        assert!(wrong.is_empty(), "{name}:\n{}", wrong.join("\n"));
    }
}

fn largest(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |max: f64, x| max.max(x.abs()))
}

pub(crate) fn reals<R: Real>(data: &[f64]) -> Vec<R> {
    data.iter().map(|&x| R::from_f64(x)).collect()
}

/// A parameter's name in the folder.
pub(crate) fn short(name: &str) -> &str {
    name.strip_prefix("encoder.").unwrap_or(name)
}

/// [a, b, c] -> [b, a, c]: samples first, as the folder has them, to tokens first, as we do; and back.
pub(crate) fn swap<T: Copy>([a, b, c]: [usize; 3], x: &[T]) -> Vec<T> {
    assert_eq!(x.len(), a * b * c);
    (0..b).flat_map(|j| (0..a).flat_map(move |i| &x[(i * b + j) * c..][..c])).copied().collect()
}
