//! Checks and health checks as they are meant: what is to be looked at, and when. Whoever takes them in refuses what this does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::v1::{
    CheckInfo, CheckStatusInfo, CommandInfo, HealthCheck, TaskInfo, check_info, check_status_info, health_check,
    network_info,
};

/// A check or a health check.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// What is looked at.
    pub target: Target,
    /// From the start of the task to the first look, in milliseconds.
    pub delay_ms: u64,
    /// From the end of a look to the next one, in milliseconds.
    pub interval_ms: u64,
    /// So long a look may take; none for ever.
    pub timeout: Option<Duration>,
    /// What a health check has beside.
    pub health: Option<Health>,
}

/// What only health checks have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// So many failures in a row end the task.
    pub failures_max: u32,
    /// So long after the start failures do not count, if it was not healthy yet; in milliseconds.
    pub grace_ms: u64,
}

/// What is looked at.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// How a command ends.
    Command(Box<CommandInfo>),
    /// What a server answers.
    Http {
        /// The page.
        address: String,
    },
    /// Whether somebody listens.
    Tcp {
        /// Of this machine.
        ip: IpAddr,
        /// Port.
        port: u16,
    },
}

/// Times are numbers of seconds, and there is no longer one than this.
const SECONDS_MAX: f64 = 1e9;

/// A time as the wire has it; without one, so many seconds.
fn millis(name: &str, seconds: Option<f64>, default: f64) -> Result<u64, String> {
    let seconds = seconds.unwrap_or(default);
    if seconds.is_nan() || seconds < 0.0 {
        return Err(format!("Expecting '{name}' to be non-negative"));
    }
    Ok((seconds.min(SECONDS_MAX) * 1000.0).round() as u64)
}

fn timeout(seconds: Option<f64>) -> Result<Option<Duration>, String> {
    Ok(Some(millis("timeout_seconds", seconds, 20.0)?).filter(|millis| *millis > 0).map(Duration::from_millis))
}

fn port(number: u32) -> Result<u16, String> {
    u16::try_from(number).ok().filter(|port| *port > 0).ok_or_else(|| format!("{number} is no number of a port"))
}

fn page(secure: bool, ip: IpAddr, number: u32, path: Option<&str>, what: &str) -> Result<Target, String> {
    let path = path.unwrap_or_default();
    if !path.is_empty() && !path.starts_with('/') {
        return Err(format!("The path '{path}' of HTTP {what} must start with '/'"));
    }
    let scheme = if secure { "https" } else { "http" };
    let place = std::net::SocketAddr::new(ip, port(number)?);
    Ok(Target::Http { address: format!("{scheme}://{place}{path}") })
}

fn program(command: Option<&CommandInfo>, what: &str) -> Result<Target, String> {
    let command = command.ok_or_else(|| format!("Expecting 'command' to be set for COMMAND {what}"))?;
    if command.value.is_none() {
        let shell = if command.shell() { "shell command" } else { "executable path" };
        return Err(format!("Command {what} must contain '{shell}'"));
    }
    Ok(Target::Command(Box::new(command.clone())))
}

fn own(protocol: Option<i32>) -> IpAddr {
    let is_6 = protocol == Some(network_info::Protocol::IPv6 as i32);
    if is_6 { IpAddr::from(Ipv6Addr::LOCALHOST) } else { IpAddr::from(Ipv4Addr::LOCALHOST) }
}

/// What the commands of a task's checks bring along: it is fetched once, with what the task's own command does, where it has not that.
pub fn bring(task: &TaskInfo, command: &mut CommandInfo) {
    let check = task.check.iter().filter_map(|check| check.command.as_ref()).map(|one| &one.command);
    let health = task.health_check.iter().filter_map(|check| check.command.as_ref());
    for uri in check.chain(health).flat_map(|command| &command.uris) {
        if !command.uris.contains(uri) {
            command.uris.push(uri.clone());
        }
    }
}

impl Definition {
    /// Of a check.
    ///
    /// # Errors
    /// A sentence.
    pub fn check(info: &CheckInfo) -> Result<Definition, String> {
        use check_info::Type;
        let local = IpAddr::from(Ipv4Addr::LOCALHOST);
        let target = match info.r#type.and_then(|number| Type::try_from(number).ok()) {
            None => return Err("CheckInfo must specify 'type'".to_owned()),
            Some(Type::Unknown) => return Err("'UNKNOWN' is not a valid check type".to_owned()),
            Some(Type::Command) => program(info.command.as_ref().map(|command| &command.command), "check")?,
            Some(Type::Http) => {
                let http = info.http.as_ref().ok_or("Expecting 'http' to be set for HTTP check")?;
                page(false, local, http.port, http.path.as_deref(), "check")?
            }
            Some(Type::Tcp) => {
                let tcp = info.tcp.as_ref().ok_or("Expecting 'tcp' to be set for TCP check")?;
                Target::Tcp { ip: local, port: port(tcp.port)? }
            }
        };
        Ok(Definition {
            target,
            delay_ms: millis("delay_seconds", info.delay_seconds, 15.0)?,
            interval_ms: millis("interval_seconds", info.interval_seconds, 10.0)?,
            timeout: timeout(info.timeout_seconds)?,
            health: None,
        })
    }

    /// Of a health check.
    ///
    /// # Errors
    /// A sentence.
    pub fn health(info: &HealthCheck) -> Result<Definition, String> {
        use health_check::Type;
        // Clients of old name no type.
        let kind = match info.r#type.and_then(|number| Type::try_from(number).ok()) {
            None if info.command.is_some() && info.http.is_none() => Type::Command,
            None if info.http.is_some() && info.command.is_none() => Type::Http,
            None => return Err("HealthCheck must specify 'type'".to_owned()),
            Some(kind) => kind,
        };
        let target = match kind {
            Type::Unknown => return Err("'UNKNOWN' is not a valid health check type".to_owned()),
            Type::Command => program(info.command.as_ref(), "health check")?,
            Type::Http => {
                let http = info.http.as_ref().ok_or("Expecting 'http' to be set for HTTP health check")?;
                let secure = match http.scheme.as_deref() {
                    None | Some("http") => false,
                    Some("https") => true,
                    Some(scheme) => return Err(format!("Unsupported HTTP health check scheme: '{scheme}'")),
                };
                page(secure, own(http.protocol), http.port, http.path.as_deref(), "health check")?
            }
            Type::Tcp => {
                let tcp = info.tcp.as_ref().ok_or("Expecting 'tcp' to be set for TCP health check")?;
                Target::Tcp { ip: own(tcp.protocol), port: port(tcp.port)? }
            }
        };
        Ok(Definition {
            target,
            delay_ms: millis("delay_seconds", info.delay_seconds, 15.0)?,
            interval_ms: millis("interval_seconds", info.interval_seconds, 10.0)?,
            timeout: timeout(info.timeout_seconds)?,
            health: Some(Health {
                failures_max: info.consecutive_failures.unwrap_or(3),
                grace_ms: millis("grace_period_seconds", info.grace_period_seconds, 10.0)?,
            }),
        })
    }
}

/// What is told of a check before anything was seen.
pub fn empty(info: &CheckInfo) -> CheckStatusInfo {
    let kind = info.r#type();
    let is = |wanted: check_info::Type| kind == wanted;
    CheckStatusInfo {
        r#type: info.r#type,
        command: is(check_info::Type::Command).then(check_status_info::Command::default),
        http: is(check_info::Type::Http).then(check_status_info::Http::default),
        tcp: is(check_info::Type::Tcp).then(check_status_info::Tcp::default),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(change: impl FnOnce(&mut HealthCheck)) -> Result<Definition, String> {
        let mut info = HealthCheck::default();
        change(&mut info);
        Definition::health(&info)
    }

    #[test]
    fn what_is_looked_at() {
        let definition = health(|info| {
            info.r#type = Some(health_check::Type::Http as i32);
            let protocol = Some(network_info::Protocol::IPv6 as i32);
            let (scheme, path) = (Some("https".into()), Some("/x".into()));
            info.http = Some(health_check::HttpCheckInfo { port: 8, protocol, scheme, path, statuses: vec![] });
        });
        let definition = definition.unwrap();
        assert_eq!(definition.target, Target::Http { address: "https://[::1]:8/x".into() });
        assert_eq!((definition.delay_ms, definition.interval_ms), (15_000, 10_000));
        assert_eq!(definition.timeout, Some(Duration::from_secs(20)));
        assert_eq!(definition.health, Some(Health { failures_max: 3, grace_ms: 10_000 }));
        let command = Some(CommandInfo { value: Some("true".into()), ..CommandInfo::default() });
        assert!(matches!(health(|info| info.command = command.clone()).unwrap().target, Target::Command(_)));
        let odd = health(|info| {
            info.command = command.clone();
            info.delay_seconds = Some(-1.0);
        });
        assert_eq!(odd.unwrap_err(), "Expecting 'delay_seconds' to be non-negative");
        let endless = health(|info| {
            info.command = command;
            (info.timeout_seconds, info.interval_seconds) = (Some(0.0), Some(f64::INFINITY));
        });
        assert_eq!(endless.unwrap().timeout, None);
        let unknown = health(|info| info.r#type = Some(health_check::Type::Tcp as i32));
        assert_eq!(unknown.unwrap_err(), "Expecting 'tcp' to be set for TCP health check");
    }

    #[test]
    fn checks_say_what_they_are() {
        let of = |kind: check_info::Type| CheckInfo { r#type: Some(kind as i32), ..CheckInfo::default() };
        let error = |info: &CheckInfo| Definition::check(info).unwrap_err();
        assert_eq!(error(&CheckInfo::default()), "CheckInfo must specify 'type'");
        assert_eq!(error(&of(check_info::Type::Command)), "Expecting 'command' to be set for COMMAND check");
        assert_eq!(error(&of(check_info::Type::Http)), "Expecting 'http' to be set for HTTP check");
        let http = Some(check_info::Http { port: 80, path: Some("x".into()) });
        let relative = CheckInfo { http, ..of(check_info::Type::Http) };
        assert_eq!(error(&relative), "The path 'x' of HTTP check must start with '/'");
        let none = empty(&of(check_info::Type::Tcp));
        assert_eq!((none.tcp, none.command), (Some(check_status_info::Tcp::default()), None));
    }
}
