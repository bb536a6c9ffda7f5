//! How processes ended, in words.

/// A wait status in the words that clients match on.
pub fn describe(status: i32) -> String {
    let (signal, code) = (status & 0x7f, status >> 8 & 0xff);
    if signal == 0 {
        return format!("Command exited with status {code}");
    }
    let core = if status & 0x80 != 0 { " (core dumped)" } else { "" };
    format!("Command terminated with signal {}{core}", signal_name(signal))
}

fn signal_name(signal: i32) -> String {
    const NAMES: [&str; 31] = [
        "Hangup",
        "Interrupt",
        "Quit",
        "Illegal instruction",
        "Trace/breakpoint trap",
        "Aborted",
        "Bus error",
        "Floating point exception",
        "Killed",
        "User defined signal 1",
        "Segmentation fault",
        "User defined signal 2",
        "Broken pipe",
        "Alarm clock",
        "Terminated",
        "Stack fault",
        "Child exited",
        "Continued",
        "Stopped (signal)",
        "Stopped",
        "Stopped (tty input)",
        "Stopped (tty output)",
        "Urgent I/O condition",
        "CPU time limit exceeded",
        "File size limit exceeded",
        "Virtual timer expired",
        "Profiling timer expired",
        "Window changed",
        "I/O possible",
        "Power failure",
        "Bad system call",
    ];
    let name = usize::try_from(signal - 1).ok().and_then(|index| NAMES.get(index));
    name.map_or_else(|| format!("Unknown signal {signal}"), |name| (*name).to_owned())
}
