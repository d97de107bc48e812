//! Text with placeholders: `car:{id}`, `user:{user}`, `{query.x}`, `{header.x}`, `{token}`,
//! `{request.field}`, `{response.field}`.

use std::borrow::Cow;

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
        let _ = (
            text,
            Piece::Text(String::new()),
            Piece::Value(Placeholder::User),
        );
        unimplemented!()
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
