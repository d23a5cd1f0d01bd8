//! LightGBM's C library as far as training needs it: rows in bins, and a booster that grows tree by tree, so that the caller
//! decides when to stop. The only unsafe code of training. One thread a booster; several boosters share binned rows.
#![expect(unsafe_code, reason = "growing a model tree by tree exists in LightGBM's C API only")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::ptr::null_mut;

use lightgbm3_sys as sys;

use super::rows::RowsView;
use crate::error::{Error, Result};

/// The version of LightGBM that is linked.
pub(super) const LIGHTGBM_VERSION: &str = "4.7.0";

const FLOAT32: c_int = 0;
const FLOAT64: c_int = 1;
/// Of the data that a booster knows, the first beside its training rows.
const VALIDATION: c_int = 1;

fn check(code: c_int, act: &str) -> Result<()> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: LightGBM returns a pointer to a text of this thread that ends with a zero and stays until the next call.
    let why = unsafe { CStr::from_ptr(sys::LGBM_GetLastError()) }.to_string_lossy().into_owned();
    Err(Error::internal(format!("lightgbm cannot {act}: {why}")))
}

fn c_text(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::invalid("a name with a zero byte cannot be given to LightGBM"))
}

fn count(count: usize, what: &str) -> Result<i32> {
    i32::try_from(count)
        .map_err(|_| Error::invalid(format!("{count} {what} are more than LightGBM takes ({})", i32::MAX)))
}

/// Rows in the bins of LightGBM.
#[derive(Debug)]
pub(super) struct BinnedRows {
    handle: sys::DatasetHandle,
    num_rows: usize,
}

// SAFETY: after `new` nothing changes a dataset: a booster takes it as `const Dataset*`, and the class has no mutable members.
unsafe impl Send for BinnedRows {}
// SAFETY: as above.
unsafe impl Sync for BinnedRows {}

impl BinnedRows {
    /// Puts rows into bins: into those of `reference`, if it is given.
    pub(super) fn new(
        rows: &RowsView<'_>,
        names: &[String],
        parameters: &str,
        reference: Option<&BinnedRows>,
    ) -> Result<BinnedRows> {
        let num_rows = rows.labels.len();
        if rows.values.len() != num_rows * names.len() {
            return Err(Error::internal("rows to train on lost some of their values"));
        }
        let (nrow, ncol) = (count(num_rows, "rows")?, count(names.len(), "features")?);
        let parameters = c_text(parameters)?;
        let reference = reference.map_or(null_mut(), |reference| reference.handle);
        let mut handle = null_mut();
        // SAFETY: `values` has nrow * ncol numbers, row by row; LightGBM reads them during the call only.
        let code = unsafe {
            sys::LGBM_DatasetCreateFromMat(
                rows.values.as_ptr().cast::<c_void>(),
                FLOAT64,
                nrow,
                ncol,
                1,
                parameters.as_ptr(),
                reference,
                &raw mut handle,
            )
        };
        check(code, "put the rows into bins")?;
        let binned = BinnedRows { handle, num_rows };
        let labels: Vec<f32> = rows.labels.iter().map(|label| f32::from(u8::from(*label))).collect();
        // SAFETY: `labels` has nrow numbers, which LightGBM copies; the name ends with a zero.
        let code = unsafe {
            sys::LGBM_DatasetSetField(handle, c"label".as_ptr(), labels.as_ptr().cast::<c_void>(), nrow, FLOAT32)
        };
        check(code, "take the labels")?;
        let names = names.iter().map(|name| c_text(name)).collect::<Result<Vec<_>>>()?;
        let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
        // SAFETY: there are ncol texts, each ends with a zero and outlives the call; LightGBM copies them.
        let code = unsafe { sys::LGBM_DatasetSetFeatureNames(handle, pointers.as_mut_ptr(), ncol) };
        check(code, "take the names of the features")?;
        Ok(binned)
    }
}

impl Drop for BinnedRows {
    fn drop(&mut self) {
        // SAFETY: the handle is ours alone, and boosters that use it have ended: they borrow it.
        drop(check(unsafe { sys::LGBM_DatasetFree(self.handle) }, "free rows"));
    }
}

/// A model that grows.
#[derive(Debug)]
pub(super) struct Booster<'a> {
    handle: sys::BoosterHandle,
    num_validation: usize,
    rows: PhantomData<&'a BinnedRows>,
}

impl<'a> Booster<'a> {
    /// A model without trees.
    pub(super) fn new(train: &'a BinnedRows, validation: &'a BinnedRows, parameters: &str) -> Result<Booster<'a>> {
        let parameters = c_text(parameters)?;
        let mut handle = null_mut();
        // SAFETY: the dataset lives as long as the booster, which borrows it.
        let code = unsafe { sys::LGBM_BoosterCreate(train.handle, parameters.as_ptr(), &raw mut handle) };
        check(code, "begin a model")?;
        let booster = Booster { handle, num_validation: validation.num_rows, rows: PhantomData };
        // SAFETY: as above.
        check(unsafe { sys::LGBM_BoosterAddValidData(handle, validation.handle) }, "take the validation rows")?;
        Ok(booster)
    }

    /// Grows one more tree. Returns whether there was anything left to learn.
    pub(super) fn grow(&mut self) -> Result<bool> {
        let mut is_finished: c_int = 0;
        // SAFETY: the handle is a booster's.
        let code = unsafe { sys::LGBM_BoosterUpdateOneIter(self.handle, &raw mut is_finished) };
        check(code, "grow a tree")?;
        Ok(is_finished == 0)
    }

    /// Scores of the validation rows so far.
    pub(super) fn validation_scores(&mut self, scores: &mut Vec<f64>) -> Result<()> {
        scores.resize(self.num_validation, 0.0);
        let mut written: i64 = 0;
        // SAFETY: a binary model writes one number for each validation row, and there is room for them.
        let code =
            unsafe { sys::LGBM_BoosterGetPredict(self.handle, VALIDATION, &raw mut written, scores.as_mut_ptr()) };
        check(code, "score the validation rows")?;
        if usize::try_from(written) == Ok(self.num_validation) {
            Ok(())
        } else {
            Err(Error::internal("lightgbm did not score all validation rows"))
        }
    }

    /// The text of the model with its first trees.
    pub(super) fn text(&self, num_trees: u32) -> Result<String> {
        let num_trees = count(num_trees as usize, "trees")?;
        let mut length: i64 = 0;
        let mut save = |bytes: &mut [u8]| {
            let room = bytes.len() as i64;
            // SAFETY: LightGBM writes at most `room` bytes, and says how many the text has.
            let code = unsafe {
                sys::LGBM_BoosterSaveModelToString(
                    self.handle,
                    0,
                    num_trees,
                    0,
                    room,
                    &raw mut length,
                    bytes.as_mut_ptr().cast::<c_char>(),
                )
            };
            check(code, "write the model").map(|()| usize::try_from(length).unwrap_or(0))
        };
        let mut bytes = vec![0_u8; save(&mut [])?];
        save(&mut bytes)?;
        let text = CStr::from_bytes_until_nul(&bytes).ok().and_then(|text| text.to_str().ok());
        text.map(str::to_owned).ok_or_else(|| Error::internal("lightgbm wrote a model that is no text"))
    }
}

impl Drop for Booster<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is ours alone.
        drop(check(unsafe { sys::LGBM_BoosterFree(self.handle) }, "free a model"));
    }
}
