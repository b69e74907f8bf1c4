//! What is so: ids, the lifecycle table, records, journal and store.

pub mod change;
pub mod clock;
pub mod id;
pub mod journal;
pub mod ledger;
pub mod lifecycle;
pub mod record;
pub mod secret;
