//! `meseta masters list`: what each master says of itself. What one says of the others is as old as what it last heard,
//! and when it matters most that is too old.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::terminal::plain;
use api::time::{span, to_the_second};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::json_line;
use crate::error::Error;
use crate::http::{self, Request};
use crate::ids::text;
use crate::say;
use crate::table;

/// A master that is well answers about itself at once.
const TRY: Duration = Duration::from_secs(2);
/// After this long without a leader a master knows that it has none.
const ELECTION: Duration = Duration::from_secs(3);

const ELSEWHERE: &str = "another cluster's master is there";

/// What each address answered, or why it did not.
type Views = BTreeMap<String, Result<Value, String>>;

pub(super) async fn run(masters: &[String], as_json: bool) -> Result<ExitCode, Error> {
    let mut views = Views::new();
    ask(masters.iter().cloned(), &mut views).await;
    if let Some(best) = best(&views) {
        let others: Vec<String> = members(best).map(|master| text(&master["address"]).to_owned()).collect();
        let cluster = best["cluster_id"].clone();
        ask(others.into_iter(), &mut views).await;
        // At the address of a master that is gone another cluster may have begun.
        for view in views.values_mut() {
            if view.as_ref().is_ok_and(|view| view["cluster_id"] != cluster) {
                *view = Err(ELSEWHERE.to_owned());
            }
        }
    }
    // Those that were asked now may know more.
    let Some(best) = best(&views).cloned() else {
        let reason = |(master, view): (&String, &Result<Value, String>)| {
            view.as_ref().err().map(|why| if views.len() == 1 { why.clone() } else { format!("{master}: {why}") })
        };
        let reason = views.iter().filter_map(reason).collect::<Vec<_>>().join("; ");
        return Err(Error::Unreachable { masters: masters.join(", "), reason, refused: false });
    };
    let mut verdict = judge(best, &views);
    if verdict.1.is_some() && works_unseen(&verdict.0, &views) {
        // Somebody heard a leader a moment ago. Either it has just died, or those that do not answer are not reachable from
        // here alone: soon it is known which.
        tokio::time::sleep(ELECTION).await;
        let known: Vec<String> = views.iter().filter(|(_, view)| view.is_ok()).map(|(it, _)| it.clone()).collect();
        views.retain(|_, view| view.is_err());
        ask(known.into_iter(), &mut views).await;
        if let Some(best) = self::best(&views).cloned() {
            verdict = judge(best, &views);
            if verdict.1.is_some() && works_unseen(&verdict.0, &views) {
                let silent = verdict.0["quorum"]["silent"].as_array().into_iter().flatten().map(text);
                let silent = silent.collect::<Vec<_>>().join(", ");
                verdict.0["note"] =
                    format!("not reachable from here, though the masters have a quorum: {silent}").into();
                verdict.1 = None;
            }
        }
    }
    let (answer, trouble) = verdict;
    say(&if as_json { json_line(&answer) } else { shown(&answer) });
    if let Some(trouble) = &trouble {
        eprintln!("meseta: {}", plain(trouble));
    }
    Ok(if trouble.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Whether too few answer here, and one of them hears a leader, or a quorum as a leader, all the same.
fn works_unseen(answer: &Value, views: &Views) -> bool {
    let quorum = &answer["quorum"];
    let too_few = quorum["answering"].as_u64() < quorum["needed"].as_u64();
    too_few && views.values().flatten().any(|view| view["me"]["leader_contact"] == true)
}

/// Asks each of them, all at once, unless it was asked before.
async fn ask(addresses: impl Iterator<Item = String>, views: &mut Views) {
    let mut asked = JoinSet::new();
    for address in addresses.filter(|address| !views.contains_key(address)) {
        asked.spawn(async move {
            let request = Request::post("/meseta/masters", &json!({"action": "list", "here": true}));
            let answer =
                async { http::json(http::ask(&address, &request, TRY).await?).await.map_err(|it| it.to_string()) };
            let view = answer.await;
            (address, view)
        });
    }
    while let Some(Ok((address, view))) = asked.join_next().await {
        views.insert(address, view);
    }
}

/// The view that is furthest.
fn best(views: &Views) -> Option<&Value> {
    let known = views.values().filter_map(|view| view.as_ref().ok());
    known.max_by_key(|view| (members(view).count() > 0, view["me"]["term"].as_u64(), view["me"]["index"].as_u64()))
}

fn members(view: &Value) -> impl Iterator<Item = &Value> {
    view["masters"].as_array().into_iter().flatten()
}

/// The table with what each answered put in, and what is wrong with the quorum in one sentence.
fn judge(mut answer: Value, views: &Views) -> (Value, Option<String>) {
    if members(&answer).count() == 0 {
        let trouble = forming(&answer["me"]);
        return (answer, Some(trouble));
    }
    let at = |address: &str| views.get(address).and_then(|view| view.as_ref().ok()).map(|view| &view["me"]);
    // Who was asked under another address than the one that the others know is found by its id.
    let called = |id: &str| views.values().flatten().map(|view| &view["me"]).find(|me| me["id"] == *id);
    let leaders = views.values().flatten().map(|view| &view["me"]);
    let leader = leaders.filter(|me| me["role"] == "leader").max_by_key(|me| me["term"].as_u64());
    let leader = leader.map(|me| text(&me["id"]).to_owned());
    let (mut voters, mut answering, mut silent, mut address_of_leader) = (0, 0, Vec::new(), Value::Null);
    for master in answer["masters"].as_array_mut().into_iter().flatten() {
        let (address, id) = (text(&master["address"]).to_owned(), text(&master["id"]).to_owned());
        // Somebody else at its address is not it. A master of an older release does not tell who it is.
        let me = called(&id).or_else(|| at(&address).filter(|me| me.is_null()));
        master["alive"] = me.is_some().into();
        if let Some(index) = me.and_then(|me| me["index"].as_u64()) {
            master["index"] = index.into();
        }
        let votes = master["role"] != "learner";
        voters += usize::from(votes);
        answering += usize::from(votes && me.is_some());
        if me.is_none() {
            let other =
                at(&address).is_some() || views.get(&address).is_some_and(|view| *view == Err(ELSEWHERE.into()));
            silent.push(if other { format!("{address} (another master is there)") } else { address.clone() });
        }
        if leader.as_deref() == Some(&id) {
            master["role"] = "leader".into();
            address_of_leader = address.into();
        } else if master["role"] == "leader" && me.is_none_or(|me| !me.is_null()) {
            master["role"] = "follower".into();
        } else if master["role"] == "leader" {
            address_of_leader = address.into();
        }
    }
    let needed = voters / 2 + 1;
    let trouble = if answering < needed {
        let verb = if silent.len() == 1 { "does not answer" } else { "do not answer" };
        let counts = format!("{answering} of {voters}, {needed} needed");
        Some(format!("no quorum: {} {verb} ({counts}); the table is as of {}", silent.join(", "), as_of(&answer["me"])))
    } else if address_of_leader.is_null() {
        Some(format!("nobody leads, although {answering} of {voters} answer: they elect, or do not reach each other"))
    } else {
        None
    };
    answer["leader"] = address_of_leader;
    answer["quorum"] = json!({"voters": voters, "answering": answering, "needed": needed, "silent": silent});
    if let Some(answer) = answer.as_object_mut() {
        answer.remove("me");
    }
    (answer, trouble)
}

/// A master that is in no quorum yet.
fn forming(me: &Value) -> String {
    let address = text(&me["address"]);
    match me["forms_with"].as_str() {
        Some(all) => format!("{address} forms a quorum with {all}, and waits for enough of them"),
        None => format!("{address} waits to be added to a cluster: ask one that is in it"),
    }
}

/// When the one whose table it is last heard of a leader.
fn as_of(me: &Value) -> String {
    let Some(ago) = me["leader_contact_ms"].as_u64() else { return "when it was last started".to_owned() };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    format!("{}, {} ago", to_the_second(now.saturating_sub(ago)), span(ago))
}

pub(super) fn shown(answer: &Value) -> String {
    if members(answer).count() == 0 {
        return String::new();
    }
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let number = |value: &Value| value.as_u64().map_or("-".to_owned(), |number| number.to_string());
    let rows: Vec<Vec<String>> = members(answer)
        .map(|master| {
            let alive = if master["alive"] == true { "yes" } else { "no" };
            vec![
                text(&master["address"]),
                text(&master["role"]),
                alive.into(),
                text(&master["version"]),
                number(&master["reads"]),
                number(&master["index"]),
                text(&master["id"]),
            ]
        })
        .collect();
    let mut shown = table::render(&["ADDRESS", "ROLE", "ALIVE", "VERSION", "READS", "INDEX", "ID"], &rows);
    if answer["leader"].is_null() {
        shown += "nobody leads\n";
    }
    if let Some(note) = answer["note"].as_str() {
        shown += &format!("{}\n", plain(note));
    }
    if let Some(level) = answer["feature_level"].as_u64() {
        let why = answer["feature_level_waits_for"].as_str().map(|why| format!(", not raised: {}", plain(why)));
        shown += &format!("feature level {level}{}\n", why.unwrap_or_default());
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(me: &str, role: &str) -> Value {
        let master = |id: &str, role: &str| json!({"address": format!("{id}:1"), "id": id, "role": role, "alive": true, "version": "0.1.0", "reads": 2});
        json!({
            "masters": [master("a", "follower"), master("b", "leader"), master("c", "follower")],
            "leader": "b:1", "feature_level": 2,
            "me": {"id": me, "address": format!("{me}:1"), "role": role, "term": 3, "index": 7},
        })
    }

    fn judged(views: &[(&str, Value)]) -> (String, Option<String>) {
        let views: Views = views.iter().map(|(address, view)| ((*address).to_owned(), Ok(view.clone()))).collect();
        let (answer, trouble) = judge(best(&views).expect("a view").clone(), &views);
        (shown(&answer), trouble)
    }

    #[test]
    fn a_dead_leader_leads_nobody() {
        let (table, trouble) = judged(&[("a:1", view("a", "candidate"))]);
        let trouble = trouble.expect("no quorum");
        assert!(trouble.starts_with("no quorum: b:1, c:1 do not answer (1 of 3, 2 needed)"), "{trouble}");
        assert!(!table.contains("leader ") && table.contains("nobody leads"), "{table}");
        assert_eq!(table.matches(" no ").count(), 2, "{table}");
    }

    #[test]
    fn whoever_leads_says_so() {
        let (table, trouble) = judged(&[("a:1", view("a", "leader")), ("b:1", view("b", "follower"))]);
        assert_eq!(trouble, None);
        assert!(table.contains("a:1      leader    yes") && table.contains("c:1      follower  no"), "{table}");
        let (_, trouble) = judged(&[("a:1", view("a", "follower")), ("b:1", view("b", "follower"))]);
        assert!(trouble.is_some_and(|trouble| trouble.starts_with("nobody leads, although 2 of 3 answer")));
        let (_, trouble) = judged(&[("a:1", view("a", "follower")), ("b:1", view("x", "leader"))]);
        let trouble = trouble.expect("no quorum");
        assert!(trouble.contains("b:1 (another master is there), c:1 do not answer"), "{trouble}");
    }

    #[test]
    fn a_master_is_known_by_its_id() {
        // Asked through another address than the one that the others know.
        let (table, trouble) = judged(&[("lb:9", view("a", "leader")), ("b:1", view("b", "follower"))]);
        assert!(trouble.is_none() && table.contains("a:1      leader    yes"), "{table}");
        let mut views = Views::from([("lb:9".to_owned(), Ok(view("a", "follower")))]);
        let (answer, trouble) = judge(best(&views).expect("a view").clone(), &views);
        assert!(trouble.is_some() && !works_unseen(&answer, &views));
        views.values_mut().flatten().for_each(|view| view["me"]["leader_contact"] = true.into());
        assert!(works_unseen(&answer, &views), "it hears a leader, and the others are not reachable from here");
    }

    #[test]
    fn a_master_without_a_quorum_says_what_it_waits_for() {
        let alone = |forms_with: Value| json!({"masters": [], "me": {"address": "a:1", "forms_with": forms_with}});
        let (_, trouble) = judged(&[("a:1", alone(json!("a:1,b:1")))]);
        assert_eq!(trouble.as_deref(), Some("a:1 forms a quorum with a:1,b:1, and waits for enough of them"));
        let (_, trouble) = judged(&[("a:1", alone(Value::Null))]);
        assert_eq!(trouble.as_deref(), Some("a:1 waits to be added to a cluster: ask one that is in it"));
    }

    #[test]
    fn masters_as_a_table() {
        let masters = json!([
            {"address": "a:1", "id": "0f", "role": "leader", "alive": true, "version": "0.1.0", "reads": 2, "index": 7},
            {"address": "b:1", "id": "0e", "role": "learner", "alive": false, "version": null, "index": null},
        ]);
        let why = "b:1 does not answer";
        let answer = json!({"masters": masters, "leader": "a:1", "feature_level": 1, "feature_level_waits_for": why});
        assert_eq!(
            shown(&answer),
            "ADDRESS  ROLE     ALIVE  VERSION  READS  INDEX  ID\na:1      leader   yes    0.1.0        2      7  0f\n\
             b:1      learner  no     -            -      -  0e\n\
             feature level 1, not raised: b:1 does not answer\n"
        );
    }
}
