//! What systemd would do to tasks when it stops or restarts this program.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long systemd has to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// The service that this process belongs to.
#[derive(Debug, PartialEq, Eq)]
struct Service<'a> {
    name: &'a str,
    /// Of a user's own systemd.
    of_user: bool,
}

/// The service in the text of `/proc/self/cgroup`: the innermost unit, if that is one.
fn service(cgroups: &str) -> Option<Service<'_>> {
    let path = |line: &'_ str| -> Option<usize> {
        let prefix = if line.starts_with("0::") { "0::" } else { ":name=systemd:" };
        Some(line.find(prefix)? + prefix.len())
    };
    let units = cgroups.lines().filter_map(|line| {
        let mut parts = line[path(line)?..].split('/');
        let unit = parts.rfind(|part| part.ends_with(".service") || part.ends_with(".scope"))?;
        Some(Service { name: unit, of_user: parts.any(|part| part.starts_with("user@")) })
    });
    units.into_iter().next().filter(|unit| unit.name.ends_with(".service"))
}

/// A sentence for the operator, if a stop of this program would end its tasks.
pub(crate) fn warning() -> Option<String> {
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let service = service(&cgroups)?;
    let remedy = "set KillMode=process and Delegate=yes (packaging/systemd/meseta-agent.service)";
    match kill_mode(&service).as_deref() {
        Some("process" | "none") => None,
        Some(mode) => Some(format!(
            "{} has KillMode={mode}: whenever systemd stops or restarts it, all tasks are killed; {remedy}",
            service.name
        )),
        None => Some(format!(
            "cannot ask systemd for the KillMode of {}: tasks live through a restart only if it is process; {remedy}",
            service.name
        )),
    }
}

fn kill_mode(service: &Service<'_>) -> Option<String> {
    let mut command = Command::new("systemctl");
    if service.of_user {
        command.arg("--user");
    }
    command.args(["show", "--property=KillMode", service.name]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let asked = Instant::now();
    let ended = loop {
        match child.try_wait() {
            Ok(None) if asked.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(5)),
            Ok(ended) => break ended,
            Err(_) => break None,
        }
    };
    if ended.is_none() {
        let _ = child.kill();
        let _ = child.wait();
        return None;
    }
    let mut said = String::new();
    child.stdout?.read_to_string(&mut said).ok()?;
    said.lines().find_map(|line| line.strip_prefix("KillMode=")).filter(|mode| !mode.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_unit_counts() {
        let service = |text| service(text).map(|found| (found.name, found.of_user));
        assert_eq!(service("0::/system.slice/meseta-agent.service\n"), Some(("meseta-agent.service", false)));
        assert_eq!(service("0::/system.slice/a.service/tasks/x\n"), Some(("a.service", false)));
        assert_eq!(service("4:cpu:/\n1:name=systemd:/system.slice/a.service\n0::/\n"), Some(("a.service", false)));
        let user = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/a.service\n";
        assert_eq!(service(user), Some(("a.service", true)));
        assert_eq!(service("0::/user.slice/user-1000.slice/user@1000.service/app.slice/a.scope\n"), None);
        assert_eq!(service("0::/user.slice/session-3.scope\n"), None);
        assert_eq!(service("0::/\n"), None);
    }
}
