//! A network that fails on demand: a TCP proxy whose fault can be changed while connections live.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What happens to bytes, in both directions unless it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// They arrive.
    Pass,
    /// Each piece arrives so much later.
    Delay(Duration),
    /// Each piece arrives up to so much later.
    Jitter(Duration),
    /// So many bytes a second.
    Throttle(usize),
    /// Pieces of so many bytes with a pause between.
    Slice(usize, Duration),
    /// The connection ends after so many bytes from the server.
    CutAfter(usize),
    /// Connections are reset.
    Reset,
    /// Connections stand and nothing arrives.
    Blackhole,
    /// The server's byte at this place of the connection arrives inverted.
    Corrupt(usize),
}

/// Stands in front of one server. Ends, with its connections, when dropped.
pub struct FaultProxy {
    pub address: SocketAddr,
    server: Arc<Mutex<SocketAddr>>,
    fault: Arc<Mutex<Fault>>,
    serving: JoinHandle<()>,
    connections: Arc<Mutex<Vec<JoinHandle<()>>>>,
    accepted: Arc<Mutex<usize>>,
}

impl FaultProxy {
    pub async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Arc::new(Mutex::new(server));
        let fault = Arc::new(Mutex::new(Fault::Pass));
        let connections: Arc<Mutex<Vec<JoinHandle<()>>>> = Arc::default();
        let accepted: Arc<Mutex<usize>> = Arc::default();
        let serving = tokio::spawn({
            let (server, fault) = (server.clone(), fault.clone());
            let (connections, accepted) = (connections.clone(), accepted.clone());
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    *accepted.lock().unwrap() += 1;
                    let leads_to = *server.lock().unwrap();
                    let task = tokio::spawn(carry(client, leads_to, fault.clone()));
                    connections.lock().unwrap().push(task);
                }
            }
        });
        Self {
            address,
            server,
            fault,
            serving,
            connections,
            accepted,
        }
    }

    /// From now on, for standing connections too.
    pub fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    /// New connections lead to another server; those that stand stay where they are.
    pub fn leads_to(&self, server: SocketAddr) {
        *self.server.lock().unwrap() = server;
    }

    /// Connections taken so far.
    pub fn accepted(&self) -> usize {
        *self.accepted.lock().unwrap()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.serving.abort();
        for connection in self.connections.lock().unwrap().drain(..) {
            connection.abort();
        }
    }
}

async fn carry(client: TcpStream, server: SocketAddr, fault: Arc<Mutex<Fault>>) {
    let linger_zero = |socket: &TcpStream| {
        let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
    };
    if *fault.lock().unwrap() == Fault::Reset {
        linger_zero(&client);
        return;
    }
    let Ok(server) = TcpStream::connect(server).await else {
        linger_zero(&client);
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    // Whatever ends a connection under Reset ends it with RST.
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    tokio::select! {
        () = pump(client_in, server_out, &fault, false) => {}
        () = pump(server_in, client_out, &fault, true) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    fault: &Mutex<Fault>,
    from_server: bool,
) {
    let mut carried = 0;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            // A fault set while nothing flows is noticed here.
            () = tokio::time::sleep(Duration::from_millis(10)) => {
                if *fault.lock().unwrap() == Fault::Reset {
                    let _ = socket2::SockRef::from(from.as_ref()).set_linger(Some(Duration::ZERO));
                    let _ = socket2::SockRef::from(to.as_ref()).set_linger(Some(Duration::ZERO));
                    return;
                }
                continue;
            }
        };
        let Ok(read @ 1..) = read else { return };
        let bytes = &mut buffer[..read];
        let now = *fault.lock().unwrap();
        let mut slice = bytes.len();
        let mut pause = Duration::ZERO;
        match now {
            Fault::Pass => {}
            Fault::Delay(delay) => tokio::time::sleep(delay).await,
            Fault::Jitter(most) => tokio::time::sleep(most.mul_f64(fastrand::f64())).await,
            Fault::Throttle(rate) => {
                slice = (rate / 20).max(1);
                pause = Duration::from_millis(50);
            }
            Fault::Slice(size, between) => (slice, pause) = (size.max(1), between),
            Fault::CutAfter(most) if from_server && carried + bytes.len() >= most => {
                let _ = to.write_all(&bytes[..most.saturating_sub(carried)]).await;
                return;
            }
            Fault::Reset => {
                let _ = socket2::SockRef::from(to.as_ref()).set_linger(Some(Duration::ZERO));
                let _ = socket2::SockRef::from(from.as_ref()).set_linger(Some(Duration::ZERO));
                return;
            }
            // What was swallowed is gone; the connection can only be given up by its owners.
            Fault::Blackhole => continue,
            Fault::Corrupt(place)
                if from_server && (carried..carried + bytes.len()).contains(&place) =>
            {
                bytes[place - carried] ^= 0xFF;
            }
            Fault::CutAfter(_) | Fault::Corrupt(_) => {}
        }
        carried += bytes.len();
        for piece in bytes.chunks(slice) {
            if to.write_all(piece).await.is_err() {
                return;
            }
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
    }
}
