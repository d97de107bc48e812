//! `audit:`, and a route's `experiment:` and `shadow:`; and who is told of what they find.

use super::{Compiler, owner, span};
use crate::config::problem::{Code, closest};
use crate::config::raw;
use crate::config::read::Given;
use crate::config::settings::{Alerts, Audit, Rate};
use crate::config::values::{List, Name};
use crate::route::{Experiment, Rule};
use crate::semantics::{KeyBuilder, Policy};
use std::num::NonZeroU32;
use std::time::Duration;

/// Share of hits that are audited where the file does not say.
const SAMPLE: f64 = 0.01;
/// Questions to the app where the file does not say: 5/s.
const RATE: Rate = Rate {
    quota: NonZeroU32::MIN.saturating_add(4),
    window: Duration::from_secs(1),
};
/// Share of keys that try a lifetime out where the file does not say.
const SHARE: f64 = 0.2;
/// Paths of JSON members that are left out of the comparison, and steps of each.
const IGNORED_MAX: usize = 32;

/// A share as so many of 2³².
fn of_all(share: f64) -> u32 {
    // Saturates, so that all of them are all but one in four billion.
    (share * 2.0_f64.powi(32)) as u32
}

impl Compiler<'_> {
    /// `audit:`. The routes that it names get their share.
    pub(super) fn audit(
        &mut self,
        raw: Option<&raw::Audit>,
        rules: &mut [Rule],
        fallback: &mut Rule,
    ) -> Option<Audit> {
        let raw = raw?;
        let sample = raw.sample.get().map_or(SAMPLE, |percent| percent.0);
        let share = NonZeroU32::new(of_all(sample));
        if share.is_none() {
            self.tell(
                Code::W202,
                "audit.sample",
                "a sample of 0% audits nothing",
                "write 1%, or remove `audit`",
            );
        }
        match raw.routes.get() {
            None => {
                // What matches no route is audited as well.
                let rules = rules.iter_mut().chain([fallback]);
                for rule in rules.filter(|rule| rule.policy.is_some()) {
                    rule.scrutiny.audit = share;
                }
            }
            Some(names) => {
                for (index, Name(name)) in names.indexed() {
                    let path = format!("audit.routes[{index}]");
                    let found = match *fallback.name == **name {
                        true => Some(&mut *fallback),
                        false => rules.iter_mut().find(|rule| *rule.name == **name),
                    };
                    let Some(rule) = found else {
                        self.unknown_route(name, &path, rules);
                        continue;
                    };
                    rule.scrutiny.audit = share;
                    if rule.policy.is_none() || rule.scrutiny.shadow {
                        self.tell(
                            Code::W202,
                            &path,
                            format!(
                                "route `{name}` never answers from the store: nothing is audited"
                            ),
                            "take it out of audit.routes",
                        );
                    }
                }
            }
        }
        let ignore: Vec<_> = raw.ignore.get().into_iter().flat_map(List::iter).collect();
        if ignore.len() > IGNORED_MAX {
            self.tell(
                Code::E117,
                "audit.ignore",
                format!("`ignore` has {} members", ignore.len()),
                format!("{IGNORED_MAX} at most"),
            );
        }
        let ignore = ignore.iter().take(IGNORED_MAX);
        Some(Audit {
            rate: raw.rate.get().map_or(RATE, |rate| rate.0),
            ignore: ignore
                .map(|path| path.0.split('.').map(Into::into).collect())
                .collect(),
            leaks: raw.leaks.get().is_none_or(|flag| flag.0),
            quarantine: raw.quarantine.get().is_none_or(|flag| flag.0),
            drop_stale: raw.drop_stale.get().is_some_and(|flag| flag.0),
        })
    }

    fn unknown_route(&mut self, name: &str, path: &str, rules: &[Rule]) {
        let names = rules.iter().map(|rule| &*rule.name);
        let fix = match closest(name, names) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "name a route as its `name:` does".to_owned(),
        };
        self.tell(
            Code::E109,
            path,
            format!("no route is called `{name}`"),
            fix,
        );
    }

    /// A route's `experiment:`.
    pub(super) fn experiment(
        &mut self,
        route: &raw::Route,
        name: &str,
        policy: Option<&Policy>,
        path: &str,
    ) -> Option<Experiment> {
        let raw = route.experiment.get()?;
        let path = format!("{path}.experiment");
        if raw.ttl.is_absent() {
            self.tell(
                Code::E105,
                &path,
                format!("{} has no `ttl`", owner(self.root, &path)),
                "add `ttl: 30m`",
            );
        }
        let ttl = span(&raw.ttl)?;
        if ttl.is_zero() {
            self.tell(
                Code::E117,
                &format!("{path}.ttl"),
                "a ttl of 0s stores nothing",
                "write a longer one",
            );
        }
        let share = raw.share.get().map_or(SHARE, |percent| percent.0);
        if !(0.0..1.0).contains(&share) || share == 0.0 {
            self.tell(
                Code::E117,
                &format!("{path}.share"),
                "an experiment needs keys on both sides",
                "write 20%",
            );
        }
        let known = policy.and_then(|policy| policy.ttl.as_ref());
        let Some(own) = known else {
            if route.ttl.is_absent() {
                self.tell(
                    Code::E126,
                    &path,
                    "`experiment` needs a `ttl` to compare with",
                    "add `ttl:`",
                );
            }
            return None;
        };
        for (setting, given) in [
            ("slide_up_to", !route.slide_up_to.is_absent()),
            ("shadow", is_shadow(route)),
        ] {
            if given {
                self.tell(
                    Code::E126,
                    &path,
                    format!("`experiment` and `{setting}` cannot be measured together"),
                    "keep one",
                );
            }
        }
        if own.default == ttl {
            self.tell(
                Code::W202,
                &format!("{path}.ttl"),
                "`experiment` tries the ttl that the route has",
                "write another one",
            );
        }
        let mut seed = KeyBuilder::new("experiment");
        for part in [name, &format!("{:?} {ttl:?} {share}", own.default)] {
            seed.part(part.as_bytes());
        }
        let mut policy = policy?.clone();
        policy.ttl.as_mut()?.default = ttl;
        Some(Experiment {
            ttl,
            share: of_all(share),
            seed: seed.finish(),
            policy: Box::new(policy),
        })
    }

    /// A route's `shadow:`.
    pub(super) fn shadow(&mut self, route: &raw::Route, stored: bool, path: &str) -> bool {
        let shadow = is_shadow(route);
        if shadow && !stored {
            self.tell(
                Code::E126,
                &format!("{path}.shadow"),
                "`shadow` and `no_store: true` contradict each other",
                "keep one",
            );
        }
        shadow
    }

    /// `alerts:`
    pub(super) fn alerts(&mut self, raw: Option<&raw::Alerts>) -> Alerts {
        const PATH: &str = "alerts.webhook";
        let webhook = raw.and_then(|alerts| alerts.webhook.get());
        let webhook = self.secret(webhook.map(|webhook| &webhook.0), PATH);
        let is_url = |text: &str| {
            let url = text.parse::<http::Uri>().ok();
            url.is_some_and(|url| {
                matches!(url.scheme_str(), Some("http" | "https")) && url.authority().is_some()
            })
        };
        if let Some(webhook) = &webhook
            && !is_url(webhook.expose())
            && !self.env.ignored
        {
            self.tell(
                Code::E118,
                PATH,
                "`alerts.webhook` is not the address of a webhook",
                "write https://hooks.example/…",
            );
        }
        Alerts { webhook }
    }
}

fn is_shadow(route: &raw::Route) -> bool {
    matches!(&route.shadow, Given::Value(flag) if flag.0)
}
