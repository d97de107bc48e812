//! Which of several stored answers a request selects (RFC 9111 §4.1).

use super::*;

const FRESH: &str = "cache-control: max-age=3600";

#[tokio::test]
async fn what_the_answer_varies_on_must_match_rfc9111_4_1() {
    let scene = Scene::begins().await;
    for (vary, first, second, reused) in [
        ("foo", "foo: 1", "foo: 1", true),
        ("Foo", "foo: 1", "foo: 1", true),
        ("foo", "foo: 1", "foo: 2", false),
        ("foo", "foo: 1", "", false),
        ("foo", "", "foo: 1", false),
        ("foo", "", "", true),
        ("foo", "", "foo:", false),
        ("foo, bar", "foo: 1\nbar: a", "bar: a\nfoo: 1", true),
        ("foo, bar", "foo: 1\nbar: a", "foo: 1\nbar: b", false),
        ("foo, bar", "foo: 1\nbar: a", "foo: 1", false),
        ("foo, bar", "foo: 1", "foo: 1", true),
        (
            "foo, bar, baz",
            "foo: 1\nbar: a\nbaz: x",
            "foo: 1\nbar: a\nbaz: x",
            true,
        ),
        (
            "foo, bar, baz",
            "foo: 1\nbar: a\nbaz: x",
            "baz: x\nbar: a\nfoo: 1",
            true,
        ),
        (
            "foo, bar, baz",
            "foo: 1\nbar: a\nbaz: x",
            "foo: 1\nbar: a\nbaz: y",
            false,
        ),
        (
            "foo, bar, baz",
            "foo: 1\nbaz: x",
            "foo: 1\nbar: a\nbaz: x",
            false,
        ),
        ("foo,,bar ,", "foo: 1\nbar: a", "foo: 1\nbar: b", false),
        ("foo", "foo: 1\nother: 1", "foo: 1\nother: 2", true),
    ] {
        let says = format!("{FRESH}\nvary: {vary}");
        assert_eq!(
            scene.reuses_for(first, &says, "", second).await,
            reused,
            "{vary}: {first} / {second}"
        );
    }
    let lines = format!("{FRESH}\nvary: foo\nvary: bar");
    assert!(
        !scene
            .reuses_for("foo: 1\nbar: 1", &lines, "", "foo: 1\nbar: 2")
            .await
    );
}

#[tokio::test]
async fn a_star_matches_nothing_rfc9111_4_1() {
    let scene = Scene::begins().await;
    for star in [
        "vary: *",
        "vary: *, *",
        "vary: foo, *",
        "vary: *, foo",
        "vary: , *",
        "vary: foo\nvary: *",
        "vary: *\nvary: *",
        "vary:\nvary: *",
    ] {
        assert!(
            !scene.reuses(&format!("{FRESH}\n{star}"), "").await,
            "{star}"
        );
        assert!(
            !scene
                .reuses(&format!("{FRESH}\n{star}\netag: \"a\""), "")
                .await,
            "{star}"
        );
    }
}

#[tokio::test]
async fn differences_without_meaning_are_none_rfc9111_4_1() {
    let scene = Scene::begins().await;
    for (name, first, second, reused) in [
        ("foo", "foo: 1, 2", "foo: 1,2", true),
        ("foo", "foo: 1,2", "foo: 1 ,  2", true),
        ("foo", "foo: 1\nfoo: 2", "foo: 1, 2", true),
        ("foo", "foo: 1, 2", "foo: 2, 1", false),
        ("foo", "foo: a", "foo: A", false),
        (
            "accept-language",
            "accept-language: en, de",
            "accept-language: de, en",
            true,
        ),
        (
            "accept-language",
            "accept-language: en, de",
            "accept-language: EN,dE",
            true,
        ),
        (
            "accept-language",
            "accept-language: en",
            "accept-language: en, de",
            false,
        ),
        (
            "accept-language",
            "accept-language: en, de;q=0.5",
            "accept-language: de, en;q=0.5",
            false,
        ),
        (
            "accept-encoding",
            "accept-encoding: gzip, br",
            "accept-encoding: br , gzip",
            true,
        ),
        (
            "accept-encoding",
            "accept-encoding: gzip",
            "accept-encoding: br",
            false,
        ),
        ("accept-encoding", "", "accept-encoding: gzip", false),
    ] {
        let says = format!("{FRESH}\nvary: {name}");
        assert_eq!(
            scene.reuses_for(first, &says, "", second).await,
            reused,
            "{first} / {second}"
        );
    }
}

#[tokio::test]
async fn variants_live_side_by_side_rfc9111_4_1() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let says = format!("{FRESH}\nvary: foo");
    let mut bodies = Vec::new();
    for n in 0..5 {
        bodies.push(
            scene
                .ask("GET", &path, &format!("foo: {n}"), &says)
                .await
                .body,
        );
    }
    for (n, body) in bodies.iter().enumerate() {
        assert_eq!(
            &scene
                .ask("GET", &path, &format!("foo: {n}"), &says)
                .await
                .body,
            body
        );
    }
    assert_eq!(scene.app.count(&path), 5);
}

#[tokio::test]
async fn each_variant_is_confirmed_by_its_own_validator_rfc9111_4_3_1() {
    let scene = Scene::begins().await;
    let path = scene.path();
    for n in ["1", "2"] {
        let says = format!("cache-control: max-age=100\nvary: foo\netag: \"{n}\"");
        scene.ask("GET", &path, &format!("foo: {n}"), &says).await;
    }
    scene.advance("101s").await;
    for n in ["1", "2"] {
        let says = format!("status: 304\netag: \"{n}\"\n{FRESH}");
        let answer = scene.ask("GET", &path, &format!("foo: {n}"), &says).await;
        assert_eq!(answer.status, 200);
        assert_eq!(
            scene.app.last(&path).header("if-none-match"),
            Some(format!("\"{n}\"").as_str())
        );
        scene.ask("GET", &path, &format!("foo: {n}"), "").await;
    }
    assert_eq!(scene.app.count(&path), 4);
}

#[tokio::test]
async fn a_condition_does_not_select_a_variant_rfc9111_4_3_2() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let says = format!("{FRESH}\nvary: foo\netag: \"a\"");
    scene.ask("GET", &path, "foo: 1", &says).await;
    let same = scene
        .ask("GET", &path, "foo: 1\nif-none-match: \"a\"", &says)
        .await;
    assert_eq!((same.status, scene.app.count(&path)), (304, 1));
    let other = scene
        .ask("GET", &path, "foo: 2\nif-none-match: \"a\"", &says)
        .await;
    assert_eq!((other.status, scene.app.count(&path)), (200, 2));
}

#[tokio::test]
async fn an_answer_that_begins_to_vary_is_not_everybodys_any_more_rfc9111_4_1() {
    let scene = Scene::begins().await;
    let path = scene.path();
    scene
        .ask("GET", &path, "foo: 1", "cache-control: max-age=100")
        .await;
    assert_eq!(scene.ask("GET", &path, "foo: 2", "").await.cache(), "HIT");
    scene.advance("101s").await;
    let says = format!("{FRESH}\nvary: foo");
    let one = scene.ask("GET", &path, "foo: 1", &says).await;
    let two = scene.ask("GET", &path, "foo: 2", &says).await;
    assert_ne!(one.body, two.body);
    assert_eq!(scene.ask("GET", &path, "foo: 1", "").await.body, one.body);
    assert_eq!(scene.app.count(&path), 3);
}

#[tokio::test]
async fn a_default_without_vary_does_not_hide_the_variants_rfc9111_4_1() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let says = "cache-control: max-age=100\netag: \"d\"";
    let one = scene
        .ask("GET", &path, "foo: 1", &format!("{FRESH}\nvary: foo"))
        .await;
    let default = scene.get(&path, says).await;
    assert_ne!(one.body, default.body);
    for _ in 0..2 {
        assert_eq!(scene.ask("GET", &path, "foo: 1", "").await.body, one.body);
        assert_eq!(scene.get(&path, "").await.body, default.body);
    }
    // The default is confirmed as what it is.
    scene.advance("101s").await;
    let confirms = format!("status: 304\n{says}");
    assert_eq!(scene.get(&path, &confirms).await.body, default.body);
    assert_eq!(scene.ask("GET", &path, "foo: 1", "").await.body, one.body);
    assert_eq!(scene.app.count(&path), 3);
    // Once no variant is fresh any more, what does not vary is everybody's again.
    scene.advance("2h").await;
    let last = scene.get(&path, FRESH).await;
    assert_eq!(scene.ask("GET", &path, "foo: 1", "").await.body, last.body);
    assert_eq!(scene.app.count(&path), 4);
}

#[tokio::test]
async fn one_304_confirms_every_variant_that_it_names_rfc9111_4_3_4() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let mut bodies = Vec::new();
    for (foo, etag) in [
        ("1", "\"a\""),
        ("2", "\"a\""),
        ("3", "\"b\""),
        ("4", "W/\"a\""),
    ] {
        let says = format!("cache-control: max-age=100\nvary: foo\netag: {etag}");
        let answer = scene.ask("GET", &path, &format!("foo: {foo}"), &says).await;
        bodies.push(answer.body);
    }
    scene.advance("101s").await;
    let says = format!("status: 304\n{FRESH}\netag: \"a\"\nx-new: 1");
    let first = scene.ask("GET", &path, "foo: 1", &says).await;
    let second = scene.ask("GET", &path, "foo: 2", FRESH).await;
    for (answer, body) in [(first, &bodies[0]), (second, &bodies[1])] {
        assert_eq!(&answer.body, body);
        assert_eq!(answer.header("x-new"), "1");
        assert_eq!(answer.header("age"), "0");
    }
    assert_eq!(scene.app.count(&path), 5);
    for foo in ["foo: 3", "foo: 4"] {
        scene.ask("GET", &path, foo, FRESH).await;
    }
    assert_eq!(scene.app.count(&path), 7);
}
