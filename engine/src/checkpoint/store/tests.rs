//! Tests of the stores: URIs, what each setting does, the self-test, and that a local folder keeps its promises.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::memory::InMemory;

use super::*;
use crate::checkpoint::testing::{Fault, FaultStore, Operation};
use crate::error::ErrorKind;

const QUICK: RetryPolicy = RetryPolicy { attempts_max: 3, first_wait: Duration::ZERO, wait_max: Duration::ZERO };

fn none(_: &str) -> Option<String> {
    None
}

fn in_memory(store: impl ObjectStore) -> Folder {
    Folder::new(Arc::new(store), Path::from("c"), "memory://c".into())
}

fn local(folder: &tempfile::TempDir) -> Folder {
    Stores::new(none).open(folder.path().to_str().unwrap()).unwrap()
}

#[test]
fn uris_that_name_no_place_are_refused_with_the_choices() {
    for uri in ["", "gs://b/x", "file://host/x", "s3://", "s3:///x", "http://x/y"] {
        let error = open_store(uri, &none).map(|(_, path)| path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{uri}");
        assert!(error.to_string().contains("s3://bucket/prefix"), "{error}");
    }
}

#[test]
fn local_and_s3_uris_open_without_touching_anything() {
    assert_eq!(open_store("/a b/c", &none).unwrap().1.as_ref(), "a b/c");
    assert_eq!(open_store("file:///a/c/", &none).unwrap().1.as_ref(), "a/c");
    assert_eq!(open_store("s3://bucket", &none).unwrap().1.as_ref(), "");
    let (store, path) = open_store("s3://bucket/a/b/", &none).unwrap();
    assert_eq!((path.as_ref(), store.to_string().as_str()), ("a/b", "AmazonS3(bucket)"));
    assert!(absolute_uri("x/y").unwrap().starts_with("file:///"));
    assert_eq!(absolute_uri("s3://b/x/").unwrap(), "s3://b/x");
    // A bucket that was forgotten is no local folder with that name.
    let error = open_store(&absolute_uri("s3://").unwrap(), &none).map(|(_, path)| path).unwrap_err();
    assert!(error.to_string().contains("names no bucket"), "{error}");
}

#[test]
fn half_of_a_pair_of_credentials_is_refused_and_not_shown() {
    let env = |name: &str| (name == "AWS_SECRET_ACCESS_KEY").then(|| "hunter2".to_owned());
    let error = open_store("s3://b/x", &env).map(|(_, path)| path).unwrap_err();
    assert!(error.to_string().contains("AWS_ACCESS_KEY_ID") && !error.to_string().contains("hunter2"), "{error}");
}

#[test]
fn the_variables_that_pass_through_are_known_to_the_client() {
    let env = |name: &str| match name {
        "AWS_ENDPOINT_URL" => Some("http://127.0.0.1:1".to_owned()),
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST" => Some("false".to_owned()),
        _ => Some("x".to_owned()),
    };
    assert!(open_store("s3://b/x", &env).is_ok());
}

/// An S3 endpoint on loopback that answers every request with `status` and `body`.
async fn stub(status: &'static str, body: String) -> (tokio::task::JoinHandle<()>, Folder) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::runtime::Handle::current().spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 64 << 10];
            drop(stream.read(&mut request).await);
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            drop(stream.write_all(format!("{head}{body}").as_bytes()).await);
        }
    });
    let env = move |name: &str| match name {
        "AWS_ENDPOINT_URL" => Some(endpoint.clone()),
        "AWS_ACCESS_KEY_ID" | "AWS_SECRET_ACCESS_KEY" | "AWS_SESSION_TOKEN" => Some("x".to_owned()),
        _ => None,
    };
    (server, Stores::new(env).open("s3://bucket/c").unwrap())
}

#[tokio::test]
async fn what_a_store_answers_is_named_by_status_and_code_and_its_body_is_shown_nowhere() {
    const CANARY: &str = "canary-4111111111111111";
    let cases = [
        ("400 Bad Request", "ExpiredToken", ErrorKind::Invalid),
        ("400 Bad Request", "InvalidToken", ErrorKind::Invalid),
        ("403 Forbidden", "InvalidAccessKeyId", ErrorKind::Invalid),
        ("403 Forbidden", "SignatureDoesNotMatch", ErrorKind::Invalid),
        ("400 Bad Request", "RequestTimeout", ErrorKind::Unavailable),
        ("404 Not Found", "NoSuchBucket", ErrorKind::Invalid),
    ];
    for (status, code, kind) in cases {
        let body = format!(
            "<Error><Code>{code}</Code><Message>{CANARY}</Message><Token-0>{CANARY}</Token-0></Error>\n{CANARY}"
        );
        let (server, folder) = stub(status, body).await;
        let content = Bytes::from_static(b"1");
        let results = [
            folder.write("x", content.clone()).await.unwrap_err(),
            folder.create("x", &content, 10, &QUICK).await.unwrap_err(),
            folder.list("").await.unwrap_err(),
            folder.rename("x", "y").await.map(|_| Error::invalid(status)).unwrap_or_else(|error| error),
        ];
        server.abort();
        for error in results {
            assert!(error.to_string().contains(status), "{error}");
            assert_eq!(error.kind(), kind, "{error}");
            let mut cause = Some(&error as &dyn std::error::Error);
            while let Some(error) = cause {
                assert!(!error.to_string().contains(CANARY) && !format!("{error:?}").contains(CANARY), "{error:?}");
                cause = error.source();
            }
        }
    }
}

#[tokio::test]
async fn the_code_of_an_answer_is_told_and_one_that_is_no_word_is_not() {
    for (code, is_told) in [("ExpiredToken", true), ("canary 4111-1111", false)] {
        let (server, folder) = stub("400 Bad Request", format!("<Error><Code>{code}</Code></Error>")).await;
        let error = folder.write("x", Bytes::from_static(b"1")).await.unwrap_err();
        server.abort();
        assert_eq!(error.to_string().contains(code), is_told, "{error}");
    }
}

#[tokio::test]
async fn good_stores_pass_the_self_test_and_are_left_clean() {
    let folder = tempfile::tempdir().unwrap();
    for folder in [in_memory(InMemory::new()), local(&folder)] {
        check_conditional_create(&folder, &QUICK).await.unwrap();
        assert_eq!(folder.list("").await.unwrap(), []);
    }
}

#[tokio::test]
async fn a_store_whose_creations_overwrite_is_refused() {
    // Each creation finds the name free: what a store does that ignores the condition.
    let inner = Arc::new(InMemory::new());
    let deleting = Arc::clone(&inner);
    let careless = FaultStore::new(inner, move |_, operation, path| {
        if operation == Operation::Create {
            let (store, path) = (Arc::clone(&deleting), path.clone());
            futures::executor::block_on(
                async move { drop(object_store::ObjectStoreExt::delete(&*store, &path).await) },
            );
        }
        None
    });
    let error = check_conditional_create(&in_memory(careless), &QUICK).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("a second creation of the same object succeeded"), "{error}");
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_unavailable_not_refused() {
    let down = FaultStore::new(Arc::new(InMemory::new()), |_, _, _| Some(Fault::FailBefore));
    assert_eq!(check_conditional_create(&in_memory(down), &QUICK).await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_creation_that_stays_in_conflict_ends_as_unavailable() {
    let storm = FaultStore::new(Arc::new(InMemory::new()), |_, operation, _| {
        (operation == Operation::Create).then_some(Fault::Conflict)
    });
    let error = in_memory(storm).create("x", &Bytes::from_static(b"1"), 10, &QUICK).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("after 3 attempts"), "{error}");
}

#[test]
fn waits_grow_and_are_bounded() {
    let retry =
        RetryPolicy { attempts_max: 9, first_wait: Duration::from_millis(50), wait_max: Duration::from_secs(1) };
    let waits: Vec<u128> = (1..8).map(|attempt| retry.wait(attempt).as_millis()).collect();
    assert_eq!(waits, [50, 100, 200, 400, 800, 1000, 1000]);
}

#[tokio::test]
async fn a_local_folder_creates_once_renames_lists_and_forgets() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = local(&temporary);
    let create = |text: &'static str| {
        let folder = &folder;
        async move { folder.create("a/b=2F/c", &Bytes::from_static(text.as_bytes()), 100, &QUICK).await.unwrap() }
    };
    assert_eq!(create("1").await, Created::Ours);
    assert_eq!(create("1").await, Created::Ours);
    assert_eq!(create("2").await, Created::Taken(Bytes::from_static(b"1")));
    folder.write("_s/x", Bytes::from(vec![7; 20 << 20])).await.unwrap();
    assert_eq!(folder.size("_s/x").await.unwrap(), Some(20 << 20));
    assert!(folder.rename("_s/x", "deep/er/x").await.unwrap());
    assert!(!folder.rename("_s/x", "deep/er/x").await.unwrap());
    let names: Vec<String> = folder.list("").await.unwrap().into_iter().map(|object| object.name).collect();
    assert_eq!(names, ["a/b=2F/c", "deep/er/x"]);
    folder.delete("deep/er/x").await.unwrap();
    folder.delete("deep/er/x").await.unwrap();
    assert_eq!(folder.list("nowhere").await.unwrap(), []);
    // No temporary file is left: the disk has what the listing shows.
    let on_disk: Vec<_> =
        std::fs::read_dir(temporary.path().join("a/b=2F")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(on_disk, ["c"]);
}

#[tokio::test]
async fn of_many_creations_at_the_same_time_on_disk_one_wins() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = local(&temporary);
    for round in 0..20 {
        let name = format!("n{round}/x");
        let texts: Vec<Bytes> = (0..16).map(|writer| Bytes::from(format!("{writer}"))).collect();
        let results = futures::future::join_all(texts.iter().map(|text| folder.create(&name, text, 100, &QUICK))).await;
        let winners = results.iter().filter(|result| matches!(result, Ok(Created::Ours))).count();
        assert_eq!(winners, 1, "{results:?}");
    }
}

#[tokio::test]
async fn an_object_larger_than_expected_is_not_read() {
    let folder = in_memory(InMemory::new());
    folder.write("x", Bytes::from(vec![0; 100])).await.unwrap();
    assert_eq!(folder.read("x", 99).await.unwrap_err().kind(), ErrorKind::Data);
    assert_eq!(folder.read("x", 100).await.unwrap().unwrap().len(), 100);
}
