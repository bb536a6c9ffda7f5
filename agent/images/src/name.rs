//! What an image is called, in either of the ways in which images are called.

use std::fmt;

use crate::appc::Appc;
use crate::reference::Reference;

/// Which image is meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    /// As Docker and OCI have it.
    Docker(Reference),
    /// As appc has it.
    Appc(Appc),
}

impl Name {
    /// Reads a name of Docker's.
    ///
    /// # Errors
    /// A sentence.
    pub fn docker(text: &str) -> Result<Name, String> {
        Reference::parse(text).map(Name::Docker)
    }

    /// The same image by the name under which it is kept: every way to write it is this one.
    pub(crate) fn canonical(self, default_registry: &str) -> Name {
        match self {
            Name::Docker(reference) => Name::Docker(reference.canonical(default_registry)),
            Name::Appc(appc) => Name::Appc(appc.canonical()),
        }
    }

    /// Reads what its [`fmt::Display`] writes, in a store of images of appc or in one of Docker's. The error is a sentence.
    pub(crate) fn parse(text: &str, is_appc: bool) -> Result<Name, String> {
        if is_appc { Appc::parse(text).map(Name::Appc) } else { Name::docker(text) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Docker(reference) => reference.fmt(f),
            Name::Appc(appc) => appc.fmt(f),
        }
    }
}
