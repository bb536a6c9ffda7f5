//! Oversubscription: what this agent can spare, and how it notices that it is overloaded. Both are configured as modules, which
//! are built in here: no library is loaded.

use std::sync::Arc;
use std::time::Duration;

use agent_core::Command;
use api::resources::{Format, Resources};
use api::v1::resource::RevocableInfo;
use api::v1::{ExecutorInfo, Resource, TaskInfo};
use serde::Deserialize;

use crate::agent::Agent;

/// Names that operators know these modules by.
const FIXED_ESTIMATOR: &str = "org_apache_mesos_FixedResourceEstimator";
const LOAD_CONTROLLER: &str = "org_apache_mesos_LoadQoSController";
/// The machine itself knows its load no better.
const LOOK_EVERY_MIN: Duration = Duration::from_secs(1);

/// The value of `--modules`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Modules {
    #[serde(default)]
    libraries: Vec<Library>,
}

#[derive(Debug, Deserialize)]
struct Library {
    #[serde(default)]
    modules: Vec<Module>,
}

#[derive(Debug, Deserialize)]
struct Module {
    name: String,
    #[serde(default)]
    parameters: Vec<Parameter>,
}

#[derive(Debug, Deserialize)]
struct Parameter {
    key: String,
    value: String,
}

impl Modules {
    /// The value of the flag. The error is a sentence.
    pub(crate) fn read(text: Option<&str>) -> Result<Modules, String> {
        let Some(text) = text else { return Ok(Modules::default()) };
        let modules: Modules = serde_json::from_str(text).map_err(|error| {
            format!("Flag '--modules' must be a JSON object of libraries and their modules: {error}")
        })?;
        let known = [FIXED_ESTIMATOR, LOAD_CONTROLLER, crate::logger::ROTATING, crate::local::URI_PROFILES];
        let other = modules.all().find(|module| !known.contains(&module.name.as_str()));
        match other.map(|module| &module.name) {
            None => Ok(modules),
            Some(name) => Err(format!(
                "Module '{name}' in '--modules' is not built in, and libraries are not loaded; there is: {}",
                known.join(", ")
            )),
        }
    }

    fn all(&self) -> impl Iterator<Item = &Module> {
        self.libraries.iter().flat_map(|library| &library.modules)
    }

    /// The module that a flag names, which is to be this one. The error is a sentence.
    fn named(&self, flag: &str, name: &str, expected: &str) -> Result<&Module, String> {
        if name != expected {
            return Err(format!("'{name}' is not supported in '--{flag}'; there is: {expected}"));
        }
        let found = self.all().find(|module| module.name == name);
        found.ok_or_else(|| format!("Flag '--{flag}' names {name}, and '--modules' has no parameters for it"))
    }
}

/// What `--resource_estimator` says that can be spared: revocable resources. The error is a sentence.
pub(crate) fn spare(modules: &Modules, name: Option<&str>) -> Result<Vec<Resource>, String> {
    let Some(name) = name else { return Ok(Vec::new()) };
    let module = modules.named("resource_estimator", name, FIXED_ESTIMATOR)?;
    let text = parameter(module, "resources", &["resources"])?
        .ok_or_else(|| format!("Module {name} in '--modules' needs the parameter 'resources'"))?;
    let parsed = api::resources::parse(text, "*")
        .map_err(|error| format!("Failed to parse the resources of module {name} in '--modules': {error}"))?;
    if let Some(reserved) = parsed.resources.iter().find(|resource| !resource.reservations.is_empty()) {
        return Err(format!("Module {name} in '--modules' cannot spare what is reserved: {reserved}"));
    }
    let revocable = parsed.resources.to_v1(Format::PostRefinement).into_iter();
    Ok(revocable.map(|resource| Resource { revocable: Some(RevocableInfo {}), ..resource }).collect())
}

/// Load averages above which revocable work gives way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Loads {
    five: Option<f64>,
    fifteen: Option<f64>,
}

/// What `--qos_controller` says. The error is a sentence.
pub(crate) fn loads(modules: &Modules, name: Option<&str>) -> Result<Option<Loads>, String> {
    let Some(name) = name else { return Ok(None) };
    let module = modules.named("qos_controller", name, LOAD_CONTROLLER)?;
    let keys = ["load_threshold_5min", "load_threshold_15min"];
    let number = |key: &str| {
        let Some(text) = parameter(module, key, &keys)? else { return Ok(None) };
        let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
        number
            .map(Some)
            .ok_or_else(|| format!("Parameter '{key}' of module {name} in '--modules' is no load: '{text}'"))
    };
    match (number(keys[0])?, number(keys[1])?) {
        (None, None) => Err(format!("Module {name} in '--modules' needs one of the parameters {}", keys.join(", "))),
        (five, fifteen) => Ok(Some(Loads { five, fifteen })),
    }
}

fn parameter<'a>(module: &'a Module, key: &str, known: &[&str]) -> Result<Option<&'a str>, String> {
    if let Some(other) = module.parameters.iter().find(|parameter| !known.contains(&parameter.key.as_str())) {
        return Err(format!(
            "Module {} in '--modules' has no parameter '{}'; it has: {}",
            module.name,
            other.key,
            known.join(", ")
        ));
    }
    Ok(module.parameters.iter().find(|parameter| parameter.key == key).map(|parameter| parameter.value.as_str()))
}

/// All parameters of a module, if it has some, each of which must be known. The error is a sentence.
pub(crate) fn parameters<'a>(
    modules: &'a Modules,
    name: &str,
    known: &[&str],
) -> Result<Vec<(&'a str, &'a str)>, String> {
    let Some(module) = modules.all().find(|module| module.name == name) else { return Ok(Vec::new()) };
    parameter(module, "", known)?;
    Ok(module.parameters.iter().map(|one| (one.key.as_str(), one.value.as_str())).collect())
}

impl Loads {
    /// Why these loads are too much, in a sentence.
    fn exceeded(&self, [_, five, fifteen]: [f64; 3]) -> Option<String> {
        let over = |load: f64, most: Option<f64>, minutes| {
            most.filter(|most| load > *most)
                .map(|most| format!("the load over {minutes} minutes is {load}, above {most}"))
        };
        over(five, self.five, 5).or_else(|| over(fifteen, self.fifteen, 15))
    }
}

/// Looks at the load for as long as the agent lives.
pub(crate) async fn correct(agent: Arc<Agent>, loads: Loads, interval: Duration) {
    loop {
        tokio::time::sleep(interval.max(LOOK_EVERY_MIN)).await;
        let Some(why) = loads.exceeded(api_http::Host::read().load) else { continue };
        let executors = revocable(&agent);
        if !executors.is_empty() {
            tracing::warn!(why, count = executors.len(), "ending what runs on revocable resources");
            agent.submit(Command::Preempt { executors });
        }
    }
}

/// Executors that are to go on and use something revocable.
fn revocable(agent: &Agent) -> Vec<(String, String)> {
    let state = agent.state.read().clone();
    let uses = |executor: &agent_core::Executor| {
        let of_tasks = executor.live_tasks().flat_map(|(_, task)| task.info.get::<TaskInfo>().resources);
        let own = executor.info.get::<ExecutorInfo>().resources.into_iter();
        own.chain(of_tasks).any(|resource| resource.revocable.is_some())
    };
    let wanted = state.executors().filter(|(_, executor)| executor.stop.is_none() && uses(executor));
    wanted.map(|(framework_id, executor)| (framework_id.to_owned(), executor.executor_id.clone())).collect()
}

/// Of these, what can be taken back at any time.
pub(crate) fn split(resources: &[Resource]) -> (Resources, Resources) {
    let all = Resources::from_v1(resources).unwrap_or_default();
    (all.non_revocable(), all.revocable())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules(name: &str, parameters: &str) -> Result<Modules, String> {
        let text = format!(
            r#"{{"libraries": [{{"file": "lib.so", "modules": [{{"name": "{name}", "parameters": [{parameters}]}}]}}]}}"#
        );
        Modules::read(Some(&text))
    }

    #[test]
    fn what_can_be_spared_is_revocable() {
        let given = modules(FIXED_ESTIMATOR, r#"{"key": "resources", "value": "cpus:2;mem:64"}"#).unwrap();
        let found = spare(&given, Some(FIXED_ESTIMATOR)).unwrap();
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|resource| resource.revocable.is_some()));
        assert_eq!(spare(&given, None), Ok(vec![]));
        for (modules, name) in [
            (Modules::default(), FIXED_ESTIMATOR),
            (modules(FIXED_ESTIMATOR, "").unwrap(), FIXED_ESTIMATOR),
            (modules(FIXED_ESTIMATOR, r#"{"key": "resources", "value": "cpus(r):2"}"#).unwrap(), FIXED_ESTIMATOR),
            (modules(FIXED_ESTIMATOR, r#"{"key": "resource", "value": "cpus:2"}"#).unwrap(), FIXED_ESTIMATOR),
            (given, LOAD_CONTROLLER),
        ] {
            assert!(spare(&modules, Some(name)).is_err(), "{modules:?}");
        }
        assert!(modules("mine", "").is_err());
        assert!(Modules::read(Some("lib.so")).is_err());
    }

    #[test]
    fn a_load_is_too_much_above_either_threshold() {
        let given = modules(LOAD_CONTROLLER, r#"{"key": "load_threshold_5min", "value": "4.5"}"#).unwrap();
        let found = loads(&given, Some(LOAD_CONTROLLER)).unwrap().unwrap();
        assert_eq!(found.exceeded([9.0, 4.5, 9.0]), None);
        assert_eq!(found.exceeded([0.0, 4.6, 0.0]).unwrap(), "the load over 5 minutes is 4.6, above 4.5");
        let both = Loads { fifteen: Some(2.0), ..found };
        assert_eq!(both.exceeded([0.0, 0.0, 3.0]).unwrap(), "the load over 15 minutes is 3, above 2");
        for parameters in ["", r#"{"key": "load_threshold_5min", "value": "much"}"#] {
            assert!(loads(&modules(LOAD_CONTROLLER, parameters).unwrap(), Some(LOAD_CONTROLLER)).is_err());
        }
        assert_eq!(loads(&Modules::default(), None), Ok(None));
    }
}
