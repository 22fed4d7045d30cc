use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;
use crate::event::ObservedCondition;

const SOON: Duration = Duration::from_secs(10);

/// A detector that answers what it is told to; `None`: it hangs up.
#[derive(Clone, Debug)]
struct Fake {
    address: SocketAddr,
    conditions: Arc<Mutex<Option<String>>>,
    metrics: Arc<Mutex<String>>,
}

impl Fake {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Self {
            address: listener.local_addr().unwrap(),
            conditions: Arc::new(Mutex::new(Some("null".to_owned()))),
            metrics: Arc::default(),
        };
        let this = fake.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut asked = [0; 1024];
                let n = stream.read(&mut asked).await.unwrap_or(0);
                let asked = String::from_utf8_lossy(&asked[..n]).into_owned();
                let body = if asked.starts_with("GET /conditions ") {
                    this.conditions.lock().unwrap().clone()
                } else {
                    assert!(asked.starts_with("GET /metrics "), "{asked}");
                    Some(this.metrics.lock().unwrap().clone())
                };
                let Some(body) = body else { continue };
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
            }
        });
        fake
    }

    fn conditions(&self, status: &str) {
        let body = format!(
            r#"[{{"type":"X","status":"{status}","transition":"2026-11-22T19:09:58.8Z","reason":"R","message":"m"}}]"#
        );
        *self.conditions.lock().unwrap() = Some(body);
    }

    fn options(&self) -> Options {
        Options { conditions: Some(self.address), metrics: Some(self.address) }
    }
}

async fn next(detector: &mut Detector) -> Observed {
    timeout(SOON, detector.observed()).await.expect("nothing is told")
}

fn observed(status: &str, count: u64) -> Observed {
    Observed {
        conditions: vec![ObservedCondition {
            kind: "X".to_owned(),
            status: status.to_owned(),
            reason: "R".to_owned(),
            message: "m".to_owned(),
            transition: Some(1_795_374_598),
            truncated: false,
        }],
        problems: vec![crate::event::ObservedProblem { reason: "OOMKilling".to_owned(), count }],
        unreachable: None,
        has_conditions: true,
        has_problems: true,
    }
}

#[tokio::test]
async fn what_changes_is_told_and_what_does_not_only_now_and_then() {
    let fake = Fake::start().await;
    *fake.metrics.lock().unwrap() = "problem_counter{reason=\"OOMKilling\"} 1\n".to_owned();
    let mut detector =
        Detector::every(fake.options(), Duration::from_millis(5), Duration::from_secs(3600)).unwrap();
    // As long as it says null there is nothing to tell.
    tokio::time::sleep(Duration::from_millis(30)).await;
    fake.conditions("False");
    assert_eq!(next(&mut detector).await, observed("False", 1));
    fake.conditions("True");
    assert_eq!(next(&mut detector).await, observed("True", 1));
    *fake.metrics.lock().unwrap() = "problem_counter{reason=\"OOMKilling\"} 4\n".to_owned();
    assert_eq!(next(&mut detector).await, observed("True", 4));
    // It hangs up, which is told once, and so is that it is back.
    *fake.conditions.lock().unwrap() = None;
    let gone = next(&mut detector).await;
    assert!(gone.unreachable.as_ref().unwrap().starts_with(&fake.address.to_string()), "{gone:?}");
    assert_eq!(Observed { unreachable: None, ..gone }, Observed::default());
    fake.conditions("True");
    assert_eq!(next(&mut detector).await, observed("True", 4));
}

#[test]
fn it_is_confirmed_now_and_then() {
    let mut told = Told::default();
    let begun = Instant::now();
    let after = |seconds| begun + Duration::from_secs(seconds);
    let refused = || Err(DetectorError::Slow("127.0.0.1:1".parse().unwrap(), 5));
    let mut next = |answer, seconds| told.next(answer, after(seconds), CONFIRM);
    assert_eq!(next(Ok(None), 0), None);
    assert_eq!(next(Ok(Some(observed("True", 1))), 0), Some(observed("True", 1)));
    assert_eq!(next(Ok(Some(observed("True", 1))), 299), None);
    assert_eq!(next(Ok(Some(observed("True", 1))), 300), Some(observed("True", 1)));
    assert!(next(refused(), 301).is_some_and(|gone| gone.unreachable.is_some()));
    assert_eq!(next(refused(), 900), None);
    assert_eq!(next(Ok(Some(observed("True", 1))), 901), Some(observed("True", 1)));
}

#[tokio::test]
async fn nobody_is_asked_who_was_not_named() {
    assert!(Detector::start(Options::default()).is_none());
    let fake = Fake::start().await;
    fake.conditions("False");
    let only = Options { conditions: Some(fake.address), metrics: None };
    let mut detector = Detector::every(only, Duration::from_millis(5), CONFIRM).unwrap();
    let told = next(&mut detector).await;
    assert_eq!((told.has_conditions, told.has_problems, told.problems.len()), (true, false, 0));
}
