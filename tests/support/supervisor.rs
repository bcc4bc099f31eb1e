//! A Supervisor on loopback, as far as an app sees it: it answers two questions on a real socket, as the test says.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The token that it accepts.
pub(crate) const TOKEN: &str = "s3cret-token-of-the-supervisor";
pub(crate) const SERVICE: &str = "/services/mqtt";
pub(crate) const INFO: &str = "/addons/self/info";

/// How a question is answered.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// With this data.
    Data(Value),
    /// With this status and message.
    Error(u16, &'static str),
    /// Not at all; the connection stays.
    Nothing,
    /// With these bytes, and then the end.
    Bytes(Vec<u8>),
}

/// It ends with the test.
pub(crate) struct SimSupervisor {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _task: JoinSet<()>,
}

#[derive(Default)]
struct State {
    service: VecDeque<Reply>,
    info: Option<Reply>,
    /// The paths asked for, in order.
    asked: Vec<String>,
}

impl SimSupervisor {
    /// One without a broker and without a status page.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, state) = (listener.local_addr().unwrap(), Arc::<Mutex<State>>::default());
        let mut task = JoinSet::new();
        let shared = Arc::clone(&state);
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { address, state, _task: task }
    }

    /// For `$SUPERVISOR_API`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on the question about the broker is answered so.
    pub(crate) fn answer(&self, reply: Reply) {
        self.answer_in_turn([reply]);
    }

    /// From now on the question about the broker is answered with one of these after the other, and then with the last one.
    pub(crate) fn answer_in_turn(&self, replies: impl IntoIterator<Item = Reply>) {
        self.state.lock().unwrap().service = replies.into_iter().collect();
    }

    /// From now on this broker on loopback is named.
    pub(crate) fn name_broker(&self, port: u16, username: &str, password: &str) {
        self.answer(Reply::Data(service(port, username, password)));
    }

    /// From now on the question about the app is answered so.
    pub(crate) fn answer_info(&self, reply: Reply) {
        self.state.lock().unwrap().info = Some(reply);
    }

    /// How often this path was asked for.
    pub(crate) fn asked(&self, path: &str) -> usize {
        self.state.lock().unwrap().asked.iter().filter(|asked| *asked == path).count()
    }
}

/// As the Supervisor describes a broker.
pub(crate) fn service(port: u16, username: &str, password: &str) -> Value {
    json!({
        "addon": "core_mosquitto", "host": "127.0.0.1", "port": port, "ssl": false, "username": username,
        "password": password, "protocol": "3.1.1",
    })
}

fn next(replies: &mut VecDeque<Reply>) -> Option<Reply> {
    if replies.len() > 1 { replies.pop_front() } else { replies.front().cloned() }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let reply = {
        let mut state = state.lock().unwrap();
        state.asked.push(path.clone());
        let has_token = head.to_ascii_lowercase().contains(&format!("authorization: bearer {TOKEN}"));
        match path.as_str() {
            _ if !has_token => Reply::Error(401, "401: Unauthorized"),
            SERVICE => next(&mut state.service).unwrap_or(Reply::Error(400, "Service not enabled")),
            INFO => state.info.clone().unwrap_or_else(|| Reply::Data(json!({"ingress_port": null}))),
            _ => Reply::Error(404, "404: Not Found"),
        }
    };
    let (status, body) = match reply {
        Reply::Data(data) => (200, json!({"result": "ok", "data": data}).to_string()),
        Reply::Error(status, message) => (status, json!({"result": "error", "message": message}).to_string()),
        Reply::Nothing => {
            // Until the other side gives up.
            let _ = stream.read_u8().await;
            return;
        }
        Reply::Bytes(bytes) => {
            let _ = stream.write_all(&bytes).await;
            return;
        }
    };
    let answer = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    // The other side may have gone.
    let _ = stream.write_all(answer.as_bytes()).await;
}
