//! A stand-in for the API server: lists by pages, watches by lines in chunks that end anywhere, with bookmarks, and it forgets.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use rustls::{ServerConfig, ServerConnection};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::TcpListener,
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

/// What it does besides what it should.
#[derive(Clone, Debug, Default)]
pub(super) struct Moods {
    /// bytes of a chunk; 0: all there are
    pub(super) chunk: usize,
    /// between chunks
    pub(super) pause: Duration,
    /// a watch ends as watches do, after so long
    pub(super) ends: Option<Duration>,
    /// bookmarks come so often
    pub(super) bookmarks: Option<Duration>,
    /// after so many lines of a watch the connection is cut, in the middle of the next
    pub(super) cut_after: Option<usize>,
    /// after so many lines of a watch it says that it has forgotten the rest; once
    pub(super) forgets_after: Option<usize>,
    /// it says so by the answer's status, and not by a line
    pub(super) gone_by_status: bool,
    /// answered to everything
    pub(super) refuses: Option<u16>,
}

#[derive(Debug, Default)]
struct State {
    version: u64,
    objects: BTreeMap<(String, String), Value>,
    /// version, resource, type, object as text
    history: Vec<(u64, String, &'static str, String)>,
    /// changes up to it are forgotten
    forgotten: u64,
    pages: BTreeMap<u64, Vec<Value>>,
    moods: Moods,
    /// "list nodes", "watch events 17"
    asked: Vec<String>,
    clients: usize,
    /// authorization headers that came
    tokens: BTreeSet<String>,
    /// common names of clients' certificates
    names: BTreeSet<String>,
    /// only who comes with this one is answered
    wanted: Option<String>,
}

/// See the module. Ends with the process of the test.
#[derive(Clone)]
pub(super) struct Server {
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<u64>>,
    cut: Arc<watch::Sender<()>>,
    pub(super) address: SocketAddr,
}

impl Server {
    pub(super) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// By TLS, and only for who has a certificate that it takes.
    pub(super) async fn start_tls(config: ServerConfig) -> Self {
        Self::start_with(Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn start_with(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            state: Arc::default(),
            changed: Arc::new(watch::Sender::new(0)),
            cut: Arc::default(),
            address: listener.local_addr().unwrap(),
        };
        server.lock().version = 100;
        let this = server.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (this, tls) = (this.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => this.client(stream).await,
                        Some(tls) => {
                            let Ok(stream) = tls.accept(stream).await else { return };
                            this.name(stream.get_ref().1);
                            this.client(stream).await;
                        }
                    }
                });
            }
        });
        server
    }

    async fn client<S: AsyncRead + AsyncWrite>(&self, stream: S) {
        let (read, write) = tokio::io::split(stream);
        let mut cut = self.cut.subscribe();
        self.lock().clients += 1;
        tokio::select! {
            _ = self.serve(BufReader::new(read), write) => {}
            _ = cut.changed() => {}
        }
        self.lock().clients -= 1;
    }

    fn name(&self, connection: &ServerConnection) {
        let cert = &connection.peer_certificates().unwrap()[0];
        let (_, cert) = x509_parser::parse_x509_certificate(cert).unwrap();
        let name = cert.subject().iter_common_name().next().unwrap().as_str().unwrap();
        self.lock().names.insert(name.to_owned());
    }

    /// A kubeconfig that leads here.
    pub(super) fn kubeconfig(&self, folder: &Path) -> PathBuf {
        let cluster = json!({ "server": format!("http://{}", self.address) });
        self.kubeconfig_of(folder, &cluster, &json!({ "token": "a-token" }))
    }

    /// One of this cluster and user.
    pub(super) fn kubeconfig_of(&self, folder: &Path, cluster: &Value, user: &Value) -> PathBuf {
        let path = folder.join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{ "name": "c", "cluster": cluster }],
            "users": [{ "name": "u", "user": user }],
            "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
        });
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn set(&self, moods: Moods) {
        self.lock().moods = moods;
    }

    pub(super) fn asked(&self) -> Vec<String> {
        self.lock().asked.clone()
    }

    pub(super) fn tokens(&self) -> Vec<String> {
        self.lock().tokens.iter().cloned().collect()
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.lock().names.iter().cloned().collect()
    }

    /// From now on only who comes with this authorization header is answered, and connections are made anew.
    pub(super) fn want(&self, authorization: &str) {
        self.lock().wanted = Some(authorization.to_owned());
        self.cut();
    }

    /// Ends every connection.
    pub(super) fn cut(&self) {
        self.cut.send_replace(());
    }

    /// Everything that changed up to now is forgotten; what there is stays.
    pub(super) fn forget(&self) {
        let mut state = self.lock();
        // The newest is always known, by one write that concerns nobody.
        state.version += 1;
        state.forgotten = state.version;
        state.history.clear();
    }

    /// An object is as this says from now on.
    pub(super) fn put(&self, resource: &str, mut object: Value) {
        let mut state = self.lock();
        state.version += 1;
        let version = state.version;
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let key = (resource.to_owned(), name);
        let kind = if state.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        let text = object.to_string();
        state.objects.insert(key, object);
        state.history.push((version, resource.to_owned(), kind, text));
        drop(state);
        self.changed.send_replace(version);
    }

    /// A line that is no object at all.
    pub(super) fn put_raw(&self, resource: &str, text: &str) {
        let mut state = self.lock();
        state.version += 1;
        let version = state.version;
        state.history.push((version, resource.to_owned(), "ADDED", text.to_owned()));
        drop(state);
        self.changed.send_replace(version);
    }

    pub(super) fn delete(&self, resource: &str, name: &str) {
        let mut state = self.lock();
        state.version += 1;
        let version = state.version;
        let mut object = state.objects.remove(&(resource.to_owned(), name.to_owned())).unwrap();
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        state.history.push((version, resource.to_owned(), "DELETED", object.to_string()));
        drop(state);
        self.changed.send_replace(version);
    }

    async fn serve<R, W>(&self, mut read: BufReader<R>, mut write: W) -> std::io::Result<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            let mut first = String::new();
            if read.read_line(&mut first).await? == 0 {
                return Ok(());
            }
            let mut authorization = None;
            loop {
                let mut header = String::new();
                if read.read_line(&mut header).await? == 0 {
                    return Ok(());
                }
                if header.to_ascii_lowercase().starts_with("authorization: ") {
                    authorization = Some(header[15..].trim().to_owned());
                    self.lock().tokens.extend(authorization.clone());
                }
                if header.trim().is_empty() {
                    break;
                }
            }
            let target = first.split(' ').nth(1).unwrap().to_owned();
            let (path, query) = target.split_once('?').unwrap_or((&target, ""));
            let query: BTreeMap<String, String> = query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .map(|(key, value)| (key.to_owned(), value.replace("%3A", ":").replace("%3D", "=")))
                .collect();
            let resource = path.rsplit('/').next().unwrap().to_owned();
            assert!(
                first.starts_with("GET /api/v1/") && ["nodes", "events"].contains(&&*resource),
                "{first}"
            );
            let (refuses, wanted) = {
                let state = self.lock();
                (state.moods.refuses, state.wanted.clone())
            };
            if wanted.is_some() && authorization != wanted {
                answer(&mut write, 401, &status(401, "Unauthorized", "Unauthorized")).await?;
            } else if let Some(code) = refuses {
                let text = status(code, "Forbidden", "nodes is forbidden\u{1b}[2J");
                answer(&mut write, code, &text).await?;
            } else if query.contains_key("watch") {
                self.watch(&resource, &query, &mut write).await?;
            } else {
                self.list(&resource, &query, &mut write).await?;
            }
        }
    }

    async fn list<W: AsyncWrite + Unpin>(
        &self,
        resource: &str,
        query: &BTreeMap<String, String>,
        write: &mut W,
    ) -> std::io::Result<()> {
        let (code, text) = {
            let mut state = self.lock();
            state.asked.push(format!("list {resource}"));
            let (at, from) = match query.get("continue") {
                Some(token) => {
                    let (at, from) = token.split_once('-').unwrap();
                    (at.parse().unwrap(), from.parse().unwrap())
                }
                None => {
                    let at = state.version;
                    let all = state.objects.iter().filter(|((of, _), _)| of == resource);
                    let all = all.map(|(_, object)| object.clone()).collect();
                    state.pages.insert(at, all);
                    (at, 0)
                }
            };
            if at < state.forgotten {
                (410, status(410, "Expired", "The provided continue parameter is too old"))
            } else {
                let all = &state.pages[&at];
                let limit: usize = query["limit"].parse().unwrap();
                let items: Vec<Value> = all.iter().skip(from).take(limit).cloned().collect();
                let next = from + items.len();
                let more = if next < all.len() { format!("{at}-{next}") } else { String::new() };
                let metadata = json!({ "resourceVersion": at.to_string(), "continue": more });
                (200, json!({ "kind": "List", "metadata": metadata, "items": items }).to_string())
            }
        };
        answer(write, code, &text).await
    }

    async fn watch<W: AsyncWrite + Unpin>(
        &self,
        resource: &str,
        query: &BTreeMap<String, String>,
        write: &mut W,
    ) -> std::io::Result<()> {
        let mut changed = self.changed.subscribe();
        let mut after: u64 = query["resourceVersion"].parse().unwrap();
        let seconds: u64 = query["timeoutSeconds"].parse().unwrap();
        assert_eq!(query.get("allowWatchBookmarks").map(String::as_str), Some("true"));
        let (moods, gone) = {
            let mut state = self.lock();
            state.asked.push(format!("watch {resource} {after}"));
            (state.moods.clone(), after < state.forgotten)
        };
        let forgot = status(410, "Expired", "too old resource version");
        if gone && moods.gone_by_status {
            return answer(write, 410, &forgot).await;
        }
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
        write.write_all(head.as_bytes()).await?;
        if gone {
            chunks(write, &moods, &line("ERROR", &forgot)).await?;
            return write.write_all(b"0\r\n\r\n").await;
        }
        let end = Instant::now() + moods.ends.unwrap_or(Duration::from_secs(seconds));
        let mut bookmark = moods.bookmarks.map(|every| Instant::now() + every);
        let mut lines = 0;
        loop {
            let (text, upto, cut, forgets) = self.next(resource, after, &mut lines);
            if let Some(upto) = upto {
                after = upto;
            }
            if cut {
                let text = &text[..text.len() - text.len().min(10)];
                chunks(write, &moods, text).await?;
                return Err(std::io::ErrorKind::ConnectionReset.into());
            }
            chunks(write, &moods, &text).await?;
            if forgets {
                chunks(write, &moods, &line("ERROR", &forgot)).await?;
                return write.write_all(b"0\r\n\r\n").await;
            }
            if bookmark.is_some_and(|at| Instant::now() >= at) {
                let object = json!({ "kind": "Node", "metadata": { "resourceVersion": after.to_string() } });
                chunks(write, &moods, &line("BOOKMARK", &object.to_string())).await?;
                bookmark = moods.bookmarks.map(|every| Instant::now() + every);
            }
            if Instant::now() >= end {
                return write.write_all(b"0\r\n\r\n").await;
            }
            let until = bookmark.unwrap_or(end).min(end);
            _ = timeout(until - Instant::now(), changed.changed()).await;
        }
    }

    /// What comes after this version: its lines, up to where, and how it goes on.
    fn next(&self, resource: &str, after: u64, lines: &mut usize) -> (String, Option<u64>, bool, bool) {
        let mut state = self.lock();
        let (mut text, mut upto) = (String::new(), None);
        let from = state.history.partition_point(|(version, ..)| *version <= after);
        let moods = state.moods.clone();
        for (version, of, kind, object) in &state.history[from..] {
            if of != resource {
                continue;
            }
            if moods.forgets_after == Some(*lines) {
                // What came after is not to be had by a watch any more.
                state.moods.forgets_after = None;
                state.forgotten = state.version;
                return (text, upto, false, true);
            }
            _ = write!(text, "{}", line(kind, object));
            *lines += 1;
            if moods.cut_after.is_some_and(|cut| *lines > cut) {
                return (text, upto, true, false);
            }
            upto = Some(*version);
        }
        (text, upto, false, false)
    }
}

fn line(kind: &str, object: &str) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

fn status(code: u16, reason: &str, message: &str) -> String {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
            "reason": reason, "code": code })
    .to_string()
}

async fn answer<W: AsyncWrite + Unpin>(write: &mut W, code: u16, text: &str) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        text.len()
    );
    write.write_all(head.as_bytes()).await?;
    write.write_all(text.as_bytes()).await?;
    write.flush().await
}

async fn chunks<W: AsyncWrite + Unpin>(write: &mut W, moods: &Moods, text: &str) -> std::io::Result<()> {
    let size = if moods.chunk == 0 { text.len().max(1) } else { moods.chunk };
    for chunk in text.as_bytes().chunks(size) {
        write.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).await?;
        write.write_all(chunk).await?;
        write.write_all(b"\r\n").await?;
        write.flush().await?;
        if !moods.pause.is_zero() {
            sleep(moods.pause).await;
        }
    }
    Ok(())
}
