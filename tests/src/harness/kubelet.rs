//! A kubelet that knows its pods, as `GET /pods` tells it.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

/// Answers until it is dropped.
#[derive(Debug)]
pub(crate) struct Kubelet {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl Kubelet {
    /// It has the pod `uid`, whose only container is this one, with a readiness probe every `period` seconds and a
    /// postStart hook.
    pub(crate) fn serve(
        uid: &str,
        container: &str,
        probe: &[&str],
        period: u32,
        hook: &[&str],
    ) -> Result<Self> {
        Self::of(&[json!({
            "metadata": {"name": "web-0", "namespace": "prod", "uid": uid},
            "spec": {"containers": [{
                "name": "app",
                "readinessProbe": {"exec": {"command": probe}, "periodSeconds": period},
                "lifecycle": {"postStart": {"exec": {"command": hook}}},
            }]},
            "status": {"containerStatuses": [
                {"name": "app", "containerID": format!("containerd://{container}")},
            ]},
        })])
    }

    /// It has the pod `uid` with a container, and one that somebody put into it to debug it.
    pub(crate) fn with_debugger(uid: &str, container: &str, debugger: &str) -> Result<Self> {
        let id = |id: &str| format!("containerd://{id}");
        Self::of(&[json!({
            "metadata": {"name": "web-0", "namespace": "prod", "uid": uid},
            "spec": {
                "containers": [{"name": "app"}],
                "ephemeralContainers": [{"name": "debugger-x7k2p"}],
            },
            "status": {
                "containerStatuses": [{"name": "app", "containerID": id(container)}],
                "ephemeralContainerStatuses": [{"name": "debugger-x7k2p", "containerID": id(debugger)}],
            },
        })])
    }

    /// It has many pods, each with its uid and its only container; all have this readiness probe.
    pub(crate) fn of_many(pods: &[(String, String)], probe: &[&str], period: u32) -> Result<Self> {
        let pod = |(uid, container): &(String, String)| {
            json!({
                "metadata": {"name": "", "namespace": "prod", "uid": uid},
                "spec": {"containers": [{
                    "name": "web",
                    "readinessProbe": {"exec": {"command": probe}, "periodSeconds": period},
                }]},
                "status": {"containerStatuses": [
                    {"name": "web", "containerID": format!("containerd://{container}")},
                ]},
            })
        };
        Self::of(&pods.iter().map(pod).collect::<Vec<_>>())
    }

    fn of(pods: &[Value]) -> Result<Self> {
        let pods = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods});
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let over = Arc::new(AtomicBool::new(false));
        let server = thread::spawn({
            let over = Arc::clone(&over);
            move || {
                for stream in listener.incoming().flatten() {
                    if over.load(Ordering::SeqCst) {
                        break;
                    }
                    if let Err(e) = answer(stream, &pods) {
                        eprintln!("the kubelet was asked something else: {e:#}");
                    }
                }
            }
        });
        Ok(Self { address, over, server: Some(server) })
    }

    /// Where the agent finds it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

fn answer(mut stream: TcpStream, pods: &Value) -> Result<()> {
    let mut request = BufReader::new(&mut stream).lines();
    let first = request.next().transpose()?.unwrap_or_default();
    ensure!(first == "GET /pods HTTP/1.1", "{first}");
    for line in request {
        if line?.is_empty() {
            break;
        }
    }
    let body = pods.to_string();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    Ok(())
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Somebody must come for it to notice.
        let _ = TcpStream::connect(self.address);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}
