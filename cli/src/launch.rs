//! What `meseta execute` launches: a task made from flags, and whether an offer has what it wants.

use serde_json::{Value, json};

use crate::error::Error;

/// Resources as Mesos writes them in flags, `cpus:1;mem:64;ports:[1-2,5-6];names:{a,b}`, or a JSON array of Resource.
/// Written in the old format (`role`), which every master and framework understands.
pub(crate) fn resources(text: &str) -> Result<Vec<Value>, Error> {
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(text)
            .map_err(|error| Error::Usage(format!("--resources is not a JSON array of resources: {error}")));
    }
    text.split(';').map(str::trim).filter(|word| !word.is_empty()).map(resource).collect()
}

fn resource(word: &str) -> Result<Value, Error> {
    let wrong = || Error::Usage(format!("--resources: '{word}' is not like cpus:1, ports:[1-2] or names:{{a,b}}"));
    let (name, value) = word.split_once(':').ok_or_else(wrong)?;
    let (name, value) = (name.trim(), value.trim());
    if name.is_empty() {
        return Err(wrong());
    }
    if let Some(inner) = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let range = |text: &str| {
            let (begin, end) = text.trim().split_once('-')?;
            Some(json!({"begin": begin.trim().parse::<u64>().ok()?, "end": end.trim().parse::<u64>().ok()?}))
        };
        let ranges: Option<Vec<Value>> = inner.split(',').map(range).collect();
        return Ok(
            json!({"name": name, "type": "RANGES", "role": "*", "ranges": {"range": ranges.ok_or_else(wrong)?}}),
        );
    }
    if let Some(inner) = value.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        let items: Vec<&str> = inner.split(',').map(str::trim).collect();
        return Ok(json!({"name": name, "type": "SET", "role": "*", "set": {"item": items}}));
    }
    let scalar = value.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0).ok_or_else(wrong)?;
    Ok(json!({"name": name, "type": "SCALAR", "role": "*", "scalar": {"value": scalar}}))
}

/// Whether the scalars that a task wants are in an offer, unreserved or of any role; ranges and sets are left to the
/// master, which checks everything.
pub(crate) fn fits(wanted: &[Value], offer: &Value) -> bool {
    let offered = offer["resources"].as_array().map_or(&[][..], Vec::as_slice);
    wanted.iter().filter(|resource| resource["type"] == "SCALAR").all(|resource| {
        let have: f64 = offered
            .iter()
            .filter(|other| other["name"] == resource["name"])
            .filter_map(|other| other["scalar"]["value"].as_f64())
            .sum();
        // In thousandths, as resources are counted.
        (have * 1000.0).round() >= (resource["scalar"]["value"].as_f64().unwrap_or(0.0) * 1000.0).round()
    })
}

/// A duration as in Mesos's flags: `10secs`, `1.5mins`, `500ms`. In milliseconds.
pub(crate) fn duration_ms(flag: &str, text: &str) -> Result<u64, Error> {
    let units = [
        ("ns", 1e-6),
        ("us", 1e-3),
        ("ms", 1.0),
        ("secs", 1e3),
        ("mins", 6e4),
        ("hrs", 3.6e6),
        ("days", 8.64e7),
        ("weeks", 6.048e8),
    ];
    let found = units.iter().find_map(|(unit, factor)| {
        let number: f64 = text.strip_suffix(unit)?.trim().parse().ok()?;
        (number >= 0.0 && number.is_finite()).then_some(number * factor)
    });
    let ms = found.ok_or_else(|| Error::Usage(format!("--{flag}={text} is not a duration like 10secs or 5mins")))?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Ok(ms.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_read_as_mesos_reads_them() {
        let read = resources("cpus:0.5;mem:64; ports:[31000-31001,31005-31006] ;names:{a,b}").expect("resources");
        assert_eq!(read[0], json!({"name": "cpus", "type": "SCALAR", "role": "*", "scalar": {"value": 0.5}}));
        let ranges = json!([{"begin": 31000, "end": 31001}, {"begin": 31005, "end": 31006}]);
        assert_eq!(read[2]["ranges"]["range"], ranges);
        assert_eq!(read[3]["set"]["item"], json!(["a", "b"]));
        for wrong in ["cpus", "cpus:x", ":1", "cpus:-1", "ports:[1]"] {
            assert!(resources(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_offer_fits_by_its_sums() {
        let offer = json!({"resources": [
            {"name": "cpus", "type": "SCALAR", "scalar": {"value": 0.1}},
            {"name": "cpus", "type": "SCALAR", "scalar": {"value": 0.2}}]});
        assert!(fits(&resources("cpus:0.3").expect("resources"), &offer));
        assert!(!fits(&resources("cpus:0.3001;mem:1").expect("resources"), &offer));
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration_ms("kill_after", "1.5mins").expect("a duration"), 90_000);
        assert_eq!(duration_ms("kill_after", "500ms").expect("a duration"), 500);
        assert!(duration_ms("kill_after", "5").is_err());
    }
}
