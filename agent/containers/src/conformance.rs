//! Whether a program is an external containerizer as the agent needs it: a rule is a line. Everything is asked as the agent
//! asks it, in folders that are made for it and removed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::{Pid, geteuid};
use serde_json::{Map, Value, json};
use supervisor::program::{Failure, How, Program, end_of};

use crate::external::{Description, listed, usage_of};

/// Time for what should be at once.
const PATIENCE: Duration = Duration::from_secs(20);
/// For what must not have happened yet.
const MOMENT: Duration = Duration::from_millis(300);

type Checked = Result<(), String>;

/// A rule: its name, what it says, what the program must support, and the look.
struct Rule {
    name: &'static str,
    text: &'static str,
    needs: &'static str,
    look: fn(&Bench) -> Checked,
}

const fn rule(name: &'static str, text: &'static str, look: fn(&Bench) -> Checked) -> Rule {
    Rule { name, text, needs: "", look }
}

const fn feature(name: &'static str, text: &'static str, needs: &'static str, look: fn(&Bench) -> Checked) -> Rule {
    Rule { name, text, needs, look }
}

const RULES: &[Rule] = &[
    rule("describe", "it says what it is, and which version it speaks", |bench| {
        Description::ask(&bench.program).map(drop)
    }),
    rule("version", "a request of a version that it does not know is refused", |bench| {
        let mut request = bench.program.request();
        request.insert("protocol".to_owned(), 999.into());
        refused(bench.program.call("describe", &request, None))
    }),
    rule("unknown-command", "a command that it does not know is refused", |bench| {
        refused(bench.program.call("no-such-command", &bench.program.request(), None))
    }),
    rule("unknown-fields", "fields of a request that it does not know are passed over", |bench| {
        let mut request = bench.shell("exit 0");
        request.insert("of_a_later_release".to_owned(), json!({"a": [1]}));
        let id = bench.launch(&request)?;
        equal(bench.wait(&id)?, Some(0))
    }),
    rule("outputs", "what is written goes to the files that were named, behind what is in them", |bench| {
        let request = bench.shell("echo out; echo err >&2");
        fs::write(text_of(&request, "stdout"), "before\n").map_err(|error| error.to_string())?;
        let id = bench.launch(&request)?;
        bench.wait(&id)?;
        equal(read(&request, "stdout")?, "before\nout\n".to_owned())?;
        equal(read(&request, "stderr")?, "err\n".to_owned())
    }),
    rule("sandbox", "it runs in its sandbox", |bench| {
        let request = bench.shell("touch here; pwd -P > where");
        let id = bench.launch(&request)?;
        bench.wait(&id)?;
        let sandbox = PathBuf::from(text_of(&request, "sandbox"));
        let found =
            fs::read_to_string(sandbox.join("where")).map_err(|error| format!("there is no file of it: {error}"))?;
        equal(found.trim().to_owned(), sandbox.display().to_string())
    }),
    rule("environment", "its environment is what was named and nothing else", |bench| {
        let mut request = bench.shell("");
        request.insert("program".to_owned(), "env".into());
        request.insert("arguments".to_owned(), json!(["env"]));
        let id = bench.launch(&request)?;
        bench.wait(&id)?;
        let found = read(&request, "stdout")?;
        let found: BTreeMap<&str, &str> = found.lines().filter_map(|line| line.split_once('=')).collect();
        let named = request["environment"].as_object().cloned().unwrap_or_default();
        let named: BTreeMap<&str, &str> =
            named.iter().map(|(name, value)| (&**name, value.as_str().unwrap_or(""))).collect();
        equal(found, named)
    }),
    rule("arguments", "arguments arrive as they are", |bench| {
        let mut request = bench.shell("");
        let hard = ["printf", "<%s>", "a b", "", "'\"$HOME\\", "ä\nz", "*"];
        request.insert("program".to_owned(), "/usr/bin/printf".into());
        request.insert("arguments".to_owned(), hard.to_vec().into());
        let id = bench.launch(&request)?;
        bench.wait(&id)?;
        equal(read(&request, "stdout")?, "<a b><><'\"$HOME\\><ä\nz><*>".to_owned())
    }),
    rule(
        "answers-at-once",
        "a launch is answered while its container runs, and nothing holds the answer back",
        |bench| {
            let begun = Instant::now();
            bench.launch(&bench.shell("sleep 1000"))?;
            if begun.elapsed() < PATIENCE { Ok(()) } else { Err(format!("it took {:?}", begun.elapsed())) }
        },
    ),
    rule("exit-status", "the status that it exited with is told", |bench| {
        for code in [0, 7, 255] {
            let id = bench.launch(&bench.shell(&format!("exit {code}")))?;
            equal(bench.wait(&id)?, Some(code << 8))?;
        }
        Ok(())
    }),
    rule("signal-status", "the signal that it ended by is told", |bench| {
        let id = bench.launch(&bench.shell("kill -KILL $$"))?;
        equal(bench.wait(&id)?, Some(9))
    }),
    rule("wait-waits", "a wait is not answered while the container runs", |bench| {
        let request = bench.shell("while ! [ -e go ]; do sleep 0.05; done; exit 4");
        let id = bench.launch(&request)?;
        let early = bench.program.call_within("wait", &bench.program.about(&id), None, MOMENT);
        if let Ok(answer) = early {
            return Err(format!("it was answered {answer}"));
        }
        go(&request)?;
        equal(bench.wait(&id)?, Some(4 << 8)).map_err(|why| format!("after a wait that was killed: {why}"))
    }),
    rule("end-is-kept", "the end is told again and again until it is released", |bench| {
        let id = bench.launch(&bench.shell("exit 3"))?;
        for _ in 0..3 {
            equal(bench.wait(&id)?, Some(3 << 8))?;
        }
        let found = bench.list()?;
        if found.contains(&id) { Ok(()) } else { Err("it is not listed".to_owned()) }
    }),
    rule("leftovers", "what the first process leaves behind ends with it, before its end is told", |bench| {
        let request = bench.shell("setsid sleep 1000 & echo $! > left; trap '' TERM; exit 0");
        let id = bench.launch(&request)?;
        bench.wait(&id)?;
        gone(&request, "left")
    }),
    rule("destroy-gently", "to end gently asks: it may clean up, and its status is its own", |bench| {
        let request = bench.shell("trap 'exit 5' TERM; echo > ready; while :; do sleep 0.05; done");
        let id = bench.launch(&request)?;
        there(&request, "ready")?;
        bench.destroy(&id, How::Gently)?;
        equal(bench.wait(&id)?, Some(5 << 8))
    }),
    rule("destroy-at-once", "to end at once leaves nothing, whatever it does", |bench| {
        let script = "trap '' TERM; (trap '' TERM; exec setsid sh -c 'echo $$ > left; while :; do sleep 0.05; done') & \
                      echo $$ > first; while :; do sleep 0.05; done";
        let request = bench.shell(script);
        let id = bench.launch(&request)?;
        there(&request, "left")?;
        bench.destroy(&id, How::AtOnce)?;
        equal(bench.wait(&id)?, Some(9))?;
        gone(&request, "left").and_then(|()| gone(&request, "first"))
    }),
    rule("destroy-again", "to destroy what is over, or was never there, is no failure", |bench| {
        let id = bench.launch(&bench.shell("exit 0"))?;
        bench.wait(&id)?;
        for how in [How::Gently, How::AtOnce, How::AtOnce] {
            bench.destroy(&id, how)?;
            bench.destroy(&bench.id(), how)?;
        }
        equal(bench.wait(&id)?, Some(0))
    }),
    rule("others-stay", "to destroy one leaves the others alone", |bench| {
        let (one, other) =
            (bench.launch(&bench.shell("sleep 1000"))?, bench.shell("while ! [ -e go ]; do sleep 0.05; done"));
        let id = bench.launch(&other)?;
        bench.destroy(&one, How::AtOnce)?;
        go(&other)?;
        equal(bench.wait(&id)?, Some(0))
    }),
    rule("no-program", "a program that cannot be executed is refused, and nothing is left of the container", |bench| {
        let mut request = bench.shell("");
        request.insert("program".to_owned(), "/no/such/program".into());
        refused(bench.program.call("launch", &request, None))?;
        let id = text_of(&request, "container_id");
        let listed = bench.list()?;
        if listed.contains(&id) { Err("it is listed".to_owned()) } else { Ok(()) }
    }),
    rule("launch-once", "an id that there is is refused, and its container is not touched", |bench| {
        let request = bench.shell("echo once; while ! [ -e go ]; do sleep 0.05; done");
        let id = bench.launch(&request)?;
        refused(bench.program.call("launch", &request, None))?;
        go(&request)?;
        equal(bench.wait(&id)?, Some(0))?;
        equal(read(&request, "stdout")?, "once\n".to_owned())
    }),
    rule("unknown-container", "to wait for a container that was never there is refused", |bench| {
        refused(bench.program.call("wait", &bench.program.about(&bench.id()), None))
    }),
    rule("list", "all containers are listed, whether they run or are over", |bench| {
        let (runs, over) = (bench.launch(&bench.shell("sleep 1000"))?, bench.launch(&bench.shell("exit 0"))?);
        bench.wait(&over)?;
        let found = bench.list()?;
        if found.contains(&runs) && found.contains(&over) { Ok(()) } else { Err(format!("it lists {found:?}")) }
    }),
    rule("release", "what is released is forgotten, and may be released again", |bench| {
        let id = bench.launch(&bench.shell("exit 0"))?;
        bench.wait(&id)?;
        bench.release(&id)?;
        bench.release(&id)?;
        if bench.list()?.contains(&id) { Err("it is still listed".to_owned()) } else { Ok(()) }
    }),
    rule("folders", "containers of another folder are another agent's", |bench| {
        let id = bench.launch(&bench.shell("sleep 1000"))?;
        let folder = bench.dir.join("other");
        fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let other = Program { folder: folder.display().to_string(), ..bench.program.clone() };
        let found = listed(&other.call("list", &other.request(), None).map_err(Failure::into_sentence)?)?;
        if !found.is_empty() {
            return Err(format!("an empty folder lists {found:?}"));
        }
        let destroyed = other.call("destroy", &other.destruction(&id, How::AtOnce), None);
        destroyed.map_err(Failure::into_sentence)?;
        let early = bench.program.call_within("wait", &bench.program.about(&id), None, MOMENT);
        early.map_or(Ok(()), |answer| Err(format!("it ended by an order in another folder: {answer}")))
    }),
    rule("many", "twenty containers at once are no mess", |bench| {
        let requests: Vec<_> = (0..20).map(|number| bench.shell(&format!("sleep 0.2; exit {number}"))).collect();
        std::thread::scope(|scope| {
            let all: Vec<_> = requests
                .iter()
                .map(|request| {
                    let program = bench.program.clone();
                    scope.spawn(move || program.call_within("launch", request, None, PATIENCE).map(drop))
                })
                .collect();
            all.into_iter().try_for_each(|one| one.join().expect("no panic").map_err(Failure::into_sentence))
        })?;
        for (number, request) in requests.iter().enumerate() {
            equal(bench.wait(&text_of(request, "container_id"))?, Some((number as i32) << 8))?;
        }
        Ok(())
    }),
    feature("users", "it runs as the user that was named, with the groups of that user", "users", |bench| {
        if !geteuid().is_root() {
            return Err("only root can look at this".to_owned());
        }
        let mut request = bench.shell("id -un; id -Gn");
        request.insert("user".to_owned(), "nobody".into());
        let id = bench.launch(&request)?;
        bench.wait(&id)?;
        let found = read(&request, "stdout")?;
        let mut lines = found.lines();
        equal(lines.next().unwrap_or_default().to_owned(), "nobody".to_owned())?;
        let groups = lines.next().unwrap_or_default().to_owned();
        if groups.split(' ').any(|group| group == "root") { Err(format!("its groups are {groups}")) } else { Ok(()) }
    }),
    feature("no-such-user", "a user that there is not is refused", "users", |bench| {
        let mut request = bench.shell("exit 0");
        request.insert("user".to_owned(), "no-such-user".into());
        refused(bench.program.call("launch", &request, None))
    }),
    feature("rlimits", "limits are set, soft and hard", "rlimits", |bench| {
        let mut request = bench.shell("ulimit -Sn; ulimit -Hn");
        request.insert("rlimits".to_owned(), json!({"NOFILE": [64, 128], "CORE": null}));
        let id = bench.launch(&request)?;
        bench.wait(&id)?;
        equal(read(&request, "stdout")?, "64\n128\n".to_owned())
    }),
    feature("nested", "a container within another ends alone", "nested", |bench| {
        let outer = bench.launch(&bench.shell("sleep 1000"))?;
        let mut request = bench.shell("exit 6");
        let id = format!("{outer}.inner");
        request.insert("container_id".to_owned(), id.clone().into());
        request.insert("parent".to_owned(), outer.clone().into());
        bench.launch(&request)?;
        equal(bench.wait(&id)?, Some(6 << 8))?;
        let early = bench.program.call_within("wait", &bench.program.about(&outer), None, MOMENT);
        early.map_or(Ok(()), |answer| Err(format!("the one that it was within ended with it: {answer}")))
    }),
    feature(
        "signals",
        "a signal arrives at the first process, and it is said when there is none",
        "signals",
        |bench| {
            let request = bench.shell("trap 'exit 8' USR1; echo > ready; while :; do sleep 0.05; done");
            let id = bench.launch(&request)?;
            there(&request, "ready")?;
            let send = || {
                let mut request = bench.program.about(&id);
                request.insert("signal".to_owned(), 10.into());
                bench.program.call("signal", &request, None).map_err(Failure::into_sentence)
            };
            equal(send()?.get("sent").cloned(), Some(json!(true)))?;
            equal(bench.wait(&id)?, Some(8 << 8))?;
            equal(send()?.get("sent").cloned(), Some(json!(false)))
        },
    ),
    feature("usage", "what it uses is told in seconds and bytes", "usage", |bench| {
        let request = bench.shell("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo > ready; sleep 1000");
        let id = bench.launch(&request)?;
        there(&request, "ready")?;
        let answer = bench.program.call("usage", &bench.program.about(&id), None).map_err(Failure::into_sentence)?;
        let usage = usage_of(&answer);
        let cpus = usage.cpus_user_time_secs() + usage.cpus_system_time_secs();
        let is_sane = (0.001..1000.0).contains(&cpus) && usage.mem_rss_bytes.is_some_and(|bytes| bytes > 4096);
        if is_sane { Ok(()) } else { Err(format!("it says {answer}")) }
    }),
];

/// Looks at a program by all rules, or by some. Each is a line for `tell`; whether none is broken.
///
/// # Errors
/// It cannot be asked at all, or there is no such rule: a sentence.
pub fn check(path: &str, only: &[&str], mut tell: impl FnMut(&str)) -> Result<bool, String> {
    if let Some(unknown) = only.iter().find(|name| !RULES.iter().any(|rule| rule.name == **name)) {
        let known: Vec<&str> = RULES.iter().map(|rule| rule.name).collect();
        return Err(format!("There is no rule '{unknown}'; there is: {}", known.join(", ")));
    }
    let path = fs::canonicalize(path).map_err(|error| format!("Cannot find {path}: {error}"))?;
    static CHECKS: AtomicU32 = AtomicU32::new(0);
    let number = CHECKS.fetch_add(1, Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("meseta-containerizer-check-{}-{number}", std::process::id()));
    let made = fs::create_dir_all(dir.join("folder")).and_then(|()| fs::canonicalize(&dir));
    let dir = made.map_err(|error| format!("Cannot make {}: {error}", dir.display()))?;
    // Other users are to find their sandboxes.
    let _ = fs::set_permissions(&dir, fs::Permissions::from_mode(0o711));
    let millis = PATIENCE.as_millis() as u64;
    let folder = dir.join("folder").display().to_string();
    let program =
        Program { path: path.display().to_string(), folder, launch_ms_max: millis, answer_ms_max: millis, own: None };
    let supports = Description::ask(&program).map(|one| one.supports).unwrap_or_default();
    let bench = Bench { program, dir, made: RefCell::default(), count: Cell::new(0) };
    let mut holds = true;
    for Rule { name, text, needs, look } in RULES.iter().filter(|one| only.is_empty() || only.contains(&one.name)) {
        if !needs.is_empty() && !supports.contains(*needs) {
            tell(&format!("skipped  {name}: {text} (it does not support {needs})"));
            continue;
        }
        let checked = look(&bench);
        let cleaned = bench.clean();
        match checked.and(cleaned.map_err(|why| format!("it could not be ended behind it: {why}"))) {
            Ok(()) => tell(&format!("holds    {name}: {text}")),
            Err(why) => {
                holds = false;
                tell(&format!("broken   {name}: {text}: {}", why.replace('\n', " ")));
            }
        }
    }
    let _ = fs::remove_dir_all(&bench.dir);
    Ok(holds)
}

struct Bench {
    program: Program,
    dir: PathBuf,
    /// Ids of this rule's containers.
    made: RefCell<Vec<String>>,
    count: Cell<u32>,
}

impl Bench {
    fn id(&self) -> String {
        self.count.set(self.count.get() + 1);
        let id = format!("check-{}-{}", std::process::id(), self.count.get());
        self.made.borrow_mut().push(id.clone());
        id
    }

    /// A container that runs a script.
    fn shell(&self, script: &str) -> Map<String, Value> {
        let id = self.id();
        let sandbox = self.dir.join("sandboxes").join(&id);
        let mut request = self.program.about(&id);
        let made = fs::create_dir_all(&sandbox);
        let outputs = ["stdout", "stderr"].map(|name| sandbox.join(name));
        made.and_then(|()| outputs.iter().try_for_each(|path| fs::write(path, "")))
            .expect("a folder of this test's own");
        let sandbox = sandbox.display().to_string();
        let values = [
            ("stdout", outputs[0].display().to_string().into()),
            ("stderr", outputs[1].display().to_string().into()),
            ("program", "/bin/sh".into()),
            ("arguments", json!(["sh", "-c", script])),
            (
                "environment",
                json!({"PATH": "/usr/bin:/bin", "MESOS_SANDBOX": sandbox, "EMPTY": "", "QUOTES": "a 'b' \"c\""}),
            ),
            ("resources", json!({"cpus": 0.1, "mem": 32.0})),
            ("limits", json!({})),
            ("volumes", json!([])),
            ("labels", json!([{"key": "a", "value": "b"}])),
            ("sandbox", sandbox.into()),
        ];
        request.extend(values.map(|(name, value): (&str, Value)| (name.to_owned(), value)));
        request
    }

    fn launch(&self, request: &Map<String, Value>) -> Result<String, String> {
        let id = text_of(request, "container_id");
        self.made.borrow_mut().push(id.clone());
        let launched = self.program.call_within("launch", request, None, PATIENCE);
        launched.map(|_| id).map_err(Failure::into_sentence)
    }

    /// Its wait status.
    fn wait(&self, id: &str) -> Result<Option<i32>, String> {
        let answer = self.program.call_within("wait", &self.program.about(id), None, PATIENCE);
        let answer = answer.map_err(Failure::into_sentence)?;
        end_of(&answer).ok_or_else(|| format!("its answer {answer} does not say how the container ended"))
    }

    fn destroy(&self, id: &str, how: How) -> Checked {
        self.program.call("destroy", &self.program.destruction(id, how), None).map(drop).map_err(Failure::into_sentence)
    }

    fn release(&self, id: &str) -> Checked {
        self.program.call("release", &self.program.about(id), None).map(drop).map_err(Failure::into_sentence)
    }

    fn list(&self) -> Result<std::collections::BTreeSet<String>, String> {
        listed(&self.program.call("list", &self.program.request(), None).map_err(Failure::into_sentence)?)
    }

    fn clean(&self) -> Checked {
        let made = std::mem::take(&mut *self.made.borrow_mut());
        let (mut ended, left) = (Ok(()), self.list().unwrap_or_default());
        for id in made.iter().rev().filter(|id| left.contains(*id)) {
            ended = ended.and(self.destroy(id, How::AtOnce)).and_then(|()| self.release(id));
        }
        ended
    }
}

fn text_of(request: &Map<String, Value>, name: &str) -> String {
    request.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn read(request: &Map<String, Value>, name: &str) -> Result<String, String> {
    fs::read_to_string(text_of(request, name)).map_err(|error| error.to_string())
}

fn equal<T: PartialEq + std::fmt::Debug>(found: T, expected: T) -> Checked {
    if found == expected { Ok(()) } else { Err(format!("it is {found:?}, and should be {expected:?}")) }
}

/// It must be said no, in a sentence.
fn refused(answer: Result<Value, Failure>) -> Checked {
    match answer {
        Err(Failure::Refused(_)) => Ok(()),
        Err(other) => Err(other.into_sentence()),
        Ok(answer) => Err(format!("it was answered {answer}")),
    }
}

/// What waits for the file `go` in its sandbox goes on.
fn go(request: &Map<String, Value>) -> Checked {
    fs::write(Path::new(&text_of(request, "sandbox")).join("go"), "").map_err(|error| error.to_string())
}

/// Waits for a file in the sandbox.
fn there(request: &Map<String, Value>, name: &str) -> Result<String, String> {
    let path = Path::new(&text_of(request, "sandbox")).join(name);
    let begun = Instant::now();
    loop {
        match fs::read_to_string(&path) {
            Ok(text) if text.ends_with('\n') => return Ok(text.trim().to_owned()),
            _ if begun.elapsed() > PATIENCE => return Err(format!("it did not write its file '{name}'")),
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// The process whose number is in a file of the sandbox is gone.
fn gone(request: &Map<String, Value>, name: &str) -> Checked {
    let text = there(request, name)?;
    let pid: i32 = text.parse().map_err(|_| format!("'{text}' is no number of a process"))?;
    let is_dead = || matches!(supervisor::spec::look(pid.unsigned_abs()), Ok(None));
    match kill(Pid::from_raw(pid), None) {
        Err(Errno::ESRCH) => Ok(()),
        _ if is_dead() => Ok(()),
        _ => Err(format!("process {pid} is still there")),
    }
}
