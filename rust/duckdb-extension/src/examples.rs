//! The table of examples: which rows an example has.

use bytes::Bytes;
use parquet::column::reader::ColumnReader;
use parquet::file::reader::{FileReader, SerializedFileReader};
use residuum_core::Store;

use crate::failure::{Failure, Result};

/// The examples of a store in their order.
#[derive(Debug, Default)]
pub(crate) struct Examples {
    /// Their numbers.
    pub(crate) example: Vec<u64>,
    /// The first row of each in the row space of tokens.
    pub(crate) first_row: Vec<u64>,
    /// The row of each in the row space of examples.
    pub(crate) example_row: Vec<u64>,
}

impl Examples {
    /// Reads them.
    ///
    /// # Errors
    /// If a file cannot be read or lacks a column.
    pub(crate) fn of(store: &Store) -> Result<Self> {
        let mut examples = Self::default();
        for file in store.table_files("examples")? {
            let damaged = |error: String| {
                let path = store.path().join("tables/examples");
                Failure::new(format!("{} is damaged: {error}", path.display()))
            };
            let reader = SerializedFileReader::new(Bytes::from(file))
                .map_err(|error| damaged(error.to_string()))?;
            let columns = [
                ("example", &mut examples.example),
                ("first_row", &mut examples.first_row),
                ("example_row", &mut examples.example_row),
            ];
            for (name, numbers) in columns {
                read(&reader, name, numbers).map_err(damaged)?;
            }
        }
        Ok(examples)
    }
}

/// Appends a column of whole numbers; what is null or negative is `u64::MAX`.
fn read(
    reader: &SerializedFileReader<Bytes>,
    name: &str,
    numbers: &mut Vec<u64>,
) -> std::result::Result<(), String> {
    let schema = reader.metadata().file_metadata().schema_descr();
    let column = (0..schema.num_columns())
        .find(|&column| schema.column(column).path().string() == name)
        .ok_or_else(|| format!("it has no column {name}"))?;
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group).map_err(|error| error.to_string())?;
        let found = group.get_column_reader(column).map_err(|error| error.to_string())?;
        let ColumnReader::Int64ColumnReader(mut found) = found else {
            return Err(format!("column {name} holds no BIGINT"));
        };
        let n_row = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let (n, ..) = found
            .read_records(n_row, Some(&mut levels), None, &mut values)
            .map_err(|error| error.to_string())?;
        let mut values = values.into_iter();
        let number = |value: Option<i64>| value.and_then(|v| u64::try_from(v).ok());
        // A required column has no levels: each record has a value.
        for at in 0..n {
            let there = levels.get(at).is_none_or(|&level| level > 0);
            let value = if there { values.next() } else { None };
            numbers.push(number(value).unwrap_or(u64::MAX));
        }
    }
    Ok(())
}
