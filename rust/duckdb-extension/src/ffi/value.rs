//! Arguments of a call: [`Value`] owns one, [`Arguments`] hands them out by position and name.

use std::ffi::CStr;

use libduckdb_sys as duckdb;

use super::guard::c_string;
use crate::failure::{Failure, Result};

/// An owned SQL value.
#[derive(Debug)]
pub(crate) struct Value(duckdb::duckdb_value);

impl Value {
    /// Takes over a value, or nothing where the C API gave none or SQL said `NULL`.
    ///
    /// # Safety
    /// `raw` is null or a value that nobody else destroys.
    unsafe fn from_raw(raw: duckdb::duckdb_value) -> Option<Self> {
        if raw.is_null() {
            return None;
        }
        let value = Self(raw);
        // SAFETY: the handle is live.
        (!unsafe { duckdb::duckdb_is_null_value(value.0) }).then_some(value)
    }

    /// The handle, for calls that borrow it.
    pub(crate) fn raw(&self) -> duckdb::duckdb_value {
        self.0
    }

    /// A `VARCHAR` value.
    pub(crate) fn varchar(text: &str) -> Self {
        let text = c_string(text);
        // SAFETY: `text` is a C string that outlives the call, which copies it.
        Self(unsafe { duckdb::duckdb_create_varchar(text.as_ptr()) })
    }

    /// The value as an integer.
    pub(crate) fn integer(&self) -> i64 {
        // SAFETY: the handle is live; other types are cast.
        unsafe { duckdb::duckdb_get_int64(self.0) }
    }

    /// The value as a float.
    pub(crate) fn float(&self) -> f32 {
        // SAFETY: the handle is live; other types are cast.
        unsafe { duckdb::duckdb_get_float(self.0) }
    }

    /// The value as text.
    pub(crate) fn text(&self) -> String {
        // SAFETY: the handle is live; the returned string is ours to free.
        let pointer = unsafe { duckdb::duckdb_get_varchar(self.0) };
        if pointer.is_null() {
            return String::new();
        }
        // SAFETY: a non-null result is a C string, valid until it is freed below.
        let text = unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned();
        // SAFETY: allocated by DuckDB for us, freed once.
        unsafe { duckdb::duckdb_free(pointer.cast()) };
        text
    }

    /// What kind of value this is.
    pub(crate) fn kind(&self) -> Kind {
        // SAFETY: the handle is live; the type borrows from it and must not be destroyed.
        let id = unsafe { duckdb::duckdb_get_type_id(duckdb::duckdb_get_value_type(self.0)) };
        match id {
            duckdb::DUCKDB_TYPE_DUCKDB_TYPE_LIST => Kind::List,
            duckdb::DUCKDB_TYPE_DUCKDB_TYPE_ARRAY => Kind::Array,
            duckdb::DUCKDB_TYPE_DUCKDB_TYPE_TINYINT
            | duckdb::DUCKDB_TYPE_DUCKDB_TYPE_SMALLINT
            | duckdb::DUCKDB_TYPE_DUCKDB_TYPE_INTEGER
            | duckdb::DUCKDB_TYPE_DUCKDB_TYPE_BIGINT
            | duckdb::DUCKDB_TYPE_DUCKDB_TYPE_UTINYINT
            | duckdb::DUCKDB_TYPE_DUCKDB_TYPE_USMALLINT
            | duckdb::DUCKDB_TYPE_DUCKDB_TYPE_UINTEGER
            | duckdb::DUCKDB_TYPE_DUCKDB_TYPE_UBIGINT
            | duckdb::DUCKDB_TYPE_DUCKDB_TYPE_HUGEINT => Kind::Integer,
            _ => Kind::Other,
        }
    }

    /// The elements of a list; `None` where an element is `NULL`.
    pub(crate) fn elements(&self) -> impl Iterator<Item = Option<Self>> + '_ {
        // SAFETY: the handle is live; a value that is no list has size 0.
        let n = unsafe { duckdb::duckdb_get_list_size(self.0) };
        (0..n).map(|index| {
            // SAFETY: `index` is below the list's size; the child is a new value that we own.
            unsafe { Self::from_raw(duckdb::duckdb_get_list_child(self.0, index)) }
        })
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        // SAFETY: we own the handle and it is destroyed once.
        unsafe { duckdb::duckdb_destroy_value(&raw mut self.0) };
    }
}

/// The kinds of value that a parameter of any type tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Any whole number.
    Integer,
    /// `T[]`
    List,
    /// `T[n]`, whose elements the C API cannot read.
    Array,
    /// Anything else.
    Other,
}

/// The arguments of one call of a table function.
#[derive(Debug)]
pub(crate) struct Arguments(duckdb::duckdb_bind_info);

impl Arguments {
    /// The arguments of the call that `info` binds.
    ///
    /// # Safety
    /// `info` stays valid for as long as the result.
    pub(super) unsafe fn new(info: duckdb::duckdb_bind_info) -> Self {
        Self(info)
    }

    fn positional(&self, index: u64) -> Option<Value> {
        // SAFETY: valid by the promise in `new`; an index out of range gives null.
        unsafe { Value::from_raw(duckdb::duckdb_bind_get_parameter(self.0, index)) }
    }

    fn named(&self, name: &str) -> Option<Value> {
        let name = c_string(name);
        // SAFETY: valid by the promise in `new`; a name that was not given gives null.
        unsafe { Value::from_raw(duckdb::duckdb_bind_get_named_parameter(self.0, name.as_ptr())) }
    }

    /// The positional argument `index`, called `name` in the message if it is `NULL`.
    pub(crate) fn text(&self, index: u64, name: &str) -> Result<String> {
        self.positional(index).map(|value| value.text()).ok_or_else(|| null_argument(name))
    }

    /// The positional whole number `index`; `None` where it is absent or `NULL`.
    pub(crate) fn integer(&self, index: u64) -> Option<i64> {
        self.positional(index).map(|value| value.integer())
    }

    /// The named argument `name`; `None` where it was left out or is `NULL`.
    pub(crate) fn option(&self, name: &str) -> Option<Value> {
        self.named(name)
    }

    /// A named list of whole numbers, each at least 0; `None` where it was left out or is `NULL`.
    pub(crate) fn indices(&self, name: &str) -> Result<Option<Vec<u64>>> {
        let Some(list) = self.named(name) else { return Ok(None) };
        let read = |element: Option<Value>| {
            let value = element.ok_or_else(|| null_element(name))?.integer();
            u64::try_from(value)
                .map_err(|_| Failure::new(format!("`{name}` holds {value}; numbers start at 0")))
        };
        list.elements().map(read).collect::<Result<Vec<_>>>().map(Some)
    }

    /// A named list of floats; `None` where it was left out or is `NULL`.
    pub(crate) fn floats(&self, name: &str) -> Result<Option<Vec<f32>>> {
        self.named(name).map(|list| float_elements(&list, name)).transpose()
    }
}

/// The elements of the list `value`, which is the argument `name`.
pub(crate) fn float_elements(value: &Value, name: &str) -> Result<Vec<f32>> {
    let read = |element: Option<Value>| {
        element.map(|value| value.float()).ok_or_else(|| null_element(name))
    };
    value.elements().map(read).collect()
}

fn null_argument(name: &str) -> Failure {
    Failure::new(format!("the argument `{name}` is NULL"))
}

fn null_element(name: &str) -> Failure {
    Failure::new(format!("`{name}` holds a NULL; leave it out or give a number"))
}
