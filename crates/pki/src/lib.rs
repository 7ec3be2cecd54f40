//! What our certificates look like: writing them, and reading who a certificate speaks for.
//!
//! ```text
//!   Authority::create ──▶ ca.pem + ca.key            (once; never overwritten)
//!   Authority::issue  ──▶ <name>.pem + <name>.key    one SPIFFE-shaped URI, both TLS roles
//!   Credential::read  ◀── certificate of a peer      ──▶ Identity + validity
//! ```
//!
//! Every process and every user has one [`Identity`]; it is the only thing in a certificate that anybody looks at. DNS names
//! and addresses are not used, so a host can change its address without a new certificate. Keys are written with mode 0600 and
//! every file appears whole or not at all (R-OPS-1).

mod authority;
mod credential;
mod files;
mod identity;

pub use authority::{Authority, AuthorityError, Issued, Validity};
pub use credential::{Credential, CredentialError};
pub use identity::{Identity, InvalidIdentity, PeerKind, ServiceKind, UserName};
