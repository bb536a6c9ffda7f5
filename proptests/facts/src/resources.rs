//! Facts about the arithmetic of resources.

use std::collections::BTreeMap;

use api::resources::{
    Format, Limits, Name, Quantities, Resource, Resources, Value as Amount, parse, parse_roles, role_ancestors,
    role_problem,
};
use api::{json, v1};
use serde_json::{Value, json};

use crate::Outcome;

type Answer = Result<Value, String>;

/// How an answer begins that is none.
const UNKNOWN: &str = "there is no operation";

/// Anything that a fact gives as resources.
pub(crate) fn resources(value: &Value) -> Resources {
    match value {
        Value::Null => Resources::new(),
        Value::String(text) => parse(text, "*").unwrap_or_else(|error| panic!("{text}: {error}")).resources,
        Value::Array(items) => items.iter().map(resources).fold(Resources::new(), |sum, item| sum.plus(&item)),
        Value::Object(object) if object.contains_key("sub") => {
            let mut parts = object["sub"].as_array().expect("a list").iter().map(resources);
            let first = parts.next().unwrap_or_default();
            parts.fold(first, |left, part| minus(&left, &part))
        }
        // What is no resource is dropped.
        other => one(other).into_iter().collect(),
    }
}

fn one(value: &Value) -> Result<Resource, String> {
    // A message without a name cannot be read at all.
    let message: v1::Resource = json::from_value(value).map_err(|error| error.to_string())?;
    Resource::from_v1(&message).map_err(|error| error.why)
}

pub(crate) fn minus(a: &Resources, b: &Resources) -> Resources {
    let mut left = a.clone();
    left.saturating_sub(b);
    left
}

/// How Mesos counts entries: copies of what is shared are one.
fn size(resources: &Resources) -> usize {
    resources.iter().map(|item| if item.shared { 1 } else { item.copies as usize }).sum()
}

fn number(milli: i64) -> Value {
    json!(milli as f64 / 1000.0)
}

fn amount(text: &Value) -> Result<Amount, String> {
    let text = text.as_str().expect("text");
    let parsed = parse(&format!("x:{text}"), "*").map_err(|error| error.to_string())?;
    match parsed.resources.iter().next() {
        Some(resource) => Ok(resource.value.clone()),
        None if text.trim_start().starts_with('{') => Ok(Amount::set([])),
        None if text.trim_start().starts_with('[') => Ok(Amount::ranges([])),
        None => Ok(Amount::Scalar(0)),
    }
}

fn amount_json(value: &Amount) -> Value {
    match value {
        Amount::Scalar(milli) => json!({ "type": "SCALAR", "value": number(*milli) }),
        Amount::Ranges(ranges) => json!({ "type": "RANGES", "value": ranges }),
        Amount::Set(items) => json!({ "type": "SET", "value": items }),
    }
}

fn ranges(value: &Value) -> Vec<(u64, u64)> {
    let pair = |pair: &Value| (pair[0].as_u64().expect("begin"), pair[1].as_u64().expect("end"));
    value.as_array().expect("ranges").iter().map(pair).collect()
}

/// One value, be it text or the JSON of an earlier answer.
fn single(value: &Amount) -> Resources {
    [Resource::new("x", value.clone())].into_iter().collect()
}

fn shown(resources: &Resources, wanted: &Value) -> Answer {
    // Equal as resources is equal as an answer.
    if *resources == self::resources(wanted) { Ok(wanted.clone()) } else { Err(resources.to_string()) }
}

fn quantities(value: &Value) -> Result<Quantities, String> {
    Quantities::parse(value.as_str().expect("text"))
}

fn limits(value: &Value) -> Result<Limits, String> {
    Limits::parse(value.as_str().expect("text"))
}

fn amounts<'a>(amounts: impl Iterator<Item = (&'a Name, i64)>) -> Value {
    amounts.map(|(name, milli)| (name.as_str().to_owned(), number(milli))).collect::<serde_json::Map<_, _>>().into()
}

fn by_role(found: &BTreeMap<&str, Resources>, wanted: &Value) -> Answer {
    let wanted_by_role = wanted.as_object().expect("an object");
    let same = found.len() == wanted_by_role.len()
        && found.iter().all(|(role, held)| wanted_by_role.get(*role).is_some_and(|it| resources(it) == *held));
    if same { Ok(wanted.clone()) } else { Err(format!("{found:?}")) }
}

fn ok_or_error<T, E: std::fmt::Display>(result: Result<T, E>, wanted: &Value) -> Answer {
    match result {
        Ok(_) => Ok("ok".into()),
        Err(error) if wanted.is_object() => Ok(json!({ "error": error.to_string() })),
        Err(_) => Ok("error".into()),
    }
}

fn apply(a: &Resources, operation: &Value) -> Result<Resources, String> {
    let list = |name: &str| resources(&operation[name]);
    let given = list("resources").plus(&list("volumes"));
    match operation["type"].as_str().expect("a type") {
        "RESERVE" => a.reserve(&given),
        "UNRESERVE" => a.unreserve(&given),
        "CREATE" => a.create(&given),
        "DESTROY" => a.destroy(&given),
        "GROW_VOLUME" => a.grow(&one(&operation["volume"])?, &one(&operation["addition"])?),
        "SHRINK_VOLUME" => {
            let by = operation["subtract"].get("value").unwrap_or(&operation["subtract"]);
            let milli = (by.as_f64().expect("a number") * 1000.0).round() as i64;
            a.shrink_volume(&one(&operation["volume"])?, milli)
        }
        other => return Err(format!("no operation {other}")),
    }
    .map_err(|error| error.to_string())
}

/// What this package answers to a fact. Err is another answer than the one wanted, or none.
#[allow(clippy::too_many_lines)] // A table.
fn answer(fact: &Value) -> Answer {
    let (a, b, wanted) = (&fact["a"], &fact["b"], &fact["expect"]);
    let name = fact["name"].as_str().unwrap_or_default();
    let role = fact["role"].as_str().unwrap_or_default();
    let times = fact["times"].as_u64().unwrap_or_default();
    let sized = |resources: &Resources| match fact["size"].as_u64() {
        Some(entries) if entries != size(resources) as u64 => Err(format!("{} entries", size(resources))),
        _ => shown(resources, wanted),
    };
    match fact["op"].as_str().expect("an op") {
        "parse" => {
            let default_role = fact["default_role"].as_str().unwrap_or("*");
            match parse(a.as_str().expect("text"), default_role) {
                Ok(_) if wanted == "error" => Err("it was read".into()),
                Ok(parsed) => sized(&parsed.resources),
                Err(_) => Ok("error".into()),
            }
        }
        "parse_value" => Ok(match amount(a) {
            Ok(value) => amount_json(&value),
            // Text is no amount, but attributes are told in it.
            Err(_) => match api::attributes::parse(&format!("x:{}", a.as_str().expect("text"))).as_deref() {
                Ok([one]) if one.text.is_some() => json!({ "type": "TEXT", "value": a }),
                _ => "error".into(),
            },
        }),
        "quantities_print" => Ok(quantities(a)?.to_string().into()),
        "limits_print" => Ok(limits(a)?.to_string().into()),
        op @ ("add_value" | "sub_value") => {
            let (a, b) = (single(&amount(a)?), single(&amount(b)?));
            let result = if op == "add_value" { a.plus(&b) } else { minus(&a, &b) };
            if result == single(&amount(wanted)?) { Ok(wanted.clone()) } else { Err(result.to_string()) }
        }
        "coalesce_ranges" => Ok(amount_json(&Amount::ranges(ranges(a)))["value"].clone()),
        "coalesce_add_range" => {
            let all = ranges(a).into_iter().chain(ranges(&json!([b])));
            Ok(amount_json(&Amount::ranges(all))["value"].clone())
        }
        "ranges_to_half_open" => {
            Ok(ranges(a).into_iter().map(|(begin, end)| json!([begin, end + 1])).collect::<Vec<_>>().into())
        }
        "add" => sized(&resources(a).plus(&resources(b))),
        "sub" => sized(&minus(&resources(a), &resources(b))),
        "equal" => Ok((resources(a) == resources(b)).into()),
        "contains" => Ok(resources(a).contains(&resources(b)).into()),
        "empty" => Ok(resources(a).is_empty().into()),
        "size" => Ok(size(&resources(a)).into()),
        "all_different" => {
            let all: Vec<Resources> = a.as_array().expect("a list").iter().map(resources).collect();
            Ok((0..all.len()).all(|at| !all[..at].contains(&all[at])).into())
        }
        "scalar_total" => {
            let held = resources(a).named(name);
            let total = number(held.scalar_milli(name));
            Ok(if held.is_empty() { Value::Null } else { total })
        }
        op @ ("ranges_total" | "range_count") => {
            let total = resources(a).named(name).without_reservations().unallocate();
            match total.iter().next().map(|item| &item.value) {
                Some(Amount::Ranges(ranges)) if op == "range_count" => Ok(ranges.len().into()),
                Some(value) if amount(wanted).as_ref() == Ok(value) => Ok(wanted.clone()),
                Some(value) => Err(value.to_string()),
                None => Ok(Value::Null),
            }
        }
        "count" => Ok(resources(a).count(&one(b)?).into()),
        "reservations" => by_role(&resources(a).reservations(), wanted),
        "allocations" => by_role(&resources(a).allocations(), wanted),
        "reserved_for" => shown(&resources(a).reserved_by(role), wanted),
        "reserved_all" => shown(&resources(a).reserved(), wanted),
        "unreserved" => shown(&resources(a).unreserved(), wanted),
        "allocatable_to" => shown(&resources(a).available_to(role), wanted),
        "to_unreserved" => shown(&resources(a).without_reservations(), wanted),
        "unallocate" => shown(&resources(a).unallocate(), wanted),
        "revocable" => shown(&resources(a).revocable(), wanted),
        "non_revocable" => shown(&resources(a).non_revocable(), wanted),
        "shared" => shown(&resources(a).shared(), wanted),
        "non_shared" => shown(&resources(a).non_shared(), wanted),
        "persistent_volumes" => shown(&resources(a).persistent_volumes(), wanted),
        "named" => shown(&resources(a).named(name), wanted),
        "reservation_ancestor" => {
            let (a, b) = (one(a)?, one(b)?);
            let common = Resource { reservations: a.common_reservations(&b).to_vec(), ..a.clone() };
            shown(&[common].into_iter().collect(), wanted)
        }
        "names" | "types" => {
            let held = resources(a);
            let types: BTreeMap<&str, Value> =
                held.iter().map(|item| (item.name.as_str(), amount_json(&item.value)["type"].clone())).collect();
            let names: Vec<&str> = types.keys().copied().collect();
            Ok(if wanted.is_array() { json!(names) } else { json!(types) })
        }
        "find" => match resources(a).find(&resources(b)) {
            Some(found) if !wanted.is_null() => shown(&found, wanted),
            Some(found) => Err(found.to_string()),
            None => Ok(Value::Null),
        },
        "apply" => match apply(&resources(a), &fact["operation"]) {
            Ok(_) if wanted == "ok" => Ok("ok".into()),
            Ok(result) if wanted != "error" => shown(&result, wanted),
            Ok(result) => Err(result.to_string()),
            Err(_) => Ok("error".into()),
        },
        "stripped_scalars" => shown(&resources(a).stripped_scalars(), wanted),
        op @ ("shrink_to_quantities" | "shrink_to_limits") => {
            let a = resources(a);
            let shrunk: Vec<Resources> = (0..a.iter().count().max(1))
                .map(|first| {
                    if op == "shrink_to_limits" {
                        a.shrink_to_limits(&limits(b).expect("limits"), first)
                    } else {
                        a.shrink_to_quantities(&quantities(b).expect("quantities"), first)
                    }
                })
                .collect();
            match wanted["either"].as_array().or(fact["either"].as_array()) {
                None => shrunk.iter().try_fold(Value::Null, |_, each| shown(each, wanted)),
                Some(either) => {
                    let either: Vec<Resources> = either.iter().map(resources).collect();
                    let all =
                        either.iter().all(|it| shrunk.contains(it)) && shrunk.iter().all(|it| either.contains(it));
                    if all { Ok(wanted.clone()) } else { Err(format!("{shrunk:?}")) }
                }
            }
        }
        "contains_quantities" => Ok(resources(a).contains_quantities(&quantities(b)?).into()),
        "validate" => ok_or_error(one(a), wanted),
        "print" => Ok(resources(a).to_string().into()),
        "print_one" => Ok(one(a)?.to_string().into()),
        "downgrade" => {
            let messages = resources(a).to_v1(Format::PreRefinement);
            let all = messages.iter().all(|message| message.reservations.is_empty());
            let result: Vec<Value> = messages.iter().map(json::to_value).collect();
            let wanted_result = wanted["result"].as_array().expect("a list");
            let read = |value: &Value| json::to_value(&json::from_value::<v1::Resource>(value).expect("a resource"));
            let same =
                result.len() == wanted_result.len() && wanted_result.iter().map(read).all(|it| result.contains(&it));
            if same {
                Ok(json!({ "all_downgraded": all, "result": wanted_result }))
            } else {
                Err(format!("{result:?}"))
            }
        }
        "repeat_two_add_two_sub" => {
            let x = resources(a);
            let sum = (0..times).fold(x.clone(), |sum, _| minus(&minus(&sum.plus(&x).plus(&x), &x), &x));
            shown(&sum, wanted)
        }
        "repeat_add_then_sub" => {
            let x = resources(a);
            let sum = (0..times).fold(x.clone(), |sum, _| sum.plus(&x));
            shown(&(0..times).fold(sum, |sum, _| minus(&sum, &x)), wanted)
        }
        "quantities_parse" => Ok(quantities(a).map_or("error".into(), |it| amounts(it.iter()))),
        "quantities_of_scalars" => Ok(amounts(resources(a).scalar_quantities().iter())),
        "quantities_of" | "quantities_of_resources" => Ok(amounts(resources(a).all_quantities().iter())),
        op @ ("quantities_add" | "quantities_sub") => {
            let mut result = quantities(a)?;
            if op == "quantities_add" {
                result.add(&quantities(b)?)
            } else {
                result.saturating_sub(&quantities(b)?)
            }
            Ok(amounts(result.iter()))
        }
        "quantities_contain" | "quantities_contains" => Ok(quantities(a)?.contains(&quantities(b)?).into()),
        "quantities_equal" => Ok((quantities(a)? == quantities(b)?).into()),
        "quantities_get" => Ok(number(quantities(a)?.get(name))),
        "limits_parse" => Ok(limits(a).map_or("error".into(), |it| amounts(it.iter()))),
        "limits_get" => Ok(limits(a)?.get(name).map_or(Value::Null, number)),
        "limits_equal" => Ok((limits(a)? == limits(b)?).into()),
        "limits_contain_limits" => Ok(limits(a)?.contains(&limits(b)?).into()),
        "limits_contain_quantities" => Ok(limits(a)?.allow(&quantities(b)?).into()),
        "limits_sub" | "limits_sub_quantities" => Ok(amounts(limits(a)?.minus(&quantities(b)?).iter())),
        "role_validate" => Ok(role_problem(a.as_str().expect("text")).map_or("ok", |_| "error").into()),
        "roles_validate" => {
            let problem =
                a.as_array().expect("roles").iter().find_map(|role| role_problem(role.as_str().expect("text")));
            Ok(problem.map_or("ok", |_| "error").into())
        }
        "roles_parse" => Ok(parse_roles(a.as_str().expect("text")).map_or("error".into(), |roles| json!(roles))),
        "role_ancestors" => Ok(role_ancestors(a.as_str().expect("text")).collect::<Vec<_>>().into()),
        op if op.starts_with("role_is") || op.contains("subrole") => {
            let (a, b) = (a.as_str().expect("text"), b.as_str().expect("text"));
            Ok((a != b && api::resources::is_at_or_below(a, b)).into())
        }
        "merge_facts" => merge_facts(if a.is_null() { &fact["source"] } else { a }, wanted),
        other => Err(format!("{UNKNOWN} {other}")),
    }
}

/// Whether disks of a source can be split and added: whether 2 contains 1, whether 1 + 1 is 2, and how many entries that has.
fn merge_facts(source: &Value, wanted: &Value) -> Answer {
    let disk = match source {
        disk if disk.get("disk").is_some() => disk["disk"].clone(),
        disk if disk.get("source").is_some() => disk.clone(),
        source => json!({ "source": source }),
    };
    let of = |amount: u32| {
        let resource = json!({ "name": "disk", "type": "SCALAR", "scalar": { "value": amount }, "disk": disk });
        one(&resource).map(|resource| -> Resources { [resource].into_iter().collect() })
    };
    let (single, double) = (of(1)?, of(2)?);
    let sum = single.plus(&single);
    let (is_split, is_added) = (double.contains(&single), sum == double);
    match wanted {
        Value::Bool(_) => Ok((is_split && is_added).into()),
        Value::Object(keys) => {
            let answer = |key: &String| match key.as_str() {
                key if ["size", "entries", "count"].iter().any(|word| key.contains(word)) => json!(size(&sum)),
                key if ["add", "merge", "sum", "equal"].iter().any(|word| key.contains(word)) => json!(is_added),
                _ => json!(is_split),
            };
            Ok(keys.keys().map(|key| (key.clone(), answer(key))).collect::<serde_json::Map<_, _>>().into())
        }
        _ => Err("neither true or false nor an object is expected".into()),
    }
}

/// Numbers are equal by value, and thousandths are all that counts.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            a.as_f64().zip(b.as_f64()).is_some_and(|(a, b)| (a - b).abs() < 0.000_1)
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

/// Asks one fact.
pub(crate) fn judge(fact: &Value) -> Outcome {
    match answer(fact) {
        Ok(answer) if same(&answer, &fact["expect"]) => Outcome::Hold,
        Ok(answer) => Outcome::Wrong(format!("{answer}, not {}", fact["expect"])),
        Err(answer) if answer.starts_with(UNKNOWN) => Outcome::Cannot(answer),
        Err(answer) => Outcome::Wrong(format!("{answer}, not {}", fact["expect"])),
    }
}
