//! A real browser without a window, told what to do over a pipe: Chromium's own protocol of JSON messages, each with a NUL
//! at its end. Every request that it makes is remembered.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// How long one command may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with one page. Dropped, it ends.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    number: u64,
    session: Option<String>,
    /// The addresses of all requests so far.
    pub requests: Vec<String>,
    /// What the page complained about: errors of its scripts, and what its policy forbade.
    pub complaints: Vec<String>,
    axe: String,
    _profile: TempDir,
}

/// How large a window is, and what its reader prefers.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// In CSS pixels.
    pub width: u32,
    /// In CSS pixels.
    pub height: u32,
    /// Dark rather than light.
    pub dark: bool,
}

impl Browser {
    /// Starts it.
    ///
    /// # Panics
    /// If there is none: the test says what to do.
    pub fn start() -> Browser {
        let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/browser.sh");
        let told = Command::new(tool).output().expect("bash");
        let (told, why) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
        let mut lines = told.lines();
        let (Some(program), Some(axe)) = (lines.next(), lines.next()) else {
            panic!("pages cannot be tested here: {}", why.trim());
        };
        let axe = std::fs::read_to_string(axe).expect("axe-core");
        let profile = tempfile::tempdir().expect("a folder");
        // It listens on descriptor 3 and answers on 4.
        let mut child = Command::new("bash")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null", program])
            .args(["--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--disable-extensions", "--disable-background-networking", "--hide-scrollbars"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("bash");
        let (to, from) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let mut browser = Browser {
            child,
            to,
            from: BufReader::new(from),
            number: 0,
            session: None,
            requests: Vec::new(),
            complaints: Vec::new(),
            axe,
            _profile: profile,
        };
        let page = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": page["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach);
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page.enable", "Runtime.enable", "Network.enable", "Log.enable"] {
            browser.call(domain, json!({}));
        }
        browser
    }

    /// One command of the protocol, and its result.
    ///
    /// # Panics
    /// If the browser refuses it, or ends.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.number += 1;
        let mut command = json!({"id": self.number, "method": method, "params": params});
        if let Some(session) = &self.session {
            command["sessionId"] = session.clone().into();
        }
        let mut bytes = command.to_string().into_bytes();
        bytes.push(0);
        self.to.write_all(&bytes).expect("the browser reads");
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < PATIENCE, "{method} takes too long");
            let message = self.read();
            if message["id"] == self.number {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
        }
    }

    fn read(&mut self) -> Value {
        let mut bytes = Vec::new();
        self.from.read_until(0, &mut bytes).expect("the browser answers");
        assert_eq!(bytes.pop(), Some(0), "the browser ended");
        let message: Value = serde_json::from_slice(&bytes).expect("JSON");
        let params = &message["params"];
        match message["method"].as_str() {
            Some("Network.requestWillBeSent") => {
                self.requests.extend(params["request"]["url"].as_str().map(str::to_owned));
            }
            Some("Runtime.exceptionThrown") => self.complaints.push(params["exceptionDetails"].to_string()),
            // What a server answers is not the page's fault.
            Some("Log.entryAdded") if params["entry"]["source"] != "network" => {
                self.complaints.push(params["entry"]["text"].to_string());
            }
            _ => {}
        }
        message
    }

    /// Goes to `url`, and waits until it is there.
    ///
    /// # Panics
    /// If it is not.
    pub fn open(&mut self, url: &str) {
        let went = self.call("Page.navigate", json!({"url": url}));
        assert!(went["errorText"].is_null(), "{url}: {}", went["errorText"]);
        self.until(&format!("{url} to be there"), "document.readyState === 'complete'");
    }

    /// What an expression is; promises are waited for.
    ///
    /// # Panics
    /// If it throws.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let told = self.call("Runtime.evaluate", asked);
        assert!(told["exceptionDetails"].is_null(), "{expression:.200}: {}", told["exceptionDetails"]);
        told["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    ///
    /// # Panics
    /// If it does not become true.
    pub fn until(&mut self, what: &str, expression: &str) {
        let began = Instant::now();
        while self.evaluate(expression) != true {
            let page = "location.href + ': ' + document.body.innerText.slice(0, 2000)";
            assert!(began.elapsed() < PATIENCE, "waited for {what}; there is {}", self.evaluate(page));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Changes the window.
    pub fn look(&mut self, Look { width, height, dark }: Look) {
        let mobile = width < 600;
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile});
        self.call("Emulation.setDeviceMetricsOverride", metrics);
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", media);
    }

    /// Presses a key.
    pub fn press(&mut self, key: &str, code: u32) {
        for kind in ["rawKeyDown", "char", "keyUp"] {
            let text = if key == "Enter" { "\r" } else { "" };
            if kind == "char" && text.is_empty() {
                continue;
            }
            let event = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text});
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// What axe-core finds wrong with the page: each rule with the elements that break it.
    pub fn violations(&mut self) -> Vec<String> {
        if self.evaluate("typeof axe") == "undefined" {
            let axe = self.axe.clone() + "\n;undefined";
            self.evaluate(&axe);
        }
        let found = self.evaluate(
            "axe.run(document, {resultTypes: ['violations']}).then((found) => found.violations.map((one) => \
             `${one.id}: ${one.help}: ${one.nodes.slice(0, 3).map((node) => node.html.slice(0, 200) + ' ' + node.failureSummary).join(' | ')}`))",
        );
        found.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
    }

    /// A picture of what the window shows, as WebP.
    ///
    /// # Panics
    /// If it is none.
    pub fn picture(&mut self) -> Vec<u8> {
        use base64::Engine as _;
        let taken = self.call("Page.captureScreenshot", json!({"format": "webp", "quality": 60}));
        let text = taken["data"].as_str().expect("a picture");
        base64::engine::general_purpose::STANDARD.decode(text).expect("base64")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
