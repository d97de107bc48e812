//! What changes a resource ends what is stored of it (RFC 9111 §4.4).

use super::*;

const FRESH: &str = "cache-control: max-age=3600";

#[tokio::test]
async fn unsafe_methods_invalidate_their_target_rfc9111_4_4() {
    let scene = Scene::begins().await;
    for method in ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH", "FOO"] {
        for status in [200, 201, 204, 303] {
            let path = scene.path();
            scene.get(&path, FRESH).await;
            scene
                .ask(method, &path, "", &format!("status: {status}"))
                .await;
            scene.get(&path, FRESH).await;
            assert_eq!(scene.app.count(&path), 3, "{method} {status}");
        }
        for status in [400, 404, 500, 503] {
            let path = scene.path();
            scene.get(&path, FRESH).await;
            scene
                .ask(method, &path, "", &format!("status: {status}"))
                .await;
            scene.get(&path, FRESH).await;
            assert_eq!(scene.app.count(&path), 2, "{method} {status}");
        }
    }
}

#[tokio::test]
async fn safe_methods_invalidate_nothing_rfc9111_4_4() {
    let scene = Scene::begins().await;
    for method in [
        "OPTIONS", "HEAD", "GET", "TRACE", "QUERY", "PROPFIND", "REPORT", "SEARCH",
    ] {
        let path = scene.path();
        scene.get(&path, FRESH).await;
        scene.ask(method, &path, "", FRESH).await;
        let before = scene.app.count(&path);
        scene.get(&path, FRESH).await;
        assert_eq!(scene.app.count(&path), before, "{method}");
    }
}

#[tokio::test]
async fn all_variants_and_spellings_of_the_target_go_rfc9111_4_4() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let says = format!("{FRESH}\nvary: x");
    for value in ["x: 1", "x: 2"] {
        scene.ask("GET", &path, value, &says).await;
    }
    scene.ask("POST", &path, "", "").await;
    for value in ["x: 1", "x: 2"] {
        scene.ask("GET", &path, value, &says).await;
    }
    assert_eq!(scene.app.count(&path), 5);
    // One key, however it is spelt: one purge.
    let path = scene.path();
    scene.get(&format!("{path}?b=2&a=%31"), FRESH).await;
    scene.ask("POST", &format!("{path}?a=1&b=2"), "", "").await;
    scene.get(&format!("{path}?b=2&a=1"), FRESH).await;
    assert_eq!(scene.app.count(&path), 3);
    let path = scene.path();
    scene.get(&format!("{path}?a=1"), FRESH).await;
    scene.ask("POST", &format!("{path}?a=2"), "", "").await;
    scene.get(&format!("{path}?a=1"), FRESH).await;
    assert_eq!(
        scene.app.count(&path),
        2,
        "another query is another resource"
    );
}

#[tokio::test]
async fn locations_of_the_same_origin_are_invalidated_too_rfc9111_4_4() {
    let scene = Scene::begins().await;
    let own = scene.larder.address;
    for name in ["location", "content-location"] {
        for (reference, invalidated) in [
            ("{path}", true),
            ("http://{own}{path}", true),
            ("http://{own}{path}#part", true),
            ("//{own}{path}", true),
            ("./{name}", true),
            ("{name}", true),
            ("http://other.test{path}", false),
            ("http://localhost:1{path}", false),
            ("HTTP://{own}/x/..{path}", true),
            ("https://{own}{path}", false),
            ("ftp://{own}{path}", false),
            ("http://{own}.other.test{path}", false),
        ] {
            let (path, elsewhere) = (scene.path(), scene.path());
            scene.get(&path, FRESH).await;
            let reference = reference
                .replace("{own}", &own.to_string())
                .replace("{path}", &path)
                .replace("{name}", path.trim_start_matches('/'));
            scene
                .ask("POST", &elsewhere, "", &format!("{name}: {reference}"))
                .await;
            scene.get(&path, FRESH).await;
            assert_eq!(
                scene.app.count(&path) == 2,
                invalidated,
                "{name}: {reference}"
            );
            let path = scene.path();
            scene.get(&path, FRESH).await;
            scene
                .ask(
                    "POST",
                    &elsewhere,
                    "",
                    &format!("status: 500\n{name}: {path}"),
                )
                .await;
            scene.get(&path, FRESH).await;
            assert_eq!(scene.app.count(&path), 1, "{name} of an error");
        }
    }
}

#[tokio::test]
async fn a_get_on_its_way_during_an_unsafe_request_is_not_kept_rfc9111_4_4() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = App::says(move |seen| match seen.method.as_str() {
        "GET" => Answer::public("from before").behind(&held),
        _ => Answer::ok(""),
    })
    .await;
    let scene = Scene::with(app).await;
    let other = scene.larder.client();
    let (before, ()) = tokio::join!(other.get("/x"), async {
        eventually("the app is asked", async || {
            (scene.app.count("/x") > 0).then_some(())
        })
        .await;
        scene.client.post("/x", &[], "").await;
        gate.open();
    });
    assert_eq!(before.status, 200);
    scene.client.get("/x").await;
    assert_eq!(scene.app.count("/x"), 3);
}

#[tokio::test]
async fn an_app_ends_a_group_of_answers_rfc9875_3() {
    let scene = Scene::begins().await;
    let (one, both, other, bare) = (scene.path(), scene.path(), scene.path(), scene.path());
    let join = async |path: &str, groups: &str| {
        scene.get(path, &format!("{FRESH}\n{groups}")).await;
    };
    let fill = async || {
        join(&one, "cache-groups: \"cars\";x=y").await;
        join(&both, "cache-groups: \"bikes\"\ncache-groups: \"cars\"").await;
        join(&other, "cache-groups: \"Cars\"").await;
        join(&bare, "x: y").await;
        [&one, &both, &other, &bare].map(|path| scene.app.count(path))
    };
    let ends = "cache-group-invalidation: \"cars\", \"nothing\"";
    assert_eq!(fill().await, [1, 1, 1, 1]);
    scene.ask("GET", "/safe", "", ends).await;
    scene
        .ask("POST", "/broken", "", "cache-group-invalidation: cars")
        .await;
    let elsewhere = [("Host", "other.test"), ("Says", ends)];
    scene
        .client
        .send("POST", "/elsewhere", &elsewhere, "")
        .await;
    assert_eq!(fill().await, [1, 1, 1, 1]);
    scene.ask("POST", "/elsewhere", "", ends).await;
    assert_eq!(fill().await, [2, 2, 1, 1]);
    // That \"bikes\" lost one of its own does not end it.
    scene
        .ask(
            "DELETE",
            "/elsewhere",
            "",
            "cache-group-invalidation: \"bikes\"",
        )
        .await;
    assert_eq!(fill().await, [2, 3, 1, 1]);
}

#[tokio::test]
async fn a_304_may_put_an_answer_into_a_group_rfc9875_2() {
    let scene = Scene::begins().await;
    let path = scene.path();
    scene
        .get(&path, "cache-control: max-age=10\netag: \"a\"")
        .await;
    scene.advance("11s").await;
    scene
        .get(
            &path,
            &format!("status: 304\netag: \"a\"\n{FRESH}\ncache-groups: \"late\""),
        )
        .await;
    assert_eq!(scene.get(&path, "").await.cache(), "HIT");
    scene
        .ask(
            "POST",
            "/elsewhere",
            "",
            "cache-group-invalidation: \"late\"",
        )
        .await;
    scene.get(&path, FRESH).await;
    assert_eq!(scene.app.count(&path), 3);
}

#[tokio::test]
async fn what_is_no_list_of_strings_names_no_group_rfc9875_2() {
    let scene = Scene::begins().await;
    for (joins, ends, ended) in [
        ("\"a\"", "\"a\"", true),
        ("\"a\"", "\"x\",\"a\";p=1", true),
        ("\"a\"", "\"x\"\ncache-group-invalidation: \"a\"", true),
        ("\"a \\\" b\"", "\"a \\\" b\"", true),
        ("\"\"", "\"\"", true),
        ("\"a\"", "a", false),
        ("a", "\"a\"", false),
        ("\"a\", b", "\"a\"", false),
        ("\"a\"", "\"a\",", false),
        ("\"a\"", "(\"a\")", false),
        ("\"a\"", "\"a", false),
        ("\"a\"", "\"A\"", false),
        ("\"a\"", "*", false),
    ] {
        let path = scene.path();
        let says = format!("{FRESH}\ncache-groups: {joins}");
        scene.get(&path, &says).await;
        let ending = format!("cache-group-invalidation: {ends}");
        scene.ask("POST", "/elsewhere", "", &ending).await;
        scene.get(&path, &says).await;
        assert_eq!(scene.app.count(&path) == 2, ended, "{joins} / {ends}");
    }
}
