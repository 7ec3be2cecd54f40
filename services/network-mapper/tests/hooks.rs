//! Traffic hooks against a small HTTP server (R-NET-12): what they are told, and what their answers mean.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};
use understudy_ids::{Generation, Uuid};
use understudy_jobs_api::{Handler, LeasedTask, Outcome, TaskContext};
use understudy_netplan::TrafficChange;
use understudy_network_api::{NetworkAction, NetworkTask, NetworkTaskResult};
use understudy_network_mapper::{HookConfig, Hooks, MIGRATOR, Servers, Tasks};
use understudy_pg::TestDatabase;

/// A balancer that answers what it is told to, and keeps what it was asked.
struct Balancer {
    port: u16,
    answers: Arc<Mutex<Vec<&'static str>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Balancer {
    async fn start(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let balancer = Self {
            port: listener.local_addr().unwrap().port(),
            answers: Arc::default(),
            asked: Arc::default(),
        };
        let (answers, asked) = (Arc::clone(&balancer.answers), Arc::clone(&balancer.asked));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                match &tls {
                    None => answer(stream, &answers, &asked).await,
                    Some(acceptor) => match acceptor.accept(stream).await {
                        Ok(stream) => answer(stream, &answers, &asked).await,
                        Err(_) => continue,
                    },
                }
            }
        });
        balancer
    }
}

async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answers: &Mutex<Vec<&'static str>>,
    asked: &Mutex<Vec<String>>,
) {
    let mut text = Vec::new();
    while !text.ends_with(b"}") {
        text.push(stream.read_u8().await.unwrap());
    }
    asked.lock().unwrap().push(String::from_utf8(text).unwrap());
    // Without one it hangs up.
    let status = answers.lock().unwrap().pop();
    if let Some(status) = status {
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 9\r\n\r\nsecret-ok");
        stream.write_all(answer.as_bytes()).await.unwrap();
        let _ = stream.shutdown().await;
    }
}

fn hooks(config: &str) -> Hooks {
    let hook: HookConfig = toml::from_str(config).unwrap();
    Hooks::new(BTreeMap::from([("lb".parse().unwrap(), hook)]))
}

fn change(hook: &str) -> TrafficChange {
    TrafficChange {
        hook: hook.parse().unwrap(),
        item: "web1".parse().unwrap(),
        step: "web1.call-lb".parse().unwrap(),
        roll_back: false,
        from: "alpha/alpha-h1".parse().unwrap(),
        to: "bravo/bravo-h1".parse().unwrap(),
        generation: Generation::new(2),
        addresses: vec![[10, 2, 0, 11].into()],
    }
}

async fn perform(tasks: &Tasks, run: Uuid, hook: &str) -> Outcome {
    let action = NetworkAction::CallHook(Box::new(change(hook)));
    let task = LeasedTask::detached(run, NetworkTask { run, action }.to_payload());
    let (context, _stop, _progress) = TaskContext::detached();
    tasks.handle(task, context).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_is_told_where_the_machine_is_until_it_has_understood() {
    let (balancer, dir) = (Balancer::start(None).await, TempDir::new().unwrap());
    let token = dir.path().join("token");
    std::fs::write(&token, "only-we-know\n").unwrap();
    let url = format!("http://127.0.0.1:{}/failover?pool=shop", balancer.port);
    let config =
        format!("url = {url:?}\nbearer_file = {:?}\ntime_out_ms = 2000", token.display().to_string());
    let database = TestDatabase::new(&MIGRATOR).await;
    let tasks = Tasks::new(database.pool().clone(), Servers::default(), hooks(&config));
    let run = Uuid::new_v4();
    // The last comes first.
    *balancer.answers.lock().unwrap() =
        vec!["202 Accepted", "503 Busy", "429 Slow", "401 No", "301 Elsewhere"];
    let mut reasons = Vec::new();
    for _ in 0..4 {
        let (word, problem) = match perform(&tasks, run, "lb").await {
            Outcome::Failed(problem) => ("failed", problem),
            Outcome::Retry(problem) => ("retry", problem),
            other => panic!("{other:?}"),
        };
        let told = format!("{problem:?}");
        assert!(!told.contains("only-we-know") && !told.contains("secret-ok"), "{told}");
        reasons.push(format!("{word} {}", problem.reason));
    }
    assert_eq!(
        reasons,
        ["failed HOOK_REFUSED", "failed HOOK_REFUSED", "retry HOOK_FAILING", "retry HOOK_FAILING"]
    );
    let understood = perform(&tasks, run, "lb").await;
    let Outcome::Succeeded(any) = understood else { panic!("{understood:?}") };
    assert_eq!(NetworkTaskResult::from_payload(&any).unwrap(), NetworkTaskResult::HookCalled { status: 202 });
    // It hangs up without an answer.
    let unanswered = perform(&tasks, run, "lb").await;
    let Outcome::Retry(problem) = unanswered else { panic!("{unanswered:?}") };
    assert_eq!(problem.reason, "HOOK_NO_ANSWER");
    let Outcome::Failed(problem) = perform(&tasks, run, "other").await else { panic!() };
    assert_eq!(problem.reason, "HOOK_NOT_CONFIGURED");

    let asked = balancer.asked.lock().unwrap();
    assert_eq!(asked.len(), 6);
    for one in asked.iter() {
        let (head, body) = one.split_once("\r\n\r\n").unwrap();
        let head = head.to_lowercase();
        assert!(head.starts_with("post /failover?pool=shop http/1.1\r\n"), "{head}");
        assert!(head.contains(&format!("idempotency-key: {run}/web1.call-lb")), "the same each time: {head}");
        assert!(head.contains("authorization: bearer only-we-know"), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let expected = serde_json::json!({
            "run": run, "item": "web1", "direction": "failover", "from": "alpha/alpha-h1", "to": "bravo/bravo-h1",
            "addresses": ["10.2.0.11"], "generation": 2,
        });
        assert_eq!(body, expected);
    }
}

/// Only who has a certificate of the authority that is named is told anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_hook_behind_tls_must_be_the_one_that_is_meant() {
    let dir = TempDir::new().unwrap();
    let made = |file: &Path| {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(file, made.cert.pem()).unwrap();
        made
    };
    let (ours, other) = (dir.path().join("ours.pem"), dir.path().join("other.pem"));
    let (certificate, _) = (made(&ours), made(&other));
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certificate.signing_key.serialize_der()));
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.cert.der().clone()], key)
        .unwrap();
    let balancer = Balancer::start(Some(TlsAcceptor::from(Arc::new(server)))).await;
    *balancer.answers.lock().unwrap() = vec!["200 OK"];
    let url = format!("https://localhost:{}", balancer.port);
    for (file, is_told) in [(&other, false), (&ours, true)] {
        let config = format!("url = {url:?}\nca_file = {:?}", file.display().to_string());
        let called = hooks(&config).call(Uuid::new_v4(), &change("lb")).await;
        assert_eq!(called.is_ok(), is_told, "{called:?}");
        assert_eq!(balancer.asked.lock().unwrap().len(), usize::from(is_told));
    }
}
