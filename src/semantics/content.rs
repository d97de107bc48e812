//! Whether content is of the kind that its path names: the guard against cache deception, where a
//! page of one user is asked for as `/account/x.css` so that it be taken for a file of everybody's.
//!
//! Never makes anything storable: an extension only ever takes away what a route's word has given.

use super::fields::{single, trim};
use http::HeaderMap;
use http::header::CONTENT_TYPE;

/// The longest extension that names a kind here, in bytes.
const EXTENSION_BYTES_MAX: usize = 11;

/// What a static file's extension says of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Style,
    Script,
    Json,
    Xml,
    Text,
    Table,
    Image,
    Media,
    Font,
    /// Archives, programs, documents of office programs: whatever no browser shows as a page.
    File,
}

/// Whether the response's Content-Type fits the static kind that the extension of `path` names, if it
/// names one. `path` may still be percent-encoded. A static path without one readable Content-Type
/// does not fit: the browser would guess, and so would we.
#[must_use]
pub fn fits_path(path: &str, response: &HeaderMap) -> bool {
    let Some(kind) = Kind::of_path(path) else {
        return true;
    };
    let value = single(response, &CONTENT_TYPE).map(|value| value.as_bytes());
    let essence = value.and_then(|value| value.split(|byte| *byte == b';').next());
    essence
        .and_then(|essence| std::str::from_utf8(trim(essence)).ok())
        .is_some_and(|essence| kind.fits(&essence.to_ascii_lowercase()))
}

/// Whether a field says that compressing the content again would gain nothing: a coding, or a kind
/// that is compressed in itself. `name` in lower case.
#[must_use]
pub fn says_compressed(name: &[u8], value: &[u8]) -> bool {
    let begins = |with: &str| {
        let beginning = value.get(..with.len());
        beginning.is_some_and(|beginning| beginning.eq_ignore_ascii_case(with.as_bytes()))
    };
    match name {
        b"content-encoding" => !value.is_empty() && !value.eq_ignore_ascii_case(b"identity"),
        b"content-type" => {
            ["image/", "video/", "audio/"]
                .iter()
                .any(|kind| begins(kind))
                && !begins("image/svg+xml")
        }
        _ => false,
    }
}

impl Kind {
    fn of_path(path: &str) -> Option<Self> {
        let name = path.rsplit('/').next()?;
        // As the app reads it: `%63ss` is css, and `%2Ecss` ends a name like a dot does.
        let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy();
        let (_, extension) = name.rsplit_once('.')?;
        if extension.len() > EXTENSION_BYTES_MAX {
            return None;
        }
        Self::of_extension(&extension.to_ascii_lowercase())
    }

    fn of_extension(extension: &str) -> Option<Self> {
        Some(match extension {
            "css" => Self::Style,
            "js" | "mjs" | "cjs" => Self::Script,
            "json" | "map" | "webmanifest" => Self::Json,
            "xml" | "rss" | "atom" => Self::Xml,
            "txt" => Self::Text,
            "csv" | "tsv" => Self::Table,
            "png" | "apng" | "jpg" | "jpeg" | "gif" | "webp" | "avif" | "heic" | "heif" | "jxl"
            | "bmp" | "ico" | "cur" | "tif" | "tiff" | "svg" | "svgz" => Self::Image,
            "mp4" | "m4v" | "m4a" | "webm" | "weba" | "ogg" | "ogv" | "oga" | "mov" | "avi"
            | "mkv" | "mp3" | "wav" | "flac" | "aac" | "opus" | "mid" | "midi" => Self::Media,
            "woff" | "woff2" | "ttf" | "otf" | "eot" => Self::Font,
            "pdf" | "ps" | "eps" | "wasm" | "zip" | "gz" | "tgz" | "bz2" | "xz" | "zst" | "7z"
            | "rar" | "tar" | "jar" | "class" | "exe" | "msi" | "dmg" | "iso" | "bin" | "apk"
            | "swf" | "doc" | "docx" | "xls" | "xlsx" | "ppt" | "pptx" => Self::File,
            _ => return None,
        })
    }

    /// Whether content of this kind may be called `essence` (in lower case, without parameters).
    fn fits(self, essence: &str) -> bool {
        let (class, name) = essence.split_once('/').unwrap_or((essence, ""));
        // Servers that do not know an extension say so; browsers show such content as no page.
        let unknown = essence == "application/octet-stream";
        let is_xml = name == "xml" || name.ends_with("+xml");
        match self {
            Self::Style => essence == "text/css",
            // RFC 9239 §6, with the names it replaces.
            Self::Script => {
                matches!(class, "text" | "application")
                    && matches!(
                        name,
                        "javascript" | "ecmascript" | "x-javascript" | "x-ecmascript"
                    )
            }
            Self::Json => name == "json" || name.ends_with("+json"),
            Self::Xml => is_xml && name != "xhtml+xml",
            Self::Text => essence == "text/plain",
            Self::Table => {
                matches!(
                    name,
                    "csv" | "tab-separated-values" | "plain" | "vnd.ms-excel"
                ) || unknown
            }
            Self::Image => class == "image" || essence == "video/webm" || unknown,
            Self::Media => {
                matches!(class, "audio" | "video")
                    || matches!(essence, "application/ogg" | "application/mp4")
                    || unknown
            }
            Self::Font => {
                class == "font"
                    || (class == "application"
                        && (name.contains("font") || name.starts_with("x-woff")))
                    || unknown
            }
            Self::File => {
                class == "application"
                    && !is_xml
                    && !matches!(name, "json" | "javascript" | "x-www-form-urlencoded")
                    && !name.ends_with("+json")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::testing::{any_value, headers};
    use proptest::prelude::*;

    fn fits(path: &str, content_type: &str) -> bool {
        fits_path(path, &headers(&format!("content-type: {content_type}")))
    }

    #[test]
    fn a_page_that_is_called_a_static_file_does_not_fit() {
        for path in [
            "/account/x.css",
            "/account/X.CSS",
            "/account/x.%63ss",
            "/account/x%2ecss",
            "/account.js",
            "/account/a.png",
            "/a.svg",
            "/a.woff2",
            "/a.mp4",
            "/a.pdf",
            "/a.txt",
            "/a.csv",
            "/.ico",
            "/a.b.zip",
        ] {
            for kind in [
                "text/html",
                "Text/HTML; charset=utf-8",
                "application/xhtml+xml",
                "application/json",
                "application/problem+json",
                "",
                "nonsense",
            ] {
                assert!(!fits(path, kind), "{path} {kind}");
            }
            assert!(!fits_path(path, &HeaderMap::new()), "{path} without");
            let two = headers("content-type: text/css\ncontent-type: text/html");
            assert!(!fits_path(path, &two), "{path} with two");
        }
    }

    #[test]
    fn a_static_file_fits_by_every_name_its_kind_goes_by() {
        for (path, kinds) in [
            ("/a.css", &["text/css", "TEXT/CSS ; charset=utf-8"][..]),
            (
                "/a.js",
                &[
                    "text/javascript",
                    "application/javascript",
                    "application/x-javascript",
                ],
            ),
            ("/a.mjs", &["text/javascript;charset=utf-8"]),
            ("/a.json", &["application/json", "application/ld+json"]),
            ("/a.webmanifest", &["application/manifest+json"]),
            ("/feed.xml", &["application/rss+xml", "text/xml"]),
            ("/robots.txt", &["text/plain"]),
            ("/a.png", &["image/png", "image/webp"]),
            ("/a.svg", &["image/svg+xml"]),
            (
                "/favicon.ico",
                &["image/x-icon", "image/vnd.microsoft.icon"],
            ),
            (
                "/a.woff2",
                &[
                    "font/woff2",
                    "application/font-woff2",
                    "application/octet-stream",
                ],
            ),
            ("/a.eot", &["application/vnd.ms-fontobject"]),
            ("/a.mp4", &["video/mp4", "application/mp4"]),
            ("/a.wasm", &["application/wasm"]),
            ("/a.zip", &["application/zip", "application/octet-stream"]),
        ] {
            for kind in kinds {
                assert!(fits(path, kind), "{path} {kind}");
            }
        }
    }

    #[test]
    fn a_path_that_names_no_static_kind_fits_anything() {
        for path in [
            "/",
            "/account",
            "/css",
            "/a.css/",
            "/a.css/b",
            "/users/jane.doe",
            "/v1.2",
            "/index.html",
            "/a.",
            "",
        ] {
            assert!(fits(path, "text/html"), "{path}");
            assert!(fits_path(path, &HeaderMap::new()), "{path}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(path in "\\PC{0,40}", value in any_value()) {
            let response = HeaderMap::from_iter([(CONTENT_TYPE, value)]);
            let _ = fits_path(&path, &response);
        }
    }
}
