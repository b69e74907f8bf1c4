//! What is so: ids, the lifecycle table, records, journal, ledger and the store that keeps them.

pub mod change;
pub mod clock;
pub mod daily;
pub mod disk;
pub mod error;
pub mod examination;
pub mod external;
pub mod health;
pub mod id;
pub mod journal;
pub mod ledger;
pub mod lifecycle;
pub mod merge;
pub mod mirror;
pub mod plug;
pub mod record;
pub mod removal;
pub mod secret;
pub mod snapshot;
pub mod store;
pub mod upkeep;
