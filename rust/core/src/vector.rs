//! Loops over slices that the compiler can turn into wide instructions.
//!
//! Sums go to a fixed number of lanes that are added in a fixed order, so that a result does not
//! depend on the machine's vector width. Nothing here fuses a multiplication with an addition, for
//! the same reason.

/// Lanes of every reduction.
pub(crate) const LANE: usize = 16;
/// [`LANE`] as a step of 32-bit indices.
const LANE_STEP: u32 = 16;

/// Evaluates an expression compiled for the widest instructions this machine has.
///
/// Only what is inlined into it gains: the helpers below are `#[inline(always)]` for that, and so is
/// the closure, which uses up `Once` because one that could be called twice would be called through
/// a shim that is not.
macro_rules! widest {
    ($work:expr) => {{
        let once = $crate::vector::Once;
        gemm_common::pulp::Arch::new().dispatch(
            #[inline(always)]
            #[allow(clippy::inline_always, reason = "see above")]
            || {
                let _used = once;
                $work
            },
        )
    }};
}
pub(crate) use widest;

/// What a closure can use up.
pub(crate) struct Once;

/// The lanes together, halved until one is left: a chain of additions would wait for each.
#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
pub(crate) fn total(mut lanes: [f32; LANE]) -> f32 {
    let mut half = LANE / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Natural exponential of an argument that is not above about 88; -87.3 and below give the
/// smallest normal number instead of fading to zero. NaN stays NaN. Relative error below 3e-7.
#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
pub(crate) fn exp(x: f32) -> f32 {
    /// Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts: the first has so few bits that its multiples are exact.
    const LN_2_HIGH: f32 = 355.0 / 512.0;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < -87.3 { -87.3 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let rest = x - whole * LN_2_HIGH - whole * LN_2_LOW;
    // Taylor polynomial on |rest| <= ln(2)/2: the first term left out, rest^7 / 5040, is 1.2e-7.
    let mut series = 1.0 / 720.0;
    for coefficient in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = series * rest + coefficient;
    }
    // The low bits of `shifted` hold the integer; moved to the exponent they are the power of two.
    let power = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    series * f32::from_bits(power)
}

/// Hyperbolic tangent through [`exp`]: absolute error below 3e-7.
#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
pub(crate) fn tanh(x: f32) -> f32 {
    // Beyond 10 the result is 1 to the last bit.
    let magnitude = if x.abs() > 10.0 { 10.0 } else { x.abs() };
    (1.0 - 2.0 / (exp(2.0 * magnitude) + 1.0)).copysign(x)
}

/// Whether no value is NaN or infinite.
#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
pub(crate) fn is_finite(x: &[f32]) -> bool {
    let mut lanes = [true; LANE];
    let (blocks, rest) = x.as_chunks::<LANE>();
    for block in blocks {
        for (lane, value) in lanes.iter_mut().zip(block) {
            *lane &= value.is_finite();
        }
    }
    lanes.iter().all(|&finite| finite) && rest.iter().all(|value| value.is_finite())
}

/// Largest value of `x`; -inf for an empty slice. NaN is passed over.
#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
pub(crate) fn max(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANE];
    let (blocks, rest) = x.as_chunks::<LANE>();
    for block in blocks {
        for (lane, &value) in lanes.iter_mut().zip(block) {
            *lane = larger(*lane, value);
        }
    }
    let rest = rest.iter().fold(f32::NEG_INFINITY, |a, &b| larger(a, b));
    lanes.iter().fold(rest, |a, &b| larger(a, b))
}

/// Number of values above `bound`.
#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
pub(crate) fn count_above(x: &[f32], bound: f32) -> u32 {
    let mut lanes = [0_u32; LANE];
    let (blocks, rest) = x.as_chunks::<LANE>();
    for block in blocks {
        for (lane, &value) in lanes.iter_mut().zip(block) {
            *lane += u32::from(value > bound);
        }
    }
    let rest: u32 = rest.iter().map(|&value| u32::from(value > bound)).sum();
    lanes.iter().sum::<u32>() + rest
}

/// Sum over `f(x)` in f64, lane by lane.
#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
pub(crate) fn sum_by(x: &[f32], f: impl Fn(f64) -> f64) -> f64 {
    let mut lanes = [0.0_f64; LANE];
    let (blocks, rest) = x.as_chunks::<LANE>();
    for block in blocks {
        for (lane, &value) in lanes.iter_mut().zip(block) {
            *lane += f(f64::from(value));
        }
    }
    let rest: f64 = rest.iter().map(|&value| f(f64::from(value))).sum();
    lanes.iter().sum::<f64>() + rest
}

/// Sum of products in f64, lane by lane, over the shorter of the two slices.
#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
pub(crate) fn dot(x: &[f32], y: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; LANE];
    let len = x.len().min(y.len());
    let (x_blocks, x_rest) = x[..len].as_chunks::<LANE>();
    let (y_blocks, y_rest) = y[..len].as_chunks::<LANE>();
    for (x, y) in x_blocks.iter().zip(y_blocks) {
        for ((lane, &x), &y) in lanes.iter_mut().zip(x).zip(y) {
            *lane += f64::from(x) * f64::from(y);
        }
    }
    let rest: f64 = x_rest.iter().zip(y_rest).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
    lanes.iter().sum::<f64>() + rest
}

/// Squared Euclidean distance in f64, lane by lane, over the shorter of the two slices.
#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
pub(crate) fn squared_distance(x: &[f32], y: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; LANE];
    let len = x.len().min(y.len());
    let (x_blocks, x_rest) = x[..len].as_chunks::<LANE>();
    let (y_blocks, y_rest) = y[..len].as_chunks::<LANE>();
    let square = |x: f32, y: f32| {
        let difference = f64::from(x) - f64::from(y);
        difference * difference
    };
    for (x, y) in x_blocks.iter().zip(y_blocks) {
        for ((lane, &x), &y) in lanes.iter_mut().zip(x).zip(y) {
            *lane += square(x, y);
        }
    }
    let rest: f64 = x_rest.iter().zip(y_rest).map(|(&x, &y)| square(x, y)).sum();
    lanes.iter().sum::<f64>() + rest
}

/// Sum of squares in f32, lane by lane: off by at most (n / 16 + 4) roundings.
#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
pub(crate) fn sum_of_squares(x: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANE];
    let (blocks, rest) = x.as_chunks::<LANE>();
    for block in blocks {
        for (lane, &value) in lanes.iter_mut().zip(block) {
            *lane += value * value;
        }
    }
    let rest: f32 = rest.iter().map(|value| value * value).sum();
    total(lanes) + rest
}

/// Squared distance of `x - origin` from `y` in f32, lane by lane; the slices are equally long.
#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
pub(crate) fn squared_distance_from(x: &[f32], origin: &[f32], y: &[f32]) -> f32 {
    let square = |x: f32, origin: f32, y: f32| {
        let difference = (x - origin) - y;
        difference * difference
    };
    let mut lanes = [0.0_f32; LANE];
    let (x_blocks, x_rest) = x.as_chunks::<LANE>();
    let (origin_blocks, origin_rest) = origin.as_chunks::<LANE>();
    let (y_blocks, y_rest) = y.as_chunks::<LANE>();
    for ((x, origin), y) in x_blocks.iter().zip(origin_blocks).zip(y_blocks) {
        for lane in 0..LANE {
            lanes[lane] += square(x[lane], origin[lane], y[lane]);
        }
    }
    let rest = x_rest.iter().zip(origin_rest).zip(y_rest);
    let rest: f32 = rest.map(|((&x, &origin), &y)| square(x, origin, y)).sum();
    total(lanes) + rest
}

/// The least `level - product`; infinity for empty slices, which are equally long.
#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
pub(crate) fn least_difference(levels: &[f32], products: &[f32]) -> f32 {
    let smaller = |a: f32, b: f32| if b < a { b } else { a };
    let mut lanes = [f32::INFINITY; LANE];
    let (level_blocks, level_rest) = levels.as_chunks::<LANE>();
    let (product_blocks, product_rest) = products.as_chunks::<LANE>();
    for (level, product) in level_blocks.iter().zip(product_blocks) {
        for lane in 0..LANE {
            lanes[lane] = smaller(lanes[lane], level[lane] - product[lane]);
        }
    }
    let rest = level_rest.iter().zip(product_rest);
    let rest = rest.fold(f32::INFINITY, |least, (level, product)| smaller(least, level - product));
    lanes.iter().fold(rest, |a, &b| smaller(a, b))
}

/// Index of the least `level - product`, the lowest of equals; `u32::MAX` if all are NaN. The
/// slices are equally long, below `u32::MAX`.
#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
pub(crate) fn first_minimum(products: &[f32], levels: &[f32]) -> u32 {
    let (product_blocks, product_rest) = products.as_chunks::<LANE>();
    let (level_blocks, level_rest) = levels.as_chunks::<LANE>();
    let mut values = [f32::INFINITY; LANE];
    // In which block each lane's least value stands.
    let mut blocks = [u32::MAX; LANE];
    for ((product, level), block) in product_blocks.iter().zip(level_blocks).zip(0..) {
        for lane in 0..LANE {
            let value = level[lane] - product[lane];
            let less = value < values[lane];
            values[lane] = if less { value } else { values[lane] };
            blocks[lane] = if less { block } else { blocks[lane] };
        }
    }
    let mut least = f32::INFINITY;
    let mut place = u32::MAX;
    let mut offer = |value: f32, at: u32| {
        if value < least || (value <= least && at < place) {
            (least, place) = (value, at);
        }
    };
    for ((&value, &block), lane) in values.iter().zip(&blocks).zip(0..) {
        if block != u32::MAX {
            offer(value, block * LANE_STEP + lane);
        }
    }
    let start = u32::try_from(products.len() - product_rest.len()).unwrap_or(u32::MAX);
    for ((product, level), at) in product_rest.iter().zip(level_rest).zip(start..) {
        offer(level - product, at);
    }
    place
}
