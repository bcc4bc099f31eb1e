//! Debian's Chromium without a window, driven over its DevTools protocol through two pipes. It resolves no name and
//! reaches no address but 127.0.0.1.

#![allow(dead_code, reason = "each program uses its own part of the kit")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Notify;

use crate::support::mqtt::{Process, has, within};

/// A name that the browser takes to 127.0.0.1. Unlike the address it is not trusted, so no `Sec-Fetch-Site` is sent to it.
pub(crate) const NAME: &str = "hs100d.lan";

/// How often a condition on a page is checked while a test waits for it.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What Chromium does of its own accord, and must not do here.
const QUIET: [&str; 17] = [
    "--headless",
    "--no-sandbox", // it is root in its namespace, and shows our page only
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-pings",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-sync",
    "--disable-features=MediaRouter,DialMediaRouteProvider,OptimizationHints,Translate",
    "--metrics-recording-only",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
];

/// A running browser. It ends with its test.
pub(crate) struct Browser {
    input: Mutex<ChildStdin>,
    inbox: Arc<Inbox>,
    next_id: AtomicU64,
    _process: Process,
    _profile: TempDir,
}

/// What the browser has sent.
#[derive(Default)]
struct Inbox {
    responses: Mutex<HashMap<u64, Value>>,
    events: Mutex<Vec<Value>>,
    news: Notify,
}

/// How a page is looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) dark: bool,
    /// Whether JavaScript is on.
    pub(crate) script: bool,
}

impl View {
    pub(crate) const DESK: Self = Self { width: 1280, height: 900, dark: false, script: true };
    pub(crate) const PHONE: Self = Self { width: 390, height: 844, dark: false, script: true };
}

/// One page in a tab of its own.
pub(crate) struct Tab<'a> {
    browser: &'a Browser,
    session: String,
}

impl Browser {
    /// Starts it; `None` if it is not installed, which fails in CI.
    pub(crate) fn start() -> Option<Self> {
        if !has("chromium", "chromium") {
            return None;
        }
        let profile = tempfile::tempdir().unwrap();
        // Chromium reads commands from file 3 and writes to file 4.
        let mut command = Command::new("sh");
        command.args(["-c", r#"exec "$@" 3<&0 4>&1 0</dev/null 1>/dev/null"#, "sh", "chromium"]).args(QUIET);
        command
            .arg(format!("--host-resolver-rules=MAP {NAME} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"))
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .env("HOME", profile.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let inbox = Arc::new(Inbox::default());
        let filled = Arc::clone(&inbox);
        std::thread::spawn(move || {
            let messages = BufReader::new(output).split(0).map_while(Result::ok);
            for message in messages.filter_map(|message| serde_json::from_slice(&message).ok()) {
                filled.put(message);
            }
        });
        Some(Self {
            input: Mutex::new(input),
            inbox,
            next_id: AtomicU64::new(1),
            _process: Process(child),
            _profile: profile,
        })
    }

    /// Opens a tab with an empty page.
    pub(crate) async fn tab(&self, view: View) -> Tab<'_> {
        // Each with cookies, cache and logins of its own.
        let context = self.call("Target.createBrowserContext", json!({}), None).await;
        let target = json!({"url": "about:blank", "browserContextId": context["browserContextId"]});
        let target = self.call("Target.createTarget", target, None).await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = self.call("Target.attachToTarget", attach, None).await;
        let tab = Tab { browser: self, session: session["sessionId"].as_str().unwrap().to_owned() };
        for domain in ["Page", "Runtime", "Log", "Network"] {
            tab.call(&format!("{domain}.enable"), json!({})).await;
        }
        tab.look(view).await;
        tab
    }

    async fn call(&self, method: &str, params: Value, session: Option<&str>) -> Value {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut message = json!({"id": id, "method": method, "params": params});
        if let Some(session) = session {
            message["sessionId"] = json!(session);
        }
        let bytes = [message.to_string().as_bytes(), &[0]].concat();
        self.input.lock().unwrap().write_all(&bytes).unwrap();
        let response = within(&format!("a response to {method}"), async {
            loop {
                let news = self.inbox.news.notified();
                if let Some(response) = self.inbox.responses.lock().unwrap().remove(&id) {
                    return response;
                }
                news.await;
            }
        })
        .await;
        assert!(response.get("error").is_none(), "{method} {params}: {response}");
        response["result"].clone()
    }
}

impl Inbox {
    fn put(&self, message: Value) {
        match message["id"].as_u64() {
            Some(id) => drop(self.responses.lock().unwrap().insert(id, message)),
            None => self.events.lock().unwrap().push(message),
        }
        self.news.notify_waiters();
    }
}

impl Tab<'_> {
    pub(crate) async fn call(&self, method: &str, params: Value) -> Value {
        self.browser.call(method, params, Some(&self.session)).await
    }

    /// Looks at the page in this way from now on.
    pub(crate) async fn look(&self, view: View) {
        let View { width, height, dark, script } = view;
        let scheme = if dark { "dark" } else { "light" };
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 2, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", metrics).await;
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features})).await;
        self.call("Emulation.setScriptExecutionDisabled", json!({"value": !script})).await;
    }

    /// Opens an address, and waits until it is loaded.
    pub(crate) async fn open(&self, url: &str) {
        let loaded = self.seen("Page.loadEventFired").len();
        let opened = self.call("Page.navigate", json!({"url": url})).await;
        assert!(opened.get("errorText").is_none(), "{url}: {opened}");
        self.until_seen("Page.loadEventFired", loaded + 1).await;
    }

    /// The events of this kind so far.
    pub(crate) fn seen(&self, method: &str) -> Vec<Value> {
        let events = self.browser.inbox.events.lock().unwrap();
        let ours =
            events.iter().filter(|event| event["sessionId"] == self.session && event["method"] == method);
        ours.map(|event| event["params"].clone()).collect()
    }

    /// Waits for this many events of this kind.
    pub(crate) async fn until_seen(&self, method: &str, count: usize) -> Vec<Value> {
        within(&format!("{count} times {method}"), async {
            loop {
                let news = self.browser.inbox.news.notified();
                let seen = self.seen(method);
                if seen.len() >= count {
                    return seen;
                }
                news.await;
            }
        })
        .await
    }

    /// The value of an expression of JavaScript.
    pub(crate) async fn eval(&self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let evaluated = self.call("Runtime.evaluate", params).await;
        assert!(evaluated.get("exceptionDetails").is_none(), "{expression}: {evaluated}");
        evaluated["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub(crate) async fn until(&self, expression: &str) {
        within(&format!("{expression} on the page"), async {
            while self.eval(&format!("Boolean({expression})")).await != true {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        })
        .await;
    }

    /// Presses the space bar.
    pub(crate) async fn press_space(&self) {
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { " " } else { "" };
            let key =
                json!({"type": kind, "key": " ", "code": "Space", "windowsVirtualKeyCode": 32, "text": text});
            self.call("Input.dispatchKeyEvent", key).await;
        }
    }

    /// What a user of the page should never see: exceptions, errors and warnings on the console, violations of the content
    /// policy, and requests to another place than `origin`.
    pub(crate) fn faults(&self, origin: &str) -> Vec<String> {
        let mut faults: Vec<String> = Vec::new();
        faults.extend(self.seen("Runtime.exceptionThrown").iter().map(Value::to_string));
        let is_bad = |level: &Value| matches!(level.as_str(), Some("error" | "warning" | "assert"));
        let said = self.seen("Runtime.consoleAPICalled");
        faults.extend(said.iter().filter(|said| is_bad(&said["type"])).map(Value::to_string));
        let logged = self.seen("Log.entryAdded");
        faults.extend(logged.iter().filter(|logged| is_bad(&logged["entry"]["level"])).map(Value::to_string));
        let asked = self.seen("Network.requestWillBeSent");
        let urls = asked.iter().map(|asked| asked["request"]["url"].as_str().unwrap().to_owned());
        faults.extend(urls.filter(|url| !url.starts_with(origin) && !url.starts_with("data:")));
        faults
    }
}
