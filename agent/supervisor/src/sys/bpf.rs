//! Programs that the kernel asks whether a control group of the second version may use a device. Attached to a group, a program
//! lives for as long as that does.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::libc;

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;
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

#[repr(C)]
struct ById {
    id: u32,
    next_id: u32,
    flags: u32,
}

#[repr(C)]
struct Query {
    target: u32,
    kind: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

/// As many programs as the kernel lets one group have.
const ATTACHED_MAX: usize = 64;

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
    change(PROG_ATTACH, group, program)
}

/// Lets a group ask a program from now on, and none of those that it asked before. For a moment it asks all of them: what one of them
/// denies is denied, so nothing is allowed that neither would allow.
///
/// # Errors
/// Those of the kernel.
pub fn replace_device_programs(group: &impl AsFd, program: &OwnedFd) -> io::Result<()> {
    let before = attached(group)?;
    attach_device_program(group, program)?;
    before.iter().try_for_each(|one| change(PROG_DETACH, group, one))
}

fn change(command: libc::c_int, group: &impl AsFd, program: &OwnedFd) -> io::Result<()> {
    let flags = if command == PROG_ATTACH { ALLOW_MULTI } else { 0 };
    let (target, program) = (number(group.as_fd().as_raw_fd())?, number(program.as_raw_fd())?);
    bpf(command, &Attach { target, program, kind: ATTACH_TYPE_CGROUP_DEVICE, flags }).map(drop)
}

/// The programs that a group itself asks.
fn attached(group: &impl AsFd) -> io::Result<Vec<OwnedFd>> {
    let mut ids = [0u32; ATTACHED_MAX];
    let mut query = Query {
        target: number(group.as_fd().as_raw_fd())?,
        kind: ATTACH_TYPE_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: ATTACHED_MAX as u32,
        padding: 0,
    };
    let (pointer, size) = (std::ptr::from_mut(&mut query), size_of::<Query>());
    // SAFETY: the kernel writes to the query, of this size, and as many numbers as it says there is place for; both live for as long as
    // the call.
    let done = unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, pointer, size) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    let one = |id: &u32| {
        let descriptor = i32::try_from(bpf(PROG_BY_ID, &ById { id: *id, next_id: 0, flags: 0 })?);
        // SAFETY: the descriptor was just made for us, nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(descriptor.map_err(io::Error::other)?) })
    };
    ids.iter().take(query.count as usize).map(one).collect()
}

fn number(descriptor: i32) -> io::Result<u32> {
    u32::try_from(descriptor).map_err(io::Error::other)
}
