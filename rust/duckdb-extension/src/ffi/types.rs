//! SQL types: [`SqlType`] describes one, [`LogicalType`] owns `DuckDB`'s object for it.

use libduckdb_sys as duckdb;

/// The SQL types that arguments and columns of the extension have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SqlType {
    /// Any type; looked at when the call is bound.
    Any,
    /// `BIGINT`
    BigInt,
    /// `FLOAT`
    Float,
    /// `VARCHAR`
    Varchar,
    /// `BIGINT[]`
    BigIntList,
    /// `FLOAT[]`
    FloatList,
    /// `VARCHAR[]`
    VarcharList,
    /// `FLOAT[n]`; `n` is at most [`SqlType::MAX_ARRAY`].
    FloatArray(usize),
}

impl SqlType {
    /// The widest `FLOAT[n]` that is used. `DuckDB` allocates a whole vector of 2048 such values
    /// before the first is written (256 MiB at this width) and refuses more than 100 000 elements;
    /// wider vectors are lists, which are allocated as they are filled.
    pub(crate) const MAX_ARRAY: usize = 32_768;

    /// The type of a vector of `width` floats.
    pub(crate) fn floats(width: usize) -> Self {
        if (1..=Self::MAX_ARRAY).contains(&width) {
            Self::FloatArray(width)
        } else {
            Self::FloatList
        }
    }

    /// The type's name in SQL.
    pub(crate) fn sql(self) -> String {
        match self {
            Self::Any => "ANY".into(),
            Self::BigInt => "BIGINT".into(),
            Self::Float => "FLOAT".into(),
            Self::Varchar => "VARCHAR".into(),
            Self::BigIntList => "BIGINT[]".into(),
            Self::FloatList => "FLOAT[]".into(),
            Self::VarcharList => "VARCHAR[]".into(),
            Self::FloatArray(width) => format!("FLOAT[{width}]"),
        }
    }

    fn id(self) -> duckdb::duckdb_type {
        match self {
            Self::Any => duckdb::DUCKDB_TYPE_DUCKDB_TYPE_ANY,
            Self::BigInt => duckdb::DUCKDB_TYPE_DUCKDB_TYPE_BIGINT,
            Self::Float => duckdb::DUCKDB_TYPE_DUCKDB_TYPE_FLOAT,
            Self::Varchar => duckdb::DUCKDB_TYPE_DUCKDB_TYPE_VARCHAR,
            Self::BigIntList | Self::FloatList | Self::VarcharList => {
                duckdb::DUCKDB_TYPE_DUCKDB_TYPE_LIST
            }
            Self::FloatArray(_) => duckdb::DUCKDB_TYPE_DUCKDB_TYPE_ARRAY,
        }
    }
}

/// An owned logical type of `DuckDB`.
#[derive(Debug)]
pub(crate) struct LogicalType(duckdb::duckdb_logical_type);

impl LogicalType {
    /// `DuckDB`'s object for `sql_type`.
    pub(crate) fn new(sql_type: SqlType) -> Self {
        match sql_type {
            SqlType::BigIntList => Self::list(SqlType::BigInt),
            SqlType::FloatList => Self::list(SqlType::Float),
            SqlType::VarcharList => Self::list(SqlType::Varchar),
            SqlType::FloatArray(width) => Self::float_array(width),
            // SAFETY: every id passed is one of the primitive types or ANY.
            scalar => Self(unsafe { duckdb::duckdb_create_logical_type(scalar.id()) }),
        }
    }

    /// Takes over a type that the C API made for us.
    ///
    /// # Safety
    /// `raw` is a logical type that nobody else destroys.
    pub(crate) unsafe fn from_raw(raw: duckdb::duckdb_logical_type) -> Self {
        Self(raw)
    }

    fn list(child: SqlType) -> Self {
        let child = Self::new(child);
        // SAFETY: `child` is a live logical type; the list type copies it.
        Self(unsafe { duckdb::duckdb_create_list_type(child.0) })
    }

    fn float_array(width: usize) -> Self {
        let child = Self::new(SqlType::Float);
        // SAFETY: `child` is a live logical type, copied by the array type.
        Self(unsafe { duckdb::duckdb_create_array_type(child.0, width as u64) })
    }

    /// The handle, for calls that borrow it.
    pub(crate) fn raw(&self) -> duckdb::duckdb_logical_type {
        self.0
    }

    /// Whether this is the type that `sql_type` describes.
    pub(crate) fn is(&self, sql_type: SqlType) -> bool {
        if self.id() != sql_type.id() {
            return false;
        }
        match sql_type {
            SqlType::BigIntList => self.list_child().is(SqlType::BigInt),
            SqlType::FloatList => self.list_child().is(SqlType::Float),
            SqlType::VarcharList => self.list_child().is(SqlType::Varchar),
            SqlType::FloatArray(width) => self.array_width() == width as u64,
            _ => true,
        }
    }

    fn id(&self) -> duckdb::duckdb_type {
        // SAFETY: the handle is live for as long as `self`.
        unsafe { duckdb::duckdb_get_type_id(self.0) }
    }

    fn list_child(&self) -> Self {
        // SAFETY: only called on list types (see `is`); the child is a new object that we own.
        Self(unsafe { duckdb::duckdb_list_type_child_type(self.0) })
    }

    fn array_width(&self) -> u64 {
        // SAFETY: only called on array types (see `is`).
        unsafe { duckdb::duckdb_array_type_array_size(self.0) }
    }
}

impl Drop for LogicalType {
    fn drop(&mut self) {
        // SAFETY: we own the handle and it is destroyed once.
        unsafe { duckdb::duckdb_destroy_logical_type(&raw mut self.0) };
    }
}
