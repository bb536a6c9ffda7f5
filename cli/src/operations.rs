//! `meseta reserve`, `unreserve`, `volumes` and `operations`: what an operator makes of an agent's resources.

use std::process::ExitCode;

use api::flags::{Flag, Kind, Values};
use api::resources::{Format, Name, Reservation, Resource, Resources, Value as Amount, parse, scalar_milli};
use api::v1;
use serde_json::{Value, json};

use crate::agents::{self, call, list};
use crate::error::Error;
use crate::http::{self, Request};
use crate::ids::{Short, text};
use crate::say;
use crate::table;

const MASTER: Flag = Flag::new("master", Kind::Text, "HOST:PORT of a master, or of several with commas; any will do.")
    .default("127.0.0.1:5050");
const ROLE: Flag = Flag::new("role", Kind::Text, "For whom it is reserved. Required.");
const OWNER: Flag = Flag::new("role", Kind::Text, "Whose volume it is, if several roles have one of that id.");
const PRINCIPAL: Flag = Flag::new("principal", Kind::Text, "Who makes it, as the reservation or the volume will say.");
const LABELS: Flag = Flag::new("labels", Kind::Text, "KEY=VALUE,... of the reservation.");
const JSON: Flag =
    Flag::new("json", Kind::Bool, "Print what the master answered, as one JSON object.").default("false");

pub(crate) const RESERVE_ABOUT: &str = "\
Reserves resources of an agent for a role: nobody else is offered them. Offers that hold some of them are taken back.

  meseta reserve S0 'cpus:2;mem:512' --role=eng
  meseta reserve S0 'cpus:1' --role=eng/dev --of=eng     out of what is reserved for eng
  meseta reserve S0 'cpus:1' --role=ops --from=eng       eng's reservation becomes one of ops

A role that is reserved for need not have a framework. meseta roles shows who has how much.";

pub(crate) const RESERVE_FLAGS: &[Flag] = &[
    MASTER,
    ROLE,
    Flag::new("of", Kind::Text, "The role above that has it reserved: the reservation is refined."),
    Flag::new("from", Kind::Text, "The role that has it reserved, and gives it away."),
    PRINCIPAL,
    LABELS,
];

pub(crate) const UNRESERVE_ABOUT: &str = "\
Takes a reservation off resources of an agent that no task uses: what was reserved out of the reservation of a role
above is that role's again. A reservation of an agent's own flags stays.

  meseta unreserve S0 'cpus:2;mem:512' --role=eng";

pub(crate) const UNRESERVE_FLAGS: &[Flag] = &[MASTER, ROLE];

pub(crate) const VOLUMES_ABOUT: &str = "\
Persistent volumes: disk that a role has reserved and that keeps its files when a task is over.

  meseta volumes list                                    all of them, and who uses them
  meseta volumes create S0 ID --role=eng --mb=512 --path=data [--shared]
                                                         of disk that is reserved for the role on agent S0
  meseta volumes grow S0 ID --mb=64                      by so much of the same disk
  meseta volumes shrink S0 ID --mb=64
  meseta volumes destroy S0 ID                           its files are gone for good; not while a task uses it";

pub(crate) const VOLUMES_FLAGS: &[Flag] = &[
    MASTER,
    OWNER,
    Flag::new("mb", Kind::Text, "How large, or by how much, in megabytes."),
    Flag::new("path", Kind::Text, "Where a task sees it in its sandbox.").default("data"),
    Flag::new("shared", Kind::Bool, "Several tasks may use it at once.").default("false"),
    PRINCIPAL,
    JSON,
];

pub(crate) const OPERATIONS_ABOUT: &str = "\
Operations on resources that are not over: their agents have not said that they did them, or their frameworks have not
acknowledged that.";

pub(crate) const OPERATIONS_FLAGS: &[Flag] = &[MASTER, JSON];

pub(crate) async fn reserve(words: &[String], flags: Values) -> Result<ExitCode, Error> {
    let masters = http::addresses(flags.text("master").unwrap_or_default())?;
    let (agent, wanted) = named(&masters, "reserve", words).await?;
    let role = flags.text("role").ok_or_else(|| Error::Usage("reserve needs --role".into()))?;
    let labels = labels(flags.text("labels").unwrap_or_default());
    let principal = flags.text("principal").map(Into::into);
    let top = Reservation { dynamic: true, role: role.into(), principal, labels };
    let (source, resources) = match (flags.text("of"), flags.text("from")) {
        (Some(_), Some(_)) => return Err(Error::Usage("reserve: name --of or --from, not both".into())),
        (Some(above), None) => {
            let held = take(&agent.total, &wanted, |item| item.reservation_role() == Some(above));
            (Resources::new(), held.ok_or_else(|| agent.lacks(&wanted, above))?.push_reservation(&top))
        }
        (None, Some(giver)) => {
            let held = take(&agent.total, &wanted, |item| item.reservation_role() == Some(giver));
            let held = held.ok_or_else(|| agent.lacks(&wanted, giver))?;
            let given = held.without_reservations().push_reservation(&top);
            (held, given)
        }
        (None, None) => (Resources::new(), wanted.push_reservation(&top)),
    };
    let mut body = json!({ "agent_id": { "value": agent.id }, "resources": messages(&resources) });
    if !source.is_empty() {
        body["source"] = messages(&source);
    }
    call(&masters, "RESERVE_RESOURCES", body).await?;
    say(&format!("{} of agent {} reserved for {role}\n", words[1], agent.id));
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn unreserve(words: &[String], flags: Values) -> Result<ExitCode, Error> {
    let masters = http::addresses(flags.text("master").unwrap_or_default())?;
    let (agent, wanted) = named(&masters, "unreserve", words).await?;
    let role = flags.text("role").ok_or_else(|| Error::Usage("unreserve needs --role".into()))?;
    let held =
        take(&agent.total, &wanted, |item| item.is_dynamically_reserved() && item.reservation_role() == Some(role));
    let held = held.ok_or_else(|| agent.lacks(&wanted, role))?;
    let body = json!({ "agent_id": { "value": agent.id }, "resources": messages(&held) });
    call(&masters, "UNRESERVE_RESOURCES", body).await?;
    say(&format!("{} of agent {} not reserved for {role} any more\n", words[1], agent.id));
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn volumes(words: &[String], flags: Values) -> Result<ExitCode, Error> {
    let masters = http::addresses(flags.text("master").unwrap_or_default())?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (action, agent, id) = match words[..] {
        [] | ["list"] => {
            let answer = get(&masters, "GET_AGENTS").await?;
            say(&if flags.bool("json") { line(&answer) } else { shown(&answer["get_agents"]) });
            return Ok(ExitCode::SUCCESS);
        }
        [action @ ("create" | "destroy" | "grow" | "shrink"), agent, id] => (action, agent, id),
        _ => {
            let words = words.join(" ");
            return Err(Error::Usage(format!(
                "volumes {words}: say list, or create, destroy, grow or shrink with an agent and the volume's id"
            )));
        }
    };
    let agent = Agent::find(&masters, agent).await?;
    let agent_id = json!({ "value": agent.id });
    let milli = || {
        let text = flags.text("mb").ok_or_else(|| Error::Usage(format!("volumes {action} needs --mb")))?;
        let milli = text.parse().ok().and_then(scalar_milli).filter(|milli| *milli > 0);
        milli.ok_or_else(|| Error::Usage(format!("--mb is a number of megabytes, and '{text}' is none")))
    };
    let (kind, body, done) = match action {
        "create" => {
            let role = flags.text("role").ok_or_else(|| Error::Usage("volumes create needs --role".into()))?;
            let wanted = Resources::from_iter([Resource::new(Name::Disk, Amount::Scalar(milli()?))]);
            let whole = |item: &Resource| item.reservation_role() == Some(role) && holds(item, &wanted);
            let disk = agent.total.iter().filter(|item| item.disk.is_none()).find(|item| whole(item));
            let disk = disk.ok_or_else(|| agent.lacks(&wanted, role))?;
            let mut volume = Resource { value: Amount::Scalar(milli()?), ..disk.clone() }.to_v1(Format::PostRefinement);
            let principal = flags.text("principal").map(str::to_owned);
            let persistence = v1::resource::disk_info::Persistence { id: id.to_owned(), principal };
            let place = v1::Volume {
                container_path: flags.text("path").unwrap_or("data").to_owned(),
                mode: v1::volume::Mode::Rw as i32,
                ..Default::default()
            };
            let (persistence, place) = (Some(persistence), Some(place));
            volume.disk = Some(Box::new(v1::resource::DiskInfo { persistence, volume: place, ..Default::default() }));
            volume.shared = flags.bool("shared").then(Default::default);
            ("CREATE_VOLUMES", json!({ "agent_id": agent_id, "volumes": [api::json::to_value(&volume)] }), "made")
        }
        "destroy" => {
            let volume = agent.volume(id, &flags)?;
            ("DESTROY_VOLUMES", json!({ "agent_id": agent_id, "volumes": [message(volume)] }), "destroyed")
        }
        "grow" => {
            let volume = agent.volume(id, &flags)?;
            let disk = Resources::from_iter([volume.clone()]).disks_of_volumes();
            let disk = disk.map_err(|error| Error::Failed(error.to_string()))?;
            let addition = disk.iter().map(|disk| Resource { value: Amount::Scalar(0), ..disk.clone() }).next();
            let addition = addition.ok_or_else(|| Error::Failed(format!("volume {id} has no disk")))?;
            let addition = Resource { value: Amount::Scalar(milli()?), ..addition };
            let body = json!({ "agent_id": agent_id, "volume": message(volume), "addition": message(&addition) });
            ("GROW_VOLUME", body, "larger")
        }
        _ => {
            let volume = agent.volume(id, &flags)?;
            let subtract = json!({ "value": milli()? as f64 / 1000.0 });
            let body = json!({ "agent_id": agent_id, "volume": message(volume), "subtract": subtract });
            ("SHRINK_VOLUME", body, "smaller")
        }
    };
    call(&masters, kind, body).await?;
    say(&format!("volume {id} on agent {} is {done}\n", agent.id));
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn operations(flags: Values) -> Result<ExitCode, Error> {
    let masters = http::addresses(flags.text("master").unwrap_or_default())?;
    let answer = get(&masters, "GET_OPERATIONS").await?;
    say(&if flags.bool("json") { line(&answer) } else { waiting(&answer["get_operations"]) });
    Ok(ExitCode::SUCCESS)
}

/// An agent and what it has.
struct Agent {
    id: String,
    total: Resources,
}

impl Agent {
    async fn find(masters: &[String], wanted: &str) -> Result<Agent, Error> {
        let id = agents::find(masters, wanted).await?.id;
        let answer = get(masters, "GET_AGENTS").await?;
        let all = list(&answer["get_agents"]["agents"]);
        let own = all.iter().find(|agent| text(&agent["agent_info"]["id"]["value"]) == id);
        let own = own.ok_or_else(|| Error::Failed(format!("agent {id} is not there")))?;
        Ok(Agent { total: read(&own["total_resources"])?, id })
    }

    fn lacks(&self, wanted: &Resources, role: &str) -> Error {
        Error::Failed(format!("agent {} does not have {wanted} reserved for {role}", self.id))
    }

    /// The volume with this id, of the role that is named or of the only one that has it.
    fn volume(&self, id: &str, flags: &Values) -> Result<&Resource, Error> {
        let is_it = |item: &&Resource| {
            let own = item.disk.as_ref().and_then(|disk| disk.persistence_id.as_deref());
            own == Some(id) && flags.text("role").is_none_or(|role| item.reservation_role() == Some(role))
        };
        let found: Vec<&Resource> = self.total.iter().filter(is_it).collect();
        match found[..] {
            [volume] => Ok(volume),
            [] => Err(Error::Failed(format!("agent {} has no volume {id} (meseta volumes lists them)", self.id))),
            _ => {
                Err(Error::Usage(format!("several roles have a volume {id} on agent {}: name one by --role", self.id)))
            }
        }
    }
}

/// The agent and the resources that a command line names.
async fn named(masters: &[String], command: &str, words: &[String]) -> Result<(Agent, Resources), Error> {
    let [agent, wanted] = words else {
        return Err(Error::Usage(format!("{command}: name an agent and what, as S0 'cpus:1;mem:64'")));
    };
    let wanted = parse(wanted, "*").map_err(Error::Usage)?.resources;
    if wanted.is_empty() {
        return Err(Error::Usage(format!("{command}: there is nothing in it")));
    }
    Ok((Agent::find(masters, agent).await?, wanted))
}

/// `wanted` as it is there, of what `may` be taken; None if that is not enough. Volumes stay.
fn take(held: &Resources, wanted: &Resources, may: impl Fn(&Resource) -> bool) -> Option<Resources> {
    let (mut missing, mut taken) = (wanted.clone(), Resources::new());
    for item in held.iter().filter(|item| item.disk.is_none() && may(item)) {
        let plain = Resources::from_iter([item.clone()]).without_reservations();
        let both = plain.intersection(&missing);
        missing.saturating_sub(&both);
        taken
            .add(&both.iter().map(|one| Resource { reservations: item.reservations.clone(), ..one.clone() }).collect());
    }
    missing.is_empty().then_some(taken)
}

fn holds(item: &Resource, wanted: &Resources) -> bool {
    Resources::from_iter([item.clone()]).without_reservations().contains(wanted)
}

/// `KEY=VALUE,KEY`.
fn labels(given: &str) -> Vec<(std::sync::Arc<str>, Option<std::sync::Arc<str>>)> {
    let items = given.split(',').map(str::trim).filter(|item| !item.is_empty());
    let label = |item: &str| match item.split_once('=') {
        Some((key, value)) => (key.into(), Some(value.into())),
        None => (item.into(), None),
    };
    items.map(label).collect()
}

async fn get(masters: &[String], kind: &str) -> Result<Value, Error> {
    http::read_json(masters, &Request::post("/api/v1", &json!({ "type": kind }))).await
}

fn read(messages: &Value) -> Result<Resources, Error> {
    let unread = |why: String| Error::Failed(format!("the master's answer cannot be read: {why}"));
    let messages: Result<Vec<v1::Resource>, _> = list(messages).iter().map(api::json::from_value).collect();
    let messages = messages.map_err(|error| unread(error.to_string()))?;
    Resources::from_v1(&messages).map_err(|error| unread(error.to_string()))
}

fn message(resource: &Resource) -> Value {
    api::json::to_value(&resource.to_v1(Format::PostRefinement))
}

fn messages(resources: &Resources) -> Value {
    Value::Array(resources.iter().map(message).collect())
}

fn line(answer: &Value) -> String {
    format!("{}\n", api::terminal::json(&answer.to_string()))
}

fn shown(agents: &Value) -> String {
    let all = list(&agents["agents"]);
    let short = Short::of(all.iter().map(|agent| text(&agent["agent_info"]["id"]["value"])), false);
    let mut rows = Vec::new();
    for agent in all {
        let id = short.id(text(&agent["agent_info"]["id"]["value"]));
        let used = read(&agent["allocated_resources"]).unwrap_or_default().unallocate();
        for volume in read(&agent["total_resources"]).unwrap_or_default().persistent_volumes().iter() {
            let info = volume.disk.as_ref().map(|disk| disk.to_v1()).unwrap_or_default();
            let users = used.count(volume);
            rows.push(vec![
                id.clone(),
                info.persistence.map(|persistence| persistence.id).unwrap_or_default(),
                volume.reservation_role().unwrap_or("*").to_owned(),
                crate::read::number(volume.milli() as f64 / 1000.0),
                info.volume.map(|volume| volume.container_path).unwrap_or_default(),
                if volume.shared { "shared" } else { "one task" }.to_owned(),
                users.to_string(),
            ]);
        }
    }
    table::render_with(&["AGENT", "VOLUME", "ROLE", "MB", "PATH", "FOR", "USERS"], &rows, &short.heading())
}

fn waiting(operations: &Value) -> String {
    let all = list(&operations["operations"]);
    let ids = all.iter().flat_map(|one| [&one["agent_id"]["value"], &one["framework_id"]["value"]]).map(text);
    let short = Short::of(ids, false);
    let row = |one: &Value| {
        let state = text(&one["latest_status"]["state"]).trim_start_matches("OPERATION_").to_owned();
        let framework = text(&one["framework_id"]["value"]);
        let by = if framework.is_empty() { "an operator".to_owned() } else { short.id(framework) };
        let id = text(&one["info"]["id"]["value"]);
        let id = if id.is_empty() { "-" } else { id }.to_owned();
        vec![short.id(text(&one["agent_id"]["value"])), text(&one["info"]["type"]).to_owned(), by, id, state]
    };
    let rows: Vec<Vec<String>> = all.iter().map(row).collect();
    table::render_with(&["AGENT", "OPERATION", "BY", "ID", "STATE"], &rows, &short.heading())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total() -> Resources {
        let plain = |text: &str| parse(text, "*").unwrap().resources;
        let of = |role: &str, labels: &str| {
            let (role, labels) = (role.into(), super::labels(labels));
            Reservation { dynamic: true, role, principal: None, labels }
        };
        let mut all = plain("cpus:4;mem:100");
        all.add(&plain("cpus:1").push_reservation(&of("eng", "team=a")));
        all.add(&plain("cpus:2;disk:64").push_reservation(&of("eng", "")));
        all
    }

    #[test]
    fn what_is_reserved_is_taken_with_its_labels() {
        let wanted = parse("cpus:2.5", "*").unwrap().resources;
        let taken = take(&total(), &wanted, |item| item.reservation_role() == Some("eng")).unwrap();
        assert_eq!(taken.iter().count(), 2, "{taken}");
        assert_eq!(taken.scalar_milli("cpus"), 2500);
        assert!(total().contains(&taken));
        assert_eq!(take(&total(), &wanted, |item| item.reservation_role() == Some("ops")), None);
    }

    #[test]
    fn volumes_and_operations_are_tables() {
        let mut disk = message(&Resource::new(Name::Disk, Amount::Scalar(64_000)));
        disk["reservations"] = json!([{ "type": "DYNAMIC", "role": "eng" }]);
        disk["disk"] = json!({ "persistence": { "id": "v1" }, "volume": { "container_path": "data", "mode": "RW" } });
        let agents = json!({ "agents": [
            { "agent_info": { "id": { "value": "C-S0" } }, "total_resources": [disk], "allocated_resources": [] }
        ] });
        assert_eq!(
            shown(&agents),
            "AGENT  VOLUME  ROLE  MB  PATH  FOR       USERS\nC-S0   v1      eng   64  data  one task      0\n"
        );
        let operations = json!({ "operations": [{
            "agent_id": { "value": "C-S0" }, "info": { "type": "RESERVE" },
            "latest_status": { "state": "OPERATION_PENDING" }
        }] });
        assert_eq!(
            waiting(&operations),
            "AGENT  OPERATION  BY           ID  STATE\nC-S0   RESERVE    an operator   -  PENDING\n"
        );
    }
}
