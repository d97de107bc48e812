//! A WebSocket that echoes (RFC 6455): the handshake and frames, as far as an echo needs them.
//!
//! It knows no extension and keeps no message: each frame goes back as it came, unmasked.

use super::reply::Reply;
use http::{HeaderMap, Request, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes of one frame; a longer one ends the connection with 1009 (too big).
const FRAME_BYTES_MAX: u64 = 1 << 20;
/// A client that says nothing for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(300);
/// What the accept value is made with (RFC 6455 §1.3).
const ACCEPT_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

/// Answers the handshake (§4.2.2) and echoes once the connection is upgraded.
pub(super) fn accept(mut request: Request<Incoming>) -> Reply {
    let Some(key) = asked(request.headers()) else {
        return Reply::empty(StatusCode::UPGRADE_REQUIRED)
            .with(header::UPGRADE, "websocket")
            .with(header::CONNECTION, "upgrade")
            .with(header::SEC_WEBSOCKET_VERSION, "13");
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            // The client went away or broke the protocol: its connection is over either way.
            let _ = echo(TokioIo::new(upgraded)).await;
        }
    });
    Reply::empty(StatusCode::SWITCHING_PROTOCOLS)
        .with(header::UPGRADE, "websocket")
        .with(header::CONNECTION, "upgrade")
        .with(header::SEC_WEBSOCKET_ACCEPT, &accept_value(&key))
}

/// The handshake's key, if this is one (§4.2.1).
fn asked(headers: &HeaderMap) -> Option<String> {
    let has = |name, word: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|token| token.trim().eq_ignore_ascii_case(word))
    };
    let whole = has(header::UPGRADE, "websocket")
        && has(header::CONNECTION, "upgrade")
        && has(header::SEC_WEBSOCKET_VERSION, "13");
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?.to_str().ok()?;
    (whole && key.len() == 24).then(|| key.to_owned())
}

fn accept_value(key: &str) -> String {
    let text = format!("{key}{ACCEPT_GUID}");
    let digest = aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
        text.as_bytes(),
    );
    base64(digest.as_ref())
}

/// RFC 4648 §4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group
            .iter()
            .fold(0u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - group.len()));
        for place in 0..4 {
            if place <= group.len() {
                text.push(char::from(
                    ALPHABET[(word >> (18 - 6 * place) & 63) as usize],
                ));
            } else {
                text.push('=');
            }
        }
    }
    text
}

async fn echo(mut socket: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    loop {
        let read = tokio::time::timeout(SILENCE_MAX, read_frame(&mut socket));
        let (first, payload) = match read.await.map_err(|_| io::ErrorKind::TimedOut)?? {
            Ok(frame) => frame,
            Err(code) => return write_frame(&mut socket, 0x80 | CLOSE, &code.to_be_bytes()).await,
        };
        match first & 0x0F {
            CLOSE => return write_frame(&mut socket, 0x80 | CLOSE, &payload).await,
            PING => write_frame(&mut socket, 0x80 | PONG, &payload).await?,
            PONG => {}
            // Text, binary and continuations go back with their FIN bit: an echo needs no assembly.
            _ => write_frame(&mut socket, first, &payload).await?,
        }
    }
}

/// First byte and payload of a frame (§5.2), or the code (§7.4.1) to close with.
async fn read_frame(
    socket: &mut (impl AsyncRead + Unpin),
) -> io::Result<Result<(u8, Vec<u8>), u16>> {
    const PROTOCOL_ERROR: u16 = 1002;
    const TOO_BIG: u16 = 1009;
    let [first, second] = socket.read_u16().await?.to_be_bytes();
    let masked = second & 0x80 != 0;
    if !masked || first & 0x70 != 0 {
        return Ok(Err(PROTOCOL_ERROR));
    }
    let length = match second & 0x7F {
        126 => u64::from(socket.read_u16().await?),
        127 => socket.read_u64().await?,
        short => u64::from(short),
    };
    if length > FRAME_BYTES_MAX {
        return Ok(Err(TOO_BIG));
    }
    let mut mask = [0; 4];
    socket.read_exact(&mut mask).await?;
    let mut payload = vec![0; length as usize];
    socket.read_exact(&mut payload).await?;
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    Ok(Ok((first, payload)))
}

async fn write_frame(
    socket: &mut (impl AsyncWrite + Unpin),
    first: u8,
    payload: &[u8],
) -> io::Result<()> {
    let mut frame = Vec::with_capacity(payload.len() + 10);
    frame.push(first);
    match payload.len() {
        short @ 0..=125 => frame.push(short as u8),
        middle @ 126..=0xFFFF => {
            frame.push(126);
            frame.extend_from_slice(&(middle as u16).to_be_bytes());
        }
        long => {
            frame.push(127);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    socket.write_all(&frame).await?;
    socket.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_value_is_the_one_of_the_rfcs_example() {
        assert_eq!(
            accept_value("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        assert_eq!(
            [b"".as_slice(), b"f", b"fo", b"foo"].map(base64),
            ["", "Zg==", "Zm8=", "Zm9v"]
        );
    }

    #[tokio::test]
    async fn text_comes_back_pings_are_answered_and_unmasked_frames_end_it() {
        let (mut client, server) = tokio::io::duplex(4096);
        let echoing = tokio::spawn(echo(server));
        // "Hello" masked, from RFC 6455 §5.7.
        client
            .write_all(&[
                0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
            ])
            .await
            .unwrap();
        let mut back = [0; 7];
        client.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"\x81\x05Hello");
        client.write_all(&[0x89, 0x80, 1, 2, 3, 4]).await.unwrap();
        let mut pong = [0; 2];
        client.read_exact(&mut pong).await.unwrap();
        assert_eq!(pong, [0x8A, 0]);
        client.write_all(&[0x81, 0x01, b'x', 0, 0]).await.unwrap();
        let mut close = [0; 4];
        client.read_exact(&mut close).await.unwrap();
        assert_eq!(close, [0x88, 2, 0x03, 0xEA]);
        echoing.await.unwrap().unwrap();
    }
}
