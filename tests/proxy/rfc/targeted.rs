//! Targeted cache control (RFC 9213).

use super::*;

#[tokio::test]
async fn a_targeted_field_is_obeyed_instead_of_cache_control_and_expires_rfc9213_2_1() {
    let scene = Scene::begins().await;
    for (says, reused) in [
        ("cdn-cache-control: max-age=3600", true),
        (
            "cdn-cache-control: max-age=3600\ncache-control: no-store",
            true,
        ),
        (
            "cdn-cache-control: max-age=3600\ncache-control: max-age=0\nexpires: 0",
            true,
        ),
        ("cdn-cache-control: max-age=3600, foo, bar=1.5;a=b", true),
        (
            "cdn-cache-control: max-age=3600\ncache-control: private",
            true,
        ),
        (
            "cdn-cache-control: max-age=0\ncache-control: max-age=3600",
            false,
        ),
        ("cdn-cache-control: max-age=0\nexpires: {3600}", false),
        (
            "cdn-cache-control: no-store\ncache-control: max-age=3600",
            false,
        ),
        (
            "cdn-cache-control: no-cache\ncache-control: max-age=3600",
            false,
        ),
        (
            "cdn-cache-control: private\ncache-control: max-age=3600",
            false,
        ),
        ("cdn-cache-control: foo\nexpires: {3600}", false),
        ("cdn-cache-control: max-age=3600\nage: 7200", false),
        (
            "larder-cache-control: max-age=3600\ncdn-cache-control: no-store",
            true,
        ),
        (
            "larder-cache-control: no-store\ncdn-cache-control: max-age=3600",
            false,
        ),
        (
            "larder-cache-control: &\ncdn-cache-control: max-age=3600",
            true,
        ),
        (
            "larder-cache-control:\ncdn-cache-control: max-age=3600",
            true,
        ),
        (
            "larder-cache-control: foo\ncdn-cache-control: max-age=3600",
            false,
        ),
        ("cdn-cache-control: max-age=3600\npragma: no-cache", true),
        ("cdn-cache-control: s-maxage=3600, max-age=0", true),
        ("cdn-cache-control: s-maxage=0, max-age=3600", false),
        ("cdn-cache-control: max-age=999999999999999", true),
        ("cdn-cache-control: max-age=003600", true),
        // Parameters mean nothing; of a key said twice the last counts (RFC 8941 §4.2.2).
        ("cdn-cache-control: max-age=3600;no-store; b=\"c\"", true),
        ("cdn-cache-control: no-store;a=b, max-age=3600", false),
        ("cdn-cache-control: max-age=1, max-age=3600", true),
        (
            "cdn-cache-control: max-age=1\ncdn-cache-control: max-age=3600",
            true,
        ),
        (
            "cdn-cache-control: max-age=3600\ncdn-cache-control: no-store",
            false,
        ),
        ("cdn-cache-control: no-store=?0, max-age=3600", true),
        ("cdn-cache-control: no-store=?1, max-age=3600", false),
        (
            "cdn-cache-control: max-age=3600, a=(1 2), b=:AA==:, c=@1, d=%\"x\", *e",
            true,
        ),
        (
            "cdn-cache-control: must-understand, no-store, max-age=3600",
            true,
        ),
        // Without a lifetime of its own it leaves only a guess.
        ("cdn-cache-control: foo\nlast-modified: {-100000}", true),
        (
            "cdn-cache-control: foo\nlast-modified: {-100000}\nexpires: 0",
            true,
        ),
        // Those of other caches are none of ours.
        ("surrogate-control: max-age=3600", false),
        ("other-cdn-cache-control: max-age=3600", false),
        (
            "other-cdn-cache-control: no-store\ncache-control: max-age=3600",
            true,
        ),
    ] {
        assert_eq!(scene.reuses(says, "").await, reused, "{says}");
    }
}

#[tokio::test]
async fn a_broken_targeted_field_is_as_if_absent_rfc9213_2_1() {
    let scene = Scene::begins().await;
    for broken in [
        "max-age=3600, &&&",
        "Max-Age=3600",
        "max-age=3600,",
        "",
        "max-age=3600 no-store",
        ",max-age=3600",
        "max-age=3600,, foo",
        "max-age =3600",
        "max-age= 3600",
        "max-age=3600 ;a=b",
        "max-age=3600, Foo=1",
        "max-age=3600, 1a=1",
        "max-age=3600, foo=\"unclosed",
        "max-age=3600, foo='x'",
        "max-age=3600, foo=(a b",
        "max-age=1000000000000000",
        "max-age=3600\ncdn-cache-control: &",
    ] {
        for (general, reused) in [("max-age=60", true), ("no-store", false)] {
            let says = format!("cdn-cache-control: {broken}\ncache-control: {general}");
            assert_eq!(scene.reuses(&says, "10s").await, reused, "{says}");
        }
    }
    for wrong in [
        "max-age=\"3600\"",
        "max-age=3600.5",
        "max-age=(3600)",
        "max-age",
        "max-age=?1",
        "max-age=:AAAA:",
        "max-age=@1659578233",
        "max-age=-1",
        "max-age=3600, max-age=foo",
        "max-age=3600, max-age=1.5",
    ] {
        let says = format!("cdn-cache-control: {wrong}\ncache-control: max-age=3600");
        assert!(!scene.reuses(&says, "").await, "{wrong} is not coerced");
    }
}

#[tokio::test]
async fn targeted_fields_reach_the_client_untouched_rfc9213_2() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let says =
        "cdn-cache-control: max-age=3600\nsurrogate-control: no-store\ncache-control: no-store";
    for answer in [scene.get(&path, says).await, scene.get(&path, "").await] {
        assert_eq!(answer.header("cdn-cache-control"), "max-age=3600");
        assert_eq!(answer.header("surrogate-control"), "no-store");
        assert_eq!(answer.header("cache-control"), "no-store");
    }
    assert_eq!(scene.app.count(&path), 1);
}

#[tokio::test]
async fn a_targeted_must_revalidate_forbids_stale_rfc9213_2_2() {
    let scene = Scene::begins().await;
    let says = "cdn-cache-control: max-age=10, must-revalidate\ncache-control: max-age=10, stale-while-revalidate=100";
    assert!(!scene.reuses(says, "20s").await);
}
