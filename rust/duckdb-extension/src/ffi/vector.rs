//! Columns of a chunk: [`Input`] reads the arguments of a scalar function, [`Column`] fills a
//! result. Types are checked when a column is opened, lengths when a slice is taken, so that what
//! is handed out is an ordinary slice.

use std::marker::PhantomData;
use std::slice;

use libduckdb_sys as duckdb;

use super::types::{LogicalType, SqlType};
use crate::failure::{Failure, Result};

/// Rows that fit in one chunk (2048 in every `DuckDB` so far).
pub(crate) fn chunk_capacity() -> usize {
    // SAFETY: a pure function of the API.
    usize::try_from(unsafe { duckdb::duckdb_vector_size() }).unwrap_or(2048)
}

/// A count, index or size as `BIGINT`.
pub(crate) fn bigint(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn check_type(vector: duckdb::duckdb_vector, expected: SqlType) -> Result<()> {
    // SAFETY: `vector` is live while its chunk is; the type is a new object that we own.
    let actual = unsafe { LogicalType::from_raw(duckdb::duckdb_vector_get_column_type(vector)) };
    if actual.is(expected) {
        return Ok(());
    }
    Err(Failure::new(format!("a column should be {} and is not", expected.sql())))
}

/// The chunk that a table function fills: one column per projected column, in that order.
#[derive(Debug)]
pub(crate) struct OutputChunk<'a> {
    chunk: duckdb::duckdb_data_chunk,
    n_column: usize,
    lifetime: PhantomData<&'a mut ()>,
}

impl OutputChunk<'_> {
    /// The chunk `chunk`.
    ///
    /// # Safety
    /// `chunk` is live and used by nobody else for the lifetime of the result.
    pub(super) unsafe fn new(chunk: duckdb::duckdb_data_chunk) -> Self {
        // SAFETY: by the promise above.
        let n_column = unsafe { duckdb::duckdb_data_chunk_get_column_count(chunk) };
        Self { chunk, n_column: usize::try_from(n_column).unwrap_or(0), lifetime: PhantomData }
    }

    /// Column `index` with room for `n_row` values of type `sql_type`.
    pub(crate) fn column(
        &mut self,
        index: usize,
        sql_type: SqlType,
        n_row: usize,
    ) -> Result<Column<'_>> {
        if index >= self.n_column || n_row > chunk_capacity() {
            return Err(Failure::new(format!(
                "column {index} with {n_row} rows is outside the chunk"
            )));
        }
        // SAFETY: the chunk is live and `index` is one of its columns.
        let vector = unsafe { duckdb::duckdb_data_chunk_get_vector(self.chunk, index as u64) };
        // SAFETY: the vector lives as long as the chunk, is borrowed through `self`, and a chunk's
        // vectors have room for `chunk_capacity()` rows.
        unsafe { Column::new(vector, sql_type, n_row) }
    }

    /// Says how many rows were filled.
    pub(super) fn set_rows(&mut self, n_row: usize) {
        // SAFETY: the chunk is live; `n_row` is at most its capacity (checked by `column`).
        unsafe { duckdb::duckdb_data_chunk_set_size(self.chunk, n_row as u64) };
    }
}

/// A column being filled.
#[derive(Debug)]
pub(crate) struct Column<'a> {
    vector: duckdb::duckdb_vector,
    sql_type: SqlType,
    n_row: usize,
    lifetime: PhantomData<&'a mut ()>,
}

impl Column<'_> {
    /// The vector `vector`, which must be of type `sql_type`.
    ///
    /// # Safety
    /// `vector` is live, has room for `n_row` rows and is used by nobody else for the lifetime of
    /// the result.
    pub(super) unsafe fn new(
        vector: duckdb::duckdb_vector,
        sql_type: SqlType,
        n_row: usize,
    ) -> Result<Self> {
        check_type(vector, sql_type)?;
        Ok(Self { vector, sql_type, n_row, lifetime: PhantomData })
    }

    /// The values of a `BIGINT` column: `[n_row]`.
    pub(crate) fn integers(&mut self) -> Result<&mut [i64]> {
        self.expect(SqlType::BigInt)?;
        // SAFETY: a BIGINT vector holds i64 values, `n_row` of them by the promise in `new`.
        Ok(unsafe { slice_mut(self.vector, self.n_row) })
    }

    /// The values of a `FLOAT` column: `[n_row]`.
    pub(crate) fn floats(&mut self) -> Result<&mut [f32]> {
        self.expect(SqlType::Float)?;
        // SAFETY: a FLOAT vector holds f32 values, `n_row` of them by the promise in `new`.
        Ok(unsafe { slice_mut(self.vector, self.n_row) })
    }

    /// The elements of a column of vectors of `width` floats, `[n_row, width]`, whether the column
    /// is `FLOAT[width]` or `FLOAT[]`; every row of a list column gets `width` elements.
    pub(crate) fn vectors(&mut self, width: usize) -> Result<&mut [f32]> {
        let n = self.n_row * width;
        let child = match self.sql_type {
            SqlType::FloatArray(of) if of == width => {
                // SAFETY: an array vector of live `self.vector`; its child has room for
                // `width` values per row.
                unsafe { duckdb::duckdb_array_vector_get_child(self.vector) }
            }
            SqlType::FloatList => self.list_child(std::iter::repeat_n(width, self.n_row))?,
            other => {
                return Err(Failure::new(format!("{} has no rows of {width}", other.sql())));
            }
        };
        // SAFETY: the child of a vector of floats holds f32 values; the array's or the
        // reservation made by `list_child` covers `n` of them.
        Ok(unsafe { slice_mut(child, n) })
    }

    /// The elements of a `FLOAT[]` column whose row `i` has `lengths[i]` of them, one row after
    /// another.
    pub(crate) fn lists(&mut self, lengths: &[usize]) -> Result<&mut [f32]> {
        self.expect(SqlType::FloatList)?;
        let n = lengths.iter().sum();
        let child = self.list_child(lengths.iter().copied())?;
        // SAFETY: the child of a list of floats holds f32 values, and `list_child` made room for
        // all of them.
        Ok(unsafe { slice_mut(child, n) })
    }

    /// Makes room for `lengths` elements in the rows of a list column; returns their vector.
    fn list_child(
        &mut self,
        lengths: impl Iterator<Item = usize> + Clone,
    ) -> Result<duckdb::duckdb_vector> {
        let n = lengths.clone().sum::<usize>() as u64;
        self.reserve(n)?;
        // SAFETY: a list vector holds one entry per row, `n_row` of them by the promise in `new`.
        let entries = unsafe { slice_mut::<duckdb::duckdb_list_entry>(self.vector, self.n_row) };
        let mut offset = 0;
        for (entry, length) in entries.iter_mut().zip(lengths) {
            *entry = duckdb::duckdb_list_entry { offset, length: length as u64 };
            offset += length as u64;
        }
        // SAFETY: a live list vector.
        Ok(unsafe { duckdb::duckdb_list_vector_get_child(self.vector) })
    }

    /// Gives the child of a list column room and size for `n` elements.
    fn reserve(&mut self, n: u64) -> Result<()> {
        // SAFETY: only called on list vectors, which are live.
        let reserved = unsafe {
            duckdb::duckdb_list_vector_reserve(self.vector, n) == duckdb::DuckDBSuccess
                && duckdb::duckdb_list_vector_set_size(self.vector, n) == duckdb::DuckDBSuccess
        };
        if reserved {
            Ok(())
        } else {
            Err(Failure::new(format!("no memory for {n} list elements")))
        }
    }

    /// Sets the text of `row` in a `VARCHAR` column.
    pub(crate) fn set_text(&mut self, row: usize, text: &str) -> Result<()> {
        self.expect(SqlType::Varchar)?;
        self.check_row(row)?;
        // SAFETY: a live VARCHAR vector, a row inside it, and a pointer with its length; the
        // bytes, valid UTF-8, are copied.
        unsafe {
            duckdb::duckdb_vector_assign_string_element_len(
                self.vector,
                row as u64,
                text.as_ptr().cast(),
                text.len() as u64,
            );
        }
        Ok(())
    }

    /// Makes `row` NULL.
    pub(crate) fn set_null(&mut self, row: usize) -> Result<()> {
        self.check_row(row)?;
        // SAFETY: a live vector; after the first call its validity mask exists and covers the row.
        unsafe {
            duckdb::duckdb_vector_ensure_validity_writable(self.vector);
            let validity = duckdb::duckdb_vector_get_validity(self.vector);
            duckdb::duckdb_validity_set_row_invalid(validity, row as u64);
        }
        Ok(())
    }

    /// Sets the elements of `row` of a `BIGINT[]` column. Rows are set in order, each once.
    pub(crate) fn push_integers(&mut self, row: usize, values: &[i64]) -> Result<()> {
        self.expect(SqlType::BigIntList)?;
        let (child, offset) = self.push(row, values.len())?;
        // SAFETY: the BIGINT child has room for everything pushed so far.
        let elements = unsafe { slice_mut::<i64>(child, offset + values.len()) };
        elements[offset..].copy_from_slice(values);
        Ok(())
    }

    /// Sets the elements of `row` of a `VARCHAR[]` column. Rows are set in order, each once.
    pub(crate) fn push_texts(&mut self, row: usize, values: &[String]) -> Result<()> {
        self.expect(SqlType::VarcharList)?;
        let (child, offset) = self.push(row, values.len())?;
        let n_row = offset + values.len();
        let mut elements =
            Column { vector: child, sql_type: SqlType::Varchar, n_row, lifetime: PhantomData };
        for (index, text) in values.iter().enumerate() {
            elements.set_text(offset + index, text)?;
        }
        Ok(())
    }

    /// Appends `n` elements for `row` to a list column; returns the child and where they begin.
    fn push(&mut self, row: usize, n: usize) -> Result<(duckdb::duckdb_vector, usize)> {
        self.check_row(row)?;
        // SAFETY: only called on list vectors, which are live.
        let offset = unsafe { duckdb::duckdb_list_vector_get_size(self.vector) };
        self.reserve(offset + n as u64)?;
        // SAFETY: a list vector holds one entry per row, and `row` is one of them.
        let entries = unsafe { slice_mut::<duckdb::duckdb_list_entry>(self.vector, self.n_row) };
        entries[row] = duckdb::duckdb_list_entry { offset, length: n as u64 };
        // SAFETY: a live list vector.
        let child = unsafe { duckdb::duckdb_list_vector_get_child(self.vector) };
        let offset = usize::try_from(offset).map_err(|_| Failure::new("a list is too long"))?;
        Ok((child, offset))
    }

    fn expect(&self, sql_type: SqlType) -> Result<()> {
        if self.sql_type == sql_type {
            return Ok(());
        }
        Err(Failure::new(format!("a {} column is no {}", self.sql_type.sql(), sql_type.sql())))
    }

    fn check_row(&self, row: usize) -> Result<()> {
        if row < self.n_row {
            return Ok(());
        }
        Err(Failure::new(format!("row {row} of a column of {}", self.n_row)))
    }
}

/// The first `n` values of `vector`.
///
/// # Safety
/// `vector` is live, holds values of type `T`, has room for `n`, and nobody else uses it for `'a`.
unsafe fn slice_mut<'a, T>(vector: duckdb::duckdb_vector, n: usize) -> &'a mut [T] {
    // SAFETY: `vector` is live by the promise above.
    let data = unsafe { duckdb::duckdb_vector_get_data(vector) }.cast::<T>();
    if n == 0 || data.is_null() {
        return &mut [];
    }
    // SAFETY: room for `n` values of `T` by the promise above; DuckDB aligns vectors to their type
    // and every bit pattern is a valid number.
    unsafe { slice::from_raw_parts_mut(data, n) }
}

/// The arguments of one call of a scalar function: flat columns of equal length.
#[derive(Debug)]
pub(crate) struct Input<'a> {
    chunk: duckdb::duckdb_data_chunk,
    n_row: usize,
    n_column: usize,
    lifetime: PhantomData<&'a ()>,
}

impl<'a> Input<'a> {
    /// The chunk `chunk`.
    ///
    /// # Safety
    /// `chunk` is live and unchanged for the lifetime of the result, and its vectors are flat
    /// (the C API flattens them before it calls).
    pub(super) unsafe fn new(chunk: duckdb::duckdb_data_chunk) -> Self {
        // SAFETY: by the promise above.
        let (n_row, n_column) = unsafe {
            (
                duckdb::duckdb_data_chunk_get_size(chunk),
                duckdb::duckdb_data_chunk_get_column_count(chunk),
            )
        };
        Self {
            chunk,
            n_row: usize::try_from(n_row).unwrap_or(0),
            n_column: usize::try_from(n_column).unwrap_or(0),
            lifetime: PhantomData,
        }
    }

    /// Rows in this call.
    pub(crate) fn n_row(&self) -> usize {
        self.n_row
    }

    /// Arguments in this call.
    pub(crate) fn n_column(&self) -> usize {
        self.n_column
    }

    fn vector(&self, index: usize, sql_type: SqlType) -> Result<duckdb::duckdb_vector> {
        if index >= self.n_column {
            return Err(Failure::new(format!("a call without argument {index}")));
        }
        // SAFETY: the chunk is live and `index` is one of its columns.
        let vector = unsafe { duckdb::duckdb_data_chunk_get_vector(self.chunk, index as u64) };
        check_type(vector, sql_type)?;
        Ok(vector)
    }

    /// A `BIGINT` argument: `[n_row]`. Values of NULL rows are arbitrary.
    pub(crate) fn integers(&self, index: usize) -> Result<&'a [i64]> {
        let vector = self.vector(index, SqlType::BigInt)?;
        // SAFETY: a flat BIGINT vector with `n_row` values, only read for `'a`.
        Ok(unsafe { slice_mut::<i64>(vector, self.n_row) })
    }

    /// A `VARCHAR` argument.
    pub(crate) fn texts(&self, index: usize) -> Result<Texts<'a>> {
        let vector = self.vector(index, SqlType::Varchar)?;
        // SAFETY: a flat VARCHAR vector with `n_row` values, only read for `'a`.
        Ok(Texts(unsafe { slice_mut::<duckdb::duckdb_string_t>(vector, self.n_row) }))
    }

    /// For each row, whether none of its arguments is NULL: `[n_row]`.
    pub(crate) fn complete_rows(&self) -> Vec<bool> {
        let mut complete = vec![true; self.n_row];
        for index in 0..self.n_column {
            // SAFETY: the chunk is live and `index` is one of its columns.
            let validity = unsafe {
                let vector = duckdb::duckdb_data_chunk_get_vector(self.chunk, index as u64);
                duckdb::duckdb_vector_get_validity(vector)
            };
            if validity.is_null() {
                continue;
            }
            for (row, complete) in complete.iter_mut().enumerate() {
                // SAFETY: the mask of a flat vector covers the chunk's rows.
                *complete &= unsafe { duckdb::duckdb_validity_row_is_valid(validity, row as u64) };
            }
        }
        complete
    }
}

/// A `VARCHAR` argument of a scalar function.
#[derive(Clone, Copy)]
pub(crate) struct Texts<'a>(&'a [duckdb::duckdb_string_t]);

impl<'a> Texts<'a> {
    /// The text of `row`, which must not be NULL.
    pub(crate) fn get(&self, row: usize) -> &'a str {
        const INLINE_LENGTH: u32 = 12;
        let Some(string) = self.0.get(row) else { return "" };
        // SAFETY: both variants of the union begin with the length.
        let length = unsafe { string.value.inlined.length };
        let data: *const u8 = if length <= INLINE_LENGTH {
            // SAFETY: DuckDB stores strings of up to 12 bytes inline.
            unsafe { (&raw const string.value.inlined.inlined).cast() }
        } else {
            // SAFETY: longer strings are stored behind the pointer.
            unsafe { string.value.pointer.ptr }.cast_const().cast()
        };
        // SAFETY: `data` points at `length` bytes that live as long as the chunk.
        let bytes = unsafe { slice::from_raw_parts(data, length as usize) };
        std::str::from_utf8(bytes).unwrap_or("")
    }

    /// Whether two rows certainly hold the same text: the same bytes in their 16-byte handles, as
    /// in a constant column.
    pub(crate) fn is_same(&self, a: usize, b: usize) -> bool {
        let handle = |row: usize| {
            let string = self.0.get(row)?;
            // SAFETY: the inline variant spans all 16 bytes of the handle.
            let inlined = unsafe { string.value.inlined };
            Some((inlined.length, inlined.inlined))
        };
        handle(a) == handle(b)
    }
}
