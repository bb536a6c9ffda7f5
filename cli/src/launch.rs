//! What `meseta execute` launches: a task made from flags, and whether an offer has what it wants.

use api::resources::{Format, Resources};
use api::v1;
use serde_json::Value;

use crate::error::Error;

/// Resources as Mesos writes them in flags, `cpus:1;mem:64;ports:[1-2,5-6];names:{a,b}`, or a JSON array of Resource.
/// Written in the old format (`role`), which every master and framework understands.
pub(crate) fn resources(text: &str) -> Result<Vec<Value>, Error> {
    let parsed = api::resources::parse(text, "*").map_err(|problem| Error::Usage(format!("--resources: {problem}")))?;
    Ok(parsed.resources.to_v1(Format::PreRefinement).iter().map(api::json::to_value).collect())
}

/// Whether an offer has, without reservations, all that a task wants. Anything unreadable does not fit.
pub(crate) fn fits(wanted: &Value, offer: &Value) -> bool {
    let (Some(wanted), Some(offered)) = (read(wanted), read(&offer["resources"])) else { return false };
    offered.unreserved().contains(&wanted)
}

fn read(list: &Value) -> Option<Resources> {
    let messages: Result<Vec<v1::Resource>, _> = list.as_array()?.iter().map(api::json::from_value).collect();
    Resources::from_v1(&messages.ok()?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn resources_are_written_in_the_old_format() {
        let read = resources("cpus:0.5;ports:[31000-31001]").expect("resources");
        let cpus = read.iter().find(|resource| resource["name"] == "cpus").expect("cpus");
        assert_eq!(*cpus, json!({"name": "cpus", "type": "SCALAR", "role": "*", "scalar": {"value": 0.5}}));
        assert!(resources("cpus:x").is_err());
    }

    #[test]
    fn an_offer_fits_by_its_sums() {
        let offer = json!({"resources": [
            {"name": "cpus", "type": "SCALAR", "role": "*", "scalar": {"value": 0.1}},
            {"name": "cpus", "type": "SCALAR", "role": "*", "scalar": {"value": 0.2}},
            {"name": "mem", "type": "SCALAR", "role": "other", "scalar": {"value": 64.0}}]});
        let wanted = |text: &str| Value::from(resources(text).expect("resources"));
        assert!(fits(&wanted("cpus:0.3"), &offer));
        assert!(!fits(&wanted("cpus:0.301"), &offer));
        assert!(!fits(&wanted("mem:1"), &offer), "reserved for another role");
    }
}
