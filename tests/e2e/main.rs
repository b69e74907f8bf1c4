//! Whole journeys of a VM through the real programs: `maqet`, supervisor, runner, QEMU.
//!
//! One module per verb or promise, one sandbox per test. QEMU is pinned to TCG; guests are the tiny one, the scripted
//! QEMU where a real one cannot be made to misbehave, and Linux where only a whole operating system proves anything.
#![expect(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod accel;
mod attach;
mod bases;
mod boots;
mod change;
mod damage;
mod deletion;
mod disks;
mod doctor;
mod doctor_disks;
mod ends;
mod errors;
mod facts;
mod images;
mod journal;
mod library;
mod linux;
mod list;
mod planted;
mod plug;
mod qmp;
mod refused_start;
mod remove;
mod sandbox;
mod scale;
mod shares;
mod snapshot;
mod snapshot_external;
mod snapshot_live;
mod start;
mod stop;
mod stop_silent;
mod storage;
mod store;
mod streams;
mod virtiofs;
mod wait;
mod why;
mod wrong_files;
