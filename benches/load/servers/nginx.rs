//! nginx: `proxy_cache`, and its lua module with Redis behind it.

use super::{Bed, Problem, Server, free_address, installed, redis, seed, write};
use crate::child::{Child, SERVER_CORE, pinned};
use std::path::Path;

/// Where Debian puts modules that are loaded.
const MODULES: &str = "/usr/lib/nginx/modules";
/// Debian's `lua-nginx-redis`.
const LUA_REDIS: &str = "/usr/share/lua/5.1/nginx/redis.lua";

/// One worker with its cache in the bed's folder.
pub async fn start(bed: &Bed, sendfile: bool) -> Result<Server, Problem> {
    let room = bed.room("nginx")?;
    let [plain, h2c, tls] = [free_address()?, free_address()?, free_address()?];
    let switch = if sendfile { "on" } else { "off" };
    let at = room.display();
    let http = format!(
        "
    sendfile {switch};
    tcp_nopush {switch};
    proxy_cache_path {at}/cache levels=1:2 keys_zone=hits:64m max_size=4g inactive=1d use_temp_path=off;
    limit_req_zone $binary_remote_addr zone=much:1m rate=1000000r/s;
    limit_req_zone $binary_remote_addr zone=little:1m rate=1r/m;
    limit_req_status 429;
    upstream app {{ server {app}; keepalive 64; keepalive_requests 1000000000; }}
    proxy_http_version 1.1;
    proxy_set_header Connection \"\";
    server {{
        listen {plain};
        listen {h2c} http2;
        listen {tls} ssl http2;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.3;
        location / {{ proxy_pass http://app; proxy_cache hits; proxy_cache_lock on; }}
        location /pass/ {{ proxy_pass http://app; }}
        location /limited/ {{ limit_req zone=much burst=100000 nodelay; proxy_pass http://app; proxy_cache hits; }}
        location /refused/ {{ limit_req zone=little; proxy_pass http://app; proxy_cache hits; }}
    }}",
        app = bed.app,
        certificate = bed.certificate.display(),
        key = bed.key.display(),
    );
    let child = run(&room, "", &http)?;
    let server = Server {
        plain: Some(plain),
        h2c: Some(h2c),
        tls: Some(tls),
        ..Server::new(child)
    };
    server.ready().await
}

/// Every request asks a Redis of its own for the body stored under the path.
pub async fn start_lua(bed: &Bed) -> Result<Server, Problem> {
    let modules = ["ndk_http_module.so", "ngx_http_lua_module.so"];
    for module in modules {
        if !Path::new(MODULES).join(module).is_file() {
            return Err(Problem::Absent(format!("nginx's {module}")));
        }
    }
    if !Path::new(LUA_REDIS).is_file() {
        return Err(Problem::Absent("lua-nginx-redis".into()));
    }
    let room = bed.room("nginx-lua")?;
    let (redis, at) = redis(&room).await?;
    seed(at).await?;
    let plain = free_address()?;
    let load = modules.map(|module| format!("load_module {MODULES}/{module};\n"));
    let http = format!(
        "
    lua_package_path \"/usr/share/lua/5.1/?.lua;;\";
    server {{
        listen {plain};
        default_type application/octet-stream;
        location / {{
            content_by_lua_block {{
                local redis = require(\"nginx.redis\"):new()
                local connected, problem = redis:connect(\"127.0.0.1\", {port})
                if not connected then ngx.log(ngx.ERR, problem) return ngx.exit(502) end
                local body = redis:get(ngx.var.uri)
                if not body or body == ngx.null then return ngx.exit(404) end
                redis:set_keepalive(60000, 256)
                ngx.header.content_length = #body
                ngx.header.cache_control = \"public, max-age=3600\"
                ngx.print(body)
            }}
        }}
    }}",
        port = at.port()
    );
    let child = run(&room, &load.concat(), &http)?;
    let mut server = Server::new(child);
    server.children.push(redis);
    server.plain = Some(plain);
    server.ready().await
}

fn run(room: &Path, before: &str, http: &str) -> Result<Child, Problem> {
    let program = installed("nginx")?;
    let at = room.display();
    let text = format!(
        "{before}user root;
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid {at}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    keepalive_timeout 1h;
    keepalive_requests 1000000000;
    client_body_temp_path {at}/body;
    proxy_temp_path {at}/proxy;
    fastcgi_temp_path {at}/fastcgi;
    uwsgi_temp_path {at}/uwsgi;
    scgi_temp_path {at}/scgi;
{http}
}}
"
    );
    let file = room.join("nginx.conf");
    write(&file, &text)?;
    let mut command = pinned(SERVER_CORE, &program);
    command
        .arg("-e")
        .arg("stderr")
        .arg("-p")
        .arg(room)
        .arg("-c")
        .arg(&file);
    Ok(Child::start(command, room.join("nginx.log"))?)
}
