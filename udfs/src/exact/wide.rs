//! Two's complement integers of a fixed number of 64-bit words, least significant first. Just the operations that exact sums need; they wrap.

/// An integer of `N` words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wide<const N: usize>(pub(super) [u64; N]);

impl<const N: usize> Wide<N> {
    pub(super) const ZERO: Self = Self([0; N]);

    pub(super) fn from_i128(value: i128) -> Self {
        let mut words = [(value >> 127) as u64; N];
        words[0] = value as u64;
        words[1] = (value >> 64) as u64;
        Self(words)
    }

    /// The number, cut to 128 bits.
    pub(super) fn to_i128(self) -> i128 {
        i128::from(self.0[1] as i64) << 64 | i128::from(self.0[0])
    }

    /// The number with another count of words: cut, or extended by its sign.
    pub(super) fn resize<const M: usize>(&self) -> Wide<M> {
        Wide(std::array::from_fn(|at| self.word(at)))
    }

    pub(super) fn is_zero(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    pub(super) fn is_negative(&self) -> bool {
        (self.0[N - 1] as i64) < 0
    }

    /// Word `at`, also beyond the end, where the sign goes on.
    fn word(&self, at: usize) -> u64 {
        self.0.get(at).copied().unwrap_or(if self.is_negative() { u64::MAX } else { 0 })
    }

    /// Adds `other` times two to the power of `shift`, or subtracts it.
    pub(super) fn accumulate<const M: usize>(&mut self, other: &Wide<M>, shift: usize, subtract: bool) {
        let (words, bits) = (shift / 64, shift % 64);
        // A number is subtracted by adding its complement and one.
        let flip = if subtract { u64::MAX } else { 0 };
        let mut carry = subtract;
        let mut below = 0;
        for (at, to) in self.0.iter_mut().enumerate() {
            let shifted = if at < words {
                0
            } else {
                let word = other.word(at - words);
                let shifted = if bits == 0 { word } else { word << bits | below >> (64 - bits) };
                below = word;
                shifted
            };
            (*to, carry) = to.carrying_add(shifted ^ flip, carry);
        }
    }

    /// Adds a number without sign times two to the power of `shift`, or subtracts it, as far as the carry goes.
    pub(super) fn accumulate_words(&mut self, number: &[u64], shift: u32, subtract: bool) {
        let (words, bits) = (shift as usize / 64, shift % 64);
        let (mut below, mut carry) = (0_u64, false);
        for (at, to) in self.0[words..].iter_mut().enumerate() {
            let word = number.get(at).copied().unwrap_or(0);
            let shifted = word << bits | below.unbounded_shr(64 - bits);
            below = word;
            if at > number.len() && !carry {
                return;
            }
            (*to, carry) = if subtract { to.borrowing_sub(shifted, carry) } else { to.carrying_add(shifted, carry) };
        }
    }

    /// The sign and the absolute value. The smallest number of all has none; no sum of doubles reaches it.
    pub(super) fn magnitude(&self) -> (bool, Self) {
        if !self.is_negative() {
            return (false, *self);
        }
        let mut magnitude = Self::ZERO;
        magnitude.accumulate(self, 0, true);
        (true, magnitude)
    }

    /// Bits without those that only repeat the sign: as many as the absolute value has, or one less for a negative power of two.
    pub(super) fn significant_bits(&self) -> u32 {
        let sign = self.word(N);
        match self.0.iter().rposition(|word| *word != sign) {
            Some(at) => at as u32 * 64 + 64 - (self.0[at] ^ sign).leading_zeros(),
            None => 0,
        }
    }

    /// Zero bits at the end. All of them for zero.
    pub(super) fn trailing_zeros(&self) -> u32 {
        trailing_zeros(&self.0)
    }

    /// The number divided by two to the power of `shift`, rounded down.
    pub(super) fn shifted_right(&self, shift: u32) -> Self {
        let (words, bits) = (shift as usize / 64, shift % 64);
        Self(std::array::from_fn(|at| {
            let (low, high) = (self.word(at + words), self.word(at + words + 1));
            if bits == 0 { low } else { low >> bits | high << (64 - bits) }
        }))
    }

    /// The number times two to the power of `shift`.
    pub(super) fn shifted_left(&self, shift: u32) -> Self {
        let mut shifted = Self::ZERO;
        shifted.accumulate(self, shift as usize, false);
        shifted
    }
}

/// Zero bits at the end of a number. All of them for zero.
pub(super) fn trailing_zeros(words: &[u64]) -> u32 {
    match words.iter().position(|word| *word != 0) {
        Some(at) => at as u32 * 64 + words[at].trailing_zeros(),
        None => words.len() as u32 * 64,
    }
}

/// Bits of a non-negative number, without leading zeros.
pub(super) fn bit_length(words: &[u64]) -> u32 {
    match words.iter().rposition(|word| *word != 0) {
        Some(at) => at as u32 * 64 + 64 - words[at].leading_zeros(),
        None => 0,
    }
}

/// `a` times `b` into `product`, which must be zero and at least as long as both together.
pub(super) fn multiply(a: &[u64], b: &[u64], product: &mut [u64]) {
    for (at, factor) in a.iter().enumerate() {
        if *factor == 0 {
            continue;
        }
        let mut carry = 0;
        for (to, other) in product[at..].iter_mut().zip(b) {
            let sum = u128::from(*factor) * u128::from(*other) + u128::from(*to) + u128::from(carry);
            (*to, carry) = (sum as u64, (sum >> 64) as u64);
        }
        // No earlier factor reached this word.
        product[at + b.len()] = carry;
    }
}
