//! The app behind larder: a listener of our own, so that it can say anything, right or wrong.
//!
//! It speaks bytes, not a library's HTTP: bad framing, pauses, cuts and resets are steps of an answer.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Requests kept for a test to look at; older ones fall out, their count stays.
const SEEN_MAX: usize = 20_000;

/// One request as it reached the app.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Holds answers back until a test opens it.
#[derive(Clone, Debug)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub fn closed() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    pub fn open(&self) {
        self.0.send_replace(true);
    }

    pub async fn wait(&self) {
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

#[derive(Clone, Debug)]
enum Step {
    Send(Vec<u8>),
    Pause(Duration),
    Wait(Gate),
    Close,
    Reset,
    Echo,
}

/// What the app says: fields and a body in good order, or steps of any bytes.
#[derive(Clone, Debug)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    before: Vec<Step>,
    raw: Option<Vec<Step>>,
}

impl Answer {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            before: Vec::new(),
            raw: None,
        }
    }

    /// 200 with a text body, no field about caching.
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::new(200, body).header("Content-Type", "text/plain")
    }

    /// 200 that everyone may keep for a minute.
    pub fn public(body: impl Into<Vec<u8>>) -> Self {
        Self::ok(body).header("Cache-Control", "public, max-age=60")
    }

    /// Any bytes at all.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        let mut answer = Self::new(200, "");
        answer.raw = Some(vec![Step::Send(bytes.into())]);
        answer
    }

    /// A chunked answer, one chunk for each piece.
    pub fn chunked(head: &str, pieces: &[&str]) -> Self {
        let mut answer = Self::raw(format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{head}\r\n"
        ));
        for piece in pieces {
            answer = answer.then_chunk(piece);
        }
        answer.then("0\r\n\r\n")
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Before the first byte.
    pub fn after(mut self, pause: Duration) -> Self {
        self.before.push(Step::Pause(pause));
        self
    }

    /// Before the first byte, until the gate opens.
    pub fn behind(mut self, gate: &Gate) -> Self {
        self.before.push(Step::Wait(gate.clone()));
        self
    }

    pub fn then(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.step(Step::Send(bytes.into()))
    }

    pub fn then_chunk(self, piece: &str) -> Self {
        self.then(format!("{:x}\r\n{piece}\r\n", piece.len()))
    }

    pub fn then_wait(self, gate: &Gate) -> Self {
        self.step(Step::Wait(gate.clone()))
    }

    pub fn then_pause(self, pause: Duration) -> Self {
        self.step(Step::Pause(pause))
    }

    pub fn then_close(self) -> Self {
        self.step(Step::Close)
    }

    pub fn then_reset(self) -> Self {
        self.step(Step::Reset)
    }

    /// From here on the connection gives back what it gets.
    pub fn then_echo(self) -> Self {
        self.step(Step::Echo)
    }

    fn step(mut self, step: Step) -> Self {
        let steps = self.steps_without_before("GET");
        self.raw.get_or_insert(steps).push(step);
        self
    }

    fn steps_without_before(&self, method: &str) -> Vec<Step> {
        if let Some(steps) = &self.raw {
            return steps.clone();
        }
        let mut head = format!("HTTP/1.1 {} Said\r\n", self.status);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let bodiless = matches!(self.status, 204 | 304);
        if !bodiless
            && !self
                .headers
                .iter()
                .any(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        if method != "HEAD" && !bodiless {
            bytes.extend_from_slice(&self.body);
        }
        vec![Step::Send(bytes)]
    }

    fn steps(&self, method: &str) -> Vec<Step> {
        let mut steps = self.before.clone();
        steps.extend(self.steps_without_before(method));
        steps
    }
}

type Says = Arc<dyn Fn(&Seen) -> Answer + Send + Sync>;

/// A running app. It stops when dropped.
pub struct App {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    serving: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    says: Mutex<Says>,
    seen: Mutex<(VecDeque<Seen>, u64)>,
    /// Requests that are being answered, and the most that ever were at the same time.
    at_once: Mutex<(usize, usize)>,
    connections: Mutex<Vec<JoinHandle<()>>>,
}

impl App {
    /// Answers every request by `says`; the health check is answered and not counted.
    pub async fn says(says: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Self {
            address,
            shared: Arc::new(Shared {
                says: Mutex::new(Arc::new(says)),
                seen: Mutex::default(),
                at_once: Mutex::default(),
                connections: Mutex::default(),
            }),
            serving: Mutex::new(None),
        };
        app.serve(listener);
        app
    }

    /// Hands each connection to `talk`, byte by byte.
    pub async fn talks<F: Future<Output = ()> + Send + 'static>(
        talk: impl Fn(TcpStream) -> F + Send + Sync + 'static,
    ) -> Self {
        let app = Self::says(|_| Answer::new(500, "")).await;
        app.down().await;
        let listener = bind_again(app.address).await;
        let shared = app.shared.clone();
        let serving = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let task = tokio::spawn(talk(socket));
                shared.connections.lock().unwrap().push(task);
            }
        });
        *app.serving.lock().unwrap() = Some(serving);
        app
    }

    /// From now on it says something else.
    pub fn now_says(&self, says: impl Fn(&Seen) -> Answer + Send + Sync + 'static) {
        *self.shared.says.lock().unwrap() = Arc::new(says);
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests that came for this path, whatever their query.
    pub fn count(&self, path: &str) -> usize {
        self.seen(path).len()
    }

    /// All requests that came, the health check's aside.
    pub fn total(&self) -> u64 {
        self.shared.seen.lock().unwrap().1
    }

    /// The most requests that it has had at the same time since it was last asked.
    pub fn most_at_once(&self) -> usize {
        let mut at_once = self.shared.at_once.lock().unwrap();
        let most = at_once.1;
        at_once.1 = at_once.0;
        most
    }

    pub fn seen(&self, path: &str) -> Vec<Seen> {
        let seen = self.shared.seen.lock().unwrap();
        seen.0
            .iter()
            .filter(|one| one.path() == path)
            .cloned()
            .collect()
    }

    /// The last request for this path.
    pub fn last(&self, path: &str) -> Seen {
        self.seen(path)
            .pop()
            .unwrap_or_else(|| panic!("the app saw no {path}"))
    }

    /// Stops listening and cuts every connection.
    pub async fn down(&self) {
        let serving = self.serving.lock().unwrap().take();
        if let Some(serving) = serving {
            serving.abort();
            let _ = serving.await;
        }
        for connection in self.shared.connections.lock().unwrap().drain(..) {
            connection.abort();
        }
    }

    /// Listens again where it did before.
    pub async fn up(&self) {
        let listener = bind_again(self.address).await;
        self.serve(listener);
    }

    fn serve(&self, listener: TcpListener) {
        let shared = self.shared.clone();
        let serving = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let task = tokio::spawn(converse(socket, shared.clone()));
                let mut connections = shared.connections.lock().unwrap();
                connections.retain(|connection| !connection.is_finished());
                connections.push(task);
            }
        });
        *self.serving.lock().unwrap() = Some(serving);
    }
}

impl Drop for App {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.lock().unwrap().take() {
            serving.abort();
        }
        for connection in self.shared.connections.lock().unwrap().drain(..) {
            connection.abort();
        }
    }
}

async fn bind_again(address: SocketAddr) -> TcpListener {
    super::eventually("the app's port is free again", async || {
        let socket = tokio::net::TcpSocket::new_v4().ok()?;
        socket.set_reuseaddr(true).ok()?;
        socket.bind(address).ok()?;
        socket.listen(1024).ok()
    })
    .await
}

/// A request that is being answered.
struct Busy(Arc<Shared>);

impl Busy {
    fn with(shared: &Arc<Shared>) -> Self {
        let mut at_once = shared.at_once.lock().unwrap();
        at_once.0 += 1;
        at_once.1 = at_once.1.max(at_once.0);
        Self(shared.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.at_once.lock().unwrap().0 -= 1;
    }
}

async fn converse(socket: TcpStream, shared: Arc<Shared>) {
    let _ = socket.set_nodelay(true);
    let mut socket = BufReader::new(socket);
    while let Some(seen) = read_request(&mut socket).await {
        let health = seen.path() == "/api/health";
        let _busy = (!health).then(|| Busy::with(&shared));
        let answer = if health {
            Answer::ok("well")
        } else {
            let says = shared.says.lock().unwrap().clone();
            // Counted before it is answered, so that who has the answer finds the count.
            let mut kept = shared.seen.lock().unwrap();
            kept.1 += 1;
            kept.0.push_back(seen.clone());
            if kept.0.len() > SEEN_MAX {
                kept.0.pop_front();
            }
            drop(kept);
            says(&seen)
        };
        for step in answer.steps(&seen.method) {
            match step {
                Step::Send(bytes) => {
                    if socket.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Step::Pause(pause) => tokio::time::sleep(pause).await,
                Step::Wait(gate) => gate.wait().await,
                Step::Close => return,
                Step::Reset => {
                    let _ =
                        socket2::SockRef::from(socket.get_ref()).set_linger(Some(Duration::ZERO));
                    return;
                }
                Step::Echo => {
                    let mut bytes = [0; 4096];
                    while let Ok(read @ 1..) = socket.read(&mut bytes).await {
                        if socket.write_all(&bytes[..read]).await.is_err() {
                            return;
                        }
                    }
                    return;
                }
            }
        }
    }
}

/// A request's first line and fields; `None` when the connection ends.
pub async fn read_head(socket: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut line = String::new();
    socket
        .read_line(&mut line)
        .await
        .ok()
        .filter(|read| *read > 0)?;
    let mut words = line.split_whitespace();
    let mut seen = Seen {
        method: words.next()?.into(),
        target: words.next()?.into(),
        ..Seen::default()
    };
    loop {
        let mut line = Vec::new();
        socket
            .read_until(b'\n', &mut line)
            .await
            .ok()
            .filter(|read| *read > 0)?;
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if line.is_empty() {
            return Some(seen);
        }
        let (name, value) = line.split_once(':')?;
        seen.headers.push((name.into(), value.trim().into()));
    }
}

async fn read_request(socket: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut seen = read_head(socket).await?;
    if seen.header("transfer-encoding").is_some() {
        loop {
            let mut size = String::new();
            socket
                .read_line(&mut size)
                .await
                .ok()
                .filter(|read| *read > 0)?;
            let size = usize::from_str_radix(size.trim().split(';').next()?, 16).ok()?;
            let mut piece = vec![0; size + 2];
            socket.read_exact(&mut piece).await.ok()?;
            if size == 0 {
                return Some(seen);
            }
            seen.body.extend_from_slice(&piece[..size]);
        }
    }
    let length = seen
        .header("content-length")
        .and_then(|length| length.parse().ok())
        .unwrap_or(0);
    seen.body = vec![0; length];
    socket.read_exact(&mut seen.body).await.ok()?;
    Some(seen)
}
