//! What tasks bring along, fetched by real agents: from files and a server, unpacked, kept, and through the agent's death.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::v1::command_info::Uri;
use api::v1::{self, TaskState, task_status::Reason};
use common::{Master, RealAgent, task};

/// Serves these pages, and counts who asks. Pages named slow wait in their middle until they are let go.
struct Server {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
    slow: Arc<AtomicBool>,
    waiting: Arc<AtomicUsize>,
}

impl Server {
    fn start(pages: Vec<(&'static str, Vec<u8>)>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let server =
            Server { address, asked: Arc::default(), slow: Arc::new(AtomicBool::new(true)), waiting: Arc::default() };
        let (asked, slow, waiting) = (server.asked.clone(), server.slow.clone(), server.waiting.clone());
        let pages = Arc::new(pages);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, pages) = (stream.unwrap(), pages.clone());
                let (asked, slow, waiting) = (asked.clone(), slow.clone(), waiting.clone());
                std::thread::spawn(move || {
                    let mut request = Vec::new();
                    let mut byte = [0];
                    while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count > 0) {
                        request.push(byte[0]);
                    }
                    let request = String::from_utf8_lossy(&request).into_owned();
                    let line = request.lines().next().unwrap_or_default().to_owned();
                    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
                    let is_head = line.starts_with("HEAD");
                    asked.lock().unwrap().push(line.trim_end_matches(" HTTP/1.1").to_owned());
                    let Some((_, content)) = pages.iter().find(|(name, _)| *name == path) else {
                        let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
                        return;
                    };
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", content.len());
                    let _ = stream.write_all(head.as_bytes());
                    if is_head {
                        return;
                    }
                    let (first, second) = content.split_at(content.len() / 2);
                    let _ = stream.write_all(first);
                    if path.contains("slow") {
                        waiting.fetch_add(1, Ordering::SeqCst);
                        while slow.load(Ordering::SeqCst) {
                            std::thread::sleep(Duration::from_millis(5));
                        }
                    }
                    let _ = stream.write_all(second);
                });
            }
        });
        server
    }

    fn uri(&self, path: &str) -> Uri {
        Uri { value: format!("{}{path}", self.address), ..Uri::default() }
    }

    fn count(&self, line: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == line).count()
    }

    async fn is_waited_for(&self) {
        while self.waiting.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn fetching(id: &str, command: &str, uris: Vec<Uri>) -> v1::TaskInfo {
    let mut task = task(id, command);
    task.command.as_mut().unwrap().uris = uris;
    task
}

/// A packed archive of one file.
fn archive(dir: &Path) -> Vec<u8> {
    fs::create_dir_all(dir.join("in")).unwrap();
    fs::write(dir.join("in/packed.txt"), "packed").unwrap();
    let made = std::process::Command::new("tar")
        .args(["-czf", "b.tgz", "-C", "in", "packed.txt"])
        .current_dir(dir)
        .status()
        .unwrap();
    assert!(made.success());
    fs::read(dir.join("b.tgz")).unwrap()
}

fn stderr(agent: &RealAgent, id: &str) -> String {
    fs::read_to_string(agent.sandbox(id).join("stderr")).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_there_before_the_command_runs() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let files = tempfile::tempdir().unwrap();
    fs::write(files.path().join("local.txt"), "local").unwrap();
    fs::set_permissions(files.path().join("local.txt"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(files.path().join("run"), "#!/bin/sh\nexit 7").unwrap();
    let server = Server::start(vec![("/a.txt", b"hello".to_vec()), ("/b.tgz", archive(files.path()))]);
    let home = format!("--frameworks_home={}", files.path().display());
    let agent = RealAgent::start(&master.address, dir.path(), &[&home]);
    let local = |name: &str| Uri { value: name.to_owned(), ..Uri::default() };
    let uris = vec![
        local(&files.path().join("local.txt").display().to_string()),
        Uri { executable: Some(true), ..local(&format!("file://{}/run", files.path().display())) },
        server.uri("/a.txt"),
        Uri { output_file: Some("deep/er/sub.txt".into()), ..server.uri("/a.txt") },
        server.uri("/b.tgz"),
        Uri { extract: Some(false), output_file: Some("whole.tgz".into()), ..server.uri("/b.tgz") },
        local("in/packed.txt"),
    ];
    let command = "cat local.txt a.txt deep/er/sub.txt packed.txt; test -f b.tgz -a -f whole.tgz; exec ./run";
    master.launch(fetching("all", command, uris));
    let ended = master.update("all", TaskState::TaskFailed).await;
    assert_eq!(ended.message(), "Command exited with status 7", "{}", stderr(&agent, "all"));
    assert_eq!(master.history("all"), ["TASK_STARTING", "TASK_RUNNING", "TASK_FAILED"]);
    let sandbox = agent.sandbox("all").canonicalize().unwrap();
    assert_eq!(fs::read_to_string(sandbox.join("stdout")).unwrap(), "localhellohellopacked");
    let mode = |name: &str| fs::metadata(sandbox.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("local.txt"), mode("run"), mode("a.txt")), (0o600, 0o755, 0o644));
    let said = stderr(&agent, "all");
    for line in [
        format!("Fetching URI '{}/a.txt'", server.address),
        format!("Fetched '{}/a.txt' to '{}/a.txt'", server.address, sandbox.display()),
        format!("Successfully fetched all URIs into '{}'", sandbox.display()),
    ] {
        assert!(said.contains(&line), "{line}\n{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_fails_fails_the_task_with_its_reason() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let hostile = tempfile::tempdir().unwrap();
    let made = std::process::Command::new("tar")
        .args(["-czPf", "h.tgz", "/etc/hostname"])
        .current_dir(hostile.path())
        .status()
        .unwrap();
    assert!(made.success());
    let hostile = fs::read(hostile.path().join("h.tgz")).unwrap();
    let server = Server::start(vec![("/h.tgz", hostile), ("/a", b"a".to_vec()), ("/slow", vec![0; 100])]);
    let agent = RealAgent::start(&master.address, dir.path(), &["--fetcher_stall_timeout=300ms"]);
    let local = |name: &str| Uri { value: name.to_owned(), ..Uri::default() };
    for (id, uri, why) in [
        ("missing", server.uri("/nosuch"), "Error downloading resource, received HTTP return code 404"),
        ("scheme", local("zzz://x/a.txt"), "Failed to create HDFS client: Hadoop client is not available"),
        (
            "relative",
            local("a.txt"),
            "A relative path was passed for the resource but the Mesos framework home was not",
        ),
        ("nofile", local("/no/such/file"), "cannot open '/no/such/file': No such file or directory"),
        ("folder", local("/etc"), "'/etc' is not a file"),
        ("device", local("/dev/zero"), "'/dev/zero' is not a file"),
        ("hostile", server.uri("/h.tgz"), "'/etc/hostname' in the archive is an absolute path"),
        ("stalled", server.uri("/slow"), "said nothing for 300 ms"),
    ] {
        master.launch(fetching(id, "true", vec![uri]));
        let failed = master.update(id, TaskState::TaskFailed).await;
        let container = agent.sandbox(id).canonicalize().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(
            failed.message(),
            format!(
                "Failed to launch container: Failed to fetch all URIs for container '{container}': exited with status 1"
            ),
            "{id}"
        );
        assert_eq!(failed.reason(), Reason::ContainerLaunchFailed);
        assert_eq!(master.history(id), ["TASK_FAILED"]);
        let said = stderr(&agent, id);
        assert!(
            said.contains("EXIT with status 1: ") && said.contains("Failed to fetch") && said.contains(why),
            "{id}: {said}"
        );
    }
    let mut task = fetching("checksum", "true", vec![server.uri("/a")]);
    let label = v1::Label {
        key: format!("meseta.checksum:{}/a", server.address),
        value: Some(format!("sha256:{}", "0".repeat(64))),
    };
    task.labels = Some(v1::Labels { labels: vec![label] });
    master.launch(task);
    master.update("checksum", TaskState::TaskFailed).await;
    let said = stderr(&agent, "checksum");
    assert!(
        said.contains("it has the checksum ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"),
        "{said}"
    );
    assert!(!agent.sandbox("checksum").join("a").exists());
    server.slow.store(false, Ordering::SeqCst);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_many_want_is_fetched_once() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let files = tempfile::tempdir().unwrap();
    let server = Server::start(vec![("/slow.txt", b"hello".to_vec()), ("/b.tgz", archive(files.path()))]);
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    let cached = |path: &str| Uri { cache: Some(true), ..server.uri(path) };
    let ids: Vec<String> = (0..6).map(|number| format!("t{number}")).collect();
    for id in &ids {
        master.launch(fetching(
            id,
            "cat slow.txt packed.txt; test ! -e b.tgz",
            vec![cached("/slow.txt"), cached("/b.tgz")],
        ));
    }
    server.is_waited_for().await;
    server.slow.store(false, Ordering::SeqCst);
    for id in &ids {
        master.update(id, TaskState::TaskFinished).await;
        let sandbox = agent.sandbox(id);
        assert_eq!(fs::read_to_string(sandbox.join("stdout")).unwrap(), "hellopacked");
        assert!(stderr(&agent, id).contains(&format!("Fetching URI '{}/b.tgz' from cache", server.address)));
    }
    assert_eq!(
        (server.count("GET /slow.txt"), server.count("GET /b.tgz")),
        (1, 1),
        "{:?}",
        server.asked.lock().unwrap()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_outlives_its_agent_and_can_be_killed() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let server = Server::start(vec![("/slow.txt", b"hello".to_vec()), ("/slow2.txt", b"hello".to_vec())]);
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    master.launch(fetching("lives", "cat slow.txt", vec![server.uri("/slow.txt")]));
    server.is_waited_for().await;
    master.launch(fetching("dies", "true", vec![Uri { cache: Some(true), ..server.uri("/slow2.txt") }]));
    while server.count("GET /slow2.txt") == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    agent.kill();
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    master.kill("dies");
    let killed = master.update("dies", TaskState::TaskKilled).await;
    assert_eq!(killed.reason(), Reason::TaskKilledDuringLaunch);
    assert_eq!(master.history("dies"), ["TASK_KILLED"]);
    assert_eq!(master.history("lives"), [""; 0]);
    server.slow.store(false, Ordering::SeqCst);
    master.update("lives", TaskState::TaskFinished).await;
    assert_eq!(fs::read_to_string(agent.sandbox("lives").join("stdout")).unwrap(), "hello");
    // What was half there is fetched anew.
    master.launch(fetching("again", "cat slow2.txt", vec![Uri { cache: Some(true), ..server.uri("/slow2.txt") }]));
    master.update("again", TaskState::TaskFinished).await;
    assert_eq!(fs::read_to_string(agent.sandbox("again").join("stdout")).unwrap(), "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_fetched_as_the_tasks_user() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let files = tempfile::tempdir().unwrap();
    fs::set_permissions(files.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let secret = files.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let server = Server::start(vec![("/a.txt", b"hello".to_vec()), ("/b.tgz", archive(files.path()))]);
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    let as_nobody = |id: &str, uris: Vec<Uri>| {
        let mut task = fetching(id, "cat a.txt packed.txt", uris);
        task.command.as_mut().unwrap().user = Some("nobody".into());
        task
    };
    master.launch(as_nobody("own", vec![Uri { cache: Some(true), ..server.uri("/a.txt") }, server.uri("/b.tgz")]));
    master.update("own", TaskState::TaskFinished).await;
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap().uid.as_raw();
    for name in ["a.txt", "packed.txt", "b.tgz", "stderr"] {
        assert_eq!(fs::metadata(agent.sandbox("own").join(name)).unwrap().uid(), nobody, "{name}");
    }
    let uri = |path: &Path| Uri { value: path.display().to_string(), ..Uri::default() };
    for (id, cache) in [("theirs", false), ("kept", true)] {
        master.launch(as_nobody(id, vec![Uri { cache: Some(cache), ..uri(&secret) }]));
        master.update(id, TaskState::TaskFailed).await;
        assert!(stderr(&agent, id).contains("Permission denied"), "{}", stderr(&agent, id));
    }
}

/// With the supervisor of a container goes all that fetches for it; what was half fetched is not kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_ends_with_its_supervisor() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let server = Server::start(vec![("/slow.txt", b"hello".to_vec())]);
    let _agent = RealAgent::start(&master.address, dir.path(), &[]);
    master.launch(fetching("one", "cat slow.txt", vec![Uri { cache: Some(true), ..server.uri("/slow.txt") }]));
    server.is_waited_for().await;
    let marked = |program: &str| -> Vec<i32> {
        let mark = format!("@{}", dir.path().canonicalize().unwrap().display());
        let all = fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let is_of_here = |pid: &i32| {
            let read = |what: &str| fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
            String::from_utf8_lossy(&read("environ")).contains(&mark)
                && fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with(program))
        };
        pids.filter(is_of_here).collect()
    };
    assert_eq!(marked("meseta-fetcher").len(), 2, "one that coordinates, and one that fetches");
    let supervisor = marked("meseta-executor");
    assert_eq!(supervisor.len(), 1);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(supervisor[0]), nix::sys::signal::SIGKILL).unwrap();
    master.update("one", TaskState::TaskFailed).await;
    assert_eq!(marked("meseta-fetcher"), [0; 0]);
    server.slow.store(false, Ordering::SeqCst);
    master.launch(fetching("two", "cat slow.txt", vec![Uri { cache: Some(true), ..server.uri("/slow.txt") }]));
    master.update("two", TaskState::TaskFinished).await;
}

/// A server of https that certificates authorities named by the agent's environment vouch for.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_must_be_vouched_for() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let testdata = concat!(env!("CARGO_MANIFEST_DIR"), "/../web/testdata");
    let mut server = std::process::Command::new("python3");
    server.args(["-uc", HTTPS_SERVER, testdata]).stdout(std::process::Stdio::piped());
    let Ok(mut server) = server.spawn() else { return eprintln!("there is no python3 on this machine") };
    let mut port = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(server.stdout.take().unwrap()), &mut port).unwrap();
    let uri = Uri { value: format!("https://localhost:{}/ca.pem", port.trim()), ..Uri::default() };
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    master.launch(fetching("stranger", "true", vec![uri.clone()]));
    master.update("stranger", TaskState::TaskFailed).await;
    assert!(stderr(&agent, "stranger").contains("cannot connect to localhost:"), "{}", stderr(&agent, "stranger"));
    agent.kill();
    let trust = format!("export SSL_CERT_FILE={testdata}/ca.pem");
    let agent = RealAgent::start_after(&trust, &master.address, dir.path(), &[]);
    master.launch(fetching("known", "grep CERTIFICATE ca.pem", vec![uri]));
    let ended = master.wait("an end", |known| {
        let mut all = known.statuses();
        all.find(|one| {
            one.task_id.value == "known" && !matches!(one.state(), TaskState::TaskStarting | TaskState::TaskRunning)
        })
    });
    assert_eq!(ended.await.state(), TaskState::TaskFinished, "{}", stderr(&agent, "known"));
    server.kill().unwrap();
    server.wait().unwrap();
}

const HTTPS_SERVER: &str = "
import functools, http.server, ssl, sys
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])
server = http.server.HTTPServer(('127.0.0.1', 0), handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1] + '/server.pem', sys.argv[1] + '/server.key')
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1])
server.serve_forever()
";

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_is_fetched_too() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let server = Server::start(vec![("/executor", b"#!/bin/sh\necho ran; exit 3\n".to_vec())]);
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    let command = v1::CommandInfo {
        value: Some("./executor".into()),
        uris: vec![Uri { executable: Some(true), ..server.uri("/executor") }],
        ..Default::default()
    };
    let executor = v1::ExecutorInfo {
        executor_id: v1::ExecutorId { value: "e".into() },
        command: Some(command),
        ..Default::default()
    };
    master.launch(v1::TaskInfo { command: None, executor: Some(executor), ..task("t", "") });
    let failed = master.update("t", TaskState::TaskFailed).await;
    assert_eq!(failed.reason(), Reason::ExecutorTerminated);
    assert_eq!(fs::read_to_string(agent.sandbox("e").join("stdout")).unwrap(), "ran\n");
}
