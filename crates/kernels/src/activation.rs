//! The pass after the first product of an MLP: bias, activation, its derivative and dropout at once.

use crate::mask::CHUNK;
use crate::{Mask, Real, simd::simd};

/// The nonlinearity of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x Φ(x), exact (Hendrycks & Gimpel 2016).
    Gelu,
    /// tanh x.
    Tanh,
}

impl Activation {
    /// Value and derivative at `x`.
    #[inline(always)]
    fn eval<R: Real>(self, x: R) -> (R, R) {
        match self {
            Self::Gelu => {
                let (cdf, pdf) = x.normal_cdf_pdf();
                (x * cdf, x.mul_add(pdf, cdf))
            }
            Self::Tanh => {
                let y = x.tanh();
                (y, R::one() - y * y)
            }
        }
    }
}

/// How a bias lies along a `[rows, cols]` matrix.
#[derive(Clone, Copy, Debug)]
pub enum Bias<'b, R> {
    /// One number a row (`[rows]`): token mixing, whose units are rows.
    PerRow(&'b [R]),
    /// One number a column (`[cols]`): channel mixing.
    PerColumn(&'b [R]),
}

impl<R: Real> Bias<'_, R> {
    #[inline(always)]
    pub(crate) fn check(&self, rows: usize, cols: usize) {
        match self {
            Self::PerRow(bias) => assert_eq!(bias.len(), rows, "one bias a row"),
            Self::PerColumn(bias) => assert_eq!(bias.len(), cols, "one bias a column"),
        }
    }

    /// x += bias.   x: [rows, cols], the elements from `start` on
    #[inline(always)]
    pub(crate) fn add_to_chunk(&self, start: usize, cols: usize, x: &mut [R]) {
        let (mut row, mut col) = (start / cols, start % cols);
        let mut rest = x;
        // a chunk may run over the end of a row where no mask is drawn
        while !rest.is_empty() {
            let (run, tail) = rest.split_at_mut(rest.len().min(cols - col));
            match self {
                Self::PerRow(bias) => run.iter_mut().for_each(|x| *x += bias[row]),
                Self::PerColumn(bias) => run.iter_mut().zip(&bias[col..]).for_each(|(x, &b)| *x += b),
            }
            (row, col, rest) = (row + 1, 0, tail);
        }
    }
}

/// h = act(h + bias) · mask;   derivative = act'(h + bias) · mask, where wanted.   h, derivative: [rows, cols]
///
/// Backward is then `dh = dy · derivative`, with neither the activation nor the mask computed again.
///
/// # Panics
/// If lengths do not fit `cols`.
pub fn bias_activation_dropout<R: Real>(
    activation: Activation,
    bias: Bias<'_, R>,
    mask: Mask<'_, R>,
    cols: usize,
    h: &mut [R],
    derivative: Option<&mut [R]>,
) {
    let rows = h.len() / cols;
    bias.check(rows, cols);
    if let Some(derivative) = &derivative {
        assert_eq!(derivative.len(), h.len());
    }
    match activation {
        Activation::Gelu => simd(
            #[inline(always)]
            || body(Activation::Gelu, bias, mask, rows, cols, h, derivative),
        ),
        Activation::Tanh => simd(
            #[inline(always)]
            || body(Activation::Tanh, bias, mask, rows, cols, h, derivative),
        ),
    }
}

#[inline(always)]
fn body<R: Real>(
    activation: Activation,
    bias: Bias<'_, R>,
    mask: Mask<'_, R>,
    rows: usize,
    cols: usize,
    h: &mut [R],
    derivative: Option<&mut [R]>,
) {
    let mut scratch = [R::zero(); CHUNK];
    let mut derivative = derivative;
    mask.for_each_chunk(
        rows,
        cols,
        #[inline(always)]
        |start, multipliers| {
            let len = multipliers.len();
            let h = &mut h[start..start + len];
            bias.add_to_chunk(start, cols, h);
            let d = match &mut derivative {
                Some(derivative) => &mut derivative[start..start + len],
                None => &mut scratch[..len],
            };
            for ((h, d), &m) in h.iter_mut().zip(d).zip(multipliers) {
                let (y, dy) = activation.eval(*h);
                *h = y * m;
                *d = dy * m;
            }
        },
    );
}

/// x *= mask.   x: [rows, cols]. Dropout both ways.
pub fn dropout_rows<R: Real>(mask: Mask<'_, R>, cols: usize, x: &mut [R]) {
    let rows = x.len() / cols;
    simd(
        #[inline(always)]
        || {
            mask.for_each_chunk(
                rows,
                cols,
                #[inline(always)]
                |start, multipliers| x[start..start + multipliers.len()].iter_mut().zip(multipliers).for_each(|(x, &m)| *x *= m),
            );
        },
    );
}
