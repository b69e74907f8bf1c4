//! How answers and errors look.

pub(crate) mod report;
pub(crate) mod table;
pub(crate) mod units;
pub(crate) mod yaml;
