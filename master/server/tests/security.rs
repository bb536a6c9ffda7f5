//! Who asks a master, and what they may: every endpoint and call of its tables with nobody, a wrong password, whoever may
//! all, and whoever may nothing; a reloaded file; what two roles see of each other.

mod support;

use api::v1::master::call::Type;
use auth::{List, Need, needs};
use base64::Engine as _;
use master_server::http::{legacy, own};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use support::agent::Agent;
use support::client::{post, send, whole};
use support::until;

struct Master {
    child: Child,
    address: SocketAddr,
    acls: PathBuf,
    keys: PathBuf,
    _dir: tempfile::TempDir,
}

impl Drop for Master {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `ops` may everything, `web` nothing; lists that are `named` say something else about `web`.
fn acls(named: &[(List, Value)]) -> Value {
    let mut acls = json!({});
    for list in List::ALL {
        let entry = |who: Value, objects: Value| json!({ "principals": who, list.objects_field(): objects });
        let mine = named.iter().filter(|(of, _)| of == list);
        let mut entries: Vec<Value> =
            mine.map(|(_, objects)| entry(json!({"values": ["web"]}), objects.clone())).collect();
        entries.push(entry(json!({"values": ["ops"]}), json!({"type": "ANY"})));
        // Agents have no principal.
        if *list == List::RegisterAgent {
            entries.push(entry(json!({"type": "ANY"}), json!({"type": "ANY"})));
        }
        entries.push(entry(json!({"values": ["web"]}), json!({"type": "NONE"})));
        acls[list.field()] = json!(entries);
    }
    acls
}

fn start(named: &[(List, Value)]) -> Master {
    start_with(named, false)
}

/// `takes_tokens`: those that are signed by one of [`KEYS`].
fn start_with(named: &[(List, Value)], takes_tokens: bool) -> Master {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let acls = file("acls", &acls(named).to_string());
    let credentials = file("credentials", "ops secret\nweb wsecret\n");
    let keys = file("keys", KEYS);
    let mut child = Command::new(env!("CARGO_BIN_EXE_meseta-master"))
        .args(["--ip=127.0.0.1", "--port=0", "--http_framework_authenticators=basic", "--allocation_interval=50ms"])
        .args(["readonly", "readwrite", "frameworks"].map(|realm| format!("--authenticate_http_{realm}")))
        .arg(format!("--work_dir={}", dir.path().join("work").display()))
        .arg(format!("--credentials={}", credentials.display()))
        .arg(format!("--acls=file://{}", acls.display()))
        .args(takes_tokens.then(|| format!("--jwt_key_set={}", keys.display())))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("meseta-master listening on ").expect(&line).parse().unwrap();
    Master { child, address, acls, keys, _dir: dir }
}

fn basic(principal: &str, secret: &str) -> String {
    let shown = base64::engine::general_purpose::STANDARD.encode(format!("{principal}:{secret}"));
    format!("Basic {shown}")
}

/// Of somebody who signs tokens, and some of those.
const KEYS: &str = include_str!("../../../auth/testdata/jwt/keys.json");
const TOKENS: &str = include_str!("../../../auth/testdata/jwt/tokens.tsv");

fn bearer(name: &str) -> String {
    let mut tokens = TOKENS.lines().filter_map(|line| line.split_once('\t'));
    format!("Bearer {}", tokens.find(|(known, _)| *known == name).expect(name).1)
}

impl Master {
    fn hang_up(&self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::SIGHUP).unwrap();
    }

    async fn ask(&self, method: &str, path: &str, who: &str, body: &str) -> (u16, String, String) {
        let mut request =
            post(path, &[("content-type", "application/json"), ("accept", "application/json")], body.to_owned());
        *request.method_mut() = method.parse().unwrap();
        if !who.is_empty() {
            request.headers_mut().insert("authorization", who.parse().unwrap());
        }
        let response = send(self.address, request).await;
        let challenge = response.headers().get("www-authenticate").map(|value| value.to_str().unwrap().to_owned());
        if response.headers().get("content-type").is_some_and(|kind| kind == "application/json")
            && body.contains("\"SUBSCRIBE\"")
        {
            return (response.status().as_u16(), challenge.unwrap_or_default(), String::new());
        }
        let (status, text) = whole(response).await;
        (status, challenge.unwrap_or_default(), text)
    }

    async fn call(&self, who: &str, call: &Value) -> (u16, String) {
        let (status, _, text) = self.ask("POST", "/api/v1", who, &call.to_string()).await;
        (status, text)
    }

    async fn subscribe(&self, who: &str, role: &str, user: &str) -> (String, http::Response<hyper::body::Incoming>) {
        let info = json!({"user": user, "name": role, "roles": [role], "failover_timeout": 600.0,
                          "capabilities": [{"type": "MULTI_ROLE"}]});
        let call = json!({"type": "SUBSCRIBE", "subscribe": {"framework_info": info}});
        let headers = [("content-type", "application/json"), ("accept", "application/json"), ("authorization", who)];
        let response = send(self.address, post("/api/v1/scheduler", &headers, call.to_string())).await;
        assert_eq!(response.status(), 200);
        let ops = basic("ops", "secret");
        let id = until("the framework", async || {
            let (_, _, text) = self.ask("GET", "/frameworks", &ops, "").await;
            let all: Value = serde_json::from_str(&text).ok()?;
            let mine = all["frameworks"].as_array()?.iter().find(|one| one["name"] == role)?;
            Some(mine["id"].as_str()?.to_owned())
        })
        .await;
        (id, response)
    }
}

/// A call of this kind that names what there is, so that nothing but a list refuses it.
#[allow(deprecated)] // Older ways to set quota still work.
fn call(kind: Type, agent: &str, framework: &str) -> Value {
    let agent_id = json!({ "value": agent });
    let reserved = |amount: f64| {
        json!({"name": "disk", "type": "SCALAR", "scalar": {"value": amount},
               "reservations": [{"type": "DYNAMIC", "role": "web", "principal": "web"}]})
    };
    let volume = || {
        let mut volume = reserved(8.0);
        volume["disk"] =
            json!({"persistence": {"id": "v", "principal": "web"}, "volume": {"mode": "RW", "container_path": "p"}});
        volume
    };
    let config = json!([{"role": "web", "limits": {"cpus": {"value": 100}}}]);
    let guarantee = json!([{"name": "cpus", "type": "SCALAR", "scalar": {"value": 1}}]);
    let machines = json!([{"hostname": "nosuch"}]);
    let window = json!({"machine_ids": machines, "unavailability": {"start": {"nanoseconds": 1}}});
    let body = match kind {
        Type::GetMetrics => json!({}),
        Type::SetLoggingLevel => json!({"level": 1, "duration": {"nanoseconds": 1}}),
        Type::ListFiles => json!({"path": "/master/log"}),
        Type::ReadFile => json!({"path": "/master/log", "offset": 0}),
        Type::UpdateWeights => json!({"weight_infos": [{"role": "web", "weight": 2}]}),
        Type::ReserveResources => json!({"agent_id": agent_id, "resources": [reserved(8.0)]}),
        Type::UnreserveResources => json!({"agent_id": agent_id, "resources": [reserved(8.0)]}),
        Type::CreateVolumes | Type::DestroyVolumes => json!({"agent_id": agent_id, "volumes": [volume()]}),
        Type::GrowVolume => json!({"agent_id": agent_id, "volume": volume(), "addition": reserved(8.0)}),
        Type::ShrinkVolume => json!({"agent_id": agent_id, "volume": volume(), "subtract": {"value": 1}}),
        Type::UpdateMaintenanceSchedule => json!({"schedule": {"windows": [window]}}),
        Type::StartMaintenance | Type::StopMaintenance => json!({"machines": machines}),
        Type::DrainAgent | Type::DeactivateAgent | Type::ReactivateAgent | Type::MarkAgentGone => {
            json!({ "agent_id": agent_id })
        }
        Type::UpdateQuota => json!({"quota_configs": config, "force": true}),
        Type::SetQuota => json!({"quota_request": {"role": "web", "guarantee": guarantee, "force": true}}),
        Type::RemoveQuota => json!({"role": "quoted"}),
        Type::Teardown => json!({"framework_id": {"value": framework}}),
        Type::Unknown
        | Type::GetHealth
        | Type::GetFlags
        | Type::GetVersion
        | Type::GetLoggingLevel
        | Type::GetState
        | Type::GetAgents
        | Type::GetFrameworks
        | Type::GetExecutors
        | Type::GetOperations
        | Type::GetTasks
        | Type::GetRoles
        | Type::GetWeights
        | Type::GetMaster
        | Type::Subscribe
        | Type::GetMaintenanceStatus
        | Type::GetMaintenanceSchedule
        | Type::GetQuota => return json!({"type": kind.as_str_name()}),
    };
    json!({"type": kind.as_str_name(), kind.as_str_name().to_lowercase(): body})
}

#[tokio::test]
async fn every_endpoint_and_call_asks_who_it_is_and_what_they_may() {
    let master = start(&[]);
    let (ops, web, wrong) = (basic("ops", "secret"), basic("web", "wsecret"), basic("ops", "wrong"));
    assert_eq!(master.call(&ops, &json!({"type": "GET_HEALTH"})).await.0, 200, "ready");
    let agent = Agent::register(master.address).await;
    let (framework, _stream) = master.subscribe(&ops, "hidden-role", "root").await;
    let quoted = json!({"type": "UPDATE_QUOTA", "update_quota": {
        "quota_configs": [{"role": "quoted", "limits": {"cpus": {"value": 1}}}], "force": true}});
    assert_eq!(master.call(&ops, &quoted).await.0, 200);

    let legacy = legacy::PATHS.iter().flat_map(|(path, methods, endpoint)| {
        let methods = if methods.is_empty() { &["GET"] } else { *methods };
        methods.iter().map(move |method| {
            (*path, *method, legacy::realm(endpoint), legacy::need(endpoint, &method.parse().unwrap()))
        })
    });
    let own = own::PATHS.iter().flat_map(|(path, methods, endpoint)| {
        let methods = if methods.is_empty() { &["GET"] } else { *methods };
        methods.iter().map(move |method| {
            (*path, *method, Some(own::realm(*endpoint)), own::need(*endpoint, &method.parse().unwrap()))
        })
    });
    for (path, method, realm, need) in legacy.chain(own) {
        for place in [path.to_owned(), format!("/master{path}"), format!("/{path}/")] {
            for who in ["", &wrong, "Bearer x", "Basic !!!"] {
                let (status, challenge, text) = master.ask(method, &place, who, "").await;
                match realm {
                    None => assert_ne!(status, 401, "{method} {place}"),
                    Some(realm) => {
                        assert_eq!((status, text.as_str()), (401, "401 Unauthorized."), "{method} {place}");
                        assert_eq!(challenge, format!("Basic realm=\"{}\"", realm.name()), "{method} {place}");
                    }
                }
            }
        }
        let (of_ops, _, text) = master.ask(method, path, &ops, "").await;
        assert!(![401, 403].contains(&of_ops), "{method} {path}: {of_ops} {text}");
        let (of_web, _, text) = master.ask(method, path, &web, "").await;
        match need {
            Need::Asks(_) | Need::AsksPath(_) => assert_eq!(of_web, 403, "{method} {path}: {text}"),
            // A body that names nothing is refused for that.
            Need::Decides(_) => assert!([400, 403].contains(&of_web), "{method} {path}: {of_web} {text}"),
            Need::Nothing | Need::Filters(_) => assert!(of_web < 400, "{method} {path}: {of_web} {text}"),
            Need::NotBuilt => assert!([400, 501].contains(&of_web), "{method} {path}: {of_web} {text}"),
        }
        assert!(!text.contains("hidden-role") && !text.contains(&framework), "{method} {path}: {text}");
    }

    for kind in (0..200).filter_map(|number| Type::try_from(number).ok()) {
        let (call, need) = (call(kind, &agent.id, &framework), needs::master_call(kind));
        for who in ["", &wrong, &basic("web", "secret"), &basic("nobody", "secret")] {
            assert_eq!(master.call(who, &call).await, (401, "401 Unauthorized.".into()), "{call}");
        }
        let (status, text) = master.call(&web, &call).await;
        match need {
            Need::Asks(_) | Need::AsksPath(_) => assert_eq!(status, 403, "{call}: {text}"),
            // What there is not cannot be destroyed nor be in another mode, and this agent resizes nothing: refused for that.
            Need::Decides(_)
                if matches!(
                    kind,
                    Type::DestroyVolumes
                        | Type::StartMaintenance
                        | Type::StopMaintenance
                        | Type::GrowVolume
                        | Type::ShrinkVolume
                ) =>
            {
                assert_eq!(status, 400, "{call}: {text}");
            }
            Need::Decides(_) => assert_eq!((status, text.as_str()), (403, "403 Forbidden."), "{call}"),
            Need::Nothing | Need::Filters(_) => assert_eq!(status, 200, "{call}: {text}"),
            Need::NotBuilt => assert!([400, 501].contains(&status), "{call}: {status} {text}"),
        }
        assert!(!text.contains("hidden-role") && !text.contains(&framework), "{call}: {text}");
    }
    // What a browser adds by itself is not for pages of other sites.
    let (status, _, text) = master.ask("GET", "/state?jsonp=f", &ops, "").await;
    assert!(status == 200 && text.starts_with('{'), "{text}");
    let mut other = post("/api/v1", &[("content-type", "application/json"), ("sec-fetch-site", "cross-site")], "{}");
    other.headers_mut().insert("authorization", ops.parse().unwrap());
    assert_eq!(whole(send(master.address, other).await).await.0, 403);
    // And it is there.
    assert!(master.call(&ops, &json!({"type": "GET_FRAMEWORKS"})).await.1.contains(&framework));

    for call in ["REVIVE", "TEARDOWN"] {
        let call = json!({"type": call, "framework_id": {"value": framework}}).to_string();
        let (status, challenge, _) = master.ask("POST", "/api/v1/scheduler", "", &call).await;
        assert_eq!((status, challenge.as_str()), (401, "Basic realm=\"mesos-master-scheduler\""));
        let (status, _, text) = master.ask("POST", "/api/v1/scheduler", &web, &call).await;
        assert_eq!(
            (status, text.as_str()),
            (400, "Authenticated principal 'web' does not match principal 'ops' set in 'FrameworkInfo'")
        );
    }
}

/// Names of the frameworks that a watcher is told of, until it is told of `last`.
async fn told(mut stream: http::Response<hyper::body::Incoming>, last: &str) -> Vec<String> {
    use http_body_util::BodyExt;
    let mut decoder = api::recordio::Decoder::new(64 << 20);
    let mut names: Vec<String> = Vec::new();
    while !names.iter().any(|name| name == last) {
        let frame = stream.body_mut().frame().await.expect("more").expect("a frame");
        decoder.push(&frame.into_data().unwrap_or_default());
        while let Some(record) = decoder.next() {
            let event: Value = serde_json::from_slice(&record.unwrap()).unwrap();
            let added = &event["framework_added"]["framework"]["framework_info"]["name"];
            names.extend(added.as_str().map(str::to_owned));
            assert!(last != "web" || !event.to_string().contains("\"db\""), "{event}");
        }
    }
    names
}

#[tokio::test]
async fn watchers_are_told_what_they_may_see() {
    let named = |text: &str| json!({"values": [text]});
    let master = start(&[
        (List::RegisterFramework, named("web")),
        (List::ViewFramework, named("webber")),
        (List::ViewRole, named("web")),
    ]);
    let (ops, web) = (basic("ops", "secret"), basic("web", "wsecret"));
    assert_eq!(master.call(&ops, &json!({"type": "GET_HEALTH"})).await.0, 200, "ready");
    let watch = async |who: &str| {
        let headers = [("content-type", "application/json"), ("accept", "application/json"), ("authorization", who)];
        send(master.address, post("/api/v1", &headers, json!({"type": "SUBSCRIBE"}).to_string())).await
    };
    let (of_ops, of_web) = (watch(&ops).await, watch(&web).await);
    let (_, _theirs) = master.subscribe(&ops, "db", "dba").await;
    let (_, _own) = master.subscribe(&web, "web", "webber").await;
    assert_eq!(told(of_ops, "db").await, ["db"]);
    assert_eq!(told(of_web, "web").await, ["web"]);
}

#[tokio::test]
async fn whoever_sees_a_part_is_shown_that_everywhere_and_a_file_is_read_again() {
    let named = |text: &str| json!({"values": [text]});
    let mine = [
        (List::RegisterFramework, named("web")),
        (List::ViewFramework, named("webber")),
        (List::ViewTask, named("webber")),
        (List::ViewRole, named("web")),
    ];
    let master = start(&mine);
    let (ops, web) = (basic("ops", "secret"), basic("web", "wsecret"));
    let (theirs, _their_stream) = master.subscribe(&ops, "db", "dba").await;
    let (own, _stream) = master.subscribe(&web, "web", "webber").await;
    for kind in ["GET_FRAMEWORKS", "GET_STATE", "GET_ROLES"] {
        let (status, text) = master.call(&web, &json!({"type": kind})).await;
        assert!(status == 200 && text.contains(&own) && !text.contains(&theirs), "{kind}: {text}");
    }
    for path in ["/state", "/frameworks", "/state-summary", "/roles"] {
        let (status, _, text) = master.ask("GET", path, &web, "").await;
        assert!(status == 200 && text.contains(&own) && !text.contains(&theirs), "{path}: {text}");
    }
    let (_, _, all) = master.ask("GET", "/state", &ops, "").await;
    assert!(all.contains(&own) && all.contains(&theirs) && all.contains("\"flags\""));

    let can = async |who: &str, query: &str| master.ask("GET", &format!("/can-i?{query}"), who, "").await;
    let (status, _, text) = can(&ops, "principal=web&action=VIEW_ROLE&object=db").await;
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &told["allowed"], &told["why"]), (200, &json!(false), &json!("view_roles[2] refuses it")));
    assert_eq!(can(&web, "principal=web&action=view-role&object=web").await.0, 200, "about oneself");
    assert_eq!(can(&web, "principal=ops&action=VIEW_ROLE").await.0, 403);
    assert!(can(&ops, "action=VIEW_ROLES").await.2.contains("did you mean \"VIEW_ROLE\"?"));

    // A wrong file changes nothing; a right one does.
    std::fs::write(&master.acls, "{").unwrap();
    master.hang_up();
    assert_eq!(master.ask("GET", "/flags", &web, "").await.0, 403);
    std::fs::write(&master.acls, acls(&[(List::ViewFlags, json!({"type": "ANY"}))]).to_string()).unwrap();
    master.hang_up();
    until("the file to be read", async || (master.ask("GET", "/flags", &web, "").await.0 == 200).then_some(())).await;
    assert!(!master.ask("GET", "/frameworks", &web, "").await.2.contains(&own), "nothing else is allowed now");
}

#[tokio::test]
async fn tokens_of_others_are_as_good_as_secrets_for_as_long_as_their_keys_are_known() {
    let master = start_with(&[], true);
    let weights = json!({"type": "UPDATE_WEIGHTS", "update_weights": {"weight_infos": [{"role": "web", "weight": 2}]}});
    for name in ["rs256", "ps256", "es256", "es384", "eddsa-without-kid"] {
        let (status, text) = master.call(&bearer(name), &weights).await;
        assert_eq!(status, 200, "{name}: {text}");
    }
    for (name, why) in [
        ("eddsa-of-another-key", "Invalid JWT: Token signature does not match"),
        ("eddsa-of-an-unknown-kid", "Invalid JWT: No key is known for the token's 'alg' and 'kid'"),
        ("eddsa", "Invalid JWT: Token 'aud' names somebody, and this cluster has no name to compare it with"),
    ] {
        let (status, challenge, _) = master.ask("GET", "/state", &bearer(name), "").await;
        assert!(status == 401 && challenge.contains(why), "{name}: {challenge}");
    }
    // What is somebody's who is no principal is good for nothing at a master.
    assert_eq!(master.ask("GET", "/state", &bearer("executor"), "").await.0, 403);

    // A wrong file changes nothing; a right one ends what was signed by a key that is gone.
    std::fs::write(&master.keys, "{\"keys\": [{\"kty\": \"oct\"}]}").unwrap();
    master.hang_up();
    assert_eq!(master.ask("GET", "/state", &bearer("es256"), "").await.0, 200);
    let mut keys: Value = serde_json::from_str(KEYS).unwrap();
    keys["keys"].as_array_mut().unwrap().retain(|key| key["kid"] != "p256");
    std::fs::write(&master.keys, keys.to_string()).unwrap();
    master.hang_up();
    let refused = async || (master.ask("GET", "/state", &bearer("es256"), "").await.0 == 401).then_some(());
    until("the file to be read", refused).await;
    assert_eq!(master.ask("GET", "/state", &bearer("es384"), "").await.0, 200);
}
