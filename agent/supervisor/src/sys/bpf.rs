//! Programs that the kernel asks whether a control group of the second version may use a device. Attached to a group, a program
//! lives for as long as that does.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::libc;

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_TYPE_CGROUP_DEVICE: u32 = 6;
/// What is above and below asks its own programs, too: all of them have to say yes.
const ALLOW_MULTI: u32 = 2;

/// As bpf(2) takes it; what follows in newer kernels is zero.
#[repr(C)]
struct Load {
    kind: u32,
    instructions: u32,
    first: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

fn bpf<T>(command: libc::c_int, argument: &T) -> io::Result<libc::c_long> {
    // SAFETY: the argument is what the command takes, of the size that is said, and lives for as long as the call.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(argument), size_of::<T>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done) }
}

/// Has the kernel take a program on devices, in its own instructions.
///
/// # Errors
/// It does not take it, or takes none of anybody.
pub fn load_device_program(instructions: &[u64]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let load = Load {
        kind: PROG_TYPE_CGROUP_DEVICE,
        instructions: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        first: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    let descriptor = i32::try_from(bpf(PROG_LOAD, &load)?).map_err(io::Error::other)?;
    // SAFETY: the descriptor was just made for us, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Lets a group, a folder that is open, ask a program from now on.
///
/// # Errors
/// Those of the kernel.
pub fn attach_device_program(group: &impl AsFd, program: &OwnedFd) -> io::Result<()> {
    let number = |descriptor: i32| u32::try_from(descriptor).map_err(io::Error::other);
    let attach = Attach {
        target: number(group.as_fd().as_raw_fd())?,
        program: number(program.as_raw_fd())?,
        kind: ATTACH_TYPE_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    bpf(PROG_ATTACH, &attach).map(drop)
}
