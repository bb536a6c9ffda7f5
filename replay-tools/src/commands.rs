//! One file for each question.

pub(crate) mod cat;
pub(crate) mod diff;
pub(crate) mod info;
pub(crate) mod state;
pub(crate) mod verify;
