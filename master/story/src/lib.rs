//! What happened to one thing, or to the whole cluster, told in sentences: each event of the masters' log that touched it,
//! what else decided its fate, and how it stands in the end. Pure: whoever has a log reads it.

mod brakes;
mod ending;
mod identities;
pub mod messages;
pub mod names;
mod offers;
mod operation;
pub mod phrase;
mod roles;
pub mod shown;
mod story;

pub use story::{Story, Told};

use api::terminal::plain;
use shown::Touches;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a story is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Topic {
    /// A task.
    Task,
    /// An agent.
    Agent,
    /// A framework.
    Framework,
    /// An offer.
    Offer,
    /// A role.
    Role,
    /// Everything.
    #[default]
    Cluster,
}

/// Which one.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    /// Of which kind.
    pub topic: Topic,
    /// Its id, as people name it.
    pub id: String,
}

impl Subject {
    /// From two words of people.
    ///
    /// # Errors
    /// One sentence if the first is no topic.
    pub fn new(topic: &str, id: &str) -> Result<Subject, String> {
        let topics = [Topic::Task, Topic::Agent, Topic::Framework, Topic::Offer, Topic::Role];
        let Some(found) = topics.into_iter().find(|known| known.word() == topic) else {
            let what = "a task, an agent, a framework, an offer or a role can be explained";
            let hint = api::nearest::did_you_mean(topics.map(Topic::word), topic);
            return Err(format!("{what}, not {topic:?}{hint}"));
        };
        Ok(Subject { topic: found, id: id.to_owned() })
    }

    /// The whole cluster.
    pub fn everything() -> Subject {
        Subject::default()
    }

    /// Whether something that concerns these concerns it.
    pub fn is_in(&self, touches: &Touches) -> bool {
        let names = match self.topic {
            Topic::Task => &touches.tasks,
            Topic::Agent => &touches.agents,
            Topic::Framework => &touches.frameworks,
            Topic::Offer => &touches.offers,
            Topic::Role => &touches.roles,
            Topic::Cluster => return true,
        };
        names.iter().any(|name| self.is(name))
    }

    /// Whether it has this name.
    pub fn is(&self, name: &str) -> bool {
        self.topic.is(&self.id, name)
    }

    /// `task`, ...
    pub fn word(&self) -> &'static str {
        self.topic.word()
    }
}

impl Topic {
    /// `task`, ...
    pub fn word(self) -> &'static str {
        match self {
            Topic::Task => "task",
            Topic::Agent => "agent",
            Topic::Framework => "framework",
            Topic::Offer => "offer",
            Topic::Role => "role",
            Topic::Cluster => "cluster",
        }
    }

    /// Whether people who wrote `wanted` mean what is called `name` in the log. Agents, frameworks and offers may be named
    /// as on the wire (`CLUSTER-S3`), as in the log (`S3`), or by what is left of either without the cluster and the letter.
    pub fn is(self, wanted: &str, name: &str) -> bool {
        let letter = match self {
            Topic::Agent => "S",
            Topic::Offer => "O",
            Topic::Framework => "F",
            // Of a task the framework may be named as short: FRAMEWORK/ID.
            Topic::Task => {
                let parts = wanted.split_once('/').zip(name.split_once('/'));
                let is_same = |((wanted, id), (name, of)): ((&str, &str), (&str, &str))| {
                    id == of && Topic::Framework.is(wanted, name)
                };
                return wanted == name || parts.is_some_and(is_same);
            }
            Topic::Role | Topic::Cluster => return wanted == name,
        };
        let tail = |long: &str, short: &str| long.strip_suffix(short).is_some_and(|cluster| cluster.ends_with('-'));
        let is_number = !wanted.is_empty() && wanted.bytes().all(|byte| byte.is_ascii_digit());
        // The wire's number of a framework has four digits or more: 0010 is not F10 of the log.
        let is_lettered = is_number
            && self != Topic::Framework
            && (name.strip_prefix(letter) == Some(wanted) || tail(name, &format!("{letter}{wanted}")));
        wanted == name || tail(wanted, name) || !wanted.is_empty() && tail(name, wanted) || is_lettered
    }
}

/// A sentence about one event.
#[derive(Clone, Debug, Default)]
pub struct Sentence {
    /// What happened.
    pub text: String,
    /// What many such events together are called, if one alone is of little interest.
    pub routine: Option<&'static str>,
    /// It did not touch the subject itself, but what the subject depended on.
    pub beside: bool,
}

impl Sentence {
    /// One line that begins with a capital, whatever names are in it.
    pub fn new(text: impl Into<String>) -> Sentence {
        let text = text.into();
        let text = plain(&text);
        let mut letters = text.chars();
        let first = letters.next().map(|first| first.to_ascii_uppercase());
        Sentence { text: first.into_iter().chain(letters).collect(), ..Sentence::default() }
    }

    /// The same about something of which there is much; `many` is what much of it is called.
    pub fn routine(text: impl Into<String>, many: &'static str) -> Sentence {
        Sentence { routine: Some(many), ..Sentence::new(text) }
    }
}

/// Runs a fold, which panics where an event contradicts the state before it.
///
/// # Errors
/// One sentence about that.
pub fn folded(fold: impl FnOnce()) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(fold)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it cannot be folded");
        format!("it contradicts the state: {text}")
    })
}
