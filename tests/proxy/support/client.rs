//! The client in front of larder: hyper for ordinary requests, bare sockets for the others.

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Response {
    /// The field's values, joined by commas; empty without the field.
    pub fn header(&self, name: &str) -> String {
        joined(&self.headers, name)
    }

    pub fn has(&self, name: &str) -> bool {
        self.headers.contains_key(name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    /// `X-Cache`.
    pub fn cache(&self) -> String {
        self.header("x-cache")
    }
}

pub fn joined(headers: &HeaderMap, name: &str) -> String {
    let values: Vec<_> = headers
        .get_all(name)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()))
        .collect();
    values.join(", ")
}

/// One client with one connection, kept alive.
pub struct Client {
    address: SocketAddr,
    connection: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            connection: Mutex::new(None),
        }
    }

    pub async fn get(&self, target: &str) -> Response {
        self.get_with(target, &[]).await
    }

    pub async fn get_with(&self, target: &str, headers: &[(&str, &str)]) -> Response {
        self.send("GET", target, headers, "").await
    }

    pub async fn post(
        &self,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response {
        self.send("POST", target, headers, body).await
    }

    /// Fails the test where there is no whole answer.
    pub async fn send(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response {
        self.try_send(method, target, headers, body)
            .await
            .unwrap_or_else(|error| panic!("{method} {target}: {error}"))
    }

    /// The whole answer, or how it failed.
    pub async fn try_send(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Response, String> {
        let work = async {
            let answer = self.open(method, target, headers, body.into()).await?;
            let (head, body) = answer.into_parts();
            let body = body
                .collect()
                .await
                .map_err(|error| format!("body: {error}"))?;
            Ok(Response {
                status: head.status.as_u16(),
                headers: head.headers,
                body: body.to_bytes(),
            })
        };
        tokio::time::timeout(Duration::from_secs(60), work)
            .await
            .map_err(|_| "no answer in a minute")?
    }

    /// The head of an answer, its body still to come.
    pub async fn open(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<http::Response<Incoming>, String> {
        let mut request = Request::builder().method(method).uri(target);
        if !headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("host"))
        {
            request = request.header("Host", self.address.to_string());
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        let mut connection = self.connection.lock().await;
        let usable = match connection.as_mut() {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !usable {
            let socket = TcpStream::connect(self.address)
                .await
                .map_err(|error| format!("connect: {error}"))?;
            let _ = socket.set_nodelay(true);
            let (sender, driver) = handshake(TokioIo::new(socket))
                .await
                .map_err(|error| error.to_string())?;
            tokio::spawn(driver);
            *connection = Some(sender);
        }
        let Some(sender) = connection.as_mut() else {
            return Err("no connection".into());
        };
        sender
            .send_request(request)
            .await
            .map_err(|error| format!("head: {error:?}"))
    }

    /// Sends these bytes on a connection of their own and reads until it ends, or is silent for a second.
    pub async fn raw(&self, bytes: &[u8]) -> String {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let mut piece = [0; 8192];
        while let Ok(Ok(read @ 1..)) =
            tokio::time::timeout(Duration::from_secs(1), socket.read(&mut piece)).await
        {
            answer.extend_from_slice(&piece[..read]);
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub async fn socket(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

/// A WebSocket spoken by hand, so that nothing between is assumed.
pub struct WebSocket(TcpStream);

impl WebSocket {
    /// Shakes hands with these field values and returns the socket with the answer's head.
    pub async fn open(
        address: SocketAddr,
        target: &str,
        upgrade: &str,
        connection: &str,
    ) -> (Self, String) {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: {address}\r\nUpgrade: {upgrade}\r\nConnection: {connection}\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match tokio::time::timeout(Duration::from_secs(10), socket.read_u8()).await {
                Ok(Ok(byte)) => head.push(byte),
                _ => break,
            }
        }
        (Self(socket), String::from_utf8_lossy(&head).into_owned())
    }

    /// Sends one masked text frame of at most 125 bytes.
    pub async fn say(&mut self, text: &str) {
        let mut frame = vec![0x81, 0x80 | text.len() as u8, 1, 2, 3, 4];
        frame.extend(
            text.bytes()
                .zip([1, 2, 3, 4].into_iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
        self.0.write_all(&frame).await.unwrap();
    }

    /// The next unmasked frame: opcode and text.
    pub async fn hear(&mut self) -> (u8, String) {
        let read = async {
            let [first, length] = self.0.read_u16().await.unwrap().to_be_bytes();
            let mut payload = vec![0; usize::from(length)];
            self.0.read_exact(&mut payload).await.unwrap();
            (first & 0x0F, String::from_utf8_lossy(&payload).into_owned())
        };
        tokio::time::timeout(Duration::from_secs(10), read)
            .await
            .expect("a frame")
    }

    /// Whether the other side ends the connection.
    pub async fn ends(&mut self) -> bool {
        let mut rest = Vec::new();
        tokio::time::timeout(super::PATIENCE, self.0.read_to_end(&mut rest))
            .await
            .is_ok()
    }
}
