//! Column values as words of 64 bits, the one form in which state holds them, and the way from Arrow and back. A
//! boolean is 0 or 1, a float its bits, a decimal of up to 18 digits its digits, a string (or a longer decimal, as bytes)
//! its number in [`super::strings`]. It refuses types that are made of others (lists, structs) by name.

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryArray, BinaryBuilder, BinaryViewArray, BooleanArray,
    BooleanBufferBuilder, LargeBinaryArray, LargeStringArray, PrimitiveArray, StringArray, StringViewArray,
    cast::as_primitive_array, new_empty_array,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Decimal128Type, Decimal256Type, TimeUnit, i256};
use std::sync::Arc;

use crate::error::{Error, Result};

/// Digits of a decimal that fit into a word, whatever they are.
const WORD_DIGITS: u8 = 18;

/// How a word is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Two's complement, extended by its sign.
    Signed,
    /// Extended by zeros.
    Unsigned,
    /// The bits of a double.
    Float64,
    /// The bits of a float, in the lower half.
    Float32,
    /// 0 or 1.
    Boolean,
    /// The number of a string, or of other bytes that are ordered as the values are.
    Bytes,
}

impl Kind {
    /// The kind of a type's words; `None` for types that state does not hold.
    #[must_use]
    pub fn of(data_type: &DataType) -> Option<Kind> {
        Some(match data_type {
            DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => Kind::Signed,
            DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => Kind::Signed,
            DataType::Time32(TimeUnit::Second | TimeUnit::Millisecond) => Kind::Signed,
            DataType::Time64(TimeUnit::Microsecond | TimeUnit::Nanosecond) | DataType::Duration(_) => Kind::Signed,
            DataType::Decimal32(..) | DataType::Decimal64(..) => Kind::Signed,
            DataType::Decimal128(precision, _) if *precision <= WORD_DIGITS => Kind::Signed,
            DataType::Decimal128(..) | DataType::Decimal256(..) => Kind::Bytes,
            DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => Kind::Unsigned,
            DataType::Float64 => Kind::Float64,
            DataType::Float32 => Kind::Float32,
            DataType::Boolean => Kind::Boolean,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Kind::Bytes,
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => Kind::Bytes,
            _ => return None,
        })
    }

    /// The word as a double: what a cast to `DOUBLE` gives. Strings have none.
    #[inline(always)]
    #[must_use]
    pub fn as_f64(self, word: u64) -> f64 {
        match self {
            Kind::Float64 => f64::from_bits(word),
            Kind::Signed => word as i64 as f64,
            Kind::Float32 => f64::from(f32::from_bits(word as u32)),
            Kind::Unsigned | Kind::Boolean | Kind::Bytes => word as f64,
        }
    }

    /// A number that orders words as DataFusion's `min` and `max` do: floats by `total_cmp` (-0.0 below 0.0, NaN above
    /// infinity), booleans false first. Strings are compared as strings, elsewhere.
    #[inline(always)]
    #[must_use]
    pub fn order_key(self, word: u64) -> i64 {
        match self {
            Kind::Signed => word as i64,
            Kind::Unsigned | Kind::Boolean | Kind::Bytes => (word ^ (1 << 63)) as i64,
            Kind::Float64 => {
                let bits = word as i64;
                bits ^ (((bits >> 63) as u64) >> 1) as i64
            }
            Kind::Float32 => {
                let bits = word as u32 as i32;
                i64::from(bits ^ (((bits >> 31) as u32) >> 1) as i32)
            }
        }
    }
}

/// Calls `$act!(ArrowType)` with the primitive type of a data type.
macro_rules! by_primitive {
    ($data_type:expr, $act:ident, $otherwise:expr) => {{
        use arrow::datatypes::*;
        match $data_type {
            DataType::Int8 => $act!(Int8Type),
            DataType::Int16 => $act!(Int16Type),
            DataType::Int32 => $act!(Int32Type),
            DataType::Int64 => $act!(Int64Type),
            DataType::UInt8 => $act!(UInt8Type),
            DataType::UInt16 => $act!(UInt16Type),
            DataType::UInt32 => $act!(UInt32Type),
            DataType::UInt64 => $act!(UInt64Type),
            DataType::Float32 => $act!(Float32Type),
            DataType::Float64 => $act!(Float64Type),
            DataType::Decimal32(..) => $act!(Decimal32Type),
            DataType::Decimal64(..) => $act!(Decimal64Type),
            DataType::Date32 => $act!(Date32Type),
            DataType::Date64 => $act!(Date64Type),
            DataType::Time32(TimeUnit::Second) => $act!(Time32SecondType),
            DataType::Time32(TimeUnit::Millisecond) => $act!(Time32MillisecondType),
            DataType::Time64(TimeUnit::Microsecond) => $act!(Time64MicrosecondType),
            DataType::Time64(TimeUnit::Nanosecond) => $act!(Time64NanosecondType),
            DataType::Timestamp(TimeUnit::Second, _) => $act!(TimestampSecondType),
            DataType::Timestamp(TimeUnit::Millisecond, _) => $act!(TimestampMillisecondType),
            DataType::Timestamp(TimeUnit::Microsecond, _) => $act!(TimestampMicrosecondType),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => $act!(TimestampNanosecondType),
            DataType::Duration(TimeUnit::Second) => $act!(DurationSecondType),
            DataType::Duration(TimeUnit::Millisecond) => $act!(DurationMillisecondType),
            DataType::Duration(TimeUnit::Microsecond) => $act!(DurationMicrosecondType),
            DataType::Duration(TimeUnit::Nanosecond) => $act!(DurationNanosecondType),
            _ => $otherwise,
        }
    }};
}

/// A native number as a word and back.
trait Word: Copy {
    fn to_word(self) -> u64;
    fn from_word(word: u64) -> Self;
}

macro_rules! integer_words {
    ($($native:ty),*) => {$(
        impl Word for $native {
            #[inline(always)]
            fn to_word(self) -> u64 { self as i64 as u64 }
            #[inline(always)]
            fn from_word(word: u64) -> Self { word as $native }
        }
    )*};
}
integer_words!(i8, i16, i32, i64, u8, u16, u32, u64);

impl Word for f64 {
    #[inline(always)]
    fn to_word(self) -> u64 {
        self.to_bits()
    }
    #[inline(always)]
    fn from_word(word: u64) -> Self {
        f64::from_bits(word)
    }
}

impl Word for f32 {
    #[inline(always)]
    fn to_word(self) -> u64 {
        u64::from(self.to_bits())
    }
    #[inline(always)]
    fn from_word(word: u64) -> Self {
        f32::from_bits(word as u32)
    }
}

/// The strings of an input column, whichever of Arrow's layouts it has, and numbers that do not fit into a word as bytes
/// that are ordered as they are.
#[derive(Debug)]
pub enum Bytes<'a> {
    /// `Utf8`.
    Text(&'a StringArray),
    /// `LargeUtf8`.
    LargeText(&'a LargeStringArray),
    /// `Utf8View`.
    TextView(&'a StringViewArray),
    /// `Binary`.
    Binary(&'a BinaryArray),
    /// `LargeBinary`.
    LargeBinary(&'a LargeBinaryArray),
    /// `BinaryView`.
    BinaryView(&'a BinaryViewArray),
    /// `Decimal128` of more digits than a word holds.
    Decimal128(Vec<[u8; 16]>),
    /// `Decimal256`.
    Decimal256(Vec<[u8; 32]>),
}

impl<'a> Bytes<'a> {
    /// The strings of `array`, if it has any.
    #[must_use]
    pub fn of(array: &'a ArrayRef) -> Option<Bytes<'a>> {
        match array.data_type() {
            DataType::Utf8 => array.as_string_opt::<i32>().map(Bytes::Text),
            DataType::LargeUtf8 => array.as_string_opt::<i64>().map(Bytes::LargeText),
            DataType::Utf8View => array.as_string_view_opt().map(Bytes::TextView),
            DataType::Binary => array.as_binary_opt::<i32>().map(Bytes::Binary),
            DataType::LargeBinary => array.as_binary_opt::<i64>().map(Bytes::LargeBinary),
            DataType::BinaryView => array.as_binary_view_opt().map(Bytes::BinaryView),
            DataType::Decimal128(..) if Kind::of(array.data_type()) == Some(Kind::Bytes) => {
                let values = array.as_primitive_opt::<Decimal128Type>()?.values();
                Some(Bytes::Decimal128(values.iter().map(|value| ordered(value.to_be_bytes())).collect()))
            }
            DataType::Decimal256(..) => {
                let values = array.as_primitive_opt::<Decimal256Type>()?.values();
                Some(Bytes::Decimal256(values.iter().map(|value| ordered(value.to_be_bytes())).collect()))
            }
            _ => None,
        }
    }

    /// The string of a row that is not null.
    #[inline]
    #[must_use]
    pub fn get(&self, row: usize) -> &[u8] {
        match self {
            Bytes::Text(array) => array.value(row).as_bytes(),
            Bytes::LargeText(array) => array.value(row).as_bytes(),
            Bytes::TextView(array) => array.value(row).as_bytes(),
            Bytes::Binary(array) => array.value(row),
            Bytes::LargeBinary(array) => array.value(row),
            Bytes::BinaryView(array) => array.value(row),
            Bytes::Decimal128(values) => &values[row],
            Bytes::Decimal256(values) => &values[row],
        }
    }
}

/// Bytes of a two's complement number, the highest first, made such that their order is that of the numbers; and back.
fn ordered<const N: usize>(mut bytes: [u8; N]) -> [u8; N] {
    bytes[0] ^= 0x80;
    bytes
}

/// An input column, read once per batch: words (zero for strings), the strings, and which rows are null.
#[derive(Debug)]
pub struct InputColumn<'a> {
    /// One word per row; empty for what is held as bytes.
    pub words: Vec<u64>,
    /// The bytes, for a column that is held as such.
    pub bytes: Option<Bytes<'a>>,
    /// Which rows are null, if any is.
    pub nulls: Option<NullBuffer>,
}

impl<'a> InputColumn<'a> {
    /// Reads `array`, which must have the type that was declared.
    pub fn read(array: &'a ArrayRef, declared: &DataType) -> Result<InputColumn<'a>> {
        if array.data_type() != declared {
            return Err(Error::internal(format!(
                "an over-window was given a column of type {}, its spec says {declared}",
                array.data_type()
            )));
        }
        let nulls = array.logical_nulls().filter(|nulls| nulls.null_count() > 0);
        if let Some(bytes) = Bytes::of(array) {
            return Ok(InputColumn { words: Vec::new(), bytes: Some(bytes), nulls });
        }
        Ok(InputColumn { words: to_words(array)?, bytes: None, nulls })
    }

    /// Whether a row is not null.
    #[inline(always)]
    #[must_use]
    pub fn is_valid(&self, row: usize) -> bool {
        self.nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row))
    }
}

fn to_words(array: &ArrayRef) -> Result<Vec<u64>> {
    fn words<T: ArrowPrimitiveType<Native: Word>>(array: &ArrayRef) -> Vec<u64> {
        as_primitive_array::<T>(array).values().iter().map(|value| value.to_word()).collect()
    }
    macro_rules! read {
        ($type:ty) => {
            words::<$type>(array)
        };
    }
    if let Some(booleans) = array.as_boolean_opt() {
        return Ok(booleans.values().iter().map(u64::from).collect());
    }
    if let Some(decimals) = array.as_primitive_opt::<Decimal128Type>() {
        return decimals.iter().map(|value| decimal_word(value.unwrap_or(0), array.data_type())).collect();
    }
    Ok(by_primitive!(array.data_type(), read, return Err(unsupported(array.data_type()))))
}

/// Arrow does not hold a decimal to the digits of its type; SQL does.
fn decimal_word(value: i128, data_type: &DataType) -> Result<u64> {
    let word = i64::try_from(value).map_err(|_| {
        Error::data(format!(
            "a column of type {data_type} has a value of more digits; CAST it to the type that it needs"
        ))
    })?;
    Ok(word.to_word())
}

/// The error for a type that state does not hold.
pub fn unsupported(data_type: &DataType) -> Error {
    Error::invalid(format!(
        "an over-window cannot hold a column of type {data_type}; it holds integers, floats, decimals, booleans, strings, bytes, dates, times and timestamps"
    ))
}

/// A column that is built a row at a time from words.
#[derive(Debug)]
pub struct ColumnBuilder {
    data_type: DataType,
    words: Vec<u64>,
    bytes: Option<BinaryBuilder>,
    /// Which words are no nulls; begun at the first null.
    valid: Option<BooleanBufferBuilder>,
}

impl ColumnBuilder {
    /// An empty column. The type must be one that has a [`Kind`].
    #[must_use]
    pub fn new(data_type: &DataType, rows: usize) -> ColumnBuilder {
        let is_bytes = Kind::of(data_type) == Some(Kind::Bytes);
        ColumnBuilder {
            data_type: data_type.clone(),
            words: Vec::with_capacity(if is_bytes { 0 } else { rows }),
            bytes: is_bytes.then(|| BinaryBuilder::with_capacity(rows, 0)),
            valid: None,
        }
    }

    /// Appends a word, or null. Not for what is held as bytes.
    #[inline(always)]
    pub fn push(&mut self, word: Option<u64>) {
        if word.is_none() || self.valid.is_some() {
            self.push_valid(word.is_some());
        }
        self.words.push(word.unwrap_or(0));
    }

    fn push_valid(&mut self, is_valid: bool) {
        let valid = self.valid.get_or_insert_with(|| {
            let mut valid = BooleanBufferBuilder::new(self.words.capacity());
            valid.append_n(self.words.len(), true);
            valid
        });
        valid.append(is_valid);
    }

    /// Appends words none of which is null. Not for what is held as bytes.
    pub fn extend(&mut self, words: &[u64]) {
        if let Some(valid) = &mut self.valid {
            valid.append_n(words.len(), true);
        }
        self.words.extend_from_slice(words);
    }

    /// Appends a string, or null. Only for what is held as bytes.
    pub fn push_bytes(&mut self, bytes: Option<&[u8]>) {
        if let Some(builder) = &mut self.bytes {
            builder.append_option(bytes);
        }
    }

    /// Whether its values are held as bytes.
    #[inline(always)]
    #[must_use]
    pub fn is_bytes(&self) -> bool {
        self.bytes.is_some()
    }

    /// The column.
    pub fn finish(self) -> Result<ArrayRef> {
        fn build<T: ArrowPrimitiveType<Native: Word>>(
            data_type: &DataType,
            words: Vec<u64>,
            nulls: Option<NullBuffer>,
        ) -> ArrayRef {
            let values: Vec<T::Native> = words.into_iter().map(T::Native::from_word).collect();
            Arc::new(PrimitiveArray::<T>::new(values.into(), nulls).with_data_type(data_type.clone()))
        }
        if let Some(mut bytes) = self.bytes {
            return from_bytes(bytes.finish(), &self.data_type);
        }
        let nulls = self.valid.map(|mut valid| NullBuffer::new(valid.finish()));
        if self.data_type == DataType::Boolean {
            let values = self.words.iter().map(|word| *word != 0).collect();
            return Ok(Arc::new(BooleanArray::new(values, nulls)));
        }
        if let DataType::Decimal128(..) = self.data_type {
            let values: Vec<i128> = self.words.into_iter().map(|word| i64::from_word(word).into()).collect();
            let array = PrimitiveArray::<Decimal128Type>::new(values.into(), nulls);
            return Ok(Arc::new(array.with_data_type(self.data_type)));
        }
        macro_rules! finish {
            ($type:ty) => {
                build::<$type>(&self.data_type, self.words, nulls)
            };
        }
        if self.words.is_empty() {
            return Ok(new_empty_array(&self.data_type));
        }
        Ok(by_primitive!(&self.data_type, finish, return Err(unsupported(&self.data_type))))
    }
}

/// The column of a type whose values are held as bytes. Strings are checked to be such once more: all at once, which is
/// cheap.
fn from_bytes(array: BinaryArray, data_type: &DataType) -> Result<ArrayRef> {
    let text = |array| {
        StringArray::try_from_binary(array)
            .map_err(|_| Error::data("a retained string is no UTF-8; its state is damaged"))
    };
    let damaged = || Error::data("a retained decimal has another number of bytes; its state is damaged");
    Ok(match data_type {
        DataType::Utf8 => Arc::new(text(array)?),
        DataType::LargeUtf8 => Arc::new(text(array)?.iter().collect::<LargeStringArray>()),
        DataType::Utf8View => Arc::new(text(array)?.iter().collect::<StringViewArray>()),
        DataType::Binary => Arc::new(array),
        DataType::LargeBinary => Arc::new(array.iter().collect::<LargeBinaryArray>()),
        DataType::BinaryView => Arc::new(array.iter().collect::<BinaryViewArray>()),
        DataType::Decimal128(..) => {
            let value = |bytes: &[u8]| bytes.try_into().map(|bytes| i128::from_be_bytes(ordered(bytes)));
            let values = array.iter().map(|bytes| bytes.map(value).transpose());
            let array: PrimitiveArray<Decimal128Type> = values.collect::<Result<_, _>>().map_err(|_| damaged())?;
            Arc::new(array.with_data_type(data_type.clone()))
        }
        DataType::Decimal256(..) => {
            let value = |bytes: &[u8]| bytes.try_into().map(|bytes| i256::from_be_bytes(ordered(bytes)));
            let values = array.iter().map(|bytes| bytes.map(value).transpose());
            let array: PrimitiveArray<Decimal256Type> = values.collect::<Result<_, _>>().map_err(|_| damaged())?;
            Arc::new(array.with_data_type(data_type.clone()))
        }
        other => return Err(unsupported(other)),
    })
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;

    use super::*;

    #[test]
    fn values_of_every_type_come_back_as_they_were() {
        let texts = StringArray::from(vec![Some("a"), None, Some(""), Some("b\u{e9}"), Some("-12"), Some("7")]);
        let numbers = Int64Array::from(vec![Some(-12), None, Some(0), Some(99), Some(7), Some(-1)]);
        let cast = |array: &dyn Array, data_type: &DataType| arrow::compute::cast(array, data_type).unwrap();
        let mut arrays: Vec<ArrayRef> = Vec::new();
        for data_type in [DataType::Utf8, DataType::LargeUtf8, DataType::Utf8View] {
            arrays.push(cast(&texts, &data_type));
        }
        for data_type in [DataType::Binary, DataType::LargeBinary, DataType::BinaryView] {
            arrays.push(cast(&cast(&texts, &DataType::Binary), &data_type));
        }
        for data_type in [
            DataType::Int8,
            DataType::Int64,
            DataType::Float32,
            DataType::Boolean,
            DataType::Date32,
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            DataType::Decimal32(5, 2),
            DataType::Decimal64(12, 2),
            DataType::Decimal128(18, 2),
            DataType::Decimal128(19, 2),
            DataType::Decimal128(38, 10),
            DataType::Decimal256(70, 10),
        ] {
            let numbers = if data_type == DataType::Date32 {
                cast(&numbers, &DataType::Int32)
            } else {
                Arc::new(numbers.clone())
            };
            arrays.push(cast(&numbers, &data_type));
        }
        for array in arrays {
            let column = InputColumn::read(&array, array.data_type()).unwrap();
            let mut builder = ColumnBuilder::new(array.data_type(), 0);
            for row in 0..array.len() {
                match &column.bytes {
                    Some(bytes) => builder.push_bytes(column.is_valid(row).then(|| bytes.get(row))),
                    None => builder.push(column.is_valid(row).then(|| column.words[row])),
                }
            }
            assert_eq!(&builder.finish().unwrap(), &array, "{}", array.data_type());
        }
    }

    #[test]
    fn long_decimals_are_ordered_as_their_bytes_are() {
        let values = [i256::MIN, i256::from_i128(i128::MIN), i256::from_i128(-1), i256::ZERO, i256::ONE, i256::MAX];
        let array: PrimitiveArray<Decimal256Type> = values.iter().copied().map(Some).collect();
        let array: ArrayRef = Arc::new(array);
        let bytes = Bytes::of(&array).unwrap();
        assert!((1..values.len()).all(|row| bytes.get(row - 1) < bytes.get(row)));
    }

    #[test]
    fn words_are_appended_at_once_behind_a_null_too() {
        let mut builder = ColumnBuilder::new(&DataType::Int64, 0);
        builder.extend(&[1, 2]);
        builder.push(None);
        builder.extend(&[3]);
        let wanted: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(2), None, Some(3)]));
        assert_eq!(&builder.finish().unwrap(), &wanted);
    }

    #[test]
    fn floats_are_ordered_as_total_cmp_orders_them() {
        let values = [f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 1.0, -1.0, 5e-324, 1e300];
        for a in values {
            for b in values {
                let keys = (Kind::Float64.order_key(a.to_bits()), Kind::Float64.order_key(b.to_bits()));
                assert_eq!(keys.0.cmp(&keys.1), a.total_cmp(&b), "{a} {b}");
                let (a, b) = (a as f32, b as f32);
                let keys = (Kind::Float32.order_key(a.to_word()), Kind::Float32.order_key(b.to_word()));
                assert_eq!(keys.0.cmp(&keys.1), a.total_cmp(&b), "{a} {b}");
            }
        }
        assert!(Kind::Unsigned.order_key(u64::MAX) > Kind::Unsigned.order_key(0));
        assert!(Kind::Signed.order_key(-1_i64 as u64) < Kind::Signed.order_key(0));
    }
}
