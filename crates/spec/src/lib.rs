//! What a VM should be: YAML to a validated [`VmSpec`], and from there to QEMU's command line.
//!
//! [`load()`] reads files and overrides, merges them left to right, and checks everything that can be known without
//! looking at the host; [`host::check_host`] looks at the files. [`argv::argv`] turns a spec and the descriptors of
//! one start into the words after QEMU's own name. Nothing here reads the environment.

pub mod argv;
pub mod duration;
pub mod error;
pub mod host;
pub mod image;
pub mod load;
pub mod machine;
pub mod name;
pub mod named;
pub mod path;
pub mod render;
pub mod shell;
pub mod size;
pub mod source;
pub mod validate;
pub mod vm;
pub mod yaml;

mod arguments;
mod decode;
mod fault;
mod fields;
mod forward;
mod merge;
mod normalize;
mod restart;
mod share;
mod tuning;
mod virtfs;

pub use argv::{argv, default_binary};
pub use error::SpecError;
pub use host::{check_host, check_host_beside};
pub use image::ImageName;
pub use load::{LoadOptions, Loaded, load, load_located};
pub use name::VmName;
pub use render::to_yaml;
pub use size::Size;
pub use source::{Override, Source};
pub use validate::validate;
pub use vm::VmSpec;
