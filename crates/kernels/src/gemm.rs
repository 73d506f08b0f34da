//! Matrix products behind one seam: OpenBLAS or our own tiles, of f32 or bfloat16.

use crate::{Real, hadamard, transpose};

pub(crate) mod bf16;
mod openblas;
pub(crate) mod tiles;

pub(crate) use openblas::Blas;
pub use openblas::{is_thread_safe, reserve as reserve_openblas};
pub use tiles::peak;

/// GEMM backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gemm {
    /// OpenBLAS, on this thread alone.
    #[default]
    OpenBlas,
    /// Register tiles over operands as they lie, without packing: for products whose operands are in the cache already.
    Tiles,
    /// Tiles over operands rounded to bfloat16, with sums in f32: rounding errors of 2^-9 an operand, twice the multiply-adds a
    /// second with AMD's AVX512-BF16. Products of fewer than 12 rows or columns, and all of f64, are those of [`Gemm::Tiles`].
    Bf16,
}

impl Gemm {
    /// The backend of passes that do not train. A verdict is a function of the row alone: OpenBLAS adds in another order where
    /// other rows are passed with it.
    #[must_use]
    pub fn for_inference(self) -> Self {
        match self {
            Self::OpenBlas => Self::Tiles,
            Self::Tiles | Self::Bf16 => self,
        }
    }
}

/// How a product is stored in `c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// c = a · b; what `c` held is not read.
    Set,
    /// c += a · b
    Add,
    /// c *= a · b, element by element: a gradient through a stored derivative.
    Times,
}

/// A matrix in memory. Rows are `ld` numbers apart; it is read as stored, or transposed.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a, R> {
    data: &'a [R],
    ld: usize,
    transposed: bool,
    pairs: Option<Pairs<'a, R>>,
}

/// A matrix packed for products in bfloat16 ([`pair_rows`]). A matrix that many products use is
/// packed once.
#[derive(Clone, Copy, Debug)]
pub struct Pairs<'a, R> {
    /// Pairs along its columns: [⌈rows / 2⌉, cols]
    pub row_pairs: &'a [R],
    /// Pairs along its rows, transposed: [⌈cols / 2⌉, rows]
    pub column_pairs: &'a [R],
}

impl<R> Pairs<'_, R> {
    /// The pairs of the transposed matrix.
    #[must_use]
    pub fn exchanged(self) -> Self {
        Self { row_pairs: self.column_pairs, column_pairs: self.row_pairs }
    }
}

impl<'a, R> Mat<'a, R> {
    /// Rows `ld` numbers apart.
    pub fn new(data: &'a [R], ld: usize) -> Self {
        Self { data, ld, transposed: false, pairs: None }
    }

    /// The same matrix with its pairs, which are used where they help. Its rows must be contiguous.
    #[must_use]
    pub fn with_pairs(self, pairs: Pairs<'a, R>) -> Self {
        Self { pairs: Some(pairs), ..self }
    }

    /// The transposed matrix.
    #[must_use]
    pub fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    /// Asserts that the memory holds `[rows, cols]`, as read.
    fn check(&self, name: &str, [rows, cols]: [usize; 2]) {
        let (rows, cols) = if self.transposed { (cols, rows) } else { (rows, cols) };
        check(name, self.data, [rows, cols], self.ld);
    }
}

fn check<R>(name: &str, data: &[R], [rows, cols]: [usize; 2], ld: usize) {
    let fits = ld >= cols && (rows == 0 || cols == 0 || data.len() >= (rows - 1) * ld + cols);
    assert!(fits, "{name}: {} numbers for {rows} x {cols}, ld {ld}", data.len());
}

/// c = a · b, c += a · b or c *= a · b.   a: [m, k]   b: [k, n]   c: [m, n]
#[derive(Clone, Copy, Debug)]
pub struct Product<'a, R> {
    /// [m, n, k]
    sizes: [usize; 3],
    a: Mat<'a, R>,
    b: Mat<'a, R>,
    store: Store,
}

impl<'a, R: Real> Product<'a, R> {
    /// A product of these sizes: [m, n, k].
    pub fn new(sizes: [usize; 3], a: Mat<'a, R>, b: Mat<'a, R>, store: Store) -> Self {
        Self { sizes, a, b, store }
    }

    /// Runs the product on this thread alone. Rows of `c` are `ldc` apart; `scratch` is
    /// overwritten.
    ///
    /// # Panics
    /// If an operand or `c` is too short for its sizes, or `scratch` is shorter than [`Product::scratch_len`].
    pub fn run(self, gemm: Gemm, c: &mut [R], ldc: usize, scratch: &mut [R]) {
        let [m, n, k] = self.sizes;
        self.a.check("a", [m, k]);
        self.b.check("b", [k, n]);
        check("c", c, [m, n], ldc);
        if m == 0 || n == 0 {
            return;
        }
        match gemm {
            Gemm::OpenBlas if self.store == Store::Times => {
                let product = &mut scratch[..m * n];
                openblas::gemm(Self { store: Store::Set, ..self }, product, n);
                product.chunks_exact(n).zip(c.chunks_mut(ldc)).for_each(|(product, c)| hadamard(&mut c[..n], product));
            }
            Gemm::OpenBlas => openblas::gemm(self, c, ldc),
            Gemm::Tiles | Gemm::Bf16 if self.exchanges() => {
                let (exchanged, scratch) = scratch.split_at_mut(m * n);
                self.exchanged().run(gemm, exchanged, m, scratch);
                transpose(self.store, [n, m], exchanged, m, c, ldc);
            }
            Gemm::Bf16 if bf16::pays(self.sizes) && R::bf16_gemm(self, c, ldc, scratch) => (),
            Gemm::Tiles | Gemm::Bf16 => tiles::gemm(self, c, ldc, scratch),
        }
    }

    /// Length of the scratch that the product needs.
    pub fn scratch_len(&self, gemm: Gemm) -> usize {
        let [m, n, k] = self.sizes;
        match gemm {
            Gemm::OpenBlas if self.store == Store::Times => m * n,
            Gemm::Tiles | Gemm::Bf16 if self.exchanges() => m * n + self.exchanged().scratch_len(gemm),
            Gemm::Bf16 if bf16::pays(self.sizes) => bf16::scratch_len(self),
            Gemm::Tiles | Gemm::Bf16 if self.b.transposed => n * k,
            Gemm::OpenBlas | Gemm::Tiles | Gemm::Bf16 => 0,
        }
    }

    /// Whether tiles compute cᵀ = bᵀ · aᵀ into scratch and transpose that into c. Tiles read rows
    /// of b, so they do this where b is transposed and transposing b would move more numbers. The
    /// exchanged product is not exchanged again.
    fn exchanges(&self) -> bool {
        let [m, n, k] = self.sizes;
        let moved = m * n + if self.a.transposed { 0 } else { m * k };
        self.b.transposed && moved < n * k
    }

    /// cᵀ = bᵀ · aᵀ
    fn exchanged(&self) -> Self {
        let [m, n, k] = self.sizes;
        Self { sizes: [n, m, k], a: self.b.t(), b: self.a.t(), store: Store::Set }
    }
}

/// Whether `gemm` has a use for [`Pairs`] on this machine.
pub fn takes_pairs<R: Real>(gemm: Gemm) -> bool {
    gemm == Gemm::Bf16 && R::takes_pairs()
}

/// out[l][j] = x[2 l][j] and x[2 l + 1][j], rounded to bfloat16, in the place of one number; 0 beyond the last row.
/// x: [rows, cols]   out: [⌈rows / 2⌉, cols]
///
/// # Panics
/// If a slice has another length, or the machine has no bfloat16 ([`takes_pairs`]).
pub fn pair_rows<R: Real>([rows, cols]: [usize; 2], x: &[R], out: &mut [R]) {
    assert_eq!([x.len(), out.len()], [rows * cols, rows.div_ceil(2) * cols]);
    R::pair_rows([rows, cols], x, out);
}

/// GEMM backend and instruction set, for logs and manifests. [`same_bits`] compares two of them.
pub fn describe(gemm: Gemm) -> String {
    match gemm {
        Gemm::OpenBlas => format!("{}, {} kernels", openblas::describe(), crate::simd::name()),
        Gemm::Tiles => format!("tiles, {} kernels", crate::simd::name()),
        Gemm::Bf16 if bf16::is_native() => format!("bf16 tiles, {} kernels with BF16", crate::simd::name()),
        Gemm::Bf16 => format!("bf16 tiles emulated in f32, {} kernels", crate::simd::name()),
    }
}

/// Whether two machines or settings, as [`describe`] words them, give the same bits. Our kernels
/// add in the same order with every instruction set except NEON. OpenBLAS chooses its kernels by
/// the CPU, and those round differently.
pub fn same_bits(one: &str, other: &str) -> bool {
    fn sums(described: &str) -> (&str, bool) {
        let (products, kernels) = described.split_once(", ").unwrap_or((described, ""));
        (products.trim_end_matches(" emulated in f32"), kernels.starts_with("NEON"))
    }
    sums(one) == sums(other)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{assert_close, cast, each_arch, numbers};

    /// Rows are `pad` longer than a matrix is wide; `c` holds NaN where it must not be read.
    fn check<R: Real>(backend: Gemm, [ta, tb]: [bool; 2], [m, n, k]: [usize; 3], pad: usize, store: Store) {
        let stored = |transposed, rows, cols| if transposed { (cols, rows) } else { (rows, cols) };
        let ((rows_a, cols_a), (rows_b, cols_b)) = (stored(ta, m, k), stored(tb, k, n));
        let (lda, ldb, ldc) = (cols_a + pad, cols_b + 2 * pad, n + 3 * pad);
        let (mut a, mut b, c) = (numbers(1, rows_a * lda), numbers(2, rows_b * ldb), numbers(3, m * ldc));
        let unrounded = [&a, &b].map(|x| cast::<R>(x));
        if backend == Gemm::Bf16 && size_of::<R>() == 4 && bf16::pays([m, n, k]) {
            for x in a.iter_mut().chain(&mut b) {
                *x = f64::from(bf16::nearest(*x as f32));
            }
        }
        let at = |transposed, x: &[f64], ld: usize, i: usize, j: usize| if transposed { x[j * ld + i] } else { x[i * ld + j] };
        let mut got: Vec<R> = cast(&c);
        let mut want = c.clone();
        for i in 0..m {
            for j in 0..n {
                let sum: f64 = (0..k).map(|l| at(ta, &a, lda, i, l) * at(tb, &b, ldb, l, j)).sum();
                let out = &mut want[i * ldc + j];
                match store {
                    Store::Set => {
                        *out = sum;
                        got[i * ldc + j] = R::nan();
                    }
                    Store::Add => *out += sum,
                    Store::Times => *out *= sum,
                }
            }
        }
        let [a, b] = unrounded;
        let (mut a, mut b) = (Mat::new(&a, lda), Mat::new(&b, ldb));
        if ta {
            a = a.t();
        }
        if tb {
            b = b.t();
        }
        let product = Product::new([m, n, k], a, b, store);
        product.run(backend, &mut got, ldc, &mut vec![R::nan(); product.scratch_len(backend)]);
        assert_close(&got, &want);
    }

    fn check_all(sizes: [usize; 3], pad: usize, store: Store) {
        for ta in [false, true] {
            for tb in [false, true] {
                check::<f32>(Gemm::OpenBlas, [ta, tb], sizes, pad, store);
                check::<f64>(Gemm::OpenBlas, [ta, tb], sizes, pad, store);
                for backend in [Gemm::Tiles, Gemm::Bf16] {
                    each_arch(|| {
                        check::<f32>(backend, [ta, tb], sizes, pad, store);
                        check::<f64>(backend, [ta, tb], sizes, pad, store);
                    });
                }
            }
        }
    }

    proptest! {
        #[test]
        fn product_is_the_triple_loop(
            m in 0..40_usize, n in 0..70_usize, k in 0..70_usize, pad in 0..4_usize,
            store in prop::sample::select(&[Store::Set, Store::Add, Store::Times][..]),
        ) {
            check_all([m, n, k], pad, store);
        }
    }

    #[test]
    fn an_empty_sum_is_zero() {
        for store in [Store::Set, Store::Add, Store::Times] {
            check_all([2, 3, 0], 0, store);
            check_all([17, 19, 0], 0, store);
        }
    }

    #[test]
    fn tiles_give_the_same_bits_for_every_instruction_set() {
        let sizes @ [m, n, k] = [29, 75, 61];
        let (a, b) = (cast::<f32>(&numbers(1, m * k)), cast::<f32>(&numbers(2, k * n)));
        for backend in [Gemm::Tiles, Gemm::Bf16] {
            for (a, b) in [(Mat::new(&a, k), Mat::new(&b, n)), (Mat::new(&a, m).t(), Mat::new(&b, k).t())] {
                let mut first: Option<Vec<u32>> = None;
                each_arch(|| {
                    let mut c = vec![f32::NAN; m * n];
                    let product = Product::new(sizes, a, b, Store::Set);
                    product.run(backend, &mut c, n, &mut vec![f32::NAN; product.scratch_len(backend)]);
                    let bits: Vec<u32> = c.iter().map(|x| x.to_bits()).collect();
                    assert_eq!(*first.get_or_insert_with(|| bits.clone()), bits, "{backend:?}");
                });
            }
        }
    }

    #[test]
    fn operands_packed_before_give_the_same_bits() {
        for [m, n, k] in [[29, 75, 61], [16, 33, 2], [13, 12, 40]] {
            let (a, b) = (cast::<f32>(&numbers(1, m * k)), cast::<f32>(&numbers(2, k * n)));
            each_arch(|| {
                if !takes_pairs::<f32>(Gemm::Bf16) {
                    return;
                }
                let pairs_of = |rows: usize, cols: usize, x: &[f32]| {
                    let (mut xt, mut row_pairs, mut column_pairs) =
                        (vec![0.0; x.len()], vec![f32::NAN; rows.div_ceil(2) * cols], vec![f32::NAN; cols.div_ceil(2) * rows]);
                    transpose(Store::Set, [rows, cols], x, cols, &mut xt, rows);
                    pair_rows([rows, cols], x, &mut row_pairs);
                    pair_rows([cols, rows], &xt, &mut column_pairs);
                    (xt, row_pairs, column_pairs)
                };
                let ((at, a_rows, a_columns), (bt, b_rows, b_columns)) = (pairs_of(m, k, &a), pairs_of(k, n, &b));
                let a_pairs = Pairs { row_pairs: &a_rows, column_pairs: &a_columns };
                let b_pairs = Pairs { row_pairs: &b_rows, column_pairs: &b_columns };
                let run = |a, b| {
                    let (mut c, product) = (vec![f32::NAN; m * n], Product::new([m, n, k], a, b, Store::Set));
                    product.run(Gemm::Bf16, &mut c, n, &mut vec![f32::NAN; product.scratch_len(Gemm::Bf16)]);
                    c.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
                };
                let (plain_a, plain_b) = (Mat::new(&a, k), Mat::new(&b, n));
                let want = run(plain_a, plain_b);
                let as_stored = [plain_a.with_pairs(a_pairs), Mat::new(&at, m).with_pairs(a_pairs.exchanged()).t()];
                let b_as_stored = [plain_b.with_pairs(b_pairs), Mat::new(&bt, k).with_pairs(b_pairs.exchanged()).t()];
                for a in as_stored {
                    assert_eq!(run(a, plain_b), want);
                    for b in b_as_stored {
                        assert_eq!(run(plain_a, b), want);
                        assert_eq!(run(a, b), want);
                    }
                }
            });
        }
    }

    #[test]
    fn the_same_bits_come_from_the_same_sums() {
        let openblas = |core| format!("OpenBLAS 0.3.21 ({core}), AVX-512 kernels");
        let [bf16, emulated] = ["bf16 tiles, AVX-512 kernels with BF16", "bf16 tiles emulated in f32, AVX2+FMA kernels"];
        for (one, other, wanted) in [
            ("tiles, AVX-512 kernels", "tiles, AVX2+FMA kernels", true),
            ("tiles, AVX2+FMA kernels", "tiles, portable kernels", true),
            ("tiles, AVX2+FMA kernels", "tiles, NEON kernels", false),
            (bf16, emulated, true),
            (bf16, "tiles, AVX-512 kernels", false),
            (&openblas("SkylakeX"), &openblas("SkylakeX").replace("-512", "2+FMA"), true),
            (&openblas("SkylakeX"), &openblas("Haswell"), false),
            (&openblas("SkylakeX"), "tiles, AVX-512 kernels", false),
        ] {
            assert_eq!(same_bits(one, other), wanted, "{one} / {other}");
        }
        for gemm in [Gemm::OpenBlas, Gemm::Tiles, Gemm::Bf16] {
            assert!(same_bits(&describe(gemm), &describe(gemm)));
        }
    }

    #[test]
    fn bfloat16_is_the_nearest_and_of_two_the_even_one() {
        const SIDE: usize = 16;
        let steps = |n: f32| 1.0 + n / 256.0; // half a step of bfloat16 at 1
        let x = [steps(1.0), steps(1.01), -steps(3.0), steps(2.0), 0.0, f32::MAX, f32::MIN, f32::INFINITY, f32::NAN, 1e-30];
        let want =
            [1.0, steps(2.0), -steps(4.0), steps(2.0), 0.0, f32::INFINITY, f32::NEG_INFINITY, f32::INFINITY, f32::NAN, 0.0];
        for (x, want) in x.into_iter().zip(want) {
            each_arch(|| {
                let (a, b, mut c) = ([x; SIDE], [1.0; SIDE], [0.0; SIDE * SIDE]);
                let product = Product::new([SIDE, SIDE, 1], Mat::new(&a, 1), Mat::new(&b, SIDE), Store::Set);
                product.run(Gemm::Bf16, &mut c, SIDE, &mut vec![f32::NAN; product.scratch_len(Gemm::Bf16)]);
                let is_nearest = |&c: &f32| if want == 0.0 { (c - x).abs() <= x / 256.0 } else { c.total_cmp(&want).is_eq() };
                assert!(c.iter().all(is_nearest), "{x}: {}, not {want}", c[0]);
            });
        }
    }

    #[test]
    #[should_panic(expected = "a: 5 numbers for 2 x 3, ld 3")]
    fn a_slice_too_short_is_refused() {
        let product = Product::new([2, 1, 3], Mat::new(&[0.0; 5], 3), Mat::new(&[0.0; 3], 1), Store::Set);
        product.run(Gemm::Tiles, &mut [0.0; 2], 1, &mut []);
    }
}
