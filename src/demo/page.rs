//! The demo's page: one of each thing that a browser loads.
//!
//! Everything is in here; the page asks nothing of any other host.

use super::reply::Reply;
use super::session::cookie;
use http::{HeaderMap, StatusCode, header};

/// The page `/`.
pub(super) fn home() -> Reply {
    Reply::whole("text/html; charset=utf-8", HOME).with(header::CACHE_CONTROL, "public")
}

/// Script, stylesheet and images; each has an ETag and may be kept for a minute.
pub(super) fn asset(name: &str, request: &HeaderMap) -> Reply {
    let (content_type, body): (_, &'static [u8]) = match name {
        "shop.css" => ("text/css", STYLE.as_bytes()),
        "shop.js" => ("text/javascript", SCRIPT.as_bytes()),
        "logo.svg" => ("image/svg+xml", LOGO.as_bytes()),
        "car.png" => ("image/png", &CAR),
        _ => return Reply::empty(StatusCode::NOT_FOUND).with(header::CACHE_CONTROL, "no-store"),
    };
    let etag = format!("\"{name}-1\"");
    let known = request
        .get(header::IF_NONE_MATCH)
        .is_some_and(|value| value == etag.as_str());
    let reply = if known {
        Reply::empty(StatusCode::NOT_MODIFIED)
    } else {
        Reply::whole(content_type, body)
    };
    reply
        .with(header::ETAG, &etag)
        .with(header::CACHE_CONTROL, "public, max-age=60")
}

/// Where the form leads: greets the visitor that its cookie names.
pub(super) fn greeting(request: &HeaderMap) -> Reply {
    // The cookie is the client's word: only letters and digits reach the page.
    let name: String = cookie(request, "visitor")
        .unwrap_or("stranger")
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take(40)
        .collect();
    let html = format!(
        "<!doctype html><html lang=en><title>Hello</title><link rel=icon href=/assets/logo.svg><link rel=stylesheet href=/assets/shop.css>\
         <h1 id=greeting>Hello, {name}</h1><a href=/>back</a></html>"
    );
    Reply::whole("text/html; charset=utf-8", html).with(header::CACHE_CONTROL, "private")
}

const HOME: &str = r#"<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <title>larder demo shop</title>
  <link rel="icon" href="/assets/logo.svg">
  <link rel="stylesheet" href="/assets/shop.css">
</head>
<body>
  <header><img id="logo" src="/assets/logo.svg" alt="" width="48" height="48"><h1>Demo shop</h1></header>
  <p><img id="car" src="/assets/car.png" alt="a car, seen from afar" width="64" height="64"></p>
  <form id="form" method="post" action="/form">
    <label>Your name <input id="name" name="name" value="Ann"></label>
    <button id="send">Send</button>
  </form>
  <h2>Fleet</h2><ul id="fleet"></ul>
  <h2>Events</h2><ol id="events"></ol>
  <h2>Socket</h2><p id="socket"></p>
  <script src="/assets/shop.js"></script>
</body>
</html>
"#;

const STYLE: &str =
    "body { font-family: system-ui, sans-serif; margin: 2rem auto; max-width: 40rem }
header { align-items: center; display: flex; gap: 1rem }
h1 { color: rgb(30, 120, 90) }
";

/// Each part writes what it got and marks itself done, so that a test knows when to look.
const SCRIPT: &str = r#"'use strict';
const done = new Set();
const finish = (part) => {
  done.add(part);
  document.body.dataset.done = [...done].sort().join(' ');
};
const add = (list, text) => {
  const item = document.createElement('li');
  item.textContent = text;
  document.getElementById(list).append(item);
};

fetch('/api/fleet?page=1').then((answer) => answer.json()).then((fleet) => {
  for (const car of fleet.cars.slice(0, 5)) add('fleet', `${car.name}, ${car.location}, ${car.pricePerDay}`);
  finish('fleet');
});

const events = new EventSource('/events?count=3&every=50');
events.addEventListener('tick', (event) => {
  add('events', event.data);
  if (JSON.parse(event.data).n === 2) { events.close(); finish('events'); }
});

const socket = new WebSocket(`${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/ws`);
socket.addEventListener('open', () => socket.send('through the wall'));
socket.addEventListener('message', (event) => {
  document.getElementById('socket').textContent = event.data;
  socket.close();
  finish('socket');
});
"#;

const LOGO: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 48 48"><rect x="6" y="10" width="36" height="32" rx="4" fill="#1e785a"/><path d="M6 22h36M6 32h36" stroke="#fff" stroke-width="3"/></svg>"##;

/// A PNG of 8 × 8 green pixels.
const CAR: [u8; 74] = [
    137, 80, 78, 71, 13, 10, 26, 10, 0, 0, 0, 13, 73, 72, 68, 82, 0, 0, 0, 8, 0, 0, 0, 8, 8, 2, 0,
    0, 0, 75, 109, 41, 220, 0, 0, 0, 17, 73, 68, 65, 84, 120, 218, 99, 144, 171, 136, 194, 138, 24,
    134, 150, 4, 0, 99, 33, 60, 1, 62, 92, 168, 199, 0, 0, 0, 0, 73, 69, 78, 68, 174, 66, 96, 130,
];
