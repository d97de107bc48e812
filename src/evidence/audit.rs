//! One hit asked again: which questions to put to the app, in which order, and what the answers say.
//!
//! ```text
//! as nobody: what anybody may see        as the client: his own request, credentials and all
//!   = served ................ same         = served ................. same
//!   twice, and different .... unstable     = what anybody sees ...... stale
//!   refused, again and again  leak         his own, again and again . leak
//!   bare, = served .......... unkeyed      else ..................... unstable
//!   else .................... stale
//! ```
//!
//! That a leak is no accident of two versions of an app behind one balancer takes eight answers, in an order
//! that no round robin of up to six servers gives; of those that chance gives, it is one in 256.

use crate::semantics::KeyBuilder;
use http::HeaderValue;
use serde_json::Value;

/// Questions that one audit puts to the app at most.
pub const QUESTIONS_MAX: usize = 8;
/// Values of a JSON text that are walked through to leave some out; a larger text is taken byte by byte.
const DEPTH_MAX: usize = 64;
/// The order in which the client and nobody are heard: no period up to six divides the two.
const ROUNDS: [Who; QUESTIONS_MAX] = [
    Who::Client,
    Who::Nobody,
    Who::Nobody,
    Who::Client,
    Who::Nobody,
    Who::Client,
    Who::Nobody,
    Who::Client,
];

/// In whose name the app is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// The request without all that names or proves its sender, unless the key or Vary holds it.
    Nobody,
    /// The very request that the hit answered.
    Client,
    /// Nothing but what the key and Vary hold: what every client has in common.
    Bare,
}

/// What is compared of an answer: its status, where it leads, and its content less what differs each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Print {
    status: u16,
    content: [u8; 16],
}

impl Print {
    /// The print of an answer. Of JSON, the members at the paths of `ignored` are left out.
    #[must_use]
    pub fn of(status: u16, content: &[u8], ignored: &[Box<[Box<str>]>]) -> Self {
        let mut digest = KeyBuilder::new("content");
        let looks_json = matches!(content.first(), Some(b'{' | b'['));
        let json = (looks_json && !ignored.is_empty())
            .then(|| serde_json::from_slice::<Value>(content).ok())
            .flatten();
        match json {
            Some(mut json) => {
                for path in ignored {
                    leave_out(&mut json, path, DEPTH_MAX);
                }
                digest.part(json.to_string().as_bytes());
            }
            None => digest.part(content),
        }
        Self {
            status,
            content: *digest.finish().bytes(),
        }
    }

    /// The same of an answer that leads somewhere else: a redirect says by its `Location` what others say by
    /// their content.
    #[must_use]
    pub fn leading(self, location: Option<&HeaderValue>) -> Self {
        let Some(location) = location.filter(|_| matches!(self.status, 300..=399)) else {
            return self;
        };
        let mut digest = KeyBuilder::new("location");
        digest.part(&self.content);
        digest.part(location.as_bytes());
        Self {
            content: *digest.finish().bytes(),
            ..self
        }
    }

    const fn is_success(&self) -> bool {
        matches!(self.status, 200..=299)
    }

    /// The app says that it would have to know who asks, or that he may not.
    const fn is_refusal(&self) -> bool {
        matches!(self.status, 401 | 403)
    }

    /// The app fails, or has no time: what it would have said is not known.
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        matches!(self.status, 429 | 500..=599)
    }
}

/// Takes the members at `path` out; lists on the way are walked through.
fn leave_out(json: &mut Value, path: &[Box<str>], depth: usize) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    match json {
        _ if depth == 0 => {}
        Value::Array(members) => {
            for member in members {
                leave_out(member, path, depth - 1);
            }
        }
        Value::Object(members) => match rest {
            [] => {
                members.remove(&**first);
            }
            rest => {
                if let Some(member) = members.get_mut(&**first) {
                    leave_out(member, rest, depth - 1);
                }
            }
        },
        _ => {}
    }
}

/// What an audit has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The app would have said the same.
    Same,
    /// It says something else by now, to everybody.
    Stale,
    /// It says something else each time, so that nothing can be said.
    Unstable,
    /// It says something else because of a request field that neither key nor Vary holds.
    Unkeyed,
    /// It says something else to this client alone, or nothing to those who do not prove who they are.
    Leak,
    /// It gave no answer that could be compared.
    Failed,
}

impl Verdict {
    /// Every verdict, in the order of the documentation.
    pub const ALL: [Self; 6] = [
        Self::Same,
        Self::Stale,
        Self::Unstable,
        Self::Unkeyed,
        Self::Leak,
        Self::Failed,
    ];

    /// Its word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Stale => "stale",
            Self::Unstable => "unstable",
            Self::Unkeyed => "unkeyed",
            Self::Leak => "leak",
            Self::Failed => "failed",
        }
    }
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Ask the app, so.
    Ask(Who),
    /// Nothing: this is what was found.
    Done(Verdict),
}

/// An audit under way.
#[derive(Clone, Debug)]
pub struct Inquiry {
    served: Print,
    /// The hit's request named or proved its sender.
    had_identity: bool,
    heard: Vec<(Who, Print)>,
    failed: bool,
}

impl Inquiry {
    /// Of a hit that was `served`; `had_identity`: what its request told of its sender may matter, and he
    /// may be asked for.
    #[must_use]
    pub fn new(served: Print, had_identity: bool) -> Self {
        Self {
            served,
            had_identity,
            heard: Vec::with_capacity(QUESTIONS_MAX),
            failed: false,
        }
    }

    /// The app's answer; `None`: there was none that could be compared.
    pub fn hear(&mut self, who: Who, answer: Option<Print>) {
        match answer.filter(|answer| !answer.is_failure()) {
            Some(answer) => self.heard.push((who, answer)),
            None => self.failed = true,
        }
    }

    /// Whether somebody's own answer was another than nobody's: the first doubt that one person was given
    /// another's.
    #[must_use]
    pub fn was_suspicious(&self) -> bool {
        self.heard.len() > 2 && self.of(Who::Client).next().is_some()
    }

    /// What the app said to the client himself, where it knows him.
    #[must_use]
    pub fn own(&self) -> Option<Print> {
        self.of(Who::Client).next().filter(Print::is_success)
    }

    /// Whether strangers were told something that the client's answer can be held against: what says no to
    /// them says nothing of what others like him are told.
    #[must_use]
    pub fn has_control(&self) -> bool {
        self.of(Who::Nobody).any(|print| print.is_success())
    }

    /// What follows from what was heard so far.
    #[must_use]
    pub fn next(&self) -> Next {
        if self.failed {
            return Next::Done(Verdict::Failed);
        }
        match self.had_identity {
            true => self.as_somebody(),
            false => self.as_nobody(0),
        }
    }

    /// Of a hit whose request said nothing of its sender; `before` answers were to somebody.
    fn as_nobody(&self, before: usize) -> Next {
        let served = self.served;
        let mut plain = self.of(Who::Nobody);
        let Some(first) = plain.next() else {
            return Next::Ask(Who::Nobody);
        };
        if first == served && before == 0 {
            return Next::Done(Verdict::Same);
        }
        let others: Vec<_> = plain.collect();
        if others.iter().any(|other| *other != first) {
            return Next::Done(Verdict::Unstable);
        }
        let refused = first.is_refusal() && served.is_success();
        let wanted = if refused { QUESTIONS_MAX / 2 } else { 2 };
        if others.len() + 1 < wanted {
            return Next::Ask(Who::Nobody);
        }
        if refused {
            return Next::Done(Verdict::Leak);
        }
        match self.of(Who::Bare).next() {
            None => Next::Ask(Who::Bare),
            Some(bare) if bare == served => Next::Done(Verdict::Unkeyed),
            Some(_) => Next::Done(Verdict::Stale),
        }
    }

    /// Of a hit whose request told who sent it.
    fn as_somebody(&self) -> Next {
        let Some(own) = self.of(Who::Client).next() else {
            return Next::Ask(Who::Client);
        };
        if own == self.served {
            return Next::Done(Verdict::Same);
        }
        let Some(plain) = self.of(Who::Nobody).next() else {
            return Next::Ask(Who::Nobody);
        };
        if !own.is_success() {
            // The app wants nothing of these credentials. What anybody may see is no leak.
            return match plain == self.served {
                true => Next::Done(Verdict::Same),
                false => self.as_nobody(1),
            };
        }
        if own == plain {
            return Next::Done(Verdict::Stale);
        }
        if self.of(Who::Nobody).any(|other| other != plain)
            || self.of(Who::Client).any(|other| other == plain)
        {
            return Next::Done(Verdict::Unstable);
        }
        match ROUNDS.get(self.heard.len()) {
            Some(who) => Next::Ask(*who),
            None => Next::Done(Verdict::Leak),
        }
    }

    fn of(&self, who: Who) -> impl Iterator<Item = Print> {
        let heard = self.heard.iter();
        heard.filter_map(move |(of, print)| (*of == who).then_some(*print))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn print(status: u16, content: &str) -> Print {
        Print::of(status, content.as_bytes(), &[])
    }

    /// Puts the questions to an app that answers by who asks and how often it was asked.
    fn audit(
        served: Print,
        had_identity: bool,
        mut app: impl FnMut(Who, usize) -> Option<Print>,
    ) -> (Verdict, usize) {
        let mut inquiry = Inquiry::new(served, had_identity);
        for asked in 0.. {
            match inquiry.next() {
                Next::Done(verdict) => return (verdict, asked),
                Next::Ask(who) => inquiry.hear(who, app(who, asked)),
            }
            assert!(asked < QUESTIONS_MAX, "it would ask for ever");
        }
        unreachable!()
    }

    #[test]
    fn what_the_app_says_again_is_the_same_by_one_question() {
        let page = print(200, "page");
        for had_identity in [false, true] {
            assert_eq!(
                audit(page, had_identity, |_, _| Some(page)),
                (Verdict::Same, 1)
            );
        }
    }

    #[test]
    fn what_the_app_says_to_nobody_any_more_is_stale() {
        let (old, new) = (print(200, "old"), print(200, "new"));
        assert_eq!(audit(old, false, |_, _| Some(new)), (Verdict::Stale, 3));
        assert_eq!(audit(old, true, |_, _| Some(new)), (Verdict::Stale, 2));
        let gone = print(404, "gone");
        assert_eq!(audit(old, false, |_, _| Some(gone)).0, Verdict::Stale);
    }

    #[test]
    fn what_differs_each_time_says_nothing() {
        let served = print(200, "0");
        for had_identity in [false, true] {
            let (verdict, _) = audit(served, had_identity, |_, asked| {
                Some(print(200, &format!("nonce {asked}")))
            });
            assert_eq!(verdict, Verdict::Unstable);
        }
    }

    #[test]
    fn what_is_said_to_one_alone_was_a_leak() {
        let of = |name: &str| print(200, &format!("hello {name}"));
        let (alice, bob, login) = (of("alice"), of("bob"), print(302, "login"));
        let says = |who, anybody| match who {
            Who::Client => Some(bob),
            _ => Some(anybody),
        };
        // Bob was served Alice's page; or the page for all, and the app has one of his own.
        assert_eq!(
            audit(alice, true, |who, _| says(who, login)),
            (Verdict::Leak, 8)
        );
        let anybody = of("stranger");
        assert_eq!(
            audit(anybody, true, |who, _| says(who, anybody)).0,
            Verdict::Leak
        );
        // Alice got her own.
        assert_eq!(audit(bob, true, |who, _| says(who, login)).0, Verdict::Same);
    }

    #[test]
    fn a_page_of_ones_own_with_a_nonce_is_one_of_ones_own_all_the_same() {
        let anybody = print(200, "stranger");
        let (verdict, _) = audit(anybody, true, |who, asked| match who {
            Who::Client => Some(print(200, &format!("bob {asked}"))),
            _ => Some(anybody),
        });
        assert_eq!(verdict, Verdict::Leak);
    }

    #[test]
    fn what_is_refused_to_strangers_was_a_leak() {
        let (page, refused) = (print(200, "alice"), print(401, ""));
        assert_eq!(audit(page, false, |_, _| Some(refused)), (Verdict::Leak, 4));
        assert_eq!(audit(page, true, |_, _| Some(refused)).0, Verdict::Leak);
    }

    #[test]
    fn credentials_that_the_app_refuses_prove_nothing() {
        let page = print(200, "for all");
        for status in [400, 401, 302] {
            let (verdict, _) = audit(page, true, |who, _| match who {
                Who::Client => Some(print(status, "who are you?")),
                _ => Some(page),
            });
            assert_eq!(verdict, Verdict::Same, "{status}");
        }
    }

    #[test]
    fn a_field_that_neither_key_nor_vary_holds_is_told_from_age() {
        let (desktop, phone) = (print(200, "desktop"), print(200, "phone"));
        let (verdict, _) = audit(desktop, false, |who, _| match who {
            Who::Bare => Some(desktop),
            _ => Some(phone),
        });
        assert_eq!(verdict, Verdict::Unkeyed);
    }

    #[test]
    fn where_a_redirect_leads_is_what_it_says() {
        let leads = |status, to| print(status, "").leading(Some(&HeaderValue::from_static(to)));
        assert_eq!(leads(302, "/a"), leads(302, "/a"));
        assert_ne!(leads(302, "/a"), leads(302, "/b"));
        assert_eq!(leads(200, "/a"), leads(200, "/b"), "it leads nowhere");
    }

    #[test]
    fn a_sender_with_a_version_of_his_own_among_two_by_chance_speaks_against_a_leak() {
        // He keeps his; strangers get one by chance.
        let (one, two) = (print(200, "one"), print(200, "two"));
        let mut chance = [one, two].into_iter().cycle();
        let mut inquiry = Inquiry::new(one, true);
        while let Next::Ask(who) = inquiry.next() {
            let version = if who == Who::Client {
                two
            } else {
                chance.next().unwrap()
            };
            inquiry.hear(who, Some(version));
        }
        assert_eq!(inquiry.next(), Next::Done(Verdict::Unstable));
        assert!(inquiry.was_suspicious());
    }

    #[test]
    fn an_app_that_fails_is_not_compared() {
        let page = print(200, "page");
        assert_eq!(
            audit(page, false, |_, _| Some(print(503, ""))).0,
            Verdict::Failed
        );
        assert_eq!(audit(page, true, |_, _| None).0, Verdict::Failed);
    }

    #[test]
    fn members_that_differ_each_time_can_be_left_out() {
        let ignored = |paths: &[&str]| -> Vec<Box<[Box<str>]>> {
            let steps = |path: &&str| path.split('.').map(Into::into).collect();
            paths.iter().map(steps).collect()
        };
        let at = ignored(&["at", "items.seen"]);
        let of = |text: &str| Print::of(200, text.as_bytes(), &at);
        let one = of(r#"{"at": 1, "items": [{"id": 1, "seen": 5}]}"#);
        assert_eq!(one, of(r#"{"at": 2, "items": [{"id": 1, "seen": 9}]}"#));
        assert_ne!(one, of(r#"{"at": 1, "items": [{"id": 2, "seen": 5}]}"#));
        assert_ne!(of("text 1"), of("text 2"));
    }

    proptest! {
        /// However two versions take turns, an app that does not look at who asks is never said to leak
        /// by any of the ways in which balancers take turns.
        #[test]
        fn versions_behind_a_round_robin_are_no_leak(
            servers in 2_usize..7, first in 0_usize..6, between in 0_usize..4, split in 1_usize..5,
        ) {
            // Whatever else is asked in between, evenly, is of the same round.
            let version = |at: usize| print(200, if at % servers < split.min(servers - 1) { "one" } else { "two" });
            for served in [print(200, "one"), print(200, "two"), print(200, "old")] {
                let (verdict, _) = audit(served, true, |_, asked| {
                    Some(version(first + asked * (between + 1)))
                });
                prop_assert_ne!(verdict, Verdict::Leak);
            }
        }

        /// A page that changes once, at any moment, is never a leak.
        #[test]
        fn a_change_in_the_middle_is_no_leak(at in 0_usize..9, had_identity: bool) {
            let served = print(200, "old");
            let (verdict, _) = audit(served, had_identity, |_, asked| {
                Some(if asked < at { served } else { print(200, "new") })
            });
            prop_assert_ne!(verdict, Verdict::Leak);
        }
    }
}
