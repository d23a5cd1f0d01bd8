//! What goes wrong between us and an MLflow server: uploads that fail half-way, answers that are lost, servers that are
//! away, slow, locked or old. No version is left that is not whole, no run is left running, no secret is shown.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidemill::model::reference::ModelReference;
use tidemill::model::registry::{Registry, RunRecord};
use tidemill::{Error, ErrorKind};

use super::double::{Act, Double, Request, ask};
use super::{API, mlflow, model_statuses, open, package, runs, short_record, upstream, variable};
use crate::harness::unique;

/// Fewer retries, so that what fails for good fails soon.
const HASTY: (&str, &str) = ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1");

fn mlflow_double(script: impl FnMut(&Request) -> Act + Send + 'static) -> Double {
    Double::start("127.0.0.1", &upstream(), script)
}

/// A model that has a champion already.
async fn with_champion(name: &str) -> Registry {
    let registry = open(&mlflow(), &[]);
    let record = RunRecord { experiment: format!("{name} before"), ..short_record("") };
    registry.register(name, &package(), &record).await.unwrap();
    registry.set_alias(name, "champion", "1").await.unwrap();
    registry
}

/// After a registration that failed: nothing but the champion, and everything that was begun is ended.
async fn left_nothing(registry: &Registry, name: &str, experiment: &str, run: &str, models: &[&str]) {
    let versions = registry.versions(name).await.unwrap();
    assert_eq!(versions.len(), 1);
    assert_eq!((versions[0].version.as_str(), versions[0].aliases.as_slice()), ("1", &["champion".to_owned()][..]));
    let runs = runs(experiment);
    assert_eq!(runs.iter().map(|found| found["info"]["status"].as_str().unwrap()).collect::<Vec<_>>(), [run]);
    assert_eq!(model_statuses(experiment), models);
}

fn is_upload(request: &Request) -> bool {
    request.is("PUT", "/mlflow-artifacts/artifacts/") && request.target.contains("/models/")
}

#[tokio::test]
async fn an_upload_through_the_server_that_fails_half_way_leaves_no_version() {
    let (name, experiment) = (unique("half"), unique("half-experiment"));
    let registry = with_champion(&name).await;
    let mut uploads = 0;
    let double = mlflow_double(move |request| {
        uploads += usize::from(is_upload(request));
        let fails = is_upload(request) && uploads > 3;
        if fails { Act::Answer(500, "S3 is full") } else { Act::Pass }
    });
    let error =
        open(&double.uri(), &[HASTY]).register(&name, &package(), &short_record(&experiment)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let text = error.to_string();
    assert!(
        text.contains("no version was made") && text.contains("write the file") && text.contains("S3 is full"),
        "{text}"
    );
    left_nothing(&registry, &name, &experiment, "FAILED", &["LOGGED_MODEL_UPLOAD_FAILED"]).await;
}

#[tokio::test]
async fn an_upload_to_the_bucket_that_fails_half_way_leaves_no_version() {
    let (name, experiment) = (unique("half"), unique("half-direct"));
    let registry = with_champion(&name).await;
    let place = format!("s3://{}/{experiment}", variable("TIDEMILL_TEST_S3_BUCKET"));
    let body = json!({"name": experiment, "artifact_location": place});
    ask("POST", &mlflow(), &format!("{API}/experiments/create"), &body);
    let s3 = variable("TIDEMILL_TEST_S3_ENDPOINT");
    let mut uploads = 0;
    let double = Double::start("127.0.0.1", s3.strip_prefix("http://").unwrap(), move |request| {
        uploads += usize::from(request.method == "PUT");
        let fails = request.method == "PUT" && uploads > 3;
        if fails { Act::Answer(403, "<Error><Code>AccessDenied</Code></Error>") } else { Act::Pass }
    });
    let uri = double.uri();
    let changed = open(&mlflow(), &[("AWS_ENDPOINT_URL", &uri)]);
    let error = changed.register(&name, &package(), &short_record(&experiment)).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("no version was made") && text.contains("credentials"), "{text}");
    left_nothing(&registry, &name, &experiment, "FAILED", &["LOGGED_MODEL_UPLOAD_FAILED"]).await;
}

#[tokio::test]
async fn whatever_request_fails_no_version_is_left_and_no_run_runs() {
    for (at, models) in [
        ("/logged-models", &[][..]),
        ("/runs/log-batch", &["LOGGED_MODEL_UPLOAD_FAILED"][..]),
        ("/runs/outputs", &["LOGGED_MODEL_READY"][..]),
        ("/model-versions/create", &["LOGGED_MODEL_READY"][..]),
    ] {
        let (name, experiment) = (unique("refused"), unique("refused-experiment"));
        let registry = with_champion(&name).await;
        let double = mlflow_double(move |request| {
            if request.is("POST", at) { Act::Answer(400, r#"{"error_code":"X","message":"no"}"#) } else { Act::Pass }
        });
        let record = RunRecord { metrics: [("a".to_owned(), 1.0)].into(), ..short_record(&experiment) };
        let error = open(&double.uri(), &[]).register(&name, &package(), &record).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("it answered 400, X: no"), "{error}");
        left_nothing(&registry, &name, &experiment, "FAILED", models).await;
    }
}

#[tokio::test]
async fn an_interrupted_registration_ends_its_run_as_killed() {
    let (name, experiment) = (unique("interrupted"), unique("interrupted-experiment"));
    let registry = with_champion(&name).await;
    let (told, stop) = tokio::sync::oneshot::channel::<()>();
    let mut told = Some(told);
    let double = mlflow_double(move |request| {
        if is_upload(request) {
            if let Some(told) = told.take() {
                told.send(()).unwrap();
            }
            return Act::Stall(Duration::from_secs(2));
        }
        Act::Pass
    });
    let stop = async { drop(stop.await) };
    let changed = open(&double.uri(), &[]);
    let error = changed.register_until(&name, &package(), &short_record(&experiment), stop).await.unwrap_err();
    assert!(error.to_string().contains("interrupted"), "{error}");
    left_nothing(&registry, &name, &experiment, "KILLED", &["LOGGED_MODEL_UPLOAD_FAILED"]).await;
}

#[tokio::test]
async fn a_lost_answer_makes_nothing_twice() {
    for lost in ["/runs/create", "/model-versions/create", "/experiments/create", "/registered-models/create"] {
        let (name, experiment) = (unique("lost"), unique("lost-experiment"));
        let mut is_lost = false;
        let double = mlflow_double(move |request| {
            if request.is("POST", lost) && !std::mem::replace(&mut is_lost, true) { Act::LoseAnswer } else { Act::Pass }
        });
        let registry = open(&double.uri(), &[]);
        let version = registry.register(&name, &package(), &short_record(&experiment)).await.unwrap();
        assert_eq!(version.version, "1");
        assert_eq!(registry.versions(&name).await.unwrap().len(), 1, "{lost}");
        let statuses: Vec<Value> = runs(&experiment).into_iter().map(|mut run| run["info"]["status"].take()).collect();
        assert_eq!(statuses, ["FINISHED"], "{lost}");
        assert!(double.seen().iter().any(|request| request.is("POST", lost)));
    }
}

#[tokio::test]
async fn a_server_that_is_away_for_a_moment_is_asked_again() {
    let mut answers = 0;
    let double = mlflow_double(move |_| {
        answers += 1;
        match answers {
            1 => Act::Answer(503, "starting"),
            2 => Act::LoseAnswer,
            _ => Act::Pass,
        }
    });
    open(&double.uri(), &[]).names().await.unwrap();
    assert_eq!(double.seen().len(), 3);
}

async fn error_of(registry: &Registry) -> Error {
    registry.resolve(&ModelReference::alias("fraud", "champion").unwrap()).await.unwrap_err()
}

#[tokio::test]
async fn a_server_that_is_away_slow_old_or_none_says_what_to_do() {
    // Nobody listens on a port that was just given back.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = error_of(&open(&format!("http://{address}"), &[HASTY])).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("cannot be reached") && error.to_string().contains("refused"), "{error}");

    let slow = mlflow_double(|_| Act::Stall(Duration::from_secs(8)));
    let started = Instant::now();
    let error =
        error_of(&open(&slow.uri(), &[("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0"), ("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")]))
            .await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("did not answer within 1 s"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());

    let old = mlflow_double(|request| if request.target == "/version" { Act::Answer(200, "2.9.2") } else { Act::Pass });
    let error = open(&old.uri(), &[]).register("fraud", &package(), &short_record("old")).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::Invalid && error.to_string().contains("version 3 or newer, found 2.9.2"),
        "{error}"
    );

    let other = mlflow_double(|_| Act::Answer(404, "<html>nothing here</html>"));
    let error = error_of(&open(&other.uri(), &[])).await;
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("expected an MLflow server"), "{error}");
    let page = mlflow_double(|_| Act::Answer(200, "<html>log in here</html>"));
    let error = error_of(&open(&page.uri(), &[])).await;
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("login page"), "{error}");
}

#[tokio::test]
async fn a_server_that_does_not_know_its_name_gets_the_setting() {
    // The real server refuses this name by itself: it is reached over another address of the loopback network.
    let double = Double::start("127.0.0.2", &upstream(), |_| Act::Pass);
    let error = error_of(&open(&double.uri(), &[])).await;
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("--allowed-hosts '127.0.0.2,127.0.0.2:*"), "{error}");
    assert!(error.to_string().contains("MLFLOW_SERVER_ALLOWED_HOSTS"), "{error}");
}

#[tokio::test]
async fn logins_open_a_locked_server_and_are_never_shown() {
    let locked = |expected: &'static str| {
        mlflow_double(move |request| {
            if request.header("authorization") == Some(expected) { Act::Pass } else { Act::Answer(401, "who are you?") }
        })
    };
    let basic = locked("Basic dXNlcjpodW50ZXIy");
    let bearer = locked("Bearer hunter2");
    let user = [("MLFLOW_TRACKING_USERNAME", "user"), ("MLFLOW_TRACKING_PASSWORD", "hunter2")];
    open(&basic.uri(), &user).names().await.unwrap();
    open(&bearer.uri(), &[("MLFLOW_TRACKING_TOKEN", "hunter2")]).names().await.unwrap();
    // Files go the same way.
    let (name, registry) = (unique("locked"), open(&bearer.uri(), &[("MLFLOW_TRACKING_TOKEN", "hunter2")]));
    registry.register(&name, &package(), &short_record(&name)).await.unwrap();

    let nobody = error_of(&open(&basic.uri(), &[])).await;
    assert!(nobody.to_string().contains("it wants a login: set MLFLOW_TRACKING_TOKEN"), "{nobody}");
    let wrong = open(&bearer.uri(), &[("MLFLOW_TRACKING_TOKEN", "hunter3")]);
    let error = error_of(&wrong).await;
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("this login may not"), "{error}");
    assert!(!error.to_string().contains("hunter3") && !format!("{error:?} {wrong:?}").contains("hunter3"));
}

#[tokio::test]
async fn an_authority_of_ones_own_is_named_by_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let (host, port) = (upstream(), upstream());
    let (host, port) = (host.split(':').next().unwrap(), port.split(':').next_back().unwrap());
    let mut tls = Command::new(variable("TIDEMILL_TEST_MLFLOW_PYTHON"))
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/mlflow/tls.py"))
        .args([folder.path().to_str().unwrap(), host, port])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut listening = String::new();
    BufReader::new(tls.stdout.take().unwrap()).read_line(&mut listening).unwrap();
    let uri = format!("https://127.0.0.1:{}", listening.trim());
    let authority = folder.path().join("authority.pem");
    let authority = authority.to_str().unwrap();
    open(&uri, &[("MLFLOW_TRACKING_SERVER_CERT_PATH", authority)]).names().await.unwrap();
    open(&uri, &[("MLFLOW_TRACKING_INSECURE_TLS", "true")]).names().await.unwrap();
    let error = error_of(&open(&uri, &[])).await;
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("MLFLOW_TRACKING_SERVER_CERT_PATH"), "{error}");
    // Its standard input ends, and so does it.
    drop(tls.stdin.take());
    tls.wait().unwrap();
}
