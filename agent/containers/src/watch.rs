//! The only unsafe code of this crate.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Waits for what a descriptor stands for: a pidfd is readable when its process ended.
pub(crate) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by the result, so it stays open and the same for as long as it is registered.
    unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }.map_err(io::Error::from)
}

/// Whether a control group is whose it is given to as a whole, as systemd marks it.
pub(crate) fn is_delegated(group: &Path) -> bool {
    let Ok(path) = CString::new(group.as_os_str().as_bytes()) else { return false };
    let is_marked = |name: &CStr| {
        let mut value = [0_u8; 8];
        // SAFETY: path and name end with a NUL, and no more than the size of the value is written to it.
        let bytes = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        bytes == 1 && value[0] == b'1'
    };
    is_marked(c"trusted.delegate") || is_marked(c"user.delegate")
}
