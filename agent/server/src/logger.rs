//! Bounds of what tasks write to `stdout` and `stderr`: `--container_logger`, the parameters of its module, and what a task says in
//! its environment.

use api::size;
use api::v1::CommandInfo;
use containers::spec::Rotation;

use crate::oversubscription::{Modules, parameters};

/// As Mesos calls it.
pub(crate) const ROTATING: &str = "org_apache_mesos_LogrotateContainerLogger";
/// Parameters of that module that mean something here.
const PARAMETERS: [&str; 5] = [
    "max_stdout_size",
    "max_stderr_size",
    "logrotate_stdout_options",
    "logrotate_stderr_options",
    "environment_variable_prefix",
];
/// A file is no smaller.
const BYTES_MIN: u64 = 4096;
/// Older files are kept up to so many.
const FILES_MAX: u32 = 100;

/// What was configured for all tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Logger {
    rotation: Rotation,
    /// Of the variables by which a task says otherwise.
    prefix: String,
}

impl Logger {
    /// The one that a flag names; none if outputs have no bounds. The error is a sentence.
    pub(crate) fn read(modules: &Modules, name: Option<&str>) -> Result<Option<Logger>, String> {
        match name {
            None | Some("" | "sandbox") => return Ok(None),
            Some("rotating" | ROTATING) => {}
            Some(other) => {
                return Err(format!(
                    "'{other}' is not supported in '--container_logger'; there is: sandbox, rotating, {ROTATING}"
                ));
            }
        }
        let given = parameters(modules, ROTATING, &PARAMETERS)?;
        let of = |key: &str| given.iter().find(|(known, _)| *known == key).map(|(_, value)| *value);
        let wrong = |why: String| format!("Module {ROTATING} in '--modules': {why}");
        let bounds = |size_of: &str, options_of: &str| {
            let bytes = of(size_of).map_or(Ok(10 << 20), |text| bytes(size_of, text));
            let files = of(options_of).map_or(Ok(9), |text| files(options_of, text));
            Ok::<_, String>((bytes.map_err(wrong)?, files.map_err(wrong)?))
        };
        Ok(Some(Logger {
            rotation: Rotation {
                stdout: bounds("max_stdout_size", "logrotate_stdout_options")?,
                stderr: bounds("max_stderr_size", "logrotate_stderr_options")?,
            },
            prefix: of("environment_variable_prefix").unwrap_or("CONTAINER_LOGGER_").to_owned(),
        }))
    }

    /// The bounds of a task that runs this command. The error is a sentence.
    pub(crate) fn of(&self, command: &CommandInfo) -> Result<Rotation, String> {
        let mut rotation = self.rotation;
        for variable in command.environment.iter().flat_map(|environment| &environment.variables) {
            let (name, text) = (&variable.name, variable.value());
            match name.strip_prefix(&self.prefix) {
                Some("MAX_STDOUT_SIZE") => rotation.stdout.0 = bytes(name, text)?,
                Some("MAX_STDERR_SIZE") => rotation.stderr.0 = bytes(name, text)?,
                Some("LOGROTATE_STDOUT_OPTIONS") => rotation.stdout.1 = files(name, text)?,
                Some("LOGROTATE_STDERR_OPTIONS") => rotation.stderr.1 = files(name, text)?,
                _ => {}
            }
        }
        Ok(rotation)
    }
}

fn bytes(name: &str, text: &str) -> Result<u64, String> {
    let bytes = size::parse(text).map_err(|why| format!("'{name}' is no size: {why}"))?;
    if bytes < BYTES_MIN { Err(format!("'{name}' must be {BYTES_MIN} bytes at least, not {text}")) } else { Ok(bytes) }
}

/// Of logrotate's options there is `rotate COUNT`.
fn files(name: &str, text: &str) -> Result<u32, String> {
    let wrong = || {
        format!("'{name}' must be 'rotate COUNT', with {FILES_MAX} at most: there are no other options of logrotate")
    };
    let mut words = text.split_whitespace();
    let count = match (words.next(), words.next(), words.next()) {
        (Some("rotate"), Some(count), None) => count.parse::<u32>().ok(),
        _ => None,
    };
    count.filter(|count| *count <= FILES_MAX).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::v1::{Environment, environment::Variable};

    fn module(parameters: &str) -> Modules {
        let text = format!(
            "{{\"libraries\": [{{\"modules\": [{{\"name\": \"{ROTATING}\", \"parameters\": [{parameters}]}}]}}]}}"
        );
        Modules::read(Some(&text)).unwrap()
    }

    #[test]
    fn bounds_of_all_and_of_one() {
        assert_eq!(Logger::read(&Modules::default(), Some("sandbox")), Ok(None));
        let logger = Logger::read(&Modules::default(), Some("rotating")).unwrap().unwrap();
        assert_eq!(logger.rotation, Rotation { stdout: (10 << 20, 9), stderr: (10 << 20, 9) });
        let modules = module(
            r#"{"key": "max_stderr_size", "value": "1MB"}, {"key": "environment_variable_prefix", "value": "LOG_"}"#,
        );
        let logger = Logger::read(&modules, Some(ROTATING)).unwrap().unwrap();
        let of = |name: &str, value: &str| {
            let variable = Variable { name: name.into(), value: Some(value.into()), ..Variable::default() };
            let environment = Some(Environment { variables: vec![variable] });
            logger.of(&CommandInfo { environment, ..CommandInfo::default() })
        };
        assert_eq!(of("X", "").unwrap().stderr, (1 << 20, 9));
        assert_eq!(of("LOG_MAX_STDOUT_SIZE", "8KB").unwrap().stdout, (8 << 10, 9));
        assert_eq!(of("LOG_LOGROTATE_STDERR_OPTIONS", "rotate 2").unwrap().stderr, (1 << 20, 2));
        assert_eq!(
            of("LOG_MAX_STDOUT_SIZE", "1KB").unwrap_err(),
            "'LOG_MAX_STDOUT_SIZE' must be 4096 bytes at least, not 1KB"
        );
        assert!(of("LOG_LOGROTATE_STDERR_OPTIONS", "rotate 2\ncompress").unwrap_err().contains("no other options"));
    }

    #[test]
    fn what_means_nothing_here_is_refused() {
        let error = Logger::read(&Modules::default(), Some("journald")).unwrap_err();
        assert_eq!(
            error,
            format!("'journald' is not supported in '--container_logger'; there is: sandbox, rotating, {ROTATING}")
        );
        let modules = module(r#"{"key": "logrotate_path", "value": "/x"}"#);
        assert!(Logger::read(&modules, Some(ROTATING)).unwrap_err().contains("has no parameter 'logrotate_path'"));
    }
}
