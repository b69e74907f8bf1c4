//! Typed method calls.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// One method of an interface: the implementing type holds its parameters.
pub trait Method: Serialize + DeserializeOwned + Send + 'static {
    /// Full varlink name, `interface.Method`.
    const NAME: &'static str;
    /// What comes back.
    type Reply: Serialize + DeserializeOwned + Send + 'static;
}
