//! Text with placeholders: `car:{id}`, `user:{user}`, `{query.x}`, `{header.x}`, `{token}`,
//! `{request.field}`, `{response.field}`.

use std::borrow::Cow;

/// The longest template, in bytes.
pub const TEMPLATE_BYTES_MAX: usize = 1024;

/// A compiled tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Value(Placeholder),
}

/// What a `{…}` stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placeholder {
    /// A segment of the route's path.
    Path(String),
    /// A query parameter.
    Query(String),
    /// A request field, lower case.
    Header(String),
    /// The verified user's id.
    User,
    /// A digest of the credential.
    Token,
    /// A field of the request's JSON body, by its path.
    Request(Vec<String>),
    /// A field of the response's JSON body, by its path.
    Response(Vec<String>),
}

impl Template {
    /// Compiles a template; the error says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > TEMPLATE_BYTES_MAX {
            return Err(format!("a tag has at most {TEMPLATE_BYTES_MAX} bytes"));
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(brace) = rest.find(['{', '}']) {
            if rest.as_bytes()[brace] == b'}' {
                return Err(format!("`{text}`: a `}}` without its `{{`"));
            }
            if brace > 0 {
                pieces.push(Piece::Text(rest[..brace].to_owned()));
            }
            let inside = &rest[brace + 1..];
            let end = inside
                .find(['{', '}'])
                .filter(|end| inside.as_bytes()[*end] == b'}')
                .ok_or_else(|| format!("`{text}`: a `{{` without its `}}`"))?;
            pieces.push(Piece::Value(placeholder(&inside[..end])?));
            rest = &inside[end + 1..];
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        if pieces.is_empty() {
            return Err("a tag is not empty".into());
        }
        Ok(Self { pieces })
    }

    /// Its placeholders.
    pub fn placeholders(&self) -> impl Iterator<Item = &Placeholder> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Value(placeholder) => Some(placeholder),
            Piece::Text(_) => None,
        })
    }

    /// The text with every placeholder filled in; `None` when one has no value (then the whole is
    /// left out, never guessed).
    #[must_use]
    pub fn render<'v>(
        &self,
        value: impl FnMut(&Placeholder) -> Option<Cow<'v, str>>,
    ) -> Option<String> {
        let mut value = value;
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(piece) => text.push_str(piece),
                Piece::Value(placeholder) => text.push_str(&value(placeholder)?),
            }
        }
        Some(text)
    }
}

fn placeholder(name: &str) -> Result<Placeholder, String> {
    let fields = |path: &str| -> Option<Vec<String>> {
        let fields: Vec<String> = path.split('.').map(str::to_owned).collect();
        fields
            .iter()
            .all(|field| !field.is_empty())
            .then_some(fields)
    };
    let found = match name.split_once('.') {
        None => match name {
            "user" => Some(Placeholder::User),
            "token" => Some(Placeholder::Token),
            _ => is_name(name).then(|| Placeholder::Path(name.to_owned())),
        },
        Some(("query", name)) => (!name.is_empty()).then(|| Placeholder::Query(name.to_owned())),
        Some(("header", name)) => http::HeaderName::from_bytes(name.as_bytes())
            .ok()
            .map(|name| Placeholder::Header(name.as_str().to_owned())),
        Some(("request", path)) => fields(path).map(Placeholder::Request),
        Some(("response", path)) => fields(path).map(Placeholder::Response),
        Some(_) => None,
    };
    found.ok_or_else(|| {
        format!(
            "`{{{name}}}` stands for nothing: write a name of the path, `{{query.x}}`, `{{header.x}}`, \
             `{{user}}`, `{{token}}`, `{{request.x}}` or `{{response.x}}`"
        )
    })
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_placeholder_is_known_by_its_name() {
        let template =
            Template::parse("a:{id}{query.x}-{header.X-Y}{user}{token}{request.a.b}{response.c}z")
                .unwrap();
        let found: Vec<_> = template.placeholders().cloned().collect();
        assert_eq!(
            found,
            [
                Placeholder::Path("id".into()),
                Placeholder::Query("x".into()),
                Placeholder::Header("x-y".into()),
                Placeholder::User,
                Placeholder::Token,
                Placeholder::Request(vec!["a".into(), "b".into()]),
                Placeholder::Response(vec!["c".into()]),
            ]
        );
    }

    #[test]
    fn a_template_with_a_missing_value_is_left_out() {
        let template = Template::parse("car:{id}").unwrap();
        assert_eq!(
            template.render(|_| Some("42".into())).as_deref(),
            Some("car:42")
        );
        assert_eq!(template.render(|_| None), None);
        assert_eq!(
            Template::parse("fleet")
                .unwrap()
                .render(|_| None)
                .as_deref(),
            Some("fleet")
        );
    }

    #[test]
    fn mistakes_are_explained() {
        for (text, says) in [
            ("", "not empty"),
            ("a}", "without its `{`"),
            ("a{b", "without its `}`"),
            ("a{b{c}}", "without its `}`"),
            ("{}", "stands for nothing"),
            ("{cookie.x}", "stands for nothing"),
            ("{request.}", "stands for nothing"),
            ("{header.a b}", "stands for nothing"),
        ] {
            let error = Template::parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn text_without_braces_is_itself(text in "[^{}]{1,40}") {
            prop_assert_eq!(Template::parse(&text).unwrap().render(|_| None), Some(text));
        }

        #[test]
        fn nothing_makes_it_panic(text in "[a-z{}. é]{0,40}") {
            let _ = Template::parse(&text);
        }
    }
}
