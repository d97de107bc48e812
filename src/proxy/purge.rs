//! Tags of what is stored, and what an unsafe request purges.

use super::body::Body;
use super::reply::Reply;
use super::warm::Wish;
use super::{Ask, Proxy};
use crate::cache::purge::Scope;
use crate::cache::{Purge, PurgeOutcome};
use crate::purging::request::{is_tag, text_at, user_tag};
use crate::purging::{By, Way};
use crate::route::{Placeholder, Rule, Target, Template};
use crate::semantics::line::hex;
use crate::semantics::search::path_tag;
use crate::semantics::tags::{self, TAG_BYTES_MAX, TAGS_MAX};
use crate::semantics::{Stored, Variation, groups, invalidation};
use crate::upstream::{BodyCopy, RequestBody};
use http::{HeaderMap, Method, Response};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;
use serde_json::Value;
use std::borrow::Cow;

/// How much of a JSON body is read to fill a placeholder, in bytes.
const JSON_BYTES_MAX: usize = 64 * 1024;

/// Tags of one response, whoever names them: of the route, of the app, and of its groups.
const ALL_TAGS_MAX: usize = 2 * TAGS_MAX + groups::GROUPS_MAX;

/// The request body, kept where a purge template asks for one of its fields.
pub(super) fn wanted(rule: &Rule, method: &Method, body: &mut RequestBody) -> Option<BodyCopy> {
    let asks = |placeholder: &Placeholder| matches!(placeholder, Placeholder::Request(_));
    let wanted = !method.is_safe() && rule.purge.iter().flat_map(Template::placeholders).any(asks);
    wanted.then(|| body.keep_copy(JSON_BYTES_MAX))
}

impl Proxy {
    /// After a good answer to an unsafe request: purges the route's tags, those that the app has `named`
    /// in fields, and what RFC 9111 §4.4 says, before the answer leaves. Returns how many purges that were.
    pub(super) async fn purge_after(
        &self,
        ask: &Ask<'_>,
        sent: Option<BodyCopy>,
        named: Vec<String>,
        reply: &mut Reply,
    ) -> usize {
        // What the store answers has changed nothing.
        let Some(answer) = reply.made() else { return 0 };
        let status = answer.status();
        let is_good = status.is_success() || status.is_redirection();
        let mut tags: Vec<String> = if is_good { named } else { Vec::new() };
        if status.is_success() && !ask.found.rule.purge.is_empty() {
            let request = sent
                .and_then(|copy| copy.take())
                .and_then(|body| serde_json::from_slice(&body).ok());
            let response = response_json(ask, answer).await;
            let value = |placeholder: &Placeholder| match placeholder {
                Placeholder::Request(path) => text_at(request.as_ref(), path).map(Cow::Owned),
                Placeholder::Response(path) => text_at(response.as_ref(), path).map(Cow::Owned),
                other => ask.value(other),
            };
            // A tag whose field is missing is left out, never guessed; so is what nothing can be tagged with.
            for template in &ask.found.rule.purge {
                match template.render(value).filter(|tag| is_tag(tag)) {
                    Some(tag) => tags.push(tag),
                    None => (self.0.recorder).purge_asked(Way::Route.word(), "skipped"),
                }
            }
        }
        let note = (!tags.is_empty()).then(|| format!("purged {}", tags.join(", ")));
        let hard = |scope| Purge { scope, soft: false };
        let mut asked: Vec<Purge> = tags.into_iter().map(Scope::Tag).map(hard).collect();
        let visit = ask.visit;
        let authority = visit.authority();
        let urls = invalidation::invalidated(
            &visit.method,
            visit.peer.scheme(),
            &authority,
            visit.path_and_query(),
            status,
            answer.headers(),
        );
        let ended = groups::ended(&visit.method, &authority, answer.headers());
        groups::remove(answer.headers_mut());
        asked.extend(ended.into_iter().map(Scope::Tag).map(hard));
        let resources = urls.iter().flat_map(|url| ask.resource_tags(url));
        let (resources, paths): (Vec<_>, Vec<_>) = resources.unzip();
        for _ in &resources {
            self.0.recorder.purge("tag", false);
        }
        let changed = resources.into_iter().chain(paths);
        let changed: Vec<Purge> = changed.map(Scope::Tag).map(hard).collect();
        let count = asked.len() + changed.len();
        let outcome = match (asked.is_empty(), changed.is_empty()) {
            (true, true) => return 0,
            // That a changed resource is changed, nobody has asked for: it happens with every POST.
            (true, false) => self.0.cache.purge(changed).await,
            (false, _) => {
                let by = By {
                    way: Way::Route,
                    name: Some(ask.found.rule.name.clone()),
                    now: visit.now,
                };
                let (door, recorder) = (&self.0.shared.purging, &self.0.recorder);
                let done = door.carry_out(&self.0.cache, recorder, asked, changed, by);
                done.await.outcome.clone()
            }
        };
        if ask.found.rule.refresh_hot {
            self.0.shared.wishes.leave(Wish::Hot);
        }
        reply.told.note = note.map(|note| match outcome {
            PurgeOutcome::Queued => format!("{note} (queued for the others)"),
            PurgeOutcome::Logged | PurgeOutcome::Local => note,
        });
        count
    }
}

impl Ask<'_> {
    /// What a placeholder stands for, as far as the request tells.
    pub(super) fn value(&self, placeholder: &Placeholder) -> Option<Cow<'_, str>> {
        match placeholder {
            Placeholder::Path(name) => self.found.captures.get(name).map(Cow::Borrowed),
            Placeholder::Query(name) => self.target.query_value(name),
            Placeholder::Header(name) => self
                .visit
                .headers
                .get(name)?
                .to_str()
                .ok()
                .map(Cow::Borrowed),
            Placeholder::User => self.caller.user().map(|user| Cow::Borrowed(&*user.id)),
            Placeholder::Token => self.caller.token().map(|digest| Cow::Owned(hex(&digest))),
            Placeholder::Request(_) | Placeholder::Response(_) => None,
        }
    }

    /// The tags of the resource behind `target`, by the rules that could have stored something of it
    /// (most often one): that of what is stored for it, and that of what is stored for more queries than one.
    fn resource_tags(&self, target: &str) -> Vec<(String, String)> {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        let target = Target::parse(path, query);
        let routes = &self.visit.snapshot.settings.routes;
        let authority = self.visit.authority();
        let path = path_tag(&authority, target.path);
        let mut tags = Vec::new();
        for method in [Method::GET, Method::QUERY, Method::POST] {
            let rule = routes.find(&method, &target).rule;
            let tags_of_it = (rule.resource_tag(&authority, &target), path.clone());
            if rule.policy.is_some() && !tags.contains(&tags_of_it) {
                tags.push(tags_of_it);
            }
        }
        tags
    }
}

/// The answer's JSON, where a template asks for it and it is small; the body is put back.
async fn response_json(ask: &Ask<'_>, answer: &mut Response<Body>) -> Option<Value> {
    let asks = |placeholder: &Placeholder| matches!(placeholder, Placeholder::Response(_));
    if !ask
        .found
        .rule
        .purge
        .iter()
        .flat_map(Template::placeholders)
        .any(asks)
    {
        return None;
    }
    let length = answer.body().size_hint().exact()?;
    if length > JSON_BYTES_MAX as u64 {
        return None;
    }
    let body = std::mem::replace(answer.body_mut(), Body::empty());
    match body.collect().await {
        Ok(whole) => {
            let bytes = whole.to_bytes();
            *answer.body_mut() = Body::full(bytes.clone());
            serde_json::from_slice(&bytes).ok()
        }
        // The client learns of it as it would have without us.
        Err(error) => {
            *answer.body_mut() = Body::broken(error);
            None
        }
    }
}

/// The tags of a response that is on its way in: most are known from the request, some only from its body.
#[derive(Debug)]
pub(super) struct Tags {
    authority: String,
    path: Box<str>,
    known: Vec<String>,
    late: Vec<(Template, Vec<(Placeholder, String)>)>,
    /// Those that the app has named in fields of its answer.
    named: Vec<String>,
    /// Those of the groups that it says it belongs to.
    groups: Vec<String>,
}

impl Tags {
    pub(super) fn new(ask: &Ask<'_>) -> Self {
        let mut tags = Self {
            authority: ask.visit.authority().into_owned(),
            path: ask.target.path.into(),
            known: vec![
                ask.found.rule.own_tag(),
                (ask.found.rule).resource_tag(&ask.visit.authority(), ask.target),
            ],
            late: Vec::new(),
            named: Vec::new(),
            groups: Vec::new(),
        };
        if ask.found.rule.key.has_identity()
            && let Some(user) = ask.caller.user()
        {
            tags.known.push(user_tag(&user.id));
        }
        for template in &ask.found.rule.tags {
            if template
                .placeholders()
                .any(|placeholder| matches!(placeholder, Placeholder::Response(_)))
            {
                let value = |placeholder: &Placeholder| {
                    Some((placeholder.clone(), ask.value(placeholder)?.into_owned()))
                };
                tags.late.push((
                    template.clone(),
                    template.placeholders().filter_map(value).collect(),
                ));
            } else if let Some(tag) = template.render(|placeholder| ask.value(placeholder)) {
                tags.known.push(tag);
            }
        }
        tags
    }

    /// Those that are known before the answer is.
    pub(super) fn known(&self) -> impl Iterator<Item = &str> {
        self.known.iter().map(String::as_str)
    }

    /// The app names these in fields of its answer.
    pub(super) fn are_named(&mut self, tags: Vec<String>) {
        self.named = tags;
    }

    /// The app puts its answer into groups that have these tags.
    pub(super) fn are_of_groups(&mut self, groups: Vec<String>) {
        self.groups = groups;
    }

    /// Takes what names tags and groups out of an answer: it is for the store alone.
    pub(super) fn take_from(&mut self, answer: &mut HeaderMap) {
        self.named = tags::take(answer);
        self.groups = groups::take(&self.authority, answer);
    }

    /// The tags of what the app has confirmed, that had these `before`; `None`: the same. What it names anew
    /// is in place of what it named, and so are groups; `moved`: it is stored in another place now.
    pub(super) fn confirmed(
        &self,
        stored: &Stored,
        before: &[Box<str>],
        moved: bool,
    ) -> Option<Box<[Box<str>]>> {
        match (self.named.is_empty(), self.groups.is_empty()) {
            (true, true) if !moved => None,
            (true, _) => Some(self.with(stored, before.iter())),
            (false, false) => Some(self.of(stored)),
            // Groups are digests, as is what larder itself tags with.
            (false, true) => {
                let digests = before.iter().filter(|tag| tag.starts_with('!'));
                Some(self.with(stored, digests))
            }
        }
    }

    /// The same as [`Tags::of`], and those that the response had `before`.
    pub(super) fn with<'a>(
        &self,
        stored: &Stored,
        before: impl Iterator<Item = &'a Box<str>>,
    ) -> Box<[Box<str>]> {
        let mut tags = self.of(stored).into_vec();
        tags.extend(before.cloned());
        tags.sort_unstable();
        tags.dedup();
        tags.truncate(ALL_TAGS_MAX);
        tags.into()
    }

    /// All tags, now that the body is there: sorted, each once, bounded.
    pub(super) fn of(&self, stored: &Stored) -> Box<[Box<str>]> {
        let body = &stored.body;
        let mut tags = self.known.clone();
        if Variation::of(&stored.headers).is_some() {
            tags.extend(["", &self.authority].map(|authority| path_tag(authority, &self.path)));
        }
        if !self.late.is_empty() && body.len() <= JSON_BYTES_MAX {
            let json: Option<Value> = serde_json::from_slice(body).ok();
            tags.extend(self.late.iter().filter_map(|(template, values)| {
                template.render(|placeholder| match placeholder {
                    Placeholder::Response(path) => text_at(json.as_ref(), path).map(Cow::Owned),
                    other => values
                        .iter()
                        .find(|(known, _)| known == other)
                        .map(|(_, value)| Cow::Borrowed(value.as_str())),
                })
            }));
        }
        tags.retain(|tag| tag.len() <= TAG_BYTES_MAX);
        tags.sort_unstable();
        tags.dedup();
        tags.truncate(TAGS_MAX);
        // Those that the app names, in whatever field, have bounds of their own.
        tags.extend_from_slice(&self.named);
        tags.extend_from_slice(&self.groups);
        tags.sort_unstable();
        tags.dedup();
        tags.into_iter().map(String::into_boxed_str).collect()
    }
}
