//! Empty: only the build of its dependency matters.
