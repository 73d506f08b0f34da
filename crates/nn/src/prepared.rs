//! Matrices of a network as products want them.

use nids_kernels::{Buffer, Gemm, Mat, Pairs, Real, Store, pair_rows, takes_pairs, transpose};
use rayon::prelude::*;

use crate::{Param, ParamSpec, ParamTable};

/// Every matrix of a network transposed, since products that want Wᵀ look for its rows, and where products take them, both ways in
/// pairs of bfloat16. Made once a micro-batch, it serves every shard.
#[derive(Clone, Debug)]
pub struct Prepared<R: Real> {
    /// In the order of the parameters.
    matrices: Vec<Matrix<R>>,
}

#[derive(Clone, Debug)]
struct Matrix<R: Real> {
    weight: Param,
    shape: [usize; 2],
    transposed: Buffer<R>,
    pairs: Option<InPairs<R>>,
}

#[derive(Clone, Debug)]
struct InPairs<R: Real> {
    row_pairs: Buffer<R>,
    column_pairs: Buffer<R>,
}

impl<R: Real> Prepared<R> {
    /// Room for the matrices of `table`; nothing certain in it before [`Prepared::update`].
    pub fn new(table: &ParamTable, gemm: Gemm) -> Self {
        let matrix = |spec: &ParamSpec| {
            let shape @ [rows, cols] = spec.shape[..].try_into().ok()?;
            let pairs = |of: usize, each: usize| Buffer::zeros(of.div_ceil(2) * each);
            let pairs = takes_pairs::<R>(gemm).then(|| InPairs { row_pairs: pairs(rows, cols), column_pairs: pairs(cols, rows) });
            Some(Matrix { weight: spec.param, shape, transposed: Buffer::zeros(rows * cols), pairs })
        };
        Self { matrices: table.specs().iter().filter_map(matrix).collect() }
    }

    /// The matrices of `params` as they are now; on this thread alone, for it may be none of a pool.
    pub fn of(table: &ParamTable, gemm: Gemm, params: &[R]) -> Self {
        let mut prepared = Self::new(table, gemm);
        prepared.matrices.iter_mut().for_each(|matrix| matrix.update(params));
        prepared
    }

    /// Takes the matrices again, on all workers of the pool that this thread is one of.
    pub fn update(&mut self, params: &[R]) {
        self.matrices.par_iter_mut().for_each(|matrix| matrix.update(params));
    }

    /// A weight W of `params`: [rows, cols].
    pub(crate) fn weight<'a>(&'a self, params: &'a [R], weight: Param) -> Mat<'a, R> {
        let matrix = self.matrix(weight);
        let mat = Mat::new(weight.of(params), matrix.shape[1]);
        matrix.pairs().map_or(mat, |pairs| mat.with_pairs(pairs))
    }

    /// Wᵀ of such a weight, as rows.
    pub(crate) fn transposed(&self, weight: Param) -> Mat<'_, R> {
        let matrix = self.matrix(weight);
        let mat = Mat::new(&matrix.transposed, matrix.shape[0]);
        matrix.pairs().map_or(mat, |pairs| mat.with_pairs(pairs.exchanged()))
    }

    fn matrix(&self, weight: Param) -> &Matrix<R> {
        let found = self.matrices.binary_search_by_key(&weight.offset(), |matrix| matrix.weight.offset());
        &self.matrices[found.expect("a weight is a matrix of the table")]
    }

    /// Numbers that it holds memory for.
    pub fn capacity(&self) -> usize {
        let pairs_len = |pairs: &InPairs<R>| pairs.row_pairs.len() + pairs.column_pairs.len();
        self.matrices.iter().map(|matrix| matrix.transposed.len() + matrix.pairs.as_ref().map_or(0, pairs_len)).sum()
    }
}

impl<R: Real> Matrix<R> {
    fn update(&mut self, params: &[R]) {
        let Self { weight, shape: [rows, cols], transposed, pairs } = self;
        let weight = weight.of(params);
        transpose(Store::Set, [*rows, *cols], weight, *cols, transposed, *rows);
        if let Some(InPairs { row_pairs, column_pairs }) = pairs {
            pair_rows([*rows, *cols], weight, row_pairs);
            pair_rows([*cols, *rows], transposed, column_pairs);
        }
    }

    fn pairs(&self) -> Option<Pairs<'_, R>> {
        self.pairs.as_ref().map(|InPairs { row_pairs, column_pairs }| Pairs { row_pairs, column_pairs })
    }
}
