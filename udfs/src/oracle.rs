//! LightGBM's own library, as the oracle of tests and benchmarks (cargo feature `lightgbm`).
//!
//! It trains small models on made-up rows and predicts through the C API, on one thread. The engine does not use it: it trains
//! through `lightgbm3`, and scores with [`crate::scorer`].

#![expect(unsafe_code, reason = "calls of a C library")]
#![expect(clippy::missing_panics_doc, reason = "tests and benchmarks want to stop at the first error")]

use std::ffi::{CStr, CString, c_void};
use std::ptr;

use lightgbm3_sys as sys;

const PARAMETERS: &CStr = c"num_threads=1 verbosity=-1";
const DOUBLE: i32 = sys::C_API_DTYPE_FLOAT64 as i32;
const FLOAT: i32 = sys::C_API_DTYPE_FLOAT32 as i32;
const NORMAL: i32 = sys::C_API_PREDICT_NORMAL as i32;
const RAW: i32 = sys::C_API_PREDICT_RAW_SCORE as i32;
const CONTRIBUTIONS: i32 = sys::C_API_PREDICT_CONTRIB as i32;

/// Rows of features, row by row, with a label for each.
#[derive(Debug, Clone)]
pub struct Rows {
    pub num_features: usize,
    pub values: Vec<f64>,
    pub labels: Vec<f32>,
}

/// What made-up rows look like.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub num_features: usize,
    /// The share of values that are NaN.
    pub missing: f64,
    /// The first so many features are category numbers.
    pub num_categorical: usize,
    /// Labels are 0 to this number (exclusive); with 0 they are real numbers.
    pub num_classes: u32,
}

/// A small generator of random numbers (splitmix64): the same rows on every machine.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// From 0 to 1, without 1.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.unit()).ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }
}

impl Rows {
    /// Made-up transactions: amounts, counts, ratios, ages, flags and categories, with a label that depends on them.
    pub fn make_up(shape: Shape, num_rows: usize, seed: u64) -> Self {
        let mut random = Random(seed);
        let mut values = Vec::with_capacity(num_rows * shape.num_features);
        let mut labels = Vec::with_capacity(num_rows);
        for _ in 0..num_rows {
            let mut signal = random.normal();
            for feature in 0..shape.num_features {
                let (value, effect) = make_up_value(&mut random, feature, feature < shape.num_categorical);
                signal += effect / (1.0 + feature as f64 / 4.0);
                values.push(if random.unit() < shape.missing { f64::NAN } else { value });
            }
            labels.push(match shape.num_classes {
                0 => signal as f32,
                // The first class is by far the most frequent, as honest transactions are.
                classes => ((signal - 2.0).max(0.0) as u32).min(classes - 1) as f32,
            });
        }
        Self { num_features: shape.num_features, values, labels }
    }

    pub fn num_rows(&self) -> usize {
        self.labels.len()
    }

    /// The values feature by feature.
    pub fn columns(&self) -> Vec<Vec<f64>> {
        let column = |feature| self.values.iter().skip(feature).step_by(self.num_features).copied().collect();
        (0..self.num_features).map(column).collect()
    }
}

/// A value, and what it does to the label.
fn make_up_value(random: &mut Random, feature: usize, categorical: bool) -> (f64, f64) {
    if categorical {
        let category = (random.unit() * random.unit() * 60.0).floor();
        return (category, f64::from((category as u32).wrapping_mul(2_654_435_761) >> 24) / 128.0 - 1.0);
    }
    let normal = random.normal();
    let value = match feature % 5 {
        0 => (normal * 1.2 + 3.0).exp(),
        1 => (random.unit() * random.unit() * 40.0).floor(),
        2 => normal,
        3 => random.unit() * 86_400.0,
        _ if random.unit() < 0.4 => 0.0,
        _ => normal.abs() * 10.0,
    };
    let effect = match feature % 5 {
        0 => normal.max(-1.0),
        1 => (value / 10.0).sin(),
        2 => -normal * normal / 2.0,
        3 => f64::from(value < 20_000.0),
        _ => value / 20.0,
    };
    (value, effect)
}

/// A LightGBM booster.
#[derive(Debug)]
pub struct Oracle {
    handle: sys::BoosterHandle,
    num_outputs: usize,
    num_features: usize,
}

fn check(code: i32) -> Result<(), String> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: LightGBM returns a string that ends in 0 and that this thread's next call may change; it is copied at once.
    Err(unsafe { CStr::from_ptr(sys::LGBM_GetLastError()) }.to_string_lossy().into_owned())
}

impl Oracle {
    /// Trains on `rows` and returns the model's text.
    ///
    /// # Errors
    /// LightGBM's message.
    pub fn train(rows: &Rows, parameters: &str, iterations: usize) -> Result<String, String> {
        let parameters = CString::new(format!("num_threads=1 verbosity=-1 deterministic=true seed=7 {parameters}"))
            .expect("no zero");
        let (mut dataset, mut booster) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the pointers are to live buffers of the lengths that are given with them; handles are freed once.
        unsafe {
            check(sys::LGBM_DatasetCreateFromMat(
                rows.values.as_ptr().cast::<c_void>(),
                DOUBLE,
                rows.num_rows() as i32,
                rows.num_features as i32,
                1,
                parameters.as_ptr(),
                ptr::null_mut(),
                &mut dataset,
            ))?;
            let count = rows.labels.len() as i32;
            check(sys::LGBM_DatasetSetField(dataset, c"label".as_ptr(), rows.labels.as_ptr().cast(), count, FLOAT))?;
            check(sys::LGBM_BoosterCreate(dataset, parameters.as_ptr(), &mut booster))?;
            let mut finished = 0;
            for _ in 0..iterations {
                check(sys::LGBM_BoosterUpdateOneIter(booster, &mut finished))?;
            }
            let mut len = 0;
            check(sys::LGBM_BoosterSaveModelToString(booster, 0, -1, 0, 0, &mut len, ptr::null_mut()))?;
            let mut text = vec![0_u8; len as usize];
            check(sys::LGBM_BoosterSaveModelToString(booster, 0, -1, 0, len, &mut len, text.as_mut_ptr().cast()))?;
            check(sys::LGBM_BoosterFree(booster))?;
            check(sys::LGBM_DatasetFree(dataset))?;
            text.pop();
            String::from_utf8(text).map_err(|error| error.to_string())
        }
    }

    /// Loads a model's text.
    ///
    /// # Errors
    /// LightGBM's message.
    pub fn load(text: &str) -> Result<Self, String> {
        let text = CString::new(text).map_err(|error| error.to_string())?;
        let (mut iterations, mut classes, mut features) = (0, 0, 0);
        let mut handle = ptr::null_mut();
        // SAFETY: the text ends in 0; the out-pointers live until the calls return.
        unsafe {
            check(sys::LGBM_BoosterLoadModelFromString(text.as_ptr(), &mut iterations, &mut handle))?;
            check(sys::LGBM_BoosterGetNumClasses(handle, &mut classes))?;
            check(sys::LGBM_BoosterGetNumFeature(handle, &mut features))?;
        }
        Ok(Self { handle, num_outputs: classes as usize, num_features: features as usize })
    }

    pub fn num_outputs(&self) -> usize {
        self.num_outputs
    }

    /// Predicts rows, given row by row, into `scores`, row by row.
    pub fn predict(&self, values: &[f64], scores: &mut [f64]) {
        self.predict_as(NORMAL, self.num_outputs, values, scores);
    }

    /// As [`Oracle::predict`], before the objective's transform.
    pub fn predict_raw(&self, values: &[f64], scores: &mut [f64]) {
        self.predict_as(RAW, self.num_outputs, values, scores);
    }

    /// LightGBM's `pred_contrib`: row by row, for each class the features' contributions and the expected raw score.
    pub fn contributions(&self, values: &[f64], contributions: &mut [f64]) {
        self.predict_as(CONTRIBUTIONS, self.num_outputs * (self.num_features + 1), values, contributions);
    }

    fn predict_as(&self, kind: i32, per_row: usize, values: &[f64], answers: &mut [f64]) {
        let rows = values.len() / self.num_features;
        assert_eq!(values.len(), rows * self.num_features);
        assert_eq!(answers.len(), rows * per_row);
        let mut len = 0;
        // SAFETY: the buffers have the lengths that are given, as was just asserted.
        let code = unsafe {
            sys::LGBM_BoosterPredictForMat(
                self.handle,
                values.as_ptr().cast(),
                DOUBLE,
                rows as i32,
                self.num_features as i32,
                1,
                kind,
                0,
                -1,
                PARAMETERS.as_ptr(),
                &mut len,
                answers.as_mut_ptr(),
            )
        };
        check(code).expect("LightGBM predicts");
        assert_eq!(len as usize, answers.len());
    }

    /// LightGBM's fast path for single rows.
    pub fn single_row(&self) -> SingleRow<'_> {
        let mut fast = ptr::null_mut();
        // SAFETY: the parameters end in 0; the out-pointer lives until the call returns.
        let code = unsafe {
            sys::LGBM_BoosterPredictForMatSingleRowFastInit(
                self.handle,
                NORMAL,
                0,
                -1,
                DOUBLE,
                self.num_features as i32,
                PARAMETERS.as_ptr(),
                &mut fast,
            )
        };
        check(code).expect("LightGBM prepares single rows");
        SingleRow { oracle: self, fast }
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        // SAFETY: the handle came from LightGBM and is not used after this.
        unsafe { sys::LGBM_BoosterFree(self.handle) };
    }
}

/// A prepared single-row prediction.
#[derive(Debug)]
pub struct SingleRow<'a> {
    oracle: &'a Oracle,
    fast: sys::FastConfigHandle,
}

impl SingleRow<'_> {
    pub fn predict(&self, row: &[f64], scores: &mut [f64]) {
        assert_eq!(row.len(), self.oracle.num_features);
        assert_eq!(scores.len(), self.oracle.num_outputs);
        let mut len = 0;
        // SAFETY: the buffers have the lengths that the model asks for, as was just asserted.
        let code = unsafe {
            sys::LGBM_BoosterPredictForMatSingleRowFast(self.fast, row.as_ptr().cast(), &mut len, scores.as_mut_ptr())
        };
        check(code).expect("LightGBM predicts");
    }
}

impl Drop for SingleRow<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle came from LightGBM and is not used after this.
        unsafe { sys::LGBM_FastConfigFree(self.fast) };
    }
}
