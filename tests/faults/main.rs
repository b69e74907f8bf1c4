//! Kill anything at any time; afterwards maqet tells the truth, leaves nothing behind, and says why.
//!
//! Real processes and the tiny guest. Random moments come from a seed that is printed; `MAQET_TEST_SEED` sets it.
#![expect(clippy::unwrap_used, reason = "a test says by panicking what went wrong")]

mod alone;
mod autostart;
mod boots;
mod copies;
mod cut;
mod disk;
mod elsewhere;
mod endings;
mod found;
mod frozen;
mod full_disk;
mod full_host;
mod hung_disk;
mod identity;
mod leaks;
mod ledger;
mod library;
mod lost_store;
mod oom;
mod panic;
mod play;
mod plug;
mod points;
mod progress;
mod qemu;
mod rebuild;
mod records;
mod removal;
mod restart;
mod reuse;
mod rounds;
mod runner;
mod runner_loss;
mod scene;
mod silence;
mod small_disk;
mod snapshot;
mod snapshot_cut;
mod snapshot_external;
mod snapshot_live;
mod snapshot_stack;
mod soak;
mod start;
mod storage;
mod storm;
mod supervisor;
mod unfinished;
mod virtiofs;
