//! The compilations of the scorer: one for every machine, one for x86-64 with AVX2.
//!
//! Nearly all of the scorer is plain code, and this file only has it compiled twice. What the vectoriser does badly is written by
//! hand here, once per machine, behind [`Machine`].

use super::condition::SEARCH_BLOCK;

/// Which compilation of the scorer runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// For every machine.
    Portable,
    /// For x86-64 with AVX2, BMI and POPCNT. Only [`Kernel::detect`] makes it.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
}

/// A proof that this machine has AVX2, BMI1, BMI2 and POPCNT.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Avx2(());

impl Kernel {
    /// The fastest that this machine can run.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx2")
            && std::is_x86_feature_detected!("bmi1")
            && std::is_x86_feature_detected!("bmi2")
            && std::is_x86_feature_detected!("popcnt")
        {
            return Self::Avx2(Avx2(()));
        }
        Self::Portable
    }

    /// Runs a task in this compilation.
    #[inline]
    pub(super) fn run(self, task: impl Task) {
        match self {
            Self::Portable => task.run(AnyMachine),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(machine) => {
                #[expect(unsafe_code, reason = "the function is compiled for AVX2")]
                // SAFETY: `machine` proves that the features are there.
                unsafe {
                    run_avx2(machine, task);
                }
            }
        }
    }
}

/// Work that is compiled once per machine. `run` must be `#[inline(always)]`, with all that it calls.
pub(super) trait Task {
    fn run(self, machine: impl Machine);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
fn run_avx2(machine: Avx2, task: impl Task) {
    task.run(machine);
}

/// What is written by hand for a machine.
pub(super) trait Machine: Copy {
    /// How many of the numbers are below `value`; none if it is NaN.
    fn below(self, numbers: &[f64; SEARCH_BLOCK], value: f64) -> usize;
}

#[derive(Clone, Copy)]
pub(super) struct AnyMachine;

impl Machine for AnyMachine {
    #[inline(always)]
    fn below(self, numbers: &[f64; SEARCH_BLOCK], value: f64) -> usize {
        let mut counts = [0_i64; 4];
        for four in numbers.as_chunks::<4>().0 {
            for lane in 0..4 {
                counts[lane] += i64::from(four[lane] < value);
            }
        }
        (counts[0] + counts[1] + counts[2] + counts[3]) as usize
    }
}

#[cfg(target_arch = "x86_64")]
impl Machine for Avx2 {
    #[inline(always)]
    fn below(self, numbers: &[f64; SEARCH_BLOCK], value: f64) -> usize {
        #[expect(unsafe_code, reason = "the function is compiled for AVX2")]
        // SAFETY: `self` proves that the features are there.
        unsafe {
            below_avx2(numbers, value)
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
#[inline]
fn below_avx2(numbers: &[f64; SEARCH_BLOCK], value: f64) -> usize {
    use std::arch::x86_64::{
        __m256i, _CMP_LT_OQ, _mm256_castpd_si256, _mm256_cmp_pd, _mm256_loadu_pd, _mm256_movemask_epi8,
        _mm256_packs_epi16, _mm256_packs_epi32, _mm256_set1_pd,
    };
    let value = _mm256_set1_pd(value);
    let below = |four: &[f64; 4]| -> __m256i {
        #[expect(unsafe_code, reason = "a load through a pointer")]
        // SAFETY: the pointer is to four doubles; the load asks for no alignment.
        let four = unsafe { _mm256_loadu_pd(four.as_ptr()) };
        _mm256_castpd_si256(_mm256_cmp_pd::<_CMP_LT_OQ>(four, value))
    };
    let [first, second, third, fourth] = numbers.as_chunks::<4>().0 else {
        return 0;
    };
    // Each comparison ends as two bits of the mask; their order does not matter.
    let first = _mm256_packs_epi32(below(first), below(second));
    let second = _mm256_packs_epi32(below(third), below(fourth));
    let mask = _mm256_movemask_epi8(_mm256_packs_epi16(first, second));
    mask.count_ones() as usize / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Count([f64; SEARCH_BLOCK], f64, usize);

    impl Task for &mut Count {
        #[inline(always)]
        fn run(self, machine: impl Machine) {
            self.2 = machine.below(&self.0, self.1);
        }
    }

    #[test]
    fn each_machine_counts_what_is_below() {
        let numbers: [f64; SEARCH_BLOCK] = std::array::from_fn(|at| if at < 13 { at as f64 } else { f64::INFINITY });
        for kernel in [Kernel::Portable, Kernel::detect()] {
            for (value, expected) in [
                (-1.0, 0),
                (0.0, 0),
                (0.5, 1),
                (7.0, 7),
                (12.5, 13),
                (f64::INFINITY, 13),
                (f64::NEG_INFINITY, 0),
                (f64::NAN, 0),
            ] {
                let mut count = Count(numbers, value, usize::MAX);
                kernel.run(&mut count);
                assert_eq!(count.2, expected, "{kernel:?} {value}");
            }
        }
    }
}
