//! Where the files of a task are, and reading them: the masters know its agent, the agent knows its folder and reads
//! from it over HTTP.

use std::time::Duration;

use base64::Engine as _;
use serde_json::{Value, json};

use crate::error::Error;
use crate::http::{self, Request};
use crate::ids::{self, text};

/// How long an agent may take to answer.
const AGENT: Duration = Duration::from_secs(5);
/// So much is asked for at once; agents give less.
const READ_BYTES: usize = 64 << 10;

/// A task, as the masters know it.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) id: String,
    pub(crate) framework_id: String,
    pub(crate) agent_id: String,
    pub(crate) state: String,
}

/// The folder that a task's executor runs in, or ran in; or what a master or an agent serves of itself.
#[derive(Clone, Debug)]
pub(crate) struct Sandbox {
    /// What it is read from: `agent` or `master`.
    pub(crate) keeper: &'static str,
    /// `host:port` of that.
    pub(crate) agent: String,
    /// As people name the machine.
    pub(crate) host: String,
    /// On that machine; also the name by which the agent serves it.
    pub(crate) directory: String,
    /// Whether its executor still runs.
    pub(crate) is_live: bool,
}

/// The task of this name, or `FRAMEWORK/NAME`. Of several the one that goes on, else the newest; the others are told of.
pub(crate) async fn find_task(masters: &[String], name: &str, framework: Option<&str>) -> Result<Task, Error> {
    let mut found = tasks_called(masters, name, framework).await?;
    if found.is_empty()
        && framework.is_none()
        && let Some((framework, name)) = name.split_once('/')
    {
        found = tasks_called(masters, name, Some(framework)).await?;
    }
    let live = found.iter().position(|task| !is_terminal(&task.state));
    let Some(chosen) = live.or_else(|| found.len().checked_sub(1)) else {
        return Err(no_task(masters, name, framework).await?);
    };
    let task = found.swap_remove(chosen);
    if !found.is_empty() {
        let (count, framework) = (found.len() + 1, &task.framework_id);
        eprintln!(
            "meseta: {count} tasks have this id; this one is of framework {framework} (--framework names another)"
        );
    }
    Ok(task)
}

/// Who is unknown: the framework, if one was named and has never been heard of, else the task.
async fn no_task(masters: &[String], name: &str, framework: Option<&str>) -> Result<Error, Error> {
    let all = http::get_json(masters, "/master/tasks?limit=100000").await?;
    let of_it = |task: &&Value| framework.is_none_or(|wanted| ids::is(wanted, text(&task["framework_id"])));
    let names: Vec<&str> =
        all["tasks"].as_array().into_iter().flatten().filter(of_it).map(|task| text(&task["id"])).collect();
    let mut whose = String::new();
    if let Some(framework) = framework {
        if names.is_empty() {
            check_framework(masters, framework).await?;
        }
        whose = format!(" of framework {framework:?}");
    }
    let hint = api::nearest::did_you_mean(names, name);
    Ok(Error::Failed(format!("no task {name:?}{whose} is known{hint} (meseta tasks lists them)")))
}

/// An error that says so if the masters have never heard of this framework, or not any more.
pub(crate) async fn check_framework(masters: &[String], wanted: &str) -> Result<(), Error> {
    let answer = http::get_json(masters, "/master/frameworks").await?;
    let lists = ["frameworks", "completed_frameworks"].into_iter().filter_map(|list| answer[list].as_array());
    let is_known = lists.flatten().any(|framework| ids::is(wanted, text(&framework["id"])));
    let unknown = || Error::Failed(format!("no framework {wanted:?} is known (meseta frameworks lists them)"));
    if is_known { Ok(()) } else { Err(unknown()) }
}

/// Oldest first.
async fn tasks_called(masters: &[String], name: &str, framework: Option<&str>) -> Result<Vec<Task>, Error> {
    let path = format!("/master/tasks?limit=100000&order=asc&task_id={}", encoded(name));
    let answer = http::get_json(masters, &path).await?;
    let tasks = answer["tasks"].as_array().into_iter().flatten();
    let tasks = tasks.filter(|task| framework.is_none_or(|wanted| ids::is(wanted, text(&task["framework_id"]))));
    let field = |task: &Value, name: &str| text(&task[name]).to_owned();
    let tasks = tasks.map(|task| Task {
        id: field(task, "id"),
        framework_id: field(task, "framework_id"),
        agent_id: field(task, "slave_id"),
        state: field(task, "state"),
    });
    Ok(tasks.collect())
}

/// Whether nothing follows this state.
pub(crate) fn is_terminal(state: &str) -> bool {
    const TERMINAL: [&str; 8] = [
        "TASK_FINISHED",
        "TASK_FAILED",
        "TASK_KILLED",
        "TASK_ERROR",
        "TASK_LOST",
        "TASK_DROPPED",
        "TASK_GONE",
        "TASK_GONE_BY_OPERATOR",
    ];
    TERMINAL.contains(&state)
}

impl Task {
    /// Its folder, asked of its agent.
    pub(crate) async fn sandbox(&self, masters: &[String]) -> Result<Sandbox, Error> {
        let slaves = http::get_json(masters, &format!("/master/slaves?slave_id={}", encoded(&self.agent_id))).await?;
        let slave = slaves["slaves"].as_array().into_iter().flatten().find(|it| text(&it["id"]) == self.agent_id);
        let Some(slave) = slave else {
            let agent = &self.agent_id;
            let why = "which is unreachable or gone: its files cannot be read from here";
            return Err(Error::Failed(format!("task {} was launched on agent {agent}, {why}", self.id)));
        };
        let agent = text(&slave["pid"]).rsplit('@').next().unwrap_or_default().to_owned();
        let state = self.agent_state(&agent).await?;
        let host = text(&slave["hostname"]).to_owned();
        let found = self.executor(&state).map(|(executor, is_live)| {
            let directory = text(&executor["directory"]).to_owned();
            Sandbox { keeper: "agent", agent, host, directory, is_live }
        });
        let mut sandbox = found.ok_or_else(|| {
            let agent = &self.agent_id;
            Error::Failed(format!("agent {agent} has no sandbox of task {} (any more, or not yet)", self.id))
        })?;
        // A task of a group has a folder of its own within its executor's.
        let own = sandbox.path(&format!("tasks/{}", self.id));
        if matches!(sandbox.list(&own).await, Ok(Some(_))) {
            sandbox.directory = own;
        }
        Ok(sandbox)
    }

    async fn agent_state(&self, agent: &str) -> Result<Value, Error> {
        let failed = |why| Error::Failed(format!("agent {} at {agent} cannot be asked: {why}", self.agent_id));
        let answer = http::ask(agent, &Request::get("/state"), AGENT).await.map_err(failed)?;
        http::json(answer).await
    }

    /// The executor that has or had this task; the newest, and rather one that runs.
    fn executor<'a>(&self, state: &'a Value) -> Option<(&'a Value, bool)> {
        let list = |value: &'a Value, name: &str| value[name].as_array().map_or(&[][..], Vec::as_slice);
        let frameworks = list(state, "frameworks").iter().chain(list(state, "completed_frameworks"));
        let own: Vec<&Value> = frameworks.filter(|it| text(&it["id"]) == self.framework_id).collect();
        let has = |executor: &&'a Value| {
            let tasks = ["tasks", "queued_tasks", "completed_tasks"].into_iter().flat_map(|name| list(executor, name));
            text(&executor["id"]) == self.id || tasks.into_iter().any(|task| text(&task["id"]) == self.id)
        };
        let last = |name: &'static str| own.iter().flat_map(|it| list(it, name)).rfind(has);
        let live = last("executors").map(|executor| (executor, true));
        live.or_else(|| last("completed_executors").map(|executor| (executor, false)))
    }
}

impl Sandbox {
    /// `HOST:/folder`, for people.
    pub(crate) fn shown(&self) -> String {
        format!("{}:{}", self.host, self.directory)
    }

    /// The path of a file in it, for the agent.
    pub(crate) fn path(&self, name: &str) -> String {
        let name = name.trim_start_matches("./").trim_matches('/');
        if name.is_empty() || name == "." { self.directory.clone() } else { format!("{}/{name}", self.directory) }
    }

    /// What a file has from `offset` on, up to a page; none if there is no such file (yet).
    pub(crate) async fn read(&self, path: &str, offset: u64) -> Result<Option<Vec<u8>>, Error> {
        let read = json!({"path": path, "offset": offset, "length": READ_BYTES});
        let call = json!({"type": "READ_FILE", "read_file": read});
        let Some(answer) = self.call(&call).await? else { return Ok(None) };
        let data = base64::engine::general_purpose::STANDARD.decode(text(&answer["read_file"]["data"]));
        let data = data.map_err(|error| Error::Failed(format!("{} sent no base64: {error}", self.agent)))?;
        Ok(Some(data))
    }

    /// The entries of a folder as the agent lists them; none if there is no such folder.
    pub(crate) async fn list(&self, path: &str) -> Result<Option<Vec<Value>>, Error> {
        let call = json!({"type": "LIST_FILES", "list_files": {"path": path}});
        let answer = self.call(&call).await?;
        Ok(answer.map(|answer| answer["list_files"]["file_infos"].as_array().cloned().unwrap_or_default()))
    }

    async fn call(&self, call: &Value) -> Result<Option<Value>, Error> {
        let failed = |why| Error::Failed(format!("the {} at {} cannot be asked: {why}", self.keeper, self.agent));
        let answer = http::ask(&self.agent, &Request::post("/api/v1", call), AGENT).await.map_err(failed)?;
        if answer.status() == 404 {
            return Ok(None);
        }
        http::json(answer).await.map(Some)
    }
}

/// A file that grows, and how far it was read.
#[derive(Debug)]
pub(crate) struct Tail {
    path: String,
    offset: u64,
}

impl Tail {
    pub(crate) fn new(sandbox: &Sandbox, name: &str) -> Tail {
        Tail { path: sandbox.path(name), offset: 0 }
    }

    /// How many bytes were read so far.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Hands over what is there by now; false if the agent knows of no such file (yet).
    pub(crate) async fn pump(&mut self, sandbox: &Sandbox, mut out: impl FnMut(&[u8])) -> Result<bool, Error> {
        while let Some(data) = sandbox.read(&self.path, self.offset).await? {
            if data.is_empty() {
                return Ok(true);
            }
            self.offset += data.len() as u64;
            out(&data);
        }
        Ok(false)
    }
}

/// For the query of a URL: ids may be any text.
pub(crate) fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executor_of_a_task_is_the_newest_that_has_it() {
        let state = json!({
            "frameworks": [{"id": "F", "executors": [{"id": "e", "tasks": [{"id": "t2"}]}],
                "completed_executors": [{"id": "t1", "directory": "old"}, {"id": "t1", "directory": "new"}]}],
            "completed_frameworks": [{"id": "G", "completed_executors": [{"id": "t1", "directory": "other"}]}],
        });
        let task = |id: &str, framework: &str| Task {
            id: id.into(),
            framework_id: framework.into(),
            agent_id: String::new(),
            state: String::new(),
        };
        let found = |id, framework| task(id, framework).executor(&state).map(|(it, live)| (it.clone(), live));
        assert_eq!(found("t1", "F"), Some((json!({"id": "t1", "directory": "new"}), false)));
        assert_eq!(found("t1", "G"), Some((json!({"id": "t1", "directory": "other"}), false)));
        assert!(found("t2", "F").expect("in its executor").1);
        assert_eq!(found("t3", "F"), None);
    }

    #[test]
    fn ids_are_any_text() {
        assert_eq!(encoded("ct:17 a/b"), "ct%3A17%20a%2Fb");
    }
}
