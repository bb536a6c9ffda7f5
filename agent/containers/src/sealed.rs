//! The supervisor's program as a file that nobody can change. A container with a root of its own, and root in it, finds the program
//! of what set it up through `/proc`, and could write to that once nobody runs it: what it finds is a sealed copy in memory,
//! one for all containers of an agent.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// Such a copy.
#[derive(Debug)]
pub(crate) struct Sealed(File);

impl Sealed {
    /// Of a program.
    ///
    /// # Errors
    /// It cannot be read, or this machine executes nothing from memory.
    pub(crate) fn of(program: &Path) -> io::Result<Sealed> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        // Kernels before 6.3 do not know this, and need not be told.
        let executable = MFdFlags::from_bits_retain(nix::libc::MFD_EXEC);
        let memory = match memfd_create("meseta-executor", flags | executable) {
            Err(Errno::EINVAL) => memfd_create("meseta-executor", flags)?,
            made => made?,
        };
        let mut copy = File::from(memory);
        io::copy(&mut File::open(program)?, &mut copy)?;
        let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
        fcntl(&copy, FcntlArg::F_ADD_SEALS(seals))?;
        Ok(Sealed(copy))
    }

    /// Where it is found by what this process executes.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_copy_runs_and_cannot_be_written_to() {
        let sealed = Sealed::of(Path::new("/bin/true")).unwrap();
        assert!(Command::new(sealed.path()).status().unwrap().success());
        // Through a name of its own, as a stranger who found it.
        assert!(
            File::options()
                .write(true)
                .open(sealed.path())
                .and_then(|mut file| io::Write::write_all(&mut file, b"x"))
                .is_err()
        );
        assert!(Sealed::of(Path::new("/nowhere")).is_err());
    }
}
