//! What is so: ids, the lifecycle table, records, journal and store.

pub mod clock;
pub mod id;
pub mod lifecycle;
