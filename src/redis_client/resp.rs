//! RESP, the protocol that Redis speaks: commands into bytes, bytes into replies.
//!
//! Pure: it knows no socket, no clock and nobody who waits. It takes RESP2 and RESP3, in pieces of any
//! size, and it is strict: what Redis does not send is [`Malformed`], and everything has a bound.
//! (<https://redis.io/docs/latest/develop/reference/protocol-spec/>)

use bytes::buf::Limit;
use bytes::{BufMut, Bytes, BytesMut};
use redis::{PushKind, Value, VerbatimFormat};

/// Bytes of one reply, everything in it counted: several times what is ever written as one.
pub const REPLY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of a line: a simple string, an error, a number, a length. Its end is not counted.
pub const LINE_BYTES_MAX: usize = 16 * 1024;
/// Replies within one reply, on all levels together.
pub const ELEMENTS_MAX: usize = 1 << 20;
/// Levels of replies within replies.
pub const DEPTH_MAX: usize = 16;
/// Of a string that has not come whole, so much must be missing for it to be read straight to its
/// place; less is read together with what follows it.
pub const STRAIGHT_BYTES_MIN: usize = 16 * 1024;

/// Elements that room is made for on the word of a length alone.
const ELEMENTS_AT_ONCE: usize = 64;
/// Digits of the longest number, and its sign.
const DIGITS_MAX: usize = 20;
const LINE_END: &[u8] = b"\r\n";

/// One reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// There is nothing.
    Nil,
    /// A number.
    Int(i64),
    /// A string of any bytes, in room of its own.
    Bulk(Bytes),
    /// A word such as `OK`.
    Simple(Bytes),
    /// What was refused, and why: a code, a blank, a sentence.
    Error(Bytes),
    /// A list.
    Array(Vec<Self>),
    /// Names and values in turn.
    Map(Vec<Self>),
    /// A list without order.
    Set(Vec<Self>),
    /// What nobody asked for.
    Push(Vec<Self>),
    /// A floating-point number.
    Double(f64),
    /// Yes or no.
    Boolean(bool),
    /// A number of any length, as digits.
    BigNumber(Bytes),
    /// Text with its format: three letters, a colon, the text.
    Verbatim(Bytes),
}

/// Not a reply that Redis would send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl Reply {
    /// The value as the rest of the house knows it. A string that nobody else holds is not copied.
    #[must_use]
    pub fn into_value(self) -> Value {
        let values = |replies: Vec<Self>| replies.into_iter().map(Self::into_value).collect();
        let text = |bytes: Bytes| String::from_utf8_lossy(&bytes).into_owned();
        match self {
            Self::Nil => Value::Nil,
            Self::Int(number) => Value::Int(number),
            Self::Bulk(bytes) => Value::BulkString(bytes.into()),
            Self::Simple(word) if word == "OK" => Value::Okay,
            Self::Simple(word) => Value::SimpleString(text(word)),
            Self::Error(line) => error_value(&line),
            Self::Array(replies) => Value::Array(values(replies)),
            Self::Map(replies) => {
                let mut parts = replies.into_iter().map(Self::into_value);
                let pair = || Some((parts.next()?, parts.next()?));
                Value::Map(std::iter::from_fn(pair).collect())
            }
            Self::Set(replies) => Value::Set(values(replies)),
            Self::Push(replies) => Value::Push {
                kind: PushKind::Other("push".to_owned()),
                data: values(replies),
            },
            Self::Double(number) => Value::Double(number),
            Self::Boolean(yes) => Value::Boolean(yes),
            Self::BigNumber(digits) => Value::BigNumber(digits.into()),
            Self::Verbatim(bytes) => Value::VerbatimString {
                format: match bytes.get(..3) {
                    Some(b"txt") => VerbatimFormat::Text,
                    Some(b"mkd") => VerbatimFormat::Markdown,
                    other => VerbatimFormat::Unknown(text(Bytes::copy_from_slice(
                        other.unwrap_or_default(),
                    ))),
                },
                text: text(bytes.slice(bytes.len().min(4)..)),
            },
        }
    }
}

/// The redis crate makes its errors by itself alone, out of the line.
fn error_value(line: &[u8]) -> Value {
    let one_line: String = String::from_utf8_lossy(line)
        .chars()
        .map(|c| if matches!(c, '\r' | '\n') { ' ' } else { c })
        .collect();
    redis::parse_redis_value(format!("-{one_line}\r\n").as_bytes()).unwrap_or(Value::Nil)
}

/// Appends a command of `count` parts to `out`.
pub fn write_command<'a>(out: &mut Vec<u8>, count: usize, parts: impl Iterator<Item = &'a [u8]>) {
    write_length(out, b'*', count);
    parts.for_each(|part| write_part(out, part));
}

/// Appends `GET name` to `out`.
pub fn write_get(out: &mut Vec<u8>, name: &[u8]) {
    out.extend_from_slice(b"*2\r\n$3\r\nGET\r\n");
    write_part(out, name);
}

fn write_part(out: &mut Vec<u8>, part: &[u8]) {
    out.reserve(part.len() + DIGITS_MAX + 2 * LINE_END.len());
    write_length(out, b'$', part.len());
    out.extend_from_slice(part);
    out.extend_from_slice(LINE_END);
}

fn write_length(out: &mut Vec<u8>, kind: u8, length: usize) {
    let mut line = [0; DIGITS_MAX];
    let mut at = line.len();
    let mut rest = length;
    loop {
        at -= 1;
        line[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.push(kind);
    out.extend_from_slice(&line[at..]);
    out.extend_from_slice(LINE_END);
}

/// Makes replies of bytes that come in pieces.
#[derive(Debug, Default)]
pub struct Parser {
    /// Lists that are not complete, the outermost first.
    open: Vec<Open>,
    /// A string that has not come whole.
    part: Option<Part>,
    /// Bytes of this reply so far, those of a string counted when it begins.
    bytes: usize,
    /// Replies within this reply so far, counted when their list begins.
    elements: usize,
}

/// A list that is not complete.
#[derive(Debug)]
struct Open {
    kind: Kind,
    missing: usize,
    replies: Vec<Reply>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Array,
    Map,
    Set,
    Push,
    /// Words about the reply that follows. Nobody here asks for them.
    Attribute,
}

/// A string that has not come whole, in room of its size and the end of its line.
#[derive(Debug)]
struct Part {
    kind: u8,
    bytes: BytesMut,
    length: usize,
}

impl Part {
    fn missing(&self) -> usize {
        // Never less: nothing else is put there.
        (self.length + LINE_END.len()).saturating_sub(self.bytes.len())
    }

    fn fill(&mut self, input: &mut &[u8]) {
        let (now, later) = input.split_at(self.missing().min(input.len()));
        self.bytes.extend_from_slice(now);
        *input = later;
    }

    fn into_reply(mut self) -> Result<Reply, Malformed> {
        if self.bytes.get(self.length..) != Some(LINE_END) {
            return Err(Malformed);
        }
        self.bytes.truncate(self.length);
        string(self.kind, self.bytes.freeze())
    }
}

/// What a line began.
enum Begun {
    /// A reply that is complete.
    Reply(Reply),
    /// A list that is not.
    List,
    /// A string that is not.
    String,
}

impl Parser {
    /// The next reply, as soon as it is complete; `input` is left with what was not used. Where it is
    /// not complete, what is left of `input` is less than a line: it has to be given again, with more.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<Reply>, Malformed> {
        loop {
            let mut reply = if let Some(mut part) = self.part.take() {
                part.fill(input);
                if part.missing() > 0 {
                    self.part = Some(part);
                    return Ok(None);
                }
                part.into_reply()?
            } else {
                match self.begin(input)? {
                    None => return Ok(None),
                    Some(Begun::List | Begun::String) => continue,
                    Some(Begun::Reply(reply)) => reply,
                }
            };
            // It may be the last of its list, and that the last of the one around it.
            loop {
                let Some(open) = self.open.last_mut() else {
                    (self.bytes, self.elements) = (0, 0);
                    return Ok(Some(reply));
                };
                open.replies.push(reply);
                open.missing = open.missing.saturating_sub(1);
                if open.missing > 0 {
                    break;
                }
                match self.close() {
                    Some(list) => reply = list,
                    None => break,
                }
            }
        }
    }

    /// Where the rest of a long string is to be read to, straight from the connection; then
    /// [`read`](Self::read) goes on, with nothing where nothing else has come.
    pub fn room(&mut self) -> Option<Limit<&mut BytesMut>> {
        let part = self.part.as_mut()?;
        let missing = part.missing();
        (missing >= STRAIGHT_BYTES_MIN).then(|| (&mut part.bytes).limit(missing))
    }

    /// Ends the innermost list; `None` where that is no reply but a word about one.
    fn close(&mut self) -> Option<Reply> {
        let Open { kind, replies, .. } = self.open.pop()?;
        match kind {
            Kind::Array => Some(Reply::Array(replies)),
            Kind::Map => Some(Reply::Map(replies)),
            Kind::Set => Some(Reply::Set(replies)),
            Kind::Push => Some(Reply::Push(replies)),
            Kind::Attribute => None,
        }
    }

    /// Reads one line, and the string that follows it where that has come whole.
    fn begin(&mut self, input: &mut &[u8]) -> Result<Option<Begun>, Malformed> {
        let Some((kind, line, rest)) = line(input)? else {
            return Ok(None);
        };
        self.count(1 + line.len() + LINE_END.len())?;
        *input = rest;
        let reply = match kind {
            b'$' | b'!' | b'=' => {
                let Some(length) = length(line, kind == b'$')? else {
                    return Ok(Some(Begun::Reply(Reply::Nil)));
                };
                // A length beyond what a reply may have is refused before any of it comes.
                self.count(length.saturating_add(LINE_END.len()))?;
                let whole = rest.get(..length + LINE_END.len());
                let Some(whole) = whole else {
                    self.part = Some(Part {
                        kind,
                        bytes: BytesMut::with_capacity(length + LINE_END.len()),
                        length,
                    });
                    return Ok(Some(Begun::String));
                };
                let (bytes, end) = whole.split_at(length);
                if end != LINE_END {
                    return Err(Malformed);
                }
                *input = &rest[length + LINE_END.len()..];
                string(kind, Bytes::copy_from_slice(bytes))?
            }
            b':' => Reply::Int(number(line)?),
            b'+' => Reply::Simple(Bytes::copy_from_slice(line)),
            b'-' => Reply::Error(Bytes::copy_from_slice(line)),
            b'*' => match length(line, true)? {
                None => Reply::Nil,
                Some(count) => return self.list(Kind::Array, count).map(Some),
            },
            b'%' => return self.list(Kind::Map, pairs(line)?).map(Some),
            b'~' => return self.list(Kind::Set, count(line)?).map(Some),
            b'>' => return self.list(Kind::Push, count(line)?).map(Some),
            b'|' => return self.list(Kind::Attribute, pairs(line)?).map(Some),
            b'_' if line.is_empty() => Reply::Nil,
            b'#' if line == b"t" => Reply::Boolean(true),
            b'#' if line == b"f" => Reply::Boolean(false),
            b',' => Reply::Double(double(line)?),
            b'(' if is_integer(line) => Reply::BigNumber(Bytes::copy_from_slice(line)),
            _ => return Err(Malformed),
        };
        Ok(Some(Begun::Reply(reply)))
    }

    fn list(&mut self, kind: Kind, count: usize) -> Result<Begun, Malformed> {
        self.elements = self.elements.saturating_add(count);
        let within = matches!(kind, Kind::Push) && !self.open.is_empty();
        if self.elements > ELEMENTS_MAX || self.open.len() >= DEPTH_MAX || within {
            return Err(Malformed);
        }
        self.open.push(Open {
            kind,
            missing: count,
            replies: Vec::with_capacity(count.min(ELEMENTS_AT_ONCE)),
        });
        if count > 0 {
            return Ok(Begun::List);
        }
        Ok(self.close().map_or(Begun::List, Begun::Reply))
    }

    fn count(&mut self, bytes: usize) -> Result<(), Malformed> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > REPLY_BYTES_MAX {
            return Err(Malformed);
        }
        Ok(())
    }
}

/// The first byte of a line, the rest of it, and what follows.
type Line<'a> = (u8, &'a [u8], &'a [u8]);

/// The line that `input` begins with; `None` where its end has not come.
fn line(input: &[u8]) -> Result<Option<Line<'_>>, Malformed> {
    let Some((kind, after)) = input.split_first() else {
        return Ok(None);
    };
    let awaited = || match b"$!=:+-*%~>|_#,(".contains(kind) {
        true => Ok(None),
        false => Err(Malformed),
    };
    let ends = |byte: &u8| matches!(byte, b'\r' | b'\n');
    let mut seen = after.iter().take(LINE_BYTES_MAX + 1);
    let Some(end) = seen.position(ends) else {
        if after.len() > LINE_BYTES_MAX {
            return Err(Malformed);
        }
        return awaited();
    };
    match &after[end..] {
        [b'\r'] => awaited(),
        [b'\r', b'\n', rest @ ..] => Ok(Some((*kind, &after[..end], rest))),
        _ => Err(Malformed),
    }
}

fn string(kind: u8, bytes: Bytes) -> Result<Reply, Malformed> {
    match kind {
        b'$' => Ok(Reply::Bulk(bytes)),
        b'!' => Ok(Reply::Error(bytes)),
        _ if bytes.get(3) == Some(&b':') => Ok(Reply::Verbatim(bytes)),
        _ => Err(Malformed),
    }
}

/// A length; `None` for the `-1` by which RESP2 says that there is nothing.
fn length(line: &[u8], or_nothing: bool) -> Result<Option<usize>, Malformed> {
    if or_nothing && line == b"-1" {
        return Ok(None);
    }
    count(line).map(Some)
}

fn pairs(line: &[u8]) -> Result<usize, Malformed> {
    count(line)?.checked_mul(2).ok_or(Malformed)
}

fn count(line: &[u8]) -> Result<usize, Malformed> {
    // No length that is let in has more digits.
    if line.is_empty() || line.len() > DIGITS_MAX / 2 {
        return Err(Malformed);
    }
    line.iter().try_fold(0, |sum: usize, digit| {
        let digit = digit.wrapping_sub(b'0');
        (digit <= 9)
            .then(|| sum * 10 + usize::from(digit))
            .ok_or(Malformed)
    })
}

fn number(line: &[u8]) -> Result<i64, Malformed> {
    if !is_integer(line) {
        return Err(Malformed);
    }
    let text = std::str::from_utf8(line).map_err(|_| Malformed)?;
    text.parse().map_err(|_| Malformed)
}

fn is_integer(line: &[u8]) -> bool {
    let digits = match line {
        [b'-' | b'+', digits @ ..] => digits,
        digits => digits,
    };
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

fn double(line: &[u8]) -> Result<f64, Malformed> {
    let text = std::str::from_utf8(line).map_err(|_| Malformed)?;
    text.parse().map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bulk(bytes: &[u8]) -> Reply {
        Reply::Bulk(Bytes::copy_from_slice(bytes))
    }

    /// All replies in `stream`, which comes in pieces of these lengths and then the rest.
    fn read(stream: &[u8], lengths: &[usize]) -> Result<Vec<Reply>, Malformed> {
        let (mut parser, mut replies, mut rest) = (Parser::default(), Vec::new(), Vec::new());
        let mut later = stream;
        for length in lengths.iter().copied().chain([stream.len()]) {
            let (mut now, after) = later.split_at(length.min(later.len()));
            later = after;
            if rest.is_empty()
                && let Some(mut room) = parser.room()
            {
                let (straight, behind) = now.split_at(now.len().min(room.remaining_mut()));
                room.put_slice(straight);
                now = behind;
            }
            rest.extend_from_slice(now);
            let mut input = rest.as_slice();
            while let Some(reply) = parser.read(&mut input)? {
                replies.push(reply);
            }
            rest = input.to_vec();
        }
        Ok(replies)
    }

    #[test]
    fn every_kind_of_reply_is_read() {
        let word = |word: &'static str| Bytes::from_static(word.as_bytes());
        for (stream, reply) in [
            ("+OK\r\n", Reply::Simple(word("OK"))),
            ("+\r\n", Reply::Simple(word(""))),
            ("-ERR a b\r\n", Reply::Error(word("ERR a b"))),
            (":-12\r\n", Reply::Int(-12)),
            (":9223372036854775807\r\n", Reply::Int(i64::MAX)),
            ("$3\r\na\r\n\r\n", bulk(b"a\r\n")),
            ("$0\r\n\r\n", bulk(b"")),
            ("$-1\r\n", Reply::Nil),
            ("*-1\r\n", Reply::Nil),
            ("_\r\n", Reply::Nil),
            ("*0\r\n", Reply::Array(vec![])),
            (
                "*2\r\n*1\r\n:1\r\n*1\r\n$-1\r\n",
                Reply::Array(vec![
                    Reply::Array(vec![Reply::Int(1)]),
                    Reply::Array(vec![Reply::Nil]),
                ]),
            ),
            (
                "%1\r\n+a\r\n~1\r\n#t\r\n",
                Reply::Map(vec![
                    Reply::Simple(word("a")),
                    Reply::Set(vec![Reply::Boolean(true)]),
                ]),
            ),
            (",1.5\r\n", Reply::Double(1.5)),
            (",inf\r\n", Reply::Double(f64::INFINITY)),
            (
                "(-123456789012345678901\r\n",
                Reply::BigNumber(word("-123456789012345678901")),
            ),
            ("=5\r\ntxt:a\r\n", Reply::Verbatim(word("txt:a"))),
            ("!5\r\nERR a\r\n", Reply::Error(word("ERR a"))),
            (">1\r\n+a\r\n", Reply::Push(vec![Reply::Simple(word("a"))])),
            // Words about a reply are left out, wherever they stand.
            ("|1\r\n+a\r\n*0\r\n:7\r\n", Reply::Int(7)),
            (
                "*2\r\n|1\r\n+a\r\n+b\r\n:1\r\n|0\r\n:2\r\n",
                Reply::Array(vec![Reply::Int(1), Reply::Int(2)]),
            ),
        ] {
            let twice = [stream, stream].concat();
            let both = vec![reply.clone(), reply];
            assert_eq!(read(twice.as_bytes(), &[]), Ok(both.clone()), "{stream:?}");
            let bytewise = vec![1; twice.len()];
            assert_eq!(read(twice.as_bytes(), &bytewise), Ok(both), "{stream:?}");
        }
    }

    #[test]
    fn what_redis_does_not_send_is_malformed() {
        let deep = "*1\r\n".repeat(DEPTH_MAX + 1);
        let long = format!("+{}", "x".repeat(LINE_BYTES_MAX + 1));
        let many = format!("*{}\r\n", ELEMENTS_MAX + 1);
        let large = format!("${}\r\n", REPLY_BYTES_MAX);
        let in_sum = format!("*2\r\n*{}\r\n:1\r\n", ELEMENTS_MAX - 1);
        for stream in [
            "HTTP/1.1 400 Bad Request\r\n",
            "H",
            "\r\n",
            "+a\nb\r\n",
            "+a\rb\r\n",
            ":\r\n",
            ":1a\r\n",
            ":9223372036854775808\r\n",
            "$\r\n",
            "$-2\r\n",
            "$+1\r\na\r\n",
            "$1\r\nab\r\n",
            "$?\r\n",
            "*-2\r\n",
            "%-1\r\n",
            "!-1\r\n",
            "_a\r\n",
            "#x\r\n",
            ",x\r\n",
            "(1x\r\n",
            "=3\r\ntxt\r\n",
            "*1\r\n>1\r\n+a\r\n",
            "$99999999999999999999\r\n",
            "*99999999999999999999\r\n",
            &deep,
            &long,
            &many,
            &large,
            &in_sum,
        ] {
            assert_eq!(read(stream.as_bytes(), &[]), Err(Malformed), "{stream:?}");
        }
    }

    #[test]
    fn a_long_string_has_room_of_its_size_and_a_list_of_them_a_bound() {
        let value = vec![b'x'; 4 * STRAIGHT_BYTES_MIN];
        let head = format!("${}\r\n", value.len());
        let stream = [head.as_bytes(), &value, b"\r\n+OK\r\n"].concat();
        let mut parser = Parser::default();
        assert!(parser.room().is_none());
        let mut input = &stream[..100];
        assert_eq!(parser.read(&mut input), Ok(None));
        assert!(input.is_empty());
        let mut room = parser.room().unwrap();
        let missing = room.remaining_mut();
        assert_eq!(missing, head.len() + value.len() + LINE_END.len() - 100);
        room.put_slice(&stream[100..100 + missing]);
        let mut input = &stream[100 + missing..];
        assert_eq!(parser.read(&mut input), Ok(Some(bulk(&value))));
        assert!(parser.read(&mut input).unwrap().is_some());

        let value = vec![b'x'; REPLY_BYTES_MAX / 4];
        let one = [format!("${}\r\n", value.len()).as_bytes(), &value, b"\r\n"].concat();
        let four = [b"*4\r\n".as_slice(), &one, &one, &one, &one].concat();
        assert_eq!(read(&four, &[]), Err(Malformed));
        let three = [b"*3\r\n".as_slice(), &one, &one, &one].concat();
        assert_eq!(read(&three, &[]).map(|replies| replies.len()), Ok(1));
    }

    #[test]
    fn values_are_what_the_house_knows_and_strings_are_not_copied() {
        let bytes = Bytes::from(vec![1; 1_024]);
        let at = bytes.as_ptr();
        let Value::BulkString(value) = Reply::Bulk(bytes).into_value() else {
            panic!("a string");
        };
        assert_eq!(value.as_ptr(), at);
        let error = Reply::Error(Bytes::from_static(b"MOVED 1 a:1\r\n+OK")).into_value();
        let Value::ServerError(error) = error else {
            panic!("an error");
        };
        assert_eq!(
            (error.code(), error.details()),
            ("MOVED", Some("1 a:1  +OK"))
        );
        let words = Reply::Array(vec![
            Reply::Simple("OK".into()),
            Reply::Simple("a".into()),
            Reply::Map(vec![Reply::Int(1), Reply::Nil]),
            Reply::Verbatim("txt:b".into()),
        ]);
        let values = Value::Array(vec![
            Value::Okay,
            Value::SimpleString("a".to_owned()),
            Value::Map(vec![(Value::Int(1), Value::Nil)]),
            Value::VerbatimString {
                format: VerbatimFormat::Text,
                text: "b".to_owned(),
            },
        ]);
        assert_eq!(words.into_value(), values);
    }

    /// As Redis would send it.
    fn write(reply: &Reply, out: &mut Vec<u8>) {
        let list = |out: &mut Vec<u8>, kind, count, replies: &[Reply]| {
            write_length(out, kind, count);
            replies.iter().for_each(|reply| write(reply, out));
        };
        match reply {
            Reply::Nil => out.extend_from_slice(b"$-1\r\n"),
            Reply::Int(number) => out.extend_from_slice(format!(":{number}\r\n").as_bytes()),
            Reply::Bulk(bytes) => write_part(out, bytes),
            Reply::Simple(line) => out.extend_from_slice(&[b"+", &line[..], b"\r\n"].concat()),
            Reply::Error(line) => out.extend_from_slice(&[b"-", &line[..], b"\r\n"].concat()),
            Reply::Array(replies) => list(out, b'*', replies.len(), replies),
            Reply::Map(replies) => list(out, b'%', replies.len() / 2, replies),
            _ => unreachable!("not made here"),
        }
    }

    fn any_reply() -> impl Strategy<Value = Reply> {
        let line = || "[ -~]{0,20}".prop_map(Bytes::from);
        let leaf = prop_oneof![
            Just(Reply::Nil),
            any::<i64>().prop_map(Reply::Int),
            proptest::collection::vec(any::<u8>(), 0..50).prop_map(|b| Reply::Bulk(b.into())),
            (STRAIGHT_BYTES_MIN..3 * STRAIGHT_BYTES_MIN)
                .prop_map(|length| Reply::Bulk(vec![b'\r'; length].into())),
            line().prop_map(Reply::Simple),
            line().prop_map(Reply::Error),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Reply::Array),
                proptest::collection::vec((inner.clone(), inner), 0..3).prop_map(|pairs| {
                    Reply::Map(pairs.into_iter().flat_map(|(a, b)| [a, b]).collect())
                }),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn replies_are_read_as_they_were_written_however_they_are_cut(
            replies in proptest::collection::vec(any_reply(), 1..5),
            lengths in proptest::collection::vec(1..40_000_usize, 0..12),
            short in proptest::collection::vec(1..9_usize, 0..60),
        ) {
            let mut stream = Vec::new();
            replies.iter().for_each(|reply| write(reply, &mut stream));
            prop_assert_eq!(read(&stream, &lengths), Ok(replies.clone()));
            prop_assert_eq!(read(&stream, &short), Ok(replies));
        }

        #[test]
        fn any_bytes_are_read_the_same_however_they_are_cut(
            stream in "[$*:+>|%_~#,(=!0-3ab\r\n-]{0,80}",
            lengths in proptest::collection::vec(1..9_usize, 0..40),
        ) {
            let whole = read(stream.as_bytes(), &[]);
            prop_assert_eq!(read(stream.as_bytes(), &lengths), whole);
        }
    }
}
