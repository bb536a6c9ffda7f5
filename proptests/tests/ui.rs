//! The pages of a master in a real browser: nothing that axe-core finds wrong, in light and dark, on a phone; with a keyboard
//! alone; behind a proxy under a path; with authentication on; and following what happens.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use proptests::browser::{Browser, Look};
use proptests::cluster::{Cluster, Plan, READY, binary};
use proptests::framework::{Framework, command_task, info};
use proptests::http::{self, Answer, Request};
use proptests::wait;
use serde_json::json;
use tempfile::TempDir;

const DESK: Look = Look { width: 1280, height: 800, dark: false };
const PHONE: Look = Look { width: 360, height: 740, dark: true };

/// Under which path the proxy has the master.
const PREFIX: &str = "/clusters/one";

/// Passes on what is below the prefix, one request a connection, and answers nothing else.
fn proxy(to: SocketAddr) -> SocketAddr {
    replaying(to, None)
}

/// The same; whoever subscribes is told of `replay` instead of what happens.
fn replaying(to: SocketAddr, replay: Option<Arc<Replay>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let replay = replay.clone();
            thread::spawn(move || pass(client, to, replay.as_deref()));
        }
    });
    address
}

/// Events that are told at speed, to whoever subscribes first.
struct Replay {
    events: u64,
    told: AtomicU64,
}

impl Replay {
    /// As a master tells them, some hundred at a time; then nothing more, until the client goes.
    fn tell(&self, client: &mut TcpStream, reader: &mut impl io::Read) -> io::Result<()> {
        client.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        while self.told.load(Ordering::SeqCst) < self.events {
            for _ in 0..400 {
                let number = self.told.fetch_add(1, Ordering::SeqCst);
                let task = json!({"framework_id": {"value": "f"}, "task_id": {"value": format!("t{number}")},
                    "state": "TASK_RUNNING", "agent_id": {"value": "s"}, "name": "x".repeat(200)});
                let event = json!({"type": "TASK_ADDED", "task_added": {"task": task},
                    "log_position": {"index": number, "event": 0}});
                let event = event.to_string();
                let record = format!("{}\n{event}", event.len());
                client.write_all(format!("{:x}\r\n{record}\r\n", record.len()).as_bytes())?;
            }
            thread::sleep(Duration::from_millis(50));
        }
        io::copy(reader, &mut io::sink()).map(drop)
    }
}

fn pass(mut client: TcpStream, to: SocketAddr, replay: Option<&Replay>) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let Some(path) = path.strip_prefix(PREFIX) else {
        return client.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        if header.trim().is_empty() {
            break;
        }
        if !header.to_ascii_lowercase().starts_with("connection:") {
            head += &header;
        }
    }
    head += "\r\n";
    if let Some(replay) = replay.filter(|_| method == "POST" && path.starts_with("/api/v1?after=")) {
        return replay.tell(&mut client, &mut reader);
    }
    let mut server = TcpStream::connect(to)?;
    server.write_all(head.as_bytes())?;
    let mut up = server.try_clone()?;
    thread::spawn(move || {
        let _ = io::copy(&mut reader, &mut up);
        let _ = up.shutdown(Shutdown::Write);
    });
    io::copy(&mut server, &mut client)?;
    client.shutdown(Shutdown::Both)
}

/// A cluster whose master and agent ask who reads them: `ops` may see all, `web` neither sandboxes nor logs, `blind` no framework.
struct Guarded {
    cluster: Cluster,
    framework: Framework,
    _files: TempDir,
}

impl Guarded {
    fn start() -> Guarded {
        let files = tempfile::tempdir().expect("a folder");
        let path = |name: &str| files.path().join(name).display().to_string();
        let users = ["ops", "web", "blind"].map(|who| serde_json::json!({"principal": who, "secret": "secret"}));
        let users = serde_json::json!({ "credentials": users }).to_string();
        std::fs::write(path("credentials"), users).expect("written");
        let logs = r#"[{"principals": {"values": ["ops"]}, "logs": {"type": "ANY"}}, {"principals": {"type": "ANY"}, "logs": {"type": "NONE"}}]"#;
        let users = r#"[{"principals": {"values": ["blind"]}, "users": {"type": "NONE"}}]"#;
        let lists = ["view_frameworks", "view_tasks", "view_executors"].map(|list| format!("\"{list}\": {users}"));
        let of_master = format!("{{\"access_mesos_logs\": {logs}, {}}}", lists.join(", "));
        std::fs::write(path("master_acls"), of_master).expect("written");
        let acls = r#"{"access_sandboxes": [{"principals": {"values": ["ops"]}, "users": {"type": "ANY"}},
                                            {"principals": {"type": "ANY"}, "users": {"type": "NONE"}}]}"#;
        std::fs::write(path("acls"), acls).expect("written");
        make_secret(Path::new(&path("secret")));
        let mut plan = Plan::new().agents(1);
        for flag in [
            format!("--credentials={}", path("credentials")),
            format!("--cluster_secret=file://{}", path("secret")),
            "--authenticate_http_readonly=true".to_owned(),
            "--authenticate_http_readwrite=true".to_owned(),
        ] {
            let of_agent = flag.replace("--credentials", "--http_credentials");
            plan = plan.master_flag(&flag).agent_flag(&of_agent);
        }
        plan = plan.master_flag(&format!("--acls={}", path("master_acls")));
        let cluster = plan.agent_flag(&format!("--acls={}", path("acls"))).start_without_waiting();
        wait::until("an active agent", READY, || {
            let answer = http::send(cluster.address("m0"), &read_as("ops", "/slaves")).ok()?;
            (answer.status() == 200 && answer.text().contains("\"active\":true")).then_some(())
        });
        let mut framework = Framework::subscribe(cluster.address("m0"), &info("shop"));
        let offer = framework.offer();
        let task = command_task("steady", &offer, "while true; do echo tick; sleep 0.2; done");
        framework.launch(&offer, &[task]);
        let running = framework.until_state("steady", "TASK_RUNNING");
        framework.acknowledge(&running);
        Guarded { cluster, framework, _files: files }
    }

    fn get(&self, who: &str, path: &str) -> Answer {
        http::send(self.cluster.address("m0"), &read_as(who, path)).expect("an answer")
    }
}

fn make_secret(path: &Path) {
    let made = Command::new(binary("meseta")).args(["secret", "new"]).arg(path).output().expect("meseta runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

fn read_as(who: &str, path: &str) -> Request {
    Request::get(path).header("Authorization", &http::basic(who, "secret"))
}

/// Whatever there is to say against a page as it is.
fn look_at(browser: &mut Browser, url: &str) -> Vec<String> {
    let mut found = Vec::new();
    let (dark, light) = (Look { dark: true, ..DESK }, Look { dark: false, ..PHONE });
    for look in [DESK, dark, PHONE, light] {
        browser.look(look);
        if look.width < 600 {
            let wide = "document.documentElement.scrollWidth + ' of ' + document.documentElement.clientWidth";
            let is_wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth";
            if browser.evaluate(is_wide) == true {
                found.push(format!("{url}: on a phone it is too wide: {}", browser.evaluate(wide)));
            }
        }
        found.extend(browser.violations().into_iter().map(|one| format!("{url} ({look:?}): {one}")));
    }
    found
}

/// Every element that Tab reaches shows that it is there, and the first leads to the content.
fn walk(browser: &mut Browser) -> Vec<String> {
    browser.look(DESK);
    browser.press("Tab", 9);
    assert_eq!(browser.evaluate("document.activeElement.className"), "skip");
    let is_shown = "(() => { const box = document.activeElement.getBoundingClientRect(); return box.left >= 0 && box.top >= 0 && box.width > 0; })()";
    browser.until("the first link to be shown", is_shown);
    browser.press("Enter", 13);
    browser.until("the content to have the focus", "document.activeElement.id === 'content'");
    let mut hidden = Vec::new();
    for _ in 0..30 {
        browser.press("Tab", 9);
        let at = browser.evaluate(
            "(() => { const it = document.activeElement, style = getComputedStyle(it); \
             if (it === document.body) return ''; \
             return (it.matches(':focus-visible') && style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0 ? '' : 'hidden: ') + it.outerHTML.slice(0, 200); })()",
        );
        match at.as_str().unwrap_or_default() {
            "" => break,
            at => hidden.extend(at.strip_prefix("hidden: ").map(str::to_owned)),
        }
    }
    hidden
}

/// Those of the documentation: `MESETA_PICTURES=docs/pictures`.
fn pictures(browser: &mut Browser, root: &str, framework: &str, dir: &Path) {
    std::fs::create_dir_all(dir).expect("a folder");
    let dark = Look { dark: true, ..DESK };
    for (name, page, look) in [
        ("cluster", "", DESK),
        ("history", "history", dark),
        ("task-then", &*format!("tasks/{framework}/steady?at=12"), DESK),
        ("files-phone", &*format!("tasks/{framework}/steady/files?path=stdout"), PHONE),
    ] {
        browser.look(look);
        browser.open(&format!("{root}{page}"));
        std::fs::write(dir.join(format!("{name}.webp")), browser.picture()).expect("written");
    }
}

#[test]
fn pages_are_for_everybody() {
    let guarded = Guarded::start();
    let master = guarded.cluster.address("m0");
    let at = proxy(master);
    let mut browser = Browser::start();
    browser.look(DESK);
    // A browser that says who reads once goes on saying it.
    browser.open(&format!("http://ops:secret@{at}{PREFIX}/"));
    let root = format!("http://{at}{PREFIX}/ui/");
    assert_eq!(browser.evaluate("location.href"), root, "a browser is sent to the pages, relative to where it is");

    let (mut waiting, mut known) = (VecDeque::from([String::new()]), BTreeSet::from([String::new()]));
    let mut found = Vec::new();
    while let Some(page) = waiting.pop_front() {
        let url = format!("{root}{page}");
        browser.open(&url);
        assert!(browser.evaluate("document.title").as_str().is_some_and(|title| title.ends_with("Meseta")), "{url}");
        found.extend(look_at(&mut browser, &url));
        let links = browser.evaluate("[...document.querySelectorAll('a[href]')].map((link) => link.href)");
        for link in links.as_array().into_iter().flatten().filter_map(|link| link.as_str()) {
            let Some(page) = link.strip_prefix(&root) else { continue };
            // A moment of each kind of page will do, and each page once however it is asked.
            let (path, query) = page.split('#').next().unwrap_or_default().split_once('?').unwrap_or((page, ""));
            let kind = if query.contains("at=") {
                format!("{} then", path.split('/').next().unwrap_or_default())
            } else {
                path.to_owned()
            };
            let is_page = !path.ends_with("/download") && !path.starts_with('#');
            if is_page && known.insert(kind) {
                waiting.push_back(page.to_owned());
            }
        }
    }
    assert!(known.len() >= 20, "{known:?}");
    for page in ["tasks/no/such", "?at=99999999", "tasks?q=nothing", "diff?from=1"] {
        browser.open(&format!("{root}{page}"));
        found.extend(look_at(&mut browser, page));
    }
    assert!(found.is_empty(), "{} complaints of {} pages:\n{}", found.len(), known.len(), found.join("\n"));
    // It would be told.
    browser.evaluate("document.querySelector('main').append(document.createElement('button')), true");
    assert!(browser.violations().iter().any(|one| one.starts_with("button-name")), "axe-core looks");
    for page in ["", "tasks", "history"] {
        browser.open(&format!("{root}{page}"));
        let hidden = walk(&mut browser);
        assert!(hidden.is_empty(), "{page}: the focus is not seen at {hidden:?}");
    }

    if let Some(dir) = std::env::var_os("MESETA_PICTURES") {
        pictures(&mut browser, &root, &guarded.framework.id, Path::new(&dir));
    }

    // A file is followed as it grows.
    let framework = guarded.framework.id.clone();
    browser.open(&format!("{root}tasks/{framework}/steady/files?path=stdout"));
    let ticks = "document.getElementById('file').textContent.split('tick').length";
    let before = browser.evaluate(ticks).as_u64().expect("a number");
    browser.until("the file to be followed", &format!("{ticks} > {}", before + 3));
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
    let own = format!("http://{at}{PREFIX}/");
    let elsewhere: Vec<&String> = browser
        .requests
        .iter()
        .filter(|url| {
            !url.starts_with(&own)
                && !url.starts_with(&format!("http://ops:secret@{at}{PREFIX}/"))
                && *url != "about:blank"
        })
        .filter(|url| **url != format!("http://{at}/favicon.ico"))
        .collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
}

#[test]
fn the_past_is_told_to_whom_it_concerns() {
    let guarded = Guarded::start();
    let id = guarded.framework.id.clone();
    let get = |who: &str, page: &str| {
        let answer = guarded.get(who, &format!("/ui/{page}"));
        (answer.status(), answer.text())
    };
    let (status, all) = get("ops", "history");
    assert_eq!(status, 200);
    for told in ["(shop)", "task steady", "echo tick", "SUBSCRIBE from", "was elected leader"] {
        assert!(all.contains(told), "{told}: {all}");
    }
    let newest = guarded.get("ops", "/ui/").head.header("meseta-index").and_then(|index| index.parse::<u64>().ok());
    let newest = newest.expect("an index");
    let (_, story) = get("ops", &format!("explain/task/{id}/steady"));
    assert!(story.contains("launched it on") && story.contains("it is TASK_RUNNING on"), "{story}");
    let (status, then) = get("ops", &format!("tasks?at={newest}"));
    assert!(status == 200 && then.contains("This is the past") && then.contains("steady"), "{then}");
    let (status, before) = get("ops", "tasks?at=1");
    assert!(status == 200 && !before.contains("steady"), "{before}");
    let (_, diff) = get("ops", "diff?from=1");
    assert!(diff.contains("not there") && diff.contains("TASK_RUNNING on"), "{diff}");

    // Who may not read logs is told what happened, and neither by whom nor what was run.
    let (_, some) = get("web", "history");
    assert!(some.contains("task steady") && !some.contains("echo tick") && !some.contains("SUBSCRIBE from"), "{some}");
    // Who sees no framework is told of none.
    let pages = ["history?all=true", "diff?from=1", "explain/agent/S0", "explain/role/*", "tasks?all=true"];
    let past = ["tasks", "frameworks", "offers", ""].map(|page| format!("{page}?at={newest}"));
    let of_others = [format!("explain/task/{id}/steady"), format!("explain/framework/{id}")];
    for page in pages.map(str::to_owned).iter().chain(&past).chain(&of_others) {
        let (status, text) = get("blind", page);
        let main = text.split("<main").nth(1).unwrap_or_default();
        assert!(status == 200 || status == 404, "{page}: {status}");
        for hidden in ["shop", "echo tick", "SUBSCRIBE from", "launched", "TASK_RUNNING"] {
            assert!(!main.contains(hidden), "{page} tells {hidden}: {main}");
        }
    }
    let (_, line) = get("blind", "history?all=true");
    assert!(line.contains("was elected leader"), "{line}");
    for (page, expected) in
        [("?at=x", 400), ("?at=99999999", 404), ("history?from=5&until=2", 400), ("tasks/no/such/files", 404)]
    {
        assert_eq!(get("ops", page).0, expected, "{page}");
    }
}

/// The newest offer that nobody answered: it may have come while something else was waited for.
fn next_offer(framework: &mut Framework) -> serde_json::Value {
    let passed = framework.seen.iter().rposition(|event| event["type"] == "OFFERS");
    match passed.map(|at| framework.seen.remove(at)) {
        Some(event) => event["offers"]["offers"][0].clone(),
        None => framework.offer(),
    }
}

#[test]
fn a_page_follows_the_cluster() {
    let cluster = Plan::new().agents(1).start();
    let mut framework = Framework::subscribe(cluster.address("m0"), &info("shop"));
    let offer = framework.offer();
    let mut browser = Browser::start();
    browser.open(&format!("http://{}/ui/tasks", cluster.address("m0")));
    browser.evaluate("window.same = true");
    framework.launch(&offer, &[command_task("seen", &offer, "sleep 1000")]);
    let running = framework.until_state("seen", "TASK_RUNNING");
    framework.acknowledge(&running);
    browser.until("the task to be seen", "document.querySelector('main').innerText.includes('TASK_RUNNING')");
    assert_eq!(browser.evaluate("window.same"), true, "the page was not loaded again");

    // However often it is renewed, the browser holds no more.
    let nodes = |browser: &mut Browser| {
        browser.call("HeapProfiler.collectGarbage", json!({}));
        browser.call("Memory.getDOMCounters", json!({}))["nodes"].as_u64().expect("a number")
    };
    let before = nodes(&mut browser);
    let index = "Number((document.getElementById('live').textContent.match(/index (\\d+)/) || [0, 0])[1])";
    for number in 0..8 {
        let was = browser.evaluate(index);
        let (offer, id) = (next_offer(&mut framework), format!("short{number}"));
        framework.launch(&offer, &[command_task(&id, &offer, "true")]);
        let finished = framework.until_state(&id, "TASK_FINISHED");
        framework.acknowledge(&finished);
        browser.until("the page to be renewed", &format!("{index} > {was}"));
    }
    let after = nodes(&mut browser);
    assert!(after < before * 2, "{before} nodes, then {after}");
    let heard = format!("http://{}/api/v1?after=", cluster.address("m0"));
    assert!(browser.requests.iter().any(|url| url.starts_with(&heard)), "{:?}", browser.requests);
}

#[test]
fn an_hour_of_events_leaves_the_browser_as_it_was() {
    let cluster = Plan::new().agents(1).start();
    // Ten a second.
    let replay = Arc::new(Replay { events: 36_000, told: AtomicU64::new(0) });
    let address = replaying(cluster.address("m0"), Some(replay.clone()));
    let mut browser = Browser::start();
    browser.call("Performance.enable", json!({}));
    let memory = |browser: &mut Browser| {
        browser.call("HeapProfiler.collectGarbage", json!({}));
        let told = browser.call("Performance.getMetrics", json!({}));
        let of = |name: &str| {
            let all = told["metrics"].as_array().expect("metrics");
            all.iter().find(|one| one["name"] == name).and_then(|one| one["value"].as_f64()).expect("a number")
        };
        (of("JSHeapUsedSize"), of("Nodes"))
    };
    browser.open(&format!("http://{address}{PREFIX}/ui/tasks"));
    let quarter = replay.events / 4;
    let until = |count: u64| {
        wait::until("events to be told", READY, || (replay.told.load(Ordering::SeqCst) >= count).then_some(()));
    };
    until(quarter);
    let before = memory(&mut browser);
    until(replay.events);
    browser.until("the page to be renewed", "document.getElementById('live').textContent.includes('Followed')");
    let after = memory(&mut browser);
    println!("{before:?} (bytes of the heap, nodes) after a quarter of an hour, {after:?} after an hour");
    assert!(after.0 < before.0 * 1.5 + 1e6 && after.1 < before.1 * 2.0, "{before:?}, then {after:?}");
}

#[test]
fn the_agent_decides_who_reads_a_sandbox() {
    let guarded = Guarded::start();
    let of_task = format!("/ui/tasks/{}/steady", guarded.framework.id);
    let get = |who: &str, what: &str| {
        let answer = guarded.get(who, &format!("{of_task}/{what}"));
        (answer.status(), answer.text())
    };
    let (status, page) = get("ops", "files");
    assert!(status == 200 && page.contains("stdout"), "{status} {page}");
    let (status, text) = wait::until("something to read", READY, || {
        let (status, text) = get("ops", "read?path=stdout&offset=0");
        text.contains("tick").then_some((status, text))
    });
    assert!(status == 200 && text.contains("tick"), "{status} {text}");
    let (status, whole) = get("ops", "download?path=stdout");
    assert!(status == 200 && whole.starts_with(&text), "{status} {whole}");
    for what in ["files", "files?path=stdout", "read?path=stdout", "download?path=stdout"] {
        let (status, page) = get("web", what);
        assert!(status == 403 && page.contains("access control lists"), "{what}: {status} {page}");
    }
    for daemon in ["a0", "m0"] {
        let answer = http::send(guarded.cluster.address(daemon), &read_as("ops", "/audit")).expect("an answer");
        let noted = answer.text();
        assert!(noted.contains("ACCESS_SANDBOX") && noted.contains("\"web\""), "{daemon}: {noted}");
        assert!(!noted.contains("<html"), "{daemon} notes what is refused, not the page: {noted}");
    }
    let (status, page) = get("ops", "files?path=../../../../../../../../etc/passwd");
    assert!(status == 400 && !page.contains("root:"), "{status} {page}");
    let (status, _) = get("ops", "files?path=nosuch");
    assert_eq!(status, 404);
    // Whoever does not know the secret is told nothing by the agent, whatever name they claim.
    let stranger = Request::post_protobuf("/meseta/files", Vec::new());
    let answer = http::send(guarded.cluster.address("a0"), &stranger).expect("an answer");
    assert_eq!(answer.status(), 401, "{}", answer.text());
}
