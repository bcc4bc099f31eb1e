//! Home Assistant as a browser meets it: a page with the app's panel in a frame, and the way to the app through the Supervisor
//! ("ingress"), which changes requests and responses as those two do.

#![allow(dead_code, reason = "each program uses its own part of the kit")]

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// The page with the panel.
const PANEL: &str = "/hassio/ingress/hs100d";
/// The path of the app.
pub(crate) const PREFIX: &str = "/api/hassio_ingress/k3yOfThePanel/";
/// Who is logged in, as shown there.
pub(crate) const USER: &str = "Frida Ü.";
/// The address from which the Supervisor connects to the app.
pub(crate) const INGRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Headers of a request that are not passed on; the last three name the user, as the Supervisor knows it.
const STRIPPED: [&str; 7] = [
    "connection",
    "content-length",
    "content-encoding",
    "transfer-encoding",
    "x-remote-user-id",
    "x-remote-user-name",
    "x-remote-user-display-name",
];

/// It ends with its test.
pub(crate) struct HomeAssistant {
    port: u16,
    strays: Arc<Mutex<Vec<String>>>,
    _server: JoinSet<()>,
}

/// The way to the app.
#[derive(Debug, Clone, Copy)]
struct Ingress {
    app: SocketAddr,
    from: Ipv4Addr,
}

impl HomeAssistant {
    /// In front of an app, to which it connects from this address.
    pub(crate) async fn start(app: SocketAddr, from: Ipv4Addr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let strays = Arc::<Mutex<Vec<String>>>::default();
        let (seen, ingress) = (Arc::clone(&strays), Ingress { app, from });
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((browser, _)) = listener.accept().await {
                connections.spawn(answer(BufReader::new(browser), ingress, Arc::clone(&seen)));
            }
        });
        Self { port, strays, _server: server }
    }

    /// Its own origin, if the browser calls it that.
    pub(crate) fn origin(&self, host: &str) -> String {
        format!("http://{host}:{}", self.port)
    }

    /// The page with the panel.
    pub(crate) fn panel(&self, host: &str) -> String {
        self.origin(host) + PANEL
    }

    /// The app's own page.
    pub(crate) fn app(&self, host: &str) -> String {
        self.origin(host) + PREFIX
    }

    /// What was asked of Home Assistant itself, other than the page with the panel.
    pub(crate) fn strays(&self) -> Vec<String> {
        self.strays.lock().unwrap().clone()
    }
}

/// One request; a browser that goes away ends it.
async fn answer(mut browser: BufReader<TcpStream>, ingress: Ingress, strays: Arc<Mutex<Vec<String>>>) {
    let Ok(Some(head)) = head(&mut browser).await else { return };
    let [method, target, _] = head[0].split(' ').collect::<Vec<_>>()[..] else { panic!("{head:?}") };
    if let Some(path) = target.strip_prefix(PREFIX) {
        if pass(&mut browser, ingress, &format!("{method} /{path} HTTP/1.1"), &head[1..]).await.is_err() {
            let _ = respond(&mut browser, "502 Bad Gateway", "no answer").await;
        }
    } else if target == PANEL {
        let page = format!(
            r#"<!doctype html><link rel="icon" href="data:,"><title>Home Assistant</title><iframe src="{PREFIX}"></iframe>"#
        );
        let _ = respond(&mut browser, "200 OK", &page).await;
    } else {
        strays.lock().unwrap().push(head[0].clone());
        let _ = respond(&mut browser, "404 Not Found", "not here").await;
    }
}

/// Passes a request on to the app, and the response back as it comes.
///
/// # Errors
/// The app gave no response.
async fn pass(
    browser: &mut BufReader<TcpStream>,
    ingress: Ingress,
    line: &str,
    headers: &[String],
) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((ingress.from, 0).into())?;
    let mut app = BufReader::new(socket.connect(ingress.app).await?);
    let value = |wanted| headers.iter().map(|line| named(line)).find(|(name, _)| name == wanted);
    let host = value("host").expect("a browser names the host").1;
    let length = value("content-length").map_or(0, |(_, length)| length.parse().unwrap());
    let mut body = vec![0; length];
    browser.read_exact(&mut body).await?;

    let mut request = format!("{line}\r\n");
    for line in headers.iter().filter(|line| !STRIPPED.contains(&named(line).0.as_str())) {
        request += &format!("{line}\r\n");
    }
    request += &format!("X-Ingress-Path: {}\r\n", PREFIX.trim_end_matches('/'));
    request +=
        &format!("X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: {host}\r\nX-Forwarded-Proto: http\r\n");
    request +=
        "X-Remote-User-Id: 1f\r\nX-Remote-User-Name: frida\r\nX-Remote-User-Display-Name: Frida Ü.\r\n";
    request += "Connection: close\r\n";
    let mut request = request.into_bytes();
    if line.starts_with("POST ") {
        // Of unknown length, since `ingress_stream` is on.
        request.extend(b"Transfer-Encoding: chunked\r\n\r\n");
        if !body.is_empty() {
            request.extend(format!("{length:x}\r\n").bytes().chain(body).chain(*b"\r\n"));
        }
        request.extend(b"0\r\n\r\n");
    } else {
        request.extend(b"\r\n");
    }
    app.write_all(&request).await?;

    let head = head(&mut app).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let mut response = String::new();
    for line in head {
        // The character set is lost on the way.
        let is_type = named(&line).0 == "content-type";
        response += if is_type { line.split(';').next().unwrap() } else { &line };
        response += "\r\n";
    }
    browser.write_all((response + "\r\n").as_bytes()).await?;
    // What is cut off from here on is for the browser to notice.
    let _ = tokio::io::copy(&mut app, browser).await;
    Ok(())
}

/// The lines of a head; `None` if the peer sends nothing.
async fn head(peer: &mut BufReader<TcpStream>) -> io::Result<Option<Vec<String>>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if peer.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        match line.trim_end() {
            "" => return Ok(Some(lines)),
            line => lines.push(line.to_owned()),
        }
    }
}

/// The name of a header in lower case, and its value.
fn named(line: &str) -> (String, &str) {
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    (name.to_ascii_lowercase(), value.trim())
}

async fn respond(browser: &mut BufReader<TcpStream>, status: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    browser.write_all((head + body).as_bytes()).await
}
