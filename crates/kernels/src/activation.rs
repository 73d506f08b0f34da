//! The pass after the first product of an MLP: bias, activation, its derivative and dropout at once.

use crate::simd::{simd, update};
use crate::{Mask, Real};

/// The non-linearity of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "settings",
    derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema),
    serde(rename_all = "snake_case")
)]
pub enum Activation {
    /// x Φ(x), exact (Hendrycks & Gimpel 2016).
    Gelu,
    /// tanh x.
    Tanh,
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
}

/// h = act(h + bias) · mask;   derivative = act'(h + bias) · mask, where wanted.   h, derivative: [rows, cols]
///
/// Backward is then `dh = dy · derivative`, with neither the activation nor the mask computed again.
///
/// # Panics
/// If lengths do not fit `cols`, or `cols` is 0.
pub fn bias_activation_dropout<R: Real>(
    activation: Activation,
    bias: Bias<'_, R>,
    mask: Mask<'_, R>,
    cols: usize,
    h: &mut [R],
    derivative: Option<&mut [R]>,
) {
    bias.check(h.len() / cols, cols);
    if let Some(derivative) = &derivative {
        assert_eq!(derivative.len(), h.len());
    }
    R::activate(activation, bias, mask, cols, h, derivative);
}

pub(crate) fn run<R: Real>(
    activation: Activation,
    bias: Bias<'_, R>,
    mask: Mask<'_, R>,
    cols: usize,
    h: &mut [R],
    derivative: Option<&mut [R]>,
) {
    match activation {
        Activation::Gelu => R::gelu(bias, mask, cols, h, derivative),
        Activation::Tanh => elementwise(
            #[inline(always)]
            |x| x.tanh_and_derivative().into(),
            bias,
            mask,
            cols,
            h,
            derivative,
        ),
    }
}

/// [`bias_activation_dropout`] of the activation whose value and derivative `eval` gives.
#[inline(always)]
pub(crate) fn elementwise<R: Real>(
    eval: impl Fn(R) -> [R; 2],
    bias: Bias<'_, R>,
    mask: Mask<'_, R>,
    cols: usize,
    h: &mut [R],
    derivative: Option<&mut [R]>,
) {
    simd(
        #[inline(always)]
        || body(eval, bias, mask, cols, h, derivative),
    );
}

#[inline(always)]
fn body<R: Real>(
    eval: impl Fn(R) -> [R; 2],
    bias: Bias<'_, R>,
    mask: Mask<'_, R>,
    cols: usize,
    h: &mut [R],
    mut derivative: Option<&mut [R]>,
) {
    // decided once a run, so that the loops within have no choice left
    mask.for_each_run(
        h.len() / cols,
        cols,
        #[inline(always)]
        |row, col, len, multipliers| {
            let start = row * cols + col;
            let h = &mut h[start..][..len];
            match (&mut derivative, bias, multipliers) {
                (Some(d), Bias::PerRow(bias), None) => update(
                    [h, &mut d[start..][..len]],
                    [],
                    #[inline(always)]
                    |[h, _], []| eval(h + bias[row]),
                ),
                (Some(d), Bias::PerColumn(bias), None) => update(
                    [h, &mut d[start..][..len]],
                    [&bias[col..][..len]],
                    #[inline(always)]
                    |[h, _], [b]| eval(h + b),
                ),
                (Some(d), Bias::PerRow(bias), Some(m)) => update(
                    [h, &mut d[start..][..len]],
                    [m],
                    #[inline(always)]
                    |[h, _], [m]| {
                        let [y, dy] = eval(h + bias[row]);
                        [y * m, dy * m]
                    },
                ),
                (Some(d), Bias::PerColumn(bias), Some(m)) => update(
                    [h, &mut d[start..][..len]],
                    [&bias[col..][..len], m],
                    #[inline(always)]
                    |[h, _], [b, m]| {
                        let [y, dy] = eval(h + b);
                        [y * m, dy * m]
                    },
                ),
                (None, Bias::PerRow(bias), None) => update(
                    [h],
                    [],
                    #[inline(always)]
                    |[h], []| [eval(h + bias[row])[0]],
                ),
                (None, Bias::PerColumn(bias), None) => update(
                    [h],
                    [&bias[col..][..len]],
                    #[inline(always)]
                    |[h], [b]| [eval(h + b)[0]],
                ),
                (None, Bias::PerRow(bias), Some(m)) => update(
                    [h],
                    [m],
                    #[inline(always)]
                    |[h], [m]| [eval(h + bias[row])[0] * m],
                ),
                (None, Bias::PerColumn(bias), Some(m)) => update(
                    [h],
                    [&bias[col..][..len], m],
                    #[inline(always)]
                    |[h], [b, m]| [eval(h + b)[0] * m],
                ),
            }
        },
    );
}

/// x *= mask: dropout, forward and backward.   x: [rows, cols]
///
/// # Panics
/// If `cols` is 0, or the mask is given and has another length.
pub fn dropout_rows<R: Real>(mask: Mask<'_, R>, cols: usize, x: &mut [R]) {
    R::dropout(mask, cols, x);
}

pub(crate) fn dropout<R: Real>(mask: Mask<'_, R>, cols: usize, x: &mut [R]) {
    let rows = x.len() / cols;
    simd(
        #[inline(always)]
        || {
            mask.for_each_run(
                rows,
                cols,
                #[inline(always)]
                |row, col, len, multipliers| {
                    if let Some(multipliers) = multipliers {
                        let x = &mut x[row * cols + col..][..len];
                        update([x], [multipliers], |[x], [m]| [x * m]);
                    }
                },
            );
        },
    );
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Source, assert_close, assert_same_bits, cast, each_arch, numbers, sources, with_mask};

    fn twin(activation: Activation, x: f64) -> (f64, f64) {
        match activation {
            Activation::Gelu => {
                let cdf = 0.5 * (1.0 + libm::erf(x / 2.0_f64.sqrt()));
                (x * cdf, cdf + x * (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt())
            }
            Activation::Tanh => (x.tanh(), x.cosh().powi(-2)),
        }
    }

    fn check<R: Real>(activation: Activation, per_row: bool, source: Source, rows: usize, cols: usize) {
        let h: Vec<f64> = numbers(1, rows * cols).iter().map(|x| 4.0 * x).collect();
        let bias = numbers(2, if per_row { rows } else { cols });
        let own: Vec<R> = cast(&bias);
        let borrowed = if per_row { Bias::PerRow(&own[..]) } else { Bias::PerColumn(&own[..]) };
        with_mask::<R>(source, &[3, 8, 1], rows, cols, |mask, multipliers| {
            let both = h.iter().zip(multipliers).enumerate().map(|(i, (h, m))| {
                let (y, dy) = twin(activation, h + bias[if per_row { i / cols } else { i % cols }]);
                (y * m, dy * m)
            });
            let (want, want_derivative): (Vec<_>, Vec<_>) = both.unzip();
            let (mut got, mut derivative) = (cast::<R>(&h), cast::<R>(&h));
            bias_activation_dropout(activation, borrowed, mask, cols, &mut got, Some(&mut derivative));
            assert_close(&got, &want);
            assert_close(&derivative, &want_derivative);
            let mut alone = cast::<R>(&h);
            bias_activation_dropout(activation, borrowed, mask, cols, &mut alone, None);
            assert_eq!(alone, got);
            let mut dropped = cast::<R>(&h);
            dropout_rows(mask, cols, &mut dropped);
            assert_close(&dropped, &h.iter().zip(multipliers).map(|(h, m)| h * m).collect::<Vec<_>>());
        });
    }

    fn check_bits<R: Real>(activation: Activation, source: Source, cols: usize) {
        const ROWS: usize = 3;
        let h: Vec<f64> = numbers(1, ROWS * cols).iter().map(|x| 7.0 * x).collect();
        let (h, bias) = (cast::<R>(&h), cast::<R>(&numbers(2, cols)));
        with_mask::<R>(source, &[3, 8, 1], ROWS, cols, |mask, _| {
            assert_same_bits::<R>(|| {
                let (mut y, mut derivative) = (h.clone(), h.clone());
                bias_activation_dropout(activation, Bias::PerColumn(&bias), mask, cols, &mut y, Some(&mut derivative));
                vec![y, derivative]
            });
        });
    }

    proptest! {
        #[test]
        fn every_instruction_set_gives_the_same_bits(gelu: bool, source in sources(), cols in 1..300_usize) {
            let activation = if gelu { Activation::Gelu } else { Activation::Tanh };
            check_bits::<f32>(activation, source, cols);
            check_bits::<f64>(activation, source, cols);
        }

        #[test]
        fn one_pass_is_bias_then_activation_then_mask(
            gelu: bool, per_row: bool, source in sources(), rows in 0..8_usize, cols in 1..150_usize,
        ) {
            let activation = if gelu { Activation::Gelu } else { Activation::Tanh };
            each_arch(|| {
                check::<f32>(activation, per_row, source, rows, cols);
                check::<f64>(activation, per_row, source, rows, cols);
            });
        }
    }
}
