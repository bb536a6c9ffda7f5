//! Who asks, and what they may: credentials, authentication of a request by its header, access control lists, and
//! approvers that answer for one subject. Pure: it is given texts and reads no files, no clock and no socket.
//!
//! ```text
//! Authorization header ─► Authenticators ─► Principal ─► Authorizer::approver ─► Approver ─► may it do this to that?
//! --credentials ──────────┘                              --acls ─► Acls ──────┘
//! ```

mod acls;
mod action;
mod approver;
mod authenticator;
mod credentials;
mod jwt;
mod key_set;
pub mod needs;

pub use acls::{AclError, Acls, Entity, Entry};
pub use action::{Action, List, Objects, PATHS};
pub use approver::{Approver, Authorizer, Ruling, Sieve, Sight, Subject};
pub use authenticator::{Authenticated, Authenticators, Principal, Realm, Unauthorized};
pub use credentials::{Credential, CredentialError, Credentials, CredentialsError, hash};
pub use jwt::{Issuer, Key, Tokens, WeakKey};
pub use key_set::{KeySet, KeySetError};
pub use needs::Need;
