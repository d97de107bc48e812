//! HAProxy: its small cache, one thread.

use super::{Bed, Problem, Server, free_address, installed, write};
use crate::child::{Child, SERVER_CORE, pinned};

/// Starts it with a port each for HTTP/1.1, HTTP/2 and TLS.
pub async fn start(bed: &Bed) -> Result<Server, Problem> {
    let program = installed("haproxy")?;
    let room = bed.room("haproxy")?;
    let [plain, h2c, tls] = [free_address()?, free_address()?, free_address()?];
    let file = room.join("haproxy.cfg");
    write(
        &file,
        &format!(
            "global
    nbthread 1
    maxconn 8000
defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout http-keep-alive 1h
    timeout server 30s
cache hits
    total-max-size 128
    max-object-size 1000000
    max-age 3600
listen shop
    bind {plain}
    bind {h2c} proto h2
    bind {tls} ssl crt {both} alpn h2,http/1.1 ssl-min-ver TLSv1.3
    http-request cache-use hits if !{{ path_beg /pass/ }}
    http-response cache-store hits
    http-reuse always
    server app {app}
",
            both = bed.both.display(),
            app = bed.app,
        ),
    )?;
    let mut command = pinned(SERVER_CORE, &program);
    command.arg("-db").arg("-f").arg(&file);
    let child = Child::start(command, room.join("haproxy.log"))?;
    let server = Server {
        plain: Some(plain),
        h2c: Some(h2c),
        tls: Some(tls),
        ..Server::new(child)
    };
    server.ready().await
}
