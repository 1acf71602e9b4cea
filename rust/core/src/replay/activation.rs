//! What an MLP does to each number between its matrices.

use crate::vector::{exp, tanh};
use crate::{Error, Result};

/// An activation function, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x`.
    Identity,
    /// `x * Phi(x)`, with the normal distribution's Phi by erf.
    Gelu,
    /// The same by a tanh.
    GeluTanh,
    /// The same by a logistic function: `x * sigmoid(1.702 x)`.
    GeluQuick,
    /// `max(x, 0)`.
    Relu,
    /// `x * sigmoid(x)`.
    Silu,
}

impl Activation {
    /// Reads the name that store metadata has for it; no name is the identity.
    ///
    /// # Errors
    /// If it is another word.
    pub fn parse(name: Option<&str>) -> Result<Self> {
        match name {
            None => Ok(Self::Identity),
            Some("gelu") => Ok(Self::Gelu),
            Some("gelu_tanh") => Ok(Self::GeluTanh),
            Some("gelu_quick") => Ok(Self::GeluQuick),
            Some("relu") => Ok(Self::Relu),
            Some("silu") => Ok(Self::Silu),
            Some(other) => Err(Error::argument(format!("unknown activation `{other}`"))),
        }
    }

    /// Applies it to every value.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
    pub(crate) fn apply(self, values: &mut [f32]) {
        match self {
            Self::Identity => {}
            Self::Gelu => {
                each(values, |x| 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)));
            }
            Self::GeluTanh => each(values, |x| {
                const ROOT: f32 = 0.797_884_6; // sqrt(2 / pi)
                0.5 * x * (1.0 + tanh(ROOT * (x + 0.044_715 * x * x * x)))
            }),
            Self::GeluQuick => each(values, |x| x * sigmoid(1.702 * x)),
            Self::Relu => each(values, |x| if x < 0.0 { 0.0 } else { x }),
            Self::Silu => each(values, |x| x * sigmoid(x)),
        }
    }
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
fn each(values: &mut [f32], f: impl Fn(f32) -> f32) {
    for value in values {
        *value = f(*value);
    }
}

/// Logistic function; NaN stays NaN.
#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x.clamp(-80.0, 80.0)))
}

/// Error function: Abramowitz and Stegun 7.1.26, absolute error below 5e-7 in f32.
#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
fn erf(x: f32) -> f32 {
    let magnitude = if x.abs() > 6.0 { 6.0 } else { x.abs() };
    let t = 1.0 / (1.0 + 0.327_591_1 * magnitude);
    let mut series = 1.061_405_4;
    for coefficient in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        series = series * t + coefficient;
    }
    (1.0 - series * t * exp(-magnitude * magnitude)).copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// erf by its series, in f64.
    fn series(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            let n = f64::from(n);
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn functions_are_near_their_definitions() {
        for step in -400..=400_i16 {
            let x = f32::from(step) / 100.0;
            let wide = f64::from(x);
            let want = [
                (Activation::Identity, wide),
                (Activation::Gelu, 0.5 * wide * (1.0 + series(wide / 2.0_f64.sqrt()))),
                (
                    Activation::GeluTanh,
                    0.5 * wide
                        * (1.0
                            + ((2.0 / std::f64::consts::PI).sqrt()
                                * (wide + 0.044_715 * wide.powi(3)))
                            .tanh()),
                ),
                (Activation::GeluQuick, wide / (1.0 + (-1.702 * wide).exp())),
                (Activation::Relu, wide.max(0.0)),
                (Activation::Silu, wide / (1.0 + (-wide).exp())),
            ];
            for (activation, want) in want {
                let mut found = [x];
                activation.apply(&mut found);
                assert!((f64::from(found[0]) - want).abs() < 2e-6, "{activation:?} {x}");
            }
        }
    }

    #[test]
    fn large_numbers_and_nan_are_themselves() {
        for activation in [
            Activation::Gelu,
            Activation::GeluTanh,
            Activation::GeluQuick,
            Activation::Relu,
            Activation::Silu,
        ] {
            let mut values = [1e30, -1e4, f32::NAN];
            activation.apply(&mut values);
            assert!((values[0] / 1e30 - 1.0).abs() < 1e-6, "{activation:?}");
            assert!(values[1].abs() < 1e-3, "{activation:?} {}", values[1]);
            assert!(values[2].is_nan(), "{activation:?}");
        }
    }

    #[test]
    fn an_unknown_name_is_refused() {
        assert!(Activation::parse(Some("swish")).is_err());
        assert_eq!(Activation::parse(None).unwrap(), Activation::Identity);
    }
}
