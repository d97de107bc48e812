//! Varnish: memory storage, one pool of threads. It speaks no TLS.

use super::{Bed, Problem, Server, free_address, installed, write};
use crate::child::{Child, SERVER_CORE, pinned};

/// Starts it on one port for HTTP/1.1 and HTTP/2.
pub async fn start(bed: &Bed) -> Result<Server, Problem> {
    let program = installed("varnishd")?;
    let room = bed.room("varnish")?;
    let plain = free_address()?;
    let file = room.join("shop.vcl");
    write(
        &file,
        &format!(
            "vcl 4.1;
backend app {{ .host = \"127.0.0.1\"; .port = \"{}\"; }}
sub vcl_recv {{ if (req.url ~ \"^/pass/\") {{ return (pass); }} }}
",
            bed.app.port()
        ),
    )?;
    let mut command = pinned(SERVER_CORE, &program);
    command
        .args(["-j", "none", "-F", "-s", "malloc,2g", "-T", "none"])
        .args([
            "-p",
            "feature=+http2",
            "-p",
            "thread_pools=1",
            "-p",
            "timeout_idle=3600",
        ])
        .arg("-a")
        .arg(plain.to_string())
        .arg("-n")
        .arg(room.join("work"))
        .arg("-f")
        .arg(&file);
    let child = Child::start(command, room.join("varnish.log"))?;
    let server = Server {
        plain: Some(plain),
        h2c: Some(plain),
        ..Server::new(child)
    };
    server.ready().await
}
