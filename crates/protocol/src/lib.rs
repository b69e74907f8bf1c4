//! What crosses a socket: the varlink wire, mutual authentication, and the two interfaces of maqet.
//!
//! [`control`] is what the CLI asks of the supervisor, [`runner`] what the supervisor asks of one VM's runner; each
//! method is a type. [`endpoint`] holds both ends of a connection: bytes in, authenticated and typed calls out.
//! The contract for everybody else is in `docs/varlink` and `docs/architecture/wire.md`.
//!
//! **Invariant:** nothing but the handshake and introspection is answered before the peer has proved that it knows the
//! secret.
//! **Invariant:** every buffer has a bound, and every phase in which the peer is not trusted a deadline.

pub mod call;
pub mod control;
pub mod endpoint;
pub mod error;
pub mod handshake;
pub mod interface;
pub mod method;
pub mod rebuild;
pub mod refusal;
pub mod runner;
pub mod varlink;

pub use error::{AuthenticationError, CallError, ProtocolError};
pub use handshake::SocketRole;
pub use method::Method;
pub use refusal::{Refusal, RefusalCode};
