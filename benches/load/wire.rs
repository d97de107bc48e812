//! Just enough HTTP/1.1 to load a server: one connection, one request at a time.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// Longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Bytes of a head.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// What is looked at in an answer.
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Whether it came from the cache (`X-Cache`, else `Cache-Status`).
    pub hit: bool,
    /// Content.
    pub body: Vec<u8>,
}

/// A connection that opens when it is used and again when it was closed.
pub struct Connection {
    server: SocketAddr,
    source: IpAddr,
    socket: Option<TcpStream>,
    buffer: Vec<u8>,
}

impl Connection {
    /// On loopback every client has an address of its own, as clients have elsewhere.
    pub fn new(server: SocketAddr, client: usize) -> Self {
        let [_, _, high, low] = (client as u32 % 60_000 + 1).to_be_bytes();
        Self {
            server,
            source: Ipv4Addr::new(127, 1, high, low).into(),
            socket: None,
            buffer: Vec::new(),
        }
    }

    /// One request and its whole answer.
    pub async fn ask(
        &mut self,
        method: &str,
        target: &str,
        token: &str,
        body: &str,
    ) -> Result<Answer, String> {
        let mut message = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n", self.server);
        if !token.is_empty() {
            message.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        if !body.is_empty() {
            message.push_str(&format!(
                "Content-Type: application/json\r\nContent-Length: {}\r\n",
                body.len()
            ));
        }
        message.push_str("\r\n");
        message.push_str(body);
        let answer = tokio::time::timeout(ANSWER_MAX, self.exchange(&message)).await;
        let answer = answer.unwrap_or_else(|_| Err("no answer in 30 s".into()));
        if answer.is_err() {
            self.socket = None;
        }
        answer
    }

    async fn exchange(&mut self, message: &str) -> Result<Answer, String> {
        if self.socket.is_none() {
            self.buffer.clear();
            self.socket = Some(
                self.connect()
                    .await
                    .map_err(|error| format!("connect: {error}"))?,
            );
        }
        let Some(socket) = self.socket.as_mut() else {
            return Err("no connection".into());
        };
        socket
            .write_all(message.as_bytes())
            .await
            .map_err(|error| format!("write: {error}"))?;
        let head_end = loop {
            if let Some(place) = find(&self.buffer, b"\r\n\r\n") {
                break place + 4;
            }
            if self.buffer.len() > HEAD_BYTES_MAX {
                return Err("the head is too long".into());
            }
            more(socket, &mut self.buffer).await?;
        };
        let head = String::from_utf8_lossy(&self.buffer[..head_end]).into_owned();
        self.buffer.drain(..head_end);
        let status = head
            .get(9..12)
            .and_then(|status| status.parse().ok())
            .ok_or("no status")?;
        let field = |name: &str| {
            head.lines()
                .skip(1)
                .filter_map(|line| line.split_once(':'))
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.trim())
        };
        let hit = match field("x-cache") {
            Some(word) => matches!(word, "HIT" | "STALE" | "REVALIDATED"),
            None => field("cache-status").is_some_and(|status| status.contains("; hit")),
        };
        let chunked = field("transfer-encoding").is_some();
        let length = field("content-length").and_then(|length| length.parse::<usize>().ok());
        let close = field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let body = match length {
            _ if chunked => read_chunked(socket, &mut self.buffer).await?,
            _ if matches!(status, 204 | 304) => Vec::new(),
            Some(length) => take(socket, &mut self.buffer, length).await?,
            None => return Err("an answer without length".into()),
        };
        if close {
            self.socket = None;
        }
        Ok(Answer { status, hit, body })
    }

    async fn connect(&self) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        if self.server.ip().is_loopback() {
            socket.bind(SocketAddr::new(self.source, 0))?;
        }
        let socket = socket.connect(self.server).await?;
        socket.set_nodelay(true)?;
        Ok(socket)
    }
}

async fn more(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<(), String> {
    match socket.read_buf(buffer).await {
        Ok(0) => Err("the connection ended".into()),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("read: {error}")),
    }
}

async fn take(
    socket: &mut TcpStream,
    buffer: &mut Vec<u8>,
    length: usize,
) -> Result<Vec<u8>, String> {
    buffer.reserve(length.saturating_sub(buffer.len()));
    while buffer.len() < length {
        more(socket, buffer).await?;
    }
    let rest = buffer.split_off(length);
    Ok(std::mem::replace(buffer, rest))
}

async fn read_chunked(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = find(buffer, b"\r\n") {
                break end;
            }
            more(socket, buffer).await?;
        };
        let line = take(socket, buffer, end + 2).await?;
        let size = std::str::from_utf8(&line)
            .ok()
            .and_then(|line| usize::from_str_radix(line.trim().split(';').next()?, 16).ok());
        let size = size.ok_or("a broken chunk")?;
        let piece = take(socket, buffer, size + 2).await?;
        if size == 0 {
            return Ok(body);
        }
        body.extend_from_slice(&piece[..size]);
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
