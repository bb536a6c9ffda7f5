//! Text: what `--resources` takes, what error texts and logs show, and the flat JSON of `/state`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{Name, Reservation, Resource, Resources, Value, disk, role_problem, scalar_milli};
use crate::json::{self, Writer};
use crate::v1;

/// What was read from `--resources`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// All of it.
    pub resources: Resources,
    /// Every name that was given, be it with a zero: what is named is not to be detected.
    pub names: Vec<String>,
}

/// Reads the value of `--resources`: `cpus:2;mem(role):1024;ports:[31000-32000];disks:{a,b}`, or a JSON array of
/// `Resource`. What names no role is for `default_role`; `*` is unreserved.
pub fn parse(text: &str, default_role: &str) -> Result<Parsed, String> {
    if let Some(problem) = role_problem(default_role) {
        return Err(problem);
    }
    let resources = if text.trim_start().starts_with('[') {
        parse_json(text, default_role)
    } else {
        parse_plain(text, default_role)
    }?;
    let mut parsed = Parsed::default();
    let mut types: BTreeMap<Name, Value> = BTreeMap::new();
    for resource in resources {
        let first = types.entry(resource.name.clone()).or_insert_with(|| resource.value.clone());
        if !first.fits(&resource.value) {
            return Err(format!(
                "Resources with the same name ('{}') but different types are not allowed",
                resource.name
            ));
        }
        if !parsed.names.iter().any(|name| name == resource.name.as_str()) {
            parsed.names.push(resource.name.as_str().to_owned());
        }
        parsed.resources.add_one(resource);
    }
    Ok(parsed)
}

fn parse_json(text: &str, default_role: &str) -> Result<Vec<Resource>, String> {
    let values: Vec<serde_json::Value> =
        serde_json::from_str(text).map_err(|error| format!("Failed to parse resources as JSON: {error}"))?;
    values.iter().map(|value| json_resource(value, default_role)).collect()
}

#[allow(deprecated)] // The role of the old format is what an operator may still write.
fn json_resource(value: &serde_json::Value, default_role: &str) -> Result<Resource, String> {
    let mut message: v1::Resource = json::from_value(value).map_err(|error| error.to_string())?;
    if message.role.is_none() && message.reservations.is_empty() && default_role != "*" {
        message.role = Some(default_role.to_owned());
    }
    let resource = Resource::from_v1(&message).map_err(|error| error.to_string())?;
    let refused = if resource.is_persistent_volume() {
        "persistent volumes"
    } else if resource.revocable {
        "revocable resources"
    } else if resource.reservations.iter().any(|reservation| reservation.dynamic) {
        "dynamic reservations"
    } else {
        return Ok(resource);
    };
    Err(format!("Resource '{}' is invalid: {refused} cannot be given on the command line", resource.name))
}

fn parse_plain(text: &str, default_role: &str) -> Result<Vec<Resource>, String> {
    items(text).map(|item| plain_resource(item, default_role)).collect()
}

/// What is between semicolons.
pub(super) fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(';').map(str::trim).filter(|item| !item.is_empty())
}

fn plain_resource(item: &str, default_role: &str) -> Result<Resource, String> {
    let bad = |why: &str| format!("Bad value for resources, {why} in '{item}'");
    let (name, value) = item.split_once(':').ok_or_else(|| bad("missing or extra ':'"))?;
    let (name, role) = match name.trim().split_once('(') {
        None => (name.trim(), default_role),
        Some((name, role)) => {
            (name.trim(), role.strip_suffix(')').ok_or_else(|| bad("mismatched parentheses"))?.trim())
        }
    };
    if name.is_empty() {
        return Err(bad("no name"));
    }
    if let Some(problem) = role_problem(role) {
        return Err(problem);
    }
    let value = parse_value(value).ok_or_else(|| bad("no number, ranges or set"))?;
    if name == "gpus" && !matches!(value, Value::Scalar(milli) if milli % 1000 == 0) {
        return Err(bad("gpus must be whole"));
    }
    let mut resource = Resource::new(name, value);
    if role != "*" {
        resource.reservations =
            vec![Reservation { dynamic: false, role: role.into(), principal: None, labels: vec![] }];
    }
    Ok(resource)
}

/// A number, `[1-2, 5-6]`, or `{a, b}`; `[]` and `{}` are nothing. Brackets inside must match, and count for nothing.
pub(crate) fn parse_value(text: &str) -> Option<Value> {
    let text = text.trim();
    for (open, close) in [('[', ']'), ('{', '}'), ('(', ')')] {
        if text.matches(open).count() != text.matches(close).count() {
            return None;
        }
    }
    let inner = |open, close| text.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
    if text.starts_with('[') {
        let ranges = inner('[', ']')?.split([',', '\n', '[', ']']).map(str::trim).filter(|range| !range.is_empty());
        let ranges: Option<Vec<(u64, u64)>> = ranges
            .map(|range| {
                let (begin, end) = range.split_once('-')?;
                let (begin, end) = (begin.trim().parse().ok()?, end.trim().parse().ok()?);
                (begin <= end).then_some((begin, end))
            })
            .collect();
        return ranges.map(Value::ranges);
    }
    if text.starts_with('{') {
        let items = inner('{', '}')?.split([',', '\n', '{', '}']).map(str::trim).filter(|item| !item.is_empty());
        return Some(Value::set(items.map(Arc::from)));
    }
    let digits = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'));
    let value: f64 = text.parse().ok().filter(|_| digits)?;
    Some(Value::Scalar(scalar_milli(value)?))
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("{}");
        }
        let mut between = "";
        for resource in self {
            // A shared one says how often it is used; others are as often there as they are.
            let times = if resource.shared { 1 } else { resource.copies };
            for _ in 0..times {
                write!(f, "{between}{resource}")?;
                between = "; ";
            }
            if resource.shared {
                write!(f, "<{}>", resource.copies)?;
            }
        }
        Ok(())
    }
}

/// One of it, however many copies there are.
impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        if let Some(role) = &self.allocation_role {
            write!(f, "(allocated: {role})")?;
        }
        if !self.reservations.is_empty() {
            f.write_str("(reservations: [")?;
            for (index, reservation) in self.reservations.iter().enumerate() {
                write!(f, "{}{reservation}", if index > 0 { "," } else { "" })?;
            }
            f.write_str("])")?;
        }
        if let Some(disk) = &self.disk {
            write!(f, "[{}]", disk::text(&disk.to_v1()))?;
        }
        if self.revocable {
            f.write_str("{REV}")?;
        }
        if self.shared {
            write!(f, "<SHARED>")?;
        }
        write!(f, ":{}", self.value)
    }
}

impl fmt::Display for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({},{}", if self.dynamic { "DYNAMIC" } else { "STATIC" }, self.role)?;
        if let Some(principal) = &self.principal {
            write!(f, ",{principal}")?;
        }
        if !self.labels.is_empty() {
            write!(f, ",{}", self.labels_text())?;
        }
        f.write_str(")")
    }
}

impl Reservation {
    /// `{key: value, key}`.
    pub(super) fn labels_text(&self) -> String {
        let label = |(key, value): &(Arc<str>, Option<Arc<str>>)| match value {
            Some(value) => format!("{key}: {value}"),
            None => key.to_string(),
        };
        format!("{{{}}}", self.labels.iter().map(label).collect::<Vec<_>>().join(", "))
    }
}

impl Resources {
    /// Appends the flat object that `/state` shows: `{"disk":0.0,"mem":0.0,"gpus":0.0,"cpus":2.0,"ports":"[1-2]"}`.
    /// The four names are always there; what may be taken back has names of its own, `cpus_revocable`.
    pub fn write_state_json(&self, out: &mut Vec<u8>) {
        const ALWAYS: [Name; 4] = [Name::Disk, Name::Mem, Name::Gpus, Name::Cpus];
        let mut sums: Vec<(bool, Name, Value)> = ALWAYS.map(|name| (false, name, Value::Scalar(0))).into();
        for resource in self {
            let worth = match &resource.value {
                Value::Scalar(_) => Value::Scalar(resource.milli()),
                other => other.clone(),
            };
            let twin = |sum: &&mut (bool, Name, Value)| sum.0 == resource.revocable && sum.1 == resource.name;
            match sums.iter_mut().find(twin) {
                Some((_, _, sum)) => sum.add(&worth),
                None => sums.push((resource.revocable, resource.name.clone(), worth)),
            }
        }
        out.push(b'{');
        for (index, (revocable, name, value)) in sums.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            let mut writer = Writer::new(out);
            if *revocable {
                writer.string(&format!("{name}_revocable"));
            } else {
                writer.string(name.as_str());
            }
            writer.key(":");
            match value {
                Value::Scalar(milli) => writer.f64(*milli as f64 / 1000.0),
                other => writer.string(&other.to_string()),
            }
        }
        out.push(b'}');
    }

    /// As [`write_state_json`](Self::write_state_json), as a value.
    pub fn to_state_json(&self) -> serde_json::Value {
        let mut text = vec![];
        self.write_state_json(&mut text);
        serde_json::from_slice(&text).unwrap_or_default()
    }
}
