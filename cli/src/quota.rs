//! `meseta quota` and `meseta weights`: what roles are entitled to, what they may have at most, and how much they count.

use std::process::ExitCode;

use api::flags::{Flag, Kind, Values};
use serde_json::{Map, Value, json};

use crate::agents::{call, list};
use crate::error::Error;
use crate::http;
use crate::ids::text;
use crate::read::number;
use crate::say;
use crate::table;

const MASTER: Flag = Flag::new("master", Kind::Text, "HOST:PORT of a master, or of several with commas; any will do.")
    .default("127.0.0.1:5050");
const JSON: Flag =
    Flag::new("json", Kind::Bool, "Print what the masters answered, as one JSON object.").default("false");

pub(crate) const QUOTA_ABOUT: &str = "\
What roles are guaranteed, and what they may have at most, each together with the roles below it.

  meseta quota list                      the roles with quota, and what they consume of it
  meseta quota set ROLE --guarantees=cpus:2,mem:1024 --limits=cpus:8
                                         all of the role's quota; what is not named is not guaranteed, or has no limit
  meseta quota update ROLE --limits=mem:4096,cpus:none
                                         only the amounts that are named; none takes one away
  meseta quota remove ROLE...            no quota any more

Offers that are in the way of a new quota are taken back. --force sets limits below what is consumed already, and
guarantees more than the cluster has.";

pub(crate) const QUOTA_FLAGS: &[Flag] = &[
    MASTER,
    Flag::new("guarantees", Kind::Text, "What is held back for the role: NAME:AMOUNT,..."),
    Flag::new("limits", Kind::Text, "What the role may have at most: NAME:AMOUNT,..."),
    Flag::new("force", Kind::Bool, "Although the role has more already, or the cluster has less.").default("false"),
    JSON,
];

pub(crate) const WEIGHTS_ABOUT: &str = "\
How much roles count among their siblings: one of weight 2 is due twice as much as one of 1, which is what a role has
that is not listed. Setting a weight of a role with frameworks takes all offers back, to be made anew.

  meseta weights list
  meseta weights set ROLE=WEIGHT ...";

pub(crate) const WEIGHTS_FLAGS: &[Flag] = &[MASTER, JSON];

pub(crate) async fn quota(words: &[String], flags: Values) -> Result<ExitCode, Error> {
    let masters = http::addresses(flags.text("master").unwrap_or_default())?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let configs = match words[..] {
        [] | ["list"] => {
            let answer = http::get_json(&masters, if flags.bool("json") { "/quota" } else { "/master/roles" }).await?;
            say(&if flags.bool("json") { line(&answer) } else { quotas(&answer) });
            return Ok(ExitCode::SUCCESS);
        }
        ["set", role] => vec![changed(json!({ "role": role }), &flags)?],
        ["update", role] => {
            let known = http::get_json(&masters, "/quota").await?;
            let known = list(&known["configs"]).iter().find(|config| text(&config["role"]) == role).cloned();
            vec![changed(known.unwrap_or_else(|| json!({ "role": role })), &flags)?]
        }
        ["remove", ref roles @ ..] if !roles.is_empty() => roles.iter().map(|role| json!({ "role": role })).collect(),
        _ => {
            let words = words.join(" ");
            return Err(Error::Usage(format!(
                "quota {words}: say list, set ROLE, update ROLE or remove ROLE... (meseta help quota tells more)"
            )));
        }
    };
    let is_change = matches!(words[0], "set" | "update");
    if is_change && flags.text("guarantees").or(flags.text("limits")).is_none() {
        return Err(Error::Usage(format!("quota {}: name --guarantees or --limits", words[0])));
    }
    let update = json!({ "force": flags.bool("force"), "quota_configs": configs });
    call(&masters, "UPDATE_QUOTA", update).await?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn weights(words: &[String], flags: Values) -> Result<ExitCode, Error> {
    let masters = http::addresses(flags.text("master").unwrap_or_default())?;
    let pairs = match words {
        [] => &[],
        [action, pairs @ ..] if action == "set" && !pairs.is_empty() => pairs,
        [action] if action == "list" => &[],
        _ => {
            let words = words.join(" ");
            return Err(Error::Usage(format!("weights {words}: say list, or set ROLE=WEIGHT ...")));
        }
    };
    if pairs.is_empty() {
        let answer = http::get_json(&masters, "/weights").await?;
        let row = |weight: &Value| vec![text(&weight["role"]).to_owned(), weight["weight"].to_string()];
        let rows: Vec<Vec<String>> = list(&answer).iter().map(row).collect();
        say(&if flags.bool("json") { line(&answer) } else { table::render(&["ROLE", "WEIGHT"], &rows) });
        return Ok(ExitCode::SUCCESS);
    }
    let info = |pair: &String| {
        let (role, weight) =
            pair.rsplit_once('=').and_then(|(role, weight)| Some((role, weight.parse::<f64>().ok()?)))?;
        Some(json!({ "role": role, "weight": weight }))
    };
    let infos: Vec<Value> = pairs
        .iter()
        .map(|pair| info(pair).ok_or_else(|| Error::Usage(format!("weights set: '{pair}' is no ROLE=WEIGHT"))))
        .collect::<Result<_, _>>()?;
    call(&masters, "UPDATE_WEIGHTS", json!({ "weight_infos": infos })).await?;
    Ok(ExitCode::SUCCESS)
}

fn line(answer: &Value) -> String {
    format!("{}\n", api::terminal::json(&answer.to_string()))
}

/// The configuration with the amounts that flags name.
fn changed(mut config: Value, flags: &Values) -> Result<Value, Error> {
    for field in ["guarantees", "limits"] {
        let Some(given) = flags.text(field) else { continue };
        let amounts = config[field].as_object().cloned().unwrap_or_default();
        config[field] = Value::Object(named(field, given, amounts)?);
    }
    Ok(config)
}

fn named(field: &str, given: &str, mut amounts: Map<String, Value>) -> Result<Map<String, Value>, Error> {
    for item in given.split([',', ';']).map(str::trim).filter(|item| !item.is_empty()) {
        let bad = || Error::Usage(format!("--{field} is NAME:AMOUNT,..., and '{item}' is none"));
        let (name, amount) = item.split_once(':').ok_or_else(bad)?;
        if amount == "none" {
            amounts.remove(name);
            continue;
        }
        let amount: f64 = amount.parse().map_err(|_| bad())?;
        amounts.insert(name.to_owned(), json!({ "value": amount }));
    }
    Ok(amounts)
}

/// `cpus:2;mem:1024`, in the order of names.
pub(crate) fn amounts(amounts: &Value) -> String {
    let amounts = amounts.as_object().into_iter().flatten();
    let amounts = amounts.map(|(name, amount)| format!("{name}:{}", number(amount.as_f64().unwrap_or(0.0))));
    amounts.collect::<Vec<_>>().join(";")
}

fn quotas(roles: &Value) -> String {
    let has_quota = |quota: &Value| ["guarantee", "limit"].iter().any(|kind| !amounts(&quota[kind]).is_empty());
    let all = list(&roles["roles"]).iter().map(|role| &role["quota"]);
    let row = |quota: &Value| {
        let shown = |kind: &str| Some(amounts(&quota[kind])).filter(|text| !text.is_empty()).unwrap_or("-".into());
        vec![text(&quota["role"]).to_owned(), shown("guarantee"), shown("consumed"), shown("limit")]
    };
    let rows: Vec<Vec<String>> = all.filter(|quota| has_quota(quota)).map(row).collect();
    table::render(&["ROLE", "GUARANTEED", "CONSUMED", "LIMIT"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_that_are_named_change() {
        let before = json!({"cpus": {"value": 1.0}, "mem": {"value": 64.0}}).as_object().cloned().unwrap();
        let after = named("limits", "cpus:none, disk:10;mem:128", before).unwrap();
        assert_eq!(Value::Object(after), json!({"disk": {"value": 10.0}, "mem": {"value": 128.0}}));
        for bad in ["cpus", "cpus:x"] {
            assert!(named("limits", bad, Map::new()).is_err());
        }
    }

    #[test]
    fn roles_with_quota_are_listed() {
        let quota = |role: &str, guarantee: Value, limit: Value| json!({"name": role, "quota": {"role": role, "guarantee": guarantee, "limit": limit, "consumed": {"cpus": 0.5}}});
        let roles = json!({"roles": [
            quota("a", json!({}), json!({})),
            quota("b", json!({"cpus": 1.0}), json!({"cpus": 2.0, "mem": 64.0})),
            quota("c", json!({}), json!({"cpus": 0.0})),
        ]});
        assert_eq!(
            quotas(&roles),
            "ROLE  GUARANTEED  CONSUMED  LIMIT\nb     cpus:1      cpus:0.5  cpus:2;mem:64\nc     -           cpus:0.5  cpus:0\n"
        );
    }
}
