//! The chunked coding, read strictly (RFC 9112 §7.1). Knows no sockets: it is shown what has come and
//! takes what it can use.

use super::plain::piece;
use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

/// What one body may have beside sizes, data and trailers: extensions, zeros and spaces, in bytes.
const OVERHEAD_BYTES_MAX: usize = 16 * 1024;
/// The trailer section, in bytes.
const TRAILERS_BYTES_MAX: usize = 16 * 1024;
/// Trailer fields.
const TRAILERS_MAX: usize = 100;

/// How far a chunked body has come.
#[derive(Debug)]
pub(super) struct Chunks {
    at: At,
    overhead: usize,
    trailers: HeaderMap,
    trailers_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Size,
    /// In a chunk's data, so many bytes before its end.
    Data(u64),
    /// Behind a chunk's data.
    DataEnd,
    Trailers,
    End,
}

/// What comes next.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    Data(Bytes),
    Trailers(HeaderMap),
    /// The body is whole. What is left of the bytes is not its own.
    End,
    /// More has to be read first.
    More,
}

/// Why it is no chunked body; a word for people.
pub(super) type Malformed = &'static str;

impl Chunks {
    pub fn new() -> Self {
        Self {
            at: At::Size,
            overhead: 0,
            trailers: HeaderMap::new(),
            trailers_bytes: 0,
        }
    }

    /// Takes the next piece off the front of `bytes`.
    pub fn next(&mut self, bytes: &mut BytesMut) -> Result<Step, Malformed> {
        loop {
            match self.at {
                At::Size => {
                    let Some(line) = line(bytes, OVERHEAD_BYTES_MAX)? else {
                        return Ok(Step::More);
                    };
                    let (size, digits) = size(&line)?;
                    self.overhead += line.len() - digits;
                    if self.overhead > OVERHEAD_BYTES_MAX {
                        return Err("chunk-extensions");
                    }
                    self.at = match size {
                        0 => At::Trailers,
                        size => At::Data(size),
                    };
                }
                At::Data(left) => {
                    if bytes.is_empty() {
                        return Ok(Step::More);
                    }
                    let taken = left.min(bytes.len() as u64);
                    self.at = match left - taken {
                        0 => At::DataEnd,
                        left => At::Data(left),
                    };
                    return Ok(Step::Data(piece(bytes, taken as usize)));
                }
                At::DataEnd => match **bytes {
                    [b'\r', b'\n', ..] => {
                        bytes.advance(2);
                        self.at = At::Size;
                    }
                    [] | [b'\r'] => return Ok(Step::More),
                    _ => return Err("chunk-end"),
                },
                At::Trailers => {
                    let left = TRAILERS_BYTES_MAX - self.trailers_bytes;
                    let Some(line) = line(bytes, left)? else {
                        return Ok(Step::More);
                    };
                    if !line.is_empty() {
                        self.trailers_bytes += line.len();
                        self.trailer(line)?;
                        continue;
                    }
                    self.at = At::End;
                    if !self.trailers.is_empty() {
                        return Ok(Step::Trailers(std::mem::take(&mut self.trailers)));
                    }
                }
                At::End => return Ok(Step::End),
            }
        }
    }

    fn trailer(&mut self, line: Bytes) -> Result<(), Malformed> {
        let colon = line.iter().position(|byte| *byte == b':');
        let colon = colon.ok_or("trailer")?;
        let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| "trailer")?;
        let value = line.slice(colon + 1..);
        let value = value.slice_ref(value.trim_ascii());
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| "trailer")?;
        self.trailers.append(name, value);
        match self.trailers.len() > TRAILERS_MAX {
            true => Err("trailers"),
            false => Ok(()),
        }
    }
}

/// The next line without its end, if it is here whole. A bare line feed ends none.
fn line(bytes: &mut BytesMut, bytes_max: usize) -> Result<Option<Bytes>, Malformed> {
    let Some(end) = memchr::memchr(b'\n', bytes) else {
        return match bytes.len() > bytes_max {
            true => Err("line-length"),
            false => Ok(None),
        };
    };
    if end > bytes_max {
        return Err("line-length");
    }
    let mut line = bytes.split_to(end + 1).freeze();
    if !line.ends_with(b"\r\n") {
        return Err("bare-lf");
    }
    line.truncate(end - 1);
    Ok(Some(line))
}

/// A chunk's size, and with how many digits it is said, zeros in front left out. Spaces behind it say
/// nothing; some apps write them.
fn size(line: &[u8]) -> Result<(u64, usize), Malformed> {
    let end = line.iter().position(|byte| !byte.is_ascii_hexdigit());
    let (digits, rest) = line.split_at(end.unwrap_or(line.len()));
    if digits.is_empty() {
        return Err("chunk-size");
    }
    let zeros = digits.iter().take_while(|byte| **byte == b'0').count();
    let digits = &digits[zeros..];
    let digits_max = size_of::<u64>() * 2;
    let size = std::str::from_utf8(digits).ok();
    let size = match (digits.len(), size) {
        (0, _) => 0,
        (length, Some(size)) if length <= digits_max => {
            u64::from_str_radix(size, 16).map_err(|_| "chunk-size")?
        }
        _ => return Err("chunk-size"),
    };
    let extensions = rest.trim_ascii_start();
    let is_text = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
    if !(extensions.is_empty() || extensions[0] == b';') || !rest.iter().all(is_text) {
        return Err("chunk-extension");
    }
    Ok((size, digits.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is made of `pieces`: the data, the trailers, and what is left behind the end. `Ok(None)`:
    /// it has not come to its end.
    type Read = Result<Option<(Vec<u8>, HeaderMap, Vec<u8>)>, Malformed>;

    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Read {
        let (mut chunks, mut bytes) = (Chunks::new(), BytesMut::new());
        let (mut data, mut trailers, mut ended) = (Vec::new(), HeaderMap::new(), false);
        for piece in pieces {
            bytes.extend_from_slice(piece);
            while !ended {
                match chunks.next(&mut bytes)? {
                    Step::Data(piece) => data.extend_from_slice(&piece),
                    Step::Trailers(came) => trailers = came,
                    Step::End => ended = true,
                    Step::More => break,
                }
            }
        }
        Ok(ended.then(|| (data, trailers, bytes.to_vec())))
    }

    fn whole(text: &str) -> Read {
        read([text.as_bytes()])
    }

    #[test]
    fn chunks_become_their_data_and_nothing_behind_the_end_is_touched() {
        let (data, trailers, rest) = whole("3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\nHTTP/1.1 200")
            .unwrap()
            .unwrap();
        assert_eq!(data, b"abc0123456789");
        assert!(trailers.is_empty());
        assert_eq!(rest, b"HTTP/1.1 200");
    }

    #[test]
    fn trailers_are_fields() {
        let read = whole("0\r\nX-Sum: 1 \r\nx-sum:2\r\n\r\n").unwrap().unwrap();
        let sums: Vec<_> = read.1.get_all("x-sum").iter().collect();
        assert_eq!(sums, ["1", "2"]);
    }

    #[test]
    fn what_is_odd_but_clear_is_read() {
        let zeros = "0".repeat(40);
        for size in [
            &format!("{zeros}3"),
            "3 ",
            "3;a=b",
            "3 ; a=\"b;c\"",
            "3\t;x",
        ] {
            let text = format!("{size}\r\nabc\r\n0\r\n\r\n");
            assert_eq!(whole(&text).unwrap().unwrap().0, b"abc", "{size}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_no_body() {
        let long = "x".repeat(OVERHEAD_BYTES_MAX);
        for bad in [
            "\r\nabc",
            "+3\r\nabc\r\n0\r\n\r\n",
            "-3\r\nabc\r\n0\r\n\r\n",
            " 3\r\nabc\r\n0\r\n\r\n",
            "0x3\r\nabc\r\n0\r\n\r\n",
            "3 3\r\nabc\r\n0\r\n\r\n",
            "3,3\r\nabc\r\n0\r\n\r\n",
            "3\nabc\r\n0\r\n\r\n",
            "3\r\nabc\n0\r\n\r\n",
            "3\r\nabcd\r\n0\r\n\r\n",
            "3\r\nabc0\r\n\r\n",
            "3\r\nabc\r\r\n0\r\n\r\n",
            "3;a\rb\r\nabc\r\n0\r\n\r\n",
            "3;a\0\r\nabc\r\n0\r\n\r\n",
            "3\r\nabc\r\n0\n\r\n",
            "3\r\nabc\r\n0\r\n\n",
            "10000000000000000\r\nabc",
            "0\r\nX: 1\n\r\n",
            "0\r\nX : 1\r\n\r\n",
            "0\r\n X: 1\r\n\r\n",
            "0\r\nX: 1\r\n folded\r\n\r\n",
            "0\r\nX: a\0b\r\n\r\n",
            "0\r\nHTTP/1.1 200 OK\r\n\r\n",
            "0\r\n: x\r\n\r\n",
            &format!("3;{long}\r\nabc"),
            &long.replace('x', "0"),
            &format!("0\r\nX: {long}"),
            &format!("0\r\n{}", "X: y\r\n".repeat(TRAILERS_MAX + 1)),
        ] {
            let shown: String = bad.chars().take(60).collect();
            assert!(!matches!(whole(bad), Ok(Some(_))), "{shown:?}");
            // Whatever follows cannot make it one.
            let more = format!("{bad}\r\n\r\n0\r\n\r\n");
            assert!(whole(&more).is_err(), "{shown:?}");
        }
    }

    #[test]
    fn extensions_are_bounded_over_the_whole_body() {
        let chunk = format!("1;{}\r\na\r\n", "x".repeat(1_000));
        assert!(whole(&format!("{}0\r\n\r\n", chunk.repeat(10))).is_ok());
        assert!(whole(&format!("{}0\r\n\r\n", chunk.repeat(20))).is_err());
    }

    proptest! {
        #[test]
        fn cut_anywhere_it_is_the_same_and_never_whole_before_its_end(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..8),
            sum in proptest::option::of("[a-z]{0,9}"),
            behind in proptest::collection::vec(any::<u8>(), 0..20),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
        ) {
            let mut stream = Vec::new();
            for chunk in &chunks {
                stream.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                stream.extend_from_slice(chunk);
                stream.extend_from_slice(b"\r\n");
            }
            stream.extend_from_slice(b"0\r\n");
            if let Some(sum) = &sum {
                stream.extend_from_slice(format!("X-Sum: {sum}\r\n").as_bytes());
            }
            stream.extend_from_slice(b"\r\n");
            for end in 0..stream.len() {
                prop_assert_eq!(read([&stream[..end]]), Ok(None), "whole at {}", end);
            }
            stream.extend_from_slice(&behind);
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]);
            let (data, trailers, rest) = read(pieces).unwrap().unwrap();
            prop_assert_eq!(data, chunks.concat());
            prop_assert_eq!(trailers.len(), usize::from(sum.is_some()));
            prop_assert_eq!(rest, behind);
        }
    }
}
