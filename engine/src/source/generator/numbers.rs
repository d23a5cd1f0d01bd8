//! Random numbers and elementary functions of the generator.
//! Everything here is a pure function of its key, built from integer arithmetic and the four IEEE operations alone, so that the
//! same seed gives the same bits on every machine. It refuses the C math library, whose last bits differ between versions.

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of SplitMix64 (Stafford's mix 13): a bijection in which every input bit reaches every output bit.
pub(super) const fn mix(value: u64) -> u64 {
    let mut z = value;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The key of an object: its seed (already specific to a domain) and its two coordinates.
pub(super) const fn key(seed: u64, a: u64, b: u64) -> u64 {
    let inner = mix(seed.wrapping_add(a.wrapping_mul(GOLDEN)));
    mix(inner.wrapping_add(b.wrapping_mul(GOLDEN)))
}

/// The `index`-th output of the SplitMix64 stream of `seed`, reached without the ones before it.
pub(super) const fn nth(seed: u64, index: u64) -> u64 {
    mix(seed.wrapping_add(index.wrapping_add(1).wrapping_mul(GOLDEN)))
}

/// A number in [0, 1) from the upper bits of `bits`.
pub(super) fn to_unit(bits: u64) -> f64 {
    (bits >> 11) as f64 * (1.0 / 9_007_199_254_740_992.0)
}

/// A SplitMix64 stream. Its whole state is one word, so that a stream per user and slot costs nothing.
#[derive(Debug, Clone)]
pub(super) struct Stream(u64);

impl Stream {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    pub(super) fn unit(&mut self) -> f64 {
        to_unit(self.bits())
    }

    pub(super) fn below(&mut self, bound: u32) -> u32 {
        (((self.bits() >> 32) * u64::from(bound)) >> 32) as u32
    }

    /// Up to 2^63; the bias (bound / 2^64) is far below anything that can be measured.
    pub(super) fn below_ms(&mut self, bound: i64) -> i64 {
        ((u128::from(self.bits()) * bound.max(0) as u128) >> 64) as i64
    }

    pub(super) fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    pub(super) fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }
}

/// e^x for |x| < 700, within a few units in the last place.
pub(super) fn exp(x: f64) -> f64 {
    const LN_2_HIGH: f64 = 6.931_471_803_691_238e-1;
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    let x = x.clamp(-700.0, 700.0);
    let k = (x * std::f64::consts::LOG2_E + if x < 0.0 { -0.5 } else { 0.5 }) as i64;
    let r = (x - k as f64 * LN_2_HIGH) - k as f64 * LN_2_LOW;
    // Taylor's series; |r| <= 0.35, so that the twelfth term is below 1e-15.
    let mut sum = 1.0;
    for n in (1..=12).rev() {
        sum = 1.0 + sum * r / f64::from(n);
    }
    sum * f64::from_bits(((k + 1023) as u64) << 52)
}

/// The natural logarithm of a positive normal number.
pub(super) fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) as i64) - 1023;
    let mut mantissa = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    // 2 atanh((m - 1) / (m + 1)); the argument is at most 0.172.
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    let square = t * t;
    let mut sum = 0.0;
    for n in (0..11).rev() {
        sum = sum * square + 1.0 / f64::from(2 * n + 1);
    }
    2.0 * t * sum + exponent as f64 * std::f64::consts::LN_2
}

/// The quantile of the standard normal distribution (Acklam's rational approximation, relative error below 1.2e-9).
fn normal_quantile(p: f64) -> f64 {
    const A: [f64; 6] = [
        -3.969683028665376e1,
        2.209460984245205e2,
        -2.759285104469687e2,
        1.38357751867269e2,
        -3.066479806614716e1,
        2.506628277459239,
    ];
    const B: [f64; 5] =
        [-5.447609879822406e1, 1.615858368580409e2, -1.556989798598866e2, 6.680131188771972e1, -1.328068155288572e1];
    const C: [f64; 6] = [
        -7.784894002430293e-3,
        -3.223964580411365e-1,
        -2.400758277161838,
        -2.549732539343734,
        4.374664141464968,
        2.938163982698783,
    ];
    const D: [f64; 4] = [7.784695709041462e-3, 3.224671290700398e-1, 2.445134137142996, 3.754408661907416];
    let fold = |coefficients: &[f64], x: f64| coefficients.iter().fold(0.0, |sum, c| sum * x + c);
    if p < 0.02425 {
        let q = (-2.0 * ln(p)).sqrt();
        return fold(&C, q) / (fold(&D, q) * q + 1.0);
    }
    if p > 1.0 - 0.02425 {
        return -normal_quantile(1.0 - p);
    }
    let q = p - 0.5;
    let r = q * q;
    fold(&A, r) * q / (fold(&B, r) * r + 1.0)
}

const NORMAL_CELLS: usize = 4096;

/// A standard normal by table: the quantile function, linear between 4 097 points, cut at 3.8 standard deviations.
#[derive(Debug)]
pub(super) struct Normal(Vec<f64>);

impl Normal {
    pub(super) fn new() -> Self {
        let end = 0.25;
        let at = |i: usize| (i as f64).clamp(end, NORMAL_CELLS as f64 - end) / NORMAL_CELLS as f64;
        Self((0..=NORMAL_CELLS).map(|i| normal_quantile(at(i))).collect())
    }

    pub(super) fn at(&self, bits: u64) -> f64 {
        let cell = (bits >> 52) as usize;
        let fraction = ((bits >> 20) & 0xffff_ffff) as f64 * (1.0 / 4_294_967_296.0);
        self.0[cell] + fraction * (self.0[cell + 1] - self.0[cell])
    }
}

/// A discrete distribution by a table of 256 cells: one byte of randomness, one load.
#[derive(Debug)]
pub(super) struct Cells([u8; 256]);

impl Cells {
    /// Index `i` gets a share of the cells proportional to `weights[i]`.
    pub(super) fn new(weights: &[f64]) -> Self {
        let total: f64 = weights.iter().sum();
        let mut cells = [0_u8; 256];
        let mut index = 0;
        let mut reached = weights[0];
        for (cell, slot) in cells.iter_mut().enumerate() {
            while index + 1 < weights.len() && (cell as f64 + 0.5) / 256.0 * total > reached {
                index += 1;
                reached += weights[index];
            }
            *slot = index as u8;
        }
        Self(cells)
    }

    pub(super) fn at(&self, bits: u64) -> usize {
        usize::from(self.0[(bits >> 56) as usize])
    }
}

/// A Poisson count with mean `lambda`, by inversion. `first` is the uniform number of the first piece (large means are split, because
/// e^-lambda would vanish); the caller has drawn it to dismiss the common case of no event cheaply.
pub(super) fn poisson(lambda: f64, first: f64, stream: &mut Stream) -> u32 {
    const PIECE: f64 = 64.0;
    let mut count = 0;
    let mut rest = lambda;
    let mut u = first;
    loop {
        let piece = rest.min(PIECE);
        let mut probability = exp(-piece);
        let mut reached = probability;
        let mut n = 0_u32;
        // The bound is reached only by rounding in the far tail.
        while u >= reached && n < 400 {
            n += 1;
            probability *= piece / f64::from(n);
            reached += probability;
        }
        count += n;
        rest -= piece;
        if rest <= 0.0 {
            return count;
        }
        u = stream.unit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_and_ln_agree_with_the_standard_library() {
        for i in -6_000..6_000 {
            let x = f64::from(i) / 100.0 + 0.001;
            assert!((exp(x) / x.exp() - 1.0).abs() < 1e-14, "exp({x})");
            let y = x.exp();
            assert!((ln(y) - y.ln()).abs() <= 1e-14 * y.ln().abs().max(1.0), "ln({y})");
        }
    }

    #[test]
    fn normal_numbers_have_mean_zero_and_variance_one() {
        let normal = Normal::new();
        let mut stream = Stream::new(7);
        let n = 400_000;
        let (mut sum, mut squares, mut beyond_two) = (0.0, 0.0, 0);
        for _ in 0..n {
            let z = normal.at(stream.bits());
            sum += z;
            squares += z * z;
            beyond_two += u32::from(z.abs() > 2.0);
        }
        assert!((sum / f64::from(n)).abs() < 0.006);
        assert!((squares / f64::from(n) - 1.0).abs() < 0.01);
        assert!((f64::from(beyond_two) / f64::from(n) - 0.0455).abs() < 0.0015);
    }

    #[test]
    fn poisson_counts_have_the_asked_mean_and_variance() {
        for lambda in [0.02, 0.7, 5.0, 63.0, 150.0] {
            let mut stream = Stream::new(11);
            let n = 40_000;
            let counts: Vec<f64> = (0..n)
                .map(|_| {
                    let first = stream.unit();
                    f64::from(poisson(lambda, first, &mut stream))
                })
                .collect();
            let mean = counts.iter().sum::<f64>() / f64::from(n);
            let variance = counts.iter().map(|c| (c - mean) * (c - mean)).sum::<f64>() / f64::from(n);
            let tolerance = 5.0 * (lambda / f64::from(n)).sqrt();
            assert!((mean - lambda).abs() < tolerance, "mean {mean} of {lambda}");
            assert!((variance / lambda - 1.0).abs() < 0.2, "variance {variance} of {lambda}");
        }
    }

    #[test]
    fn cells_follow_their_weights() {
        let cells = Cells::new(&[2.0, 1.0, 1.0]);
        let mut counts = [0; 3];
        for cell in 0..256_u64 {
            counts[cells.at(cell << 56)] += 1;
        }
        assert_eq!(counts, [128, 64, 64]);
    }
}
