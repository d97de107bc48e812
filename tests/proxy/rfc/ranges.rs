//! Parts of what is stored (RFC 9110 §14).

use super::*;
use std::collections::VecDeque;

const WHOLE: &str = "cache-control: max-age=3600\netag: \"a\"\nlast-modified: {-100000}\ncontent-type: text/plain\nbody: 0123456789";

/// Content, status and Content-Range of a part of a stored answer.
async fn part(scene: &Scene, request: &str) -> Response {
    let path = scene.path();
    scene.get(&path, WHOLE).await;
    let answer = scene.ask("GET", &path, request, WHOLE).await;
    assert_eq!(scene.app.count(&path), 1, "{request}");
    answer
}

#[tokio::test]
async fn a_part_is_cut_from_what_is_stored_rfc9110_14_2() {
    let scene = Scene::begins().await;
    for (range, content, content_range) in [
        ("bytes=2-4", "234", "bytes 2-4/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=-3", "789", "bytes 7-9/10"),
        ("bytes=0-0", "0", "bytes 0-0/10"),
        ("bytes=5-99", "56789", "bytes 5-9/10"),
        ("bytes=-99", "0123456789", "bytes 0-9/10"),
        ("bytes=0-99", "0123456789", "bytes 0-9/10"),
    ] {
        let answer = part(&scene, &format!("range: {range}")).await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (206, content),
            "{range}"
        );
        assert_eq!(answer.header("content-range"), content_range);
        assert_eq!(answer.header("content-length"), content.len().to_string());
        assert_eq!(
            (
                answer.header("etag").as_str(),
                answer.header("age").as_str()
            ),
            ("\"a\"", "0")
        );
    }
}

#[tokio::test]
async fn several_parts_are_one_multipart_answer_rfc9110_15_3_7_2() {
    let scene = Scene::begins().await;
    let answer = part(&scene, "range: bytes=0-1, 8-").await;
    assert_eq!(answer.status, 206);
    assert!(
        answer
            .header("content-type")
            .starts_with("multipart/byteranges; boundary=")
    );
    assert!(!answer.has("content-range"));
    let text = answer.text();
    for expected in [
        "Content-Range: bytes 0-1/10\r\n\r\n01",
        "Content-Range: bytes 8-9/10\r\n\r\n89",
    ] {
        assert!(text.contains(expected), "{text}");
    }
    assert_eq!(answer.header("content-length"), text.len().to_string());
}

#[tokio::test]
async fn what_is_not_there_is_a_416_and_nonsense_is_ignored_rfc9110_14_2() {
    let scene = Scene::begins().await;
    let answer = part(&scene, "range: bytes=10-").await;
    assert_eq!(
        (answer.status, answer.header("content-range").as_str()),
        (416, "bytes */10")
    );
    for range in ["bytes=5-2", "bytes=a-b", "lines=1-2", "bytes", "bytes=1"] {
        let answer = part(&scene, &format!("range: {range}")).await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "0123456789"),
            "{range}"
        );
    }
    let path = scene.path();
    scene.get(&path, WHOLE).await;
    let head = scene.ask("HEAD", &path, "range: bytes=1-2", WHOLE).await;
    assert_eq!(
        (head.status, head.header("content-length").as_str()),
        (200, "10")
    );
}

#[tokio::test]
async fn if_range_needs_the_very_same_representation_rfc9110_13_1_5() {
    let scene = Scene::begins().await;
    for (condition, status) in [("\"a\"", 206), ("\"b\"", 200), ("W/\"a\"", 200), ("a", 200)] {
        let answer = part(&scene, &format!("range: bytes=0-1\nif-range: {condition}")).await;
        assert_eq!(answer.status, status, "{condition}");
    }
    let path = scene.path();
    let modified = scene.date(-100_000);
    let says = WHOLE.replace("{-100000}", &modified);
    scene.get(&path, &says).await;
    for (condition, status) in [
        (modified.as_str(), 206),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 200),
    ] {
        let request = format!("range: bytes=0-1\nif-range: {condition}");
        assert_eq!(
            scene.ask("GET", &path, &request, "").await.status,
            status,
            "{condition}"
        );
    }
}

#[tokio::test]
async fn conditions_come_before_ranges_rfc9110_13_2_2() {
    let scene = Scene::begins().await;
    let answer = part(&scene, "range: bytes=0-1\nif-none-match: \"a\"").await;
    assert_eq!((answer.status, answer.body.len()), (304, 0));
    let answer = part(&scene, "range: bytes=0-1\nif-none-match: \"b\"").await;
    assert_eq!(answer.status, 206);
}

#[tokio::test]
async fn a_part_of_what_is_not_stored_fills_the_store_with_the_whole_rfc9111_3_3() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let first = scene.ask("GET", &path, "range: bytes=2-4", WHOLE).await;
    assert_eq!((first.status, first.text().as_str()), (206, "234"));
    assert_eq!(scene.app.last(&path).header("range"), None);
    let second = scene.get(&path, "").await;
    assert_eq!(
        (second.text().as_str(), scene.app.count(&path)),
        ("0123456789", 1)
    );
}

#[tokio::test]
async fn a_part_is_never_taken_for_the_whole_rfc9111_3_3() {
    let scene = Scene::begins().await;
    let partial = "status: 206\ncache-control: max-age=3600\netag: \"a\"\ncontent-range: bytes 2-4/10\nbody: 234";
    for request in ["range: bytes=2-4", ""] {
        let path = scene.path();
        let first = scene.ask("GET", &path, request, partial).await;
        assert_eq!(
            (first.status, first.text().as_str()),
            (206, "234"),
            "{request}"
        );
        let second = scene.get(&path, WHOLE).await;
        assert_eq!(
            (second.status, second.text().as_str()),
            (200, "0123456789"),
            "{request}"
        );
        let other = scene.path();
        scene.ask("GET", &other, request, partial).await;
        let head = scene.ask("HEAD", &other, "", WHOLE).await;
        assert_eq!(head.status, 200);
    }
}

#[tokio::test]
async fn digests_of_the_whole_do_not_stand_on_a_part_rfc9530_2() {
    let scene = Scene::begins().await;
    let path = scene.path();
    scene
        .get(
            &path,
            &format!("{WHOLE}\ncontent-digest: sha-256=:a:\nrepr-digest: sha-256=:b:"),
        )
        .await;
    let whole = scene.get(&path, "").await;
    assert!(whole.has("content-digest") && whole.has("repr-digest"));
    let part = scene.ask("GET", &path, "range: bytes=0-1", "").await;
    assert!(!part.has("content-digest") && part.has("repr-digest"));
}

/// The second half, as an app says it that knows of ranges.
const HALF: &str = "status: 206\ncache-control: max-age=3600\netag: \"a\"\ncontent-range: bytes 5-9/10\nx-half: 2\nbody: 56789";

#[tokio::test]
async fn a_part_answers_for_itself_rfc9111_3_3() {
    let scene = Scene::begins().await;
    for (asked, content, content_range) in [
        ("bytes=-5", "56789", "bytes 5-9/10"),
        ("bytes=5-9", "56789", "bytes 5-9/10"),
        ("bytes=5-", "56789", "bytes 5-9/10"),
        ("bytes=6-8", "678", "bytes 6-8/10"),
        ("bytes=-1", "9", "bytes 9-9/10"),
    ] {
        let path = scene.path();
        let first = scene.ask("GET", &path, "range: bytes=-5", HALF).await;
        assert_eq!((first.status, first.text().as_str()), (206, "56789"));
        assert_eq!(first.header("content-range"), "bytes 5-9/10");
        let part = scene
            .ask("GET", &path, &format!("range: {asked}"), WHOLE)
            .await;
        assert_eq!(
            (part.status, part.text().as_str()),
            (206, content),
            "{asked}"
        );
        assert_eq!(part.header("content-range"), content_range);
        assert_eq!(
            (part.header("x-half").as_str(), part.header("age").as_str()),
            ("2", "0")
        );
        assert_eq!(scene.app.count(&path), 1, "{asked}");
    }
    for asked in [
        "range: bytes=0-1",
        "range: bytes=4-5",
        "range: bytes=5-6,8-9",
        "",
        "range: bytes=5-6\nif-range: \"b\"",
    ] {
        let path = scene.path();
        scene.ask("GET", &path, "range: bytes=-5", HALF).await;
        let other = scene.ask("GET", &path, asked, WHOLE).await;
        assert_ne!(other.text(), "56789", "{asked}");
        assert_eq!(scene.app.count(&path), 2, "{asked}");
    }
    let stale = scene.path();
    scene.ask("GET", &stale, "range: bytes=-5", HALF).await;
    scene.advance("3601s").await;
    scene.ask("GET", &stale, "range: bytes=-5", HALF).await;
    assert_eq!(scene.app.count(&stale), 2);
}

#[tokio::test]
async fn what_is_missing_is_asked_for_and_put_together_rfc9111_3_4() {
    let scene = Scene::begins().await;
    let first_half = "status: 206\ncache-control: max-age=3600\netag: \"a\"\ncontent-range: bytes 0-4/10\nx-half: 1\nbody: 01234";
    for (have, rest, asked) in [
        (HALF, first_half, "bytes=0-4"),
        (first_half, HALF, "bytes=5-9"),
    ] {
        let path = scene.path();
        let range = if have == HALF {
            "range: bytes=5-"
        } else {
            "range: bytes=0-4"
        };
        scene.ask("GET", &path, range, have).await;
        let whole = scene.get(&path, rest).await;
        let seen = scene.app.last(&path);
        assert_eq!(
            (seen.header("range"), seen.header("if-range")),
            (Some(asked), Some("\"a\""))
        );
        assert_eq!((whole.status, whole.text().as_str()), (200, "0123456789"));
        assert!(!whole.has("content-range"));
        let again = scene.get(&path, "").await;
        assert_eq!(
            (again.status, again.text().as_str(), scene.app.count(&path)),
            (200, "0123456789", 2)
        );
        assert_eq!(again.header("content-length"), "10");
        let part = scene.ask("GET", &path, "range: bytes=3-6", "").await;
        assert_eq!((part.text().as_str(), scene.app.count(&path)), ("3456", 2));
    }
}

#[tokio::test]
async fn parts_of_different_representations_are_never_mixed_rfc9111_3_4() {
    let scene = Scene::begins().await;
    for other in [
        "status: 206\netag: \"b\"\ncontent-range: bytes 0-4/10\nbody: abcde",
        "status: 206\ncontent-range: bytes 0-4/10\nbody: abcde",
        "status: 206\netag: \"a\"\ncontent-range: bytes 0-3/10\nbody: abcd",
        "status: 206\netag: \"a\"\ncontent-range: bytes 0-4/11\nbody: abcde",
        "status: 416\ncontent-range: bytes */4",
        "etag: \"b\"\nbody: all new",
    ] {
        let path = scene.path();
        scene.ask("GET", &path, "range: bytes=-5", HALF).await;
        let other_says = scene.dated(other).replace('\n', "|");
        scene.app.now_says(move |seen| {
            let mut seen = seen.clone();
            if seen.header("range").is_some() {
                seen.headers.push(("says".into(), other_says.clone()));
            }
            said(&seen, 0)
        });
        // Our question is answered with something else; the plain one with what is new.
        let whole = scene.client.get(&path).await;
        assert_eq!(whole.status, 200, "{other}");
        assert!(!whole.text().contains("56789"), "{other}: {}", whole.text());
    }
    // A weak validator does not tell parts apart.
    let scene = Scene::begins().await;
    let path = scene.path();
    scene
        .ask(
            "GET",
            &path,
            "range: bytes=-5",
            &HALF.replace("\"a\"", "W/\"a\""),
        )
        .await;
    scene.get(&path, WHOLE).await;
    assert_eq!(scene.app.last(&path).header("range"), None);
}

#[tokio::test]
async fn a_part_that_is_not_what_it_says_is_not_kept_rfc9111_3_3() {
    let scene = Scene::begins().await;
    for broken in [
        HALF.replace("body: 56789", "body: 567"),
        HALF.replace("bytes 5-9/10", "bytes 5-9/*"),
        HALF.replace("bytes 5-9/10", "bytes 5-10/10"),
        HALF.replace("bytes 5-9/10", "bytes 0-4/10"),
        HALF.replace("content-range: bytes 5-9/10\n", ""),
        HALF.replace("max-age=3600", "no-store"),
    ] {
        let path = scene.path();
        let says = broken.replace('\n', "|");
        let fields = [("Range", "bytes=-5"), ("Says", says.as_str())];
        let _ = scene
            .larder
            .client()
            .try_send("GET", &path, &fields, "")
            .await;
        scene.ask("GET", &path, "range: bytes=-5", HALF).await;
        assert_eq!(scene.app.count(&path), 2, "{broken}");
    }
    // What is held whole is not given up for a part.
    let path = scene.path();
    scene.get(&path, WHOLE).await;
    scene
        .ask(
            "GET",
            &path,
            "range: bytes=-5\ncache-control: no-cache",
            HALF,
        )
        .await;
    assert_eq!(scene.get(&path, "").await.text(), "0123456789");
}

#[tokio::test]
async fn a_multipart_answer_can_be_taken_apart_rfc9110_14_6() {
    let scene = Scene::begins().await;
    for (range, expected) in [
        ("bytes=0-1,8-", vec![("0-1", "01"), ("8-9", "89")]),
        ("bytes=8-8, 0-0 ,-1", vec![("8-9", "89"), ("0-0", "0")]),
        (
            "bytes=0-0,2-2,4-4",
            vec![("0-0", "0"), ("2-2", "2"), ("4-4", "4")],
        ),
    ] {
        let answer = part(&scene, &format!("range: {range}")).await;
        assert_eq!(answer.status, 206, "{range}");
        let kind = answer.header("content-type");
        let boundary = kind
            .strip_prefix("multipart/byteranges; boundary=")
            .unwrap();
        let text = answer.text();
        // RFC 2046 §5.1: delimiters stand at the beginning of a line, the last one with dashes behind.
        let whole = format!("\r\n{text}");
        let delimiter = format!("\r\n--{boundary}");
        let mut pieces: VecDeque<_> = whole.split(delimiter.as_str()).collect();
        assert_eq!(pieces.pop_front(), Some(""), "no preamble");
        assert_eq!(pieces.pop_back(), Some("--\r\n"), "the end");
        let mut found = Vec::new();
        for piece in pieces {
            let (head, content) = piece.split_once("\r\n\r\n").unwrap();
            let fields: Vec<_> = lines(head).collect();
            assert!(fields.contains(&("Content-Type", "text/plain")), "{head}");
            let (_, about) = fields
                .iter()
                .find(|(name, _)| *name == "Content-Range")
                .unwrap();
            let about = about
                .strip_prefix("bytes ")
                .unwrap()
                .strip_suffix("/10")
                .unwrap();
            found.push((about.to_owned(), content.to_owned()));
        }
        let expected: Vec<_> = expected
            .iter()
            .map(|(about, content)| ((*about).to_owned(), (*content).to_owned()))
            .collect();
        assert_eq!(found, expected, "{range}");
    }
    // What is left of several is one.
    for (range, content) in [("bytes=2-3,20-", "23"), ("bytes=2-5,4-7", "234567")] {
        let answer = part(&scene, &format!("range: {range}")).await;
        assert_eq!((answer.status, answer.text().as_str()), (206, content));
        assert!(answer.has("content-range"));
    }
}

#[tokio::test]
async fn what_is_stale_is_confirmed_before_a_part_of_it_is_sent_rfc9111_4_2_4() {
    let scene = Scene::begins().await;
    for (says, content) in [
        (
            "status: 304\ncache-control: max-age=3600\netag: \"a\"".to_owned(),
            "234",
        ),
        (WHOLE.replace("0123456789", "abcdefghij"), "cde"),
    ] {
        let path = scene.path();
        scene.get(&path, WHOLE).await;
        scene.advance("3601s").await;
        let part = scene.ask("GET", &path, "range: bytes=2-4", &says).await;
        assert_eq!((part.status, part.text().as_str()), (206, content));
        let seen = scene.app.last(&path);
        assert_eq!(
            (seen.header("range"), seen.header("if-none-match")),
            (None, Some("\"a\""))
        );
        assert_eq!(scene.get(&path, "").await.body.len(), 10);
        assert_eq!(scene.app.count(&path), 2);
        // A condition on the old representation is met only if it is still the one.
        let request = "range: bytes=2-4\nif-range: \"a\"\ncache-control: no-cache";
        let changed = WHOLE.replace("\"a\"", "\"b\"").replace("0123456789", "new");
        let answer = scene.ask("GET", &path, request, &changed).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "new"));
    }
}

#[tokio::test]
async fn parts_are_of_what_succeeded_rfc9110_14_2() {
    let scene = Scene::begins().await;
    for says in [
        "status: 404\ncache-control: max-age=100\nbody: not found",
        "status: 301\ncache-control: max-age=100\nlocation: /a\nbody: moved",
    ] {
        let path = scene.path();
        let first = scene.get(&path, says).await;
        let part = scene.ask("GET", &path, "range: bytes=0-1", "").await;
        assert_eq!((part.status, &part.body), (first.status, &first.body));
        assert_eq!(scene.app.count(&path), 1);
    }
    let path = scene.path();
    scene.get(&path, "cache-control: max-age=100\nbody:").await;
    for (range, status) in [("bytes=0-", 416), ("bytes=-1", 200)] {
        let answer = scene
            .ask("GET", &path, &format!("range: {range}"), "")
            .await;
        assert_eq!(answer.status, status, "{range}");
    }
}

#[tokio::test]
async fn a_part_with_a_weak_validator_answers_for_itself_alone_rfc9111_3_4() {
    let scene = Scene::begins().await;
    for validator in ["etag: W/\"a\"", "x: y"] {
        let path = scene.path();
        let half = HALF.replace("etag: \"a\"", validator);
        scene.ask("GET", &path, "range: bytes=5-", &half).await;
        let again = scene.ask("GET", &path, "range: bytes=5-", "").await;
        assert_eq!((again.status, again.text().as_str()), (206, "56789"));
        assert_eq!(scene.app.count(&path), 1);
        let other = scene.ask("GET", &path, "range: bytes=0-4", WHOLE).await;
        assert_eq!((other.status, other.text().as_str()), (206, "01234"));
        assert_eq!(scene.app.last(&path).header("if-range"), None);
    }
}
