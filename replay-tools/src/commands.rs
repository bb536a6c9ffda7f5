//! One file for each question.

pub(crate) mod bisect;
pub(crate) mod cat;
pub(crate) mod diff;
pub(crate) mod explain;
pub(crate) mod export;
pub(crate) mod info;
pub(crate) mod state;
pub(crate) mod stats;
pub(crate) mod verify;
pub(crate) mod whatif;
