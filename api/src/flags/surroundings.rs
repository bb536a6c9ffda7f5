//! Variables of the environment that are no flags of ours, and yet would make an operator believe in what they ask for.

/// What is asked for by variables that libprocess reads, and is not built: having one of them is refused, unless it says
/// no by one of these.
const REFUSED: &[&str] = &["LIBPROCESS_REQUIRE_PEER_ADDRESS_IP_MATCH", "LIBPROCESS_IP6", "LIBPROCESS_MEMORY_PROFILING"];

/// What says no.
const NO: &[&str] = &["", "false", "0"];

/// Without effect here, and harmless without: whoever sets them hears of it.
const IDLE: &[&str] = &["LIBPROCESS_METRICS_SNAPSHOT_ENDPOINT_RATE_LIMIT", "LIBPROCESS_NUM_WORKER_THREADS"];

/// Looks at the environment for what would be missed: sentences about variables without effect. `refused` are names of
/// flags that are not built; as variables they are refused too.
///
/// # Errors
/// One sentence.
pub fn surroundings(refused: &[&str], environment: impl Fn(&str) -> Option<String>) -> Result<Vec<String>, String> {
    for name in refused {
        for prefix in ["MESETA_", "MESOS_"] {
            let variable = format!("{prefix}{}", name.to_uppercase());
            if environment(&variable).is_some() {
                return Err(format!("{variable} is set in the environment, and --{name} is not built yet: unset it"));
            }
        }
    }
    for variable in REFUSED {
        if let Some(value) = environment(variable).filter(|value| !NO.contains(&value.trim())) {
            return Err(format!(
                "{variable}={value} is set in the environment, and what it asks for is not built yet: unset it"
            ));
        }
    }
    let idle = IDLE.iter().filter(|variable| environment(variable).is_some());
    Ok(idle.map(|variable| format!("{variable} is set in the environment and has no effect")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(name: &str, value: &str) -> Result<Vec<String>, String> {
        surroundings(&["acls", "http_credentials"], |asked| (asked == name).then(|| value.to_owned()))
    }

    #[test]
    fn who_asks_for_protection_by_a_variable_is_refused() {
        for (name, value) in [
            ("MESOS_ACLS", "/x"),
            ("MESETA_ACLS", ""),
            ("MESOS_HTTP_CREDENTIALS", "/x"),
            ("LIBPROCESS_MEMORY_PROFILING", "1"),
            ("LIBPROCESS_IP6", "::1"),
        ] {
            assert!(look(name, value).unwrap_err().contains(name), "{name}={value}");
        }
        let harmless =
            [("LIBPROCESS_MEMORY_PROFILING", "false"), ("LIBPROCESS_ENABLE_PROFILER", "1"), ("MESOS_SANDBOX", "/x")];
        for (name, value) in harmless {
            assert_eq!(look(name, value), Ok(vec![]), "{name}={value}");
        }
        assert_eq!(look("LIBPROCESS_NUM_WORKER_THREADS", "8").unwrap().len(), 1);
    }
}
