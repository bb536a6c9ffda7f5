//! What happened: a time line of the cluster, and the stories of single things, in the sentences of `meseta-log`. Who may
//! not see all is told what they may see the subject of, without who caused it.

use super::then::{Absent, FOLD_MAX, Moments, blocking};
use super::words::{hidden, is_found, table, time};
use super::{Made, Page};
use auth::Sight;
use event_log::raft::Node;
use event_log::{Gate, Record};
use master_core::ids::{FrameworkKey, TaskKey};
use master_core::state::Task;
use master_core::{Event, State, decode_record, seen, view};
use master_story::{Sentence, Story, Subject, Topic, phrase};
use maud::{Markup, html};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// Entries of the log on one page of the time line.
pub(super) const LINE_ENTRIES: u64 = 200;
/// Entries of the log that a story goes back, except that of a task.
pub(super) const STORY_ENTRIES: u64 = 50_000;
/// Sentences on one page.
const SENTENCES_MAX: usize = 500;
/// Read from the log at once, in bytes.
const PAGE_BYTES: usize = 1 << 20;

/// What is to be told.
pub(super) struct Asked {
    /// About what.
    pub(super) subject: Subject,
    /// From this entry of the log on.
    pub(super) from: u64,
    /// Up to this one, which this master has folded.
    pub(super) to: u64,
    /// What whoever asks may see; None: all.
    pub(super) sight: Option<Arc<Sight>>,
    /// Whether they may know who caused what, and what was run.
    pub(super) hears_causes: bool,
}

/// What was told.
pub(super) struct Told {
    /// What it is about.
    pub(super) topic: Topic,
    title: String,
    lines: VecDeque<Line>,
    left_out: usize,
    from: u64,
    /// The last entry that was looked at.
    reached: u64,
    to: u64,
    ending: Vec<String>,
}

/// A sentence in its place.
struct Line {
    index: u64,
    at_ms: u64,
    sentence: Sentence,
    by: Option<String>,
    about: Vec<About>,
}

/// A page about something that a sentence is about.
struct About {
    name: String,
    words: Vec<String>,
}

/// So many of them.
const ABOUT_MAX: usize = 3;

/// Tells a part of what happened.
pub(super) async fn tell(moments: &Moments, node: &Node, mut asked: Asked) -> Result<Told, Absent> {
    let first = node.first_kept().map_err(|error| Absent::Failed(error.to_string()))?;
    asked.from = asked.from.max(first);
    let (gate, state) = match asked.from {
        0 | 1 => (Gate::default(), State::default()),
        from => moments.at(node, from - 1).await?,
    };
    let (turn, node) = (moments.turn().await?, node.clone());
    blocking(turn, move || told(&node, asked, gate, state)).await
}

fn told(node: &Node, asked: Asked, gate: Gate, state: State) -> Result<Told, Absent> {
    let Asked { subject, from, to, sight, hears_causes } = asked;
    let topic = subject.topic;
    let title = match topic {
        Topic::Cluster => "History".to_owned(),
        _ => format!("The story of {} {}", subject.word(), subject.id),
    };
    let mut story = Story::new(subject);
    if !hears_causes {
        story = story.without_commands();
    }
    story.resume(gate, state);
    let mut told =
        Told { topic, title, lines: VecDeque::new(), left_out: 0, from, reached: from, to, ending: Vec::new() };
    let mut may = |before: &State, after: &State, event: &Event| may_hear(sight.as_deref(), before, after, event);
    let (mut history, began) = (node.history(from)?, Instant::now());
    while history.next_index() <= to {
        if began.elapsed() >= FOLD_MAX {
            told.shorten(&story.cluster());
            return Ok(told);
        }
        for committed in history.page(to + 1, PAGE_BYTES)? {
            let record = &committed.record;
            let events = decode_record(record).map_err(|error| Absent::Failed(error.to_string()))?;
            let sentences = story.tell_if(committed.term, record, &events, &mut may).map_err(Absent::Failed)?;
            for (at, _, sentence) in sentences {
                let by = if hears_causes { cause(record, at) } else { None };
                let about = about(story.state(), &events[at]);
                let (index, at_ms) = (committed.index, record.header.at_ms);
                told.lines.push_back(Line { index, at_ms, sentence, by, about });
                if told.lines.len() > SENTENCES_MAX {
                    told.lines.pop_front();
                    told.left_out += 1;
                }
            }
        }
        told.reached = history.next_index().saturating_sub(1);
    }
    // How it stands may tell of others.
    if sight.is_none() && topic != Topic::Cluster && (story.knows() || !told.lines.is_empty()) {
        told.title = story.title();
        told.ending = story.ending();
    }
    told.shorten(&story.cluster());
    Ok(told)
}

impl Told {
    /// There is one cluster here: ids are told without its own.
    fn shorten(&mut self, cluster: &str) {
        if cluster.len() <= 8 {
            return;
        }
        let prefix = format!("{cluster}-");
        let texts = self.lines.iter_mut().map(|line| &mut line.sentence.text);
        for text in texts.chain(&mut self.ending).chain([&mut self.title]) {
            *text = text.replace(&prefix, "");
        }
    }
}

fn cause(record: &Record, at: usize) -> Option<String> {
    let cause = record.causes.get(record.events.get(at)?.cause as usize)?;
    Some(phrase::by(cause))
}

/// Whether somebody hears of an event: as much as they see of all that it is about. What is about nobody is told as far
/// as it says nothing of what somebody has.
fn may_hear(sight: Option<&Sight>, before: &State, after: &State, event: &Event) -> bool {
    let Some(sight) = sight else { return true };
    let touched = event.touches();
    if touched.frameworks.is_empty() && touched.tasks.is_empty() {
        return matches!(
            event,
            Event::ClusterCreated(_)
                | Event::LeaderElected(_)
                | Event::MasterStarted(_)
                | Event::MasterLost(_)
                | Event::FeatureLevelRaised(_)
                | Event::AgentDisconnected(_)
                | Event::AgentUnreachable(_)
                | Event::AgentRemoved(_)
                | Event::AgentDeactivated(_)
                | Event::AgentReactivated(_)
                | Event::AgentDrainStarted(_)
                | Event::AgentDrainOrdered(_)
                | Event::AgentDrained(_)
                | Event::AgentDrainEnded(_)
        );
    }
    let framework = |key: FrameworkKey| {
        let of = |state: &State| {
            let live = state.frameworks.live.get(&key).map(|live| seen::framework_user(live));
            let mut completed = state.frameworks.completed.values().rev().map(|completed| &completed.framework);
            live.or_else(|| completed.find(|completed| completed.key == key).map(|found| seen::framework_user(found)))
        };
        of(after).or_else(|| of(before))
    };
    let sees_framework = |key: &FrameworkKey| framework(*key).is_some_and(|user| sight.frameworks.passes(Some(&user)));
    let sees_task = |key: &TaskKey| {
        let of = |state: &State| state.tasks.live.get(key).cloned();
        let ended = || state_of_ended(after, key);
        let user = of(after).or_else(|| of(before)).or_else(ended).zip(framework(key.0));
        user.is_some_and(|(task, user)| sight.tasks.passes(Some(&seen::task_user(&task, &user))))
    };
    let of_executor = matches!(event, Event::ExecutorExited(_) | Event::ExecutorShutdownOrdered(_));
    touched.frameworks.iter().all(sees_framework)
        && (sight.tasks.passes_all() || touched.tasks.iter().all(sees_task))
        && touched.roles.iter().all(|role| sight.roles.passes(Some(role)))
        && (!of_executor || sight.executors.passes_all())
}

fn state_of_ended(state: &State, (framework, id): &TaskKey) -> Option<Arc<Task>> {
    let mut ended = state.tasks.completed.range((*framework, 0)..=(*framework, u64::MAX)).rev();
    ended.find(|(_, task)| task.task_id == *id).map(|(_, task)| task.clone())
}

fn about(state: &State, event: &Event) -> Vec<About> {
    let touched = event.touches();
    let framework = |key| view::framework_id(state, key);
    let tasks = touched.tasks.iter().map(|(key, id)| About {
        name: format!("task {id}"),
        words: vec!["tasks".into(), framework(*key), id.to_string()],
    });
    let agents = touched.agents.iter().map(|key| {
        let (id, agent) = (view::agent_id(state, *key), state.agents.get(*key));
        let name = agent.map_or_else(|| id.clone(), |agent| agent.hostname.to_string());
        About { name: format!("agent {name}"), words: vec!["agents".into(), id] }
    });
    let frameworks = touched.frameworks.iter().filter(|_| touched.tasks.is_empty()).map(|key| {
        let id = framework(*key);
        let short = id.strip_prefix(&*state.cluster_id).map_or(&*id, |short| short.trim_start_matches('-'));
        About { name: format!("framework {short}"), words: vec!["frameworks".into(), id] }
    });
    tasks.chain(agents).chain(frameworks).take(ABOUT_MAX).collect()
}

/// The time line.
pub(super) fn line(page: &Page<'_>, told: &Told) -> (String, Markup) {
    let with_routine = page.query.get("all") == Some("true");
    let wanted = |line: &&Line| {
        (with_routine || line.sentence.routine.is_none())
            && is_found(page, &[&line.sentence.text, line.by.as_deref().unwrap_or_default()])
    };
    let rows: Vec<Markup> = told.lines.iter().rev().filter(wanted).map(|line| row(page, line)).collect();
    let (from, to) = (told.from, told.to);
    let kept = |until: u64| {
        let mut query = vec![("until", until.to_string())];
        query.extend(["q", "all"].into_iter().filter_map(|name| Some((name, page.query.get(name)?.to_owned()))));
        let query: Vec<(&str, &str)> = query.iter().map(|(name, value)| (*name, value.as_str())).collect();
        page.link(&["history"], &query)
    };
    // The time line of a moment ends with it.
    let newest = page.index;
    let content = html! {
        form method="get" action=(page.link(&[], &[])) aria-label="The cluster as it was" {
            label for="at" { "The cluster as it was at index" }
            input id="at" name="at" inputmode="numeric" pattern="[0-9]+" required value=(to);
            button { "Show" }
        }
        form method="get" action=(page.link(&["diff"], &[])) aria-label="What became different" {
            label for="a" { "What became different from index" }
            input id="a" name="from" inputmode="numeric" pattern="[0-9]+" required value=(from.saturating_sub(1));
            label for="b" { "to" }
            input id="b" name="to" inputmode="numeric" pattern="[0-9]+" required value=(to);
            button { "Compare" }
        }
        form method="get" role="search" {
            (hidden("until", &to.to_string()))
            label for="q" { "Words in these sentences" }
            input id="q" name="q" type="search" value=(page.query.get("q").unwrap_or_default());
            label { input type="checkbox" name="all" value="true" checked[with_routine]; " with routine" }
            button { "Find" }
        }
        (incomplete(told))
        (table(&format!("What happened from index {from} to {to}, the newest first"), &HEADS, &rows))
        nav aria-label="Parts of the time line" class="parts" {
            @if from > 1 { a rel="prev" href=(kept(from - 1)) { "Earlier" } " " }
            @if to < newest { a rel="next" href=(kept((to + LINE_ENTRIES).min(newest))) { "Later" } " "
                a href=(page.link(&["history"], &[])) { "Newest" } }
        }
    };
    (told.title.clone(), content)
}

const HEADS: [&str; 5] = ["Index", "When", "What happened", "About", "By"];

/// The story of one thing.
pub(super) fn story(page: &Page<'_>, told: &Told) -> Made {
    let rows: Vec<Markup> = told.lines.iter().map(|line| row(page, line)).collect();
    let content = html! {
        (incomplete(told))
        (table(&format!("What happened from index {} to {}", told.from, told.reached), &HEADS, &rows))
        nav aria-label="Parts of the story" class="parts" {
            @if told.from > 1 && told.topic != Topic::Task {
                @let (from, until) = (told.from.saturating_sub(STORY_ENTRIES), told.from - 1);
                a rel="prev" href={ "?from=" (from) "&until=" (until) } { "Earlier" } " "
            }
            @if told.reached < told.to {
                a rel="next" href={ "?from=" (told.reached + 1) "&until=" (told.to) } { "Go on from index " (told.reached + 1) }
            }
        }
        @if !told.ending.is_empty() {
            h2 { "How it stands" }
            @for line in &told.ending { p { (line) } }
        }
    };
    Some((told.title.clone(), content))
}

fn incomplete(told: &Told) -> Markup {
    html! {
        @if told.left_out > 0 {
            p class="warning" { (told.left_out) " sentences before these are left out: look at a shorter part." }
        }
        @if told.reached < told.to {
            p class="warning" { "There is much to tell: this is up to index " (told.reached) "." }
        }
    }
}

fn row(page: &Page<'_>, line: &Line) -> Markup {
    let index = line.index.to_string();
    let then = |words: &[String]| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        page.link(&words, &[("at", &index)])
    };
    html! { tr {
        th scope="row" { a href=(then(&[])) title={ "The cluster at index " (index) } { (index) } }
        td { (time(line.at_ms)) }
        td { (line.sentence.text) }
        td { @for about in &line.about { a href=(then(&about.words)) { (about.name) } " " } }
        td { @if let Some(by) = &line.by { (by) } }
    } }
}
