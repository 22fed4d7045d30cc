//! The `Trail` service of a collector (TCP) or of the node's agent (a Unix socket), and clear words where it cannot
//! be reached.

use std::{error::Error, io, path::PathBuf, time::Duration};

use hyper_util::rt::TokioIo;
use podtrail_proto::v1::{
    self, subscribe_request::Request as Asked, subscribe_response::Response as Answer,
    trail_client::TrailClient,
};
use tokio::{net::UnixStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};

use crate::{
    escape,
    filter::FilterError,
    tls::{self, ClientTls, ConnectError, Files},
};

/// How long a connection, or one page of an answer, may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const PAGE_TIMEOUT: Duration = Duration::from_secs(60);
/// A page may hold a thousand events with long arguments; beyond this it is nonsense.
const MAX_MESSAGE: usize = 128 * 1024 * 1024;

/// Whom to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Collector {
        /// `http://host:port`, or with `tls` `https://host:port`
        url: String,
        tls: Option<Files>,
    },
    Socket(PathBuf),
}

impl Source {
    /// From `https://host:port`, `http://host:port`, or without a scheme: then it is https where there is `tls`, which
    /// are the files of authorities, certificate and key.
    pub fn collector(url: &str, tls: [Option<PathBuf>; 3]) -> Result<Self, ClientError> {
        let wrong = |why| ClientError::Url { url: escape::prose(url), why };
        let given = tls.iter().any(Option::is_some);
        let files = match tls {
            [Some(ca), Some(cert), Some(key)] => Some(Files { ca, cert, key }),
            _ => None,
        };
        let (secure, rest) = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some(_) => return Err(wrong("only https:// and http:// are known")),
            None => (given, url),
        };
        let authority: hyper::http::uri::Authority =
            rest.strip_suffix('/').unwrap_or(rest).parse().map_err(|_| wrong("that is no host and port"))?;
        if authority.port_u16().is_none() {
            return Err(wrong("the port is missing"));
        }
        if authority.host().is_empty() || authority.as_str().contains('@') {
            return Err(wrong("that is no host and port"));
        }
        if !secure {
            return Ok(Self::Collector { url: format!("http://{authority}"), tls: None });
        }
        let tls = Some(files.ok_or(ClientError::NoFiles)?);
        Ok(Self::Collector { url: format!("https://{authority}"), tls })
    }

    fn name(&self) -> String {
        match self {
            Self::Collector { url, tls: _ } => format!("the collector at {}", escape::prose(url)),
            Self::Socket(path) => {
                format!("the agent at {}", escape::word(path.as_os_str().as_encoded_bytes()))
            }
        }
    }
}

/// Why an answer could not be had. Text from elsewhere is escaped already.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{url:?} is no collector's address: {why}; write https://host:port")]
    Url { url: String, why: &'static str },
    #[error(
        "https needs --tls-ca, --tls-cert and --tls-key, or PODTRAIL_TLS_CA, PODTRAIL_TLS_CERT and PODTRAIL_TLS_KEY"
    )]
    NoFiles,
    #[error("{0}")]
    Files(String),
    #[error("no secure connection to {name}: {why}; see --tls-ca, --tls-cert and --tls-key")]
    Tls { name: String, why: String },
    #[error(
        "there is no agent at {0}: start podtrail-agent on this node, or read from a collector with --collector URL"
    )]
    NoSocket(String),
    #[error("nobody listens at {0}: the agent that made this socket is gone; start podtrail-agent again")]
    DeadSocket(String),
    #[error("no permission to open {0}: run this as root, or as a user who may read the agent's socket")]
    Permission(String),
    #[error("cannot open {path}: {why}; is that the agent's socket?")]
    Socket { path: String, why: String },
    #[error("cannot reach {name}: {why}; does podtrail-collector run there, and is the address right?")]
    Collector { name: String, why: String },
    #[error("{name} does not answer within {seconds} s; try again, or look at its log")]
    Slow { name: String, seconds: u64 },
    #[error("{name} does not speak podtrail's protocol ({why}): is that the right address?")]
    Protocol { name: String, why: String },
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Filter(FilterError),
    #[error("{name} failed: {why}")]
    Failed { name: String, why: String },
    #[error("lost the connection to {name}: {why}")]
    Lost { name: String, why: String },
    #[error("{0} gives the same page again and again; it needs an upgrade or a look at its log")]
    Endless(String),
}

/// A connection to the `Trail` service.
#[derive(Debug)]
pub struct Client {
    trail: TrailClient<Channel>,
    source: Source,
}

impl Client {
    pub async fn connect(source: Source) -> Result<Self, ClientError> {
        let endpoint = match &source {
            Source::Collector { url, tls: _ } => Endpoint::from_shared(url.clone()).map_err(|error| {
                ClientError::Url { url: escape::prose(&error.to_string()), why: "that is no host and port" }
            })?,
            Source::Socket(_) => Endpoint::from_static("http://localhost"),
        };
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            // A collector that vanished without a word is noticed, though no event may come for hours.
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20))
            .keep_alive_while_idle(true);
        let connecting = async {
            match &source {
                Source::Collector { url: _, tls: Some(files) } => {
                    ClientTls::new(files.clone()).connect(&endpoint).await
                }
                Source::Collector { url: _, tls: None } => Ok(endpoint.connect().await?),
                Source::Socket(path) => {
                    let path = path.clone();
                    let open = tower::service_fn(move |_| {
                        let path = path.clone();
                        async move { UnixStream::connect(path).await.map(TokioIo::new) }
                    });
                    Ok(endpoint.connect_with_connector(open).await?)
                }
            }
        };
        let channel = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(ConnectError::Tls(error))) => {
                return Err(ClientError::Files(escape::prose(&error.to_string())));
            }
            Ok(Err(ConnectError::Transport(error))) => return Err(unreachable_source(&source, &error)),
            Err(_) => {
                return Err(ClientError::Slow { name: source.name(), seconds: CONNECT_TIMEOUT.as_secs() });
            }
        };
        Ok(Self { trail: TrailClient::new(channel).max_decoding_message_size(MAX_MESSAGE), source })
    }

    pub async fn tail(&mut self, request: v1::TailRequest) -> Result<Tail, ClientError> {
        let stream = self.trail.tail(request).await.map_err(|status| failed(&self.source, &status))?;
        Ok(Tail { stream: stream.into_inner(), source: self.source.clone() })
    }

    /// One page; an empty token asks for the first.
    pub async fn sessions(
        &mut self,
        request: v1::ListSessionsRequest,
    ) -> Result<v1::ListSessionsResponse, ClientError> {
        let asked = request.page_token.clone();
        let page = timely(&self.source, self.trail.list_sessions(request)).await?;
        self.moves_on(&asked, &page.next_page_token)?;
        Ok(page)
    }

    /// One page; an empty token asks for the first.
    pub async fn session(
        &mut self,
        request: v1::GetSessionRequest,
    ) -> Result<v1::GetSessionResponse, ClientError> {
        let asked = request.page_token.clone();
        let page = timely(&self.source, self.trail.get_session(request)).await?;
        self.moves_on(&asked, &page.next_page_token)?;
        Ok(page)
    }

    pub async fn nodes(&mut self) -> Result<v1::ListNodesResponse, ClientError> {
        timely(&self.source, self.trail.list_nodes(v1::ListNodesRequest {})).await
    }

    /// The caller's own.
    pub async fn subscriptions(&mut self) -> Result<Vec<v1::Subscription>, ClientError> {
        let call = self.trail.list_subscriptions(v1::ListSubscriptionsRequest {});
        Ok(timely(&self.source, call).await?.subscriptions)
    }

    pub async fn subscription(&mut self, name: &str) -> Result<v1::Subscription, ClientError> {
        let call = self.trail.get_subscription(v1::GetSubscriptionRequest { name: name.to_owned() });
        Ok(timely(&self.source, call).await?.subscription.unwrap_or_default())
    }

    pub async fn delete_subscription(&mut self, name: &str) -> Result<(), ClientError> {
        let call = self.trail.delete_subscription(v1::DeleteSubscriptionRequest { name: name.to_owned() });
        timely(&self.source, call).await?;
        Ok(())
    }

    pub async fn subscribe(&mut self, open: v1::SubscribeOpen) -> Result<Subscription, ClientError> {
        let (requests, rx) = mpsc::channel(16);
        // Cannot fail: there is room, and the other end is here.
        _ = requests.try_send(v1::SubscribeRequest { request: Some(Asked::Open(open)) });
        let answer = self.trail.subscribe(ReceiverStream::new(rx)).await;
        let stream = answer.map_err(|status| failed(&self.source, &status))?.into_inner();
        Ok(Subscription { requests, stream, source: self.source.clone() })
    }

    fn moves_on(&self, asked: &str, next: &str) -> Result<(), ClientError> {
        if !next.is_empty() && asked == next { Err(ClientError::Endless(self.source.name())) } else { Ok(()) }
    }
}

/// Events as they come.
#[derive(Debug)]
pub struct Tail {
    stream: Streaming<v1::TailResponse>,
    source: Source,
}

impl Tail {
    /// The next one; `None`: the server has ended the stream. Nothing is lost where the future is dropped.
    pub async fn next(&mut self) -> Result<Option<v1::TailResponse>, ClientError> {
        self.stream.message().await.map_err(|status| failed(&self.source, &status))
    }

    /// What to say when a stream that should go on has ended.
    #[must_use]
    pub fn ended(&self) -> ClientError {
        ClientError::Lost { name: self.source.name(), why: "it ended the stream".to_owned() }
    }
}

/// A subscription that is open.
#[derive(Debug)]
pub struct Subscription {
    requests: mpsc::Sender<v1::SubscribeRequest>,
    stream: Streaming<v1::SubscribeResponse>,
    source: Source,
}

impl Subscription {
    /// What comes next; `None`: the server has ended the stream. Nothing is lost where the future is dropped.
    pub async fn next(&mut self) -> Result<Option<Answer>, ClientError> {
        let response = self.stream.message().await.map_err(|status| failed(&self.source, &status))?;
        Ok(response.and_then(|response| response.response))
    }

    /// Everything up to this cursor is done with.
    pub async fn ack(&self, cursor: String) {
        let ack = v1::SubscribeAck { cursor };
        // A stream that is closed says so where it is read.
        _ = self.requests.send(v1::SubscribeRequest { request: Some(Asked::Ack(ack)) }).await;
    }

    /// Asks for the end, and waits until the server has heard everything.
    pub async fn close(self) {
        let Self { requests, mut stream, source: _ } = self;
        drop(requests);
        while let Ok(Some(_)) = stream.message().await {}
    }

    /// What to say when a stream that should go on has ended.
    #[must_use]
    pub fn ended(&self) -> ClientError {
        ClientError::Lost { name: self.source.name(), why: "it ended the stream".to_owned() }
    }
}

async fn timely<T>(
    source: &Source,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, ClientError> {
    match tokio::time::timeout(PAGE_TIMEOUT, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(failed(source, &status)),
        Err(_) => Err(ClientError::Slow { name: source.name(), seconds: PAGE_TIMEOUT.as_secs() }),
    }
}

fn failed(source: &Source, status: &Status) -> ClientError {
    let name = source.name();
    let why = escape::prose(status.message());
    // Whoever serves it knows the fields that it has, which may be more than are known here.
    if status.code() == Code::InvalidArgument
        && let Some(error) = FilterError::read(status.message())
    {
        return ClientError::Filter(error);
    }
    match status.code() {
        Code::NotFound
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::ResourceExhausted
            if !why.is_empty() =>
        {
            ClientError::Refused(why)
        }
        // An agent says who serves what it does not.
        Code::Unimplemented if !why.is_empty() => ClientError::Refused(why),
        Code::Unimplemented => ClientError::Protocol { name, why: or(why, "it has no such call") },
        Code::Unavailable | Code::Cancelled => ClientError::Lost { name, why: or(why, "it went away") },
        // What the transport itself met has a source, what the server said has none.
        _ if status.source().is_some() => ClientError::Lost { name, why: deepest(status) },
        code => ClientError::Failed { name, why: or(why, code.description()) },
    }
}

fn or(text: String, instead: &str) -> String {
    if text.is_empty() { instead.to_owned() } else { text }
}

/// Says it by the system's error, where there is one at the bottom.
fn unreachable_source(source: &Source, error: &(dyn Error + 'static)) -> ClientError {
    let system = chain(error).find_map(|error| error.downcast_ref::<io::Error>());
    let why = || deepest(error);
    match (source, system.map(io::Error::kind)) {
        (Source::Socket(path), kind) => {
            let path = escape::word(path.as_os_str().as_encoded_bytes());
            match kind {
                Some(io::ErrorKind::NotFound) => ClientError::NoSocket(path),
                Some(io::ErrorKind::ConnectionRefused) => ClientError::DeadSocket(path),
                Some(io::ErrorKind::PermissionDenied) => ClientError::Permission(path),
                _ => ClientError::Socket { path, why: why() },
            }
        }
        (Source::Collector { .. }, _) if let Some(why) = tls::objection(error) => {
            ClientError::Tls { name: source.name(), why: escape::prose(&why) }
        }
        (Source::Collector { .. }, _) => ClientError::Collector { name: source.name(), why: why() },
    }
}

fn chain<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'e (dyn Error + 'static)| (*error).source())
}

fn deepest(error: &(dyn Error + 'static)) -> String {
    escape::prose(&chain(error).last().map(ToString::to_string).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_scheme_or_not() {
        let url = |text: &str| match Source::collector(text, [None, None, None]).unwrap() {
            Source::Collector { url, tls: None } => url,
            other => panic!("{other:?}"),
        };
        assert_eq!(url("127.0.0.1:7443"), "http://127.0.0.1:7443");
        assert_eq!(url("http://collector:7443/"), "http://collector:7443");
        assert_eq!(url("[::1]:7443"), "http://[::1]:7443");
        let files = || [Some("/ca".into()), Some("/cert".into()), Some("/key".into())];
        for text in ["HTTPS://collector:7443/", "collector:7443"] {
            let Source::Collector { url, tls: Some(files) } = Source::collector(text, files()).unwrap()
            else {
                panic!("{text}")
            };
            assert_eq!((url.as_str(), files.key), ("https://collector:7443", "/key".into()));
        }
    }

    #[test]
    fn an_address_that_is_none_is_refused() {
        for (text, why) in [
            ("https://c:1", "https needs --tls-ca"),
            ("unix:///run/x", "only https:// and http:// are known"),
            ("collector", "the port is missing"),
            ("", "no host and port"),
            ("http://", "no host and port"),
            ("c:1/path", "no host and port"),
            ("user@c:1", "no host and port"),
            ("c:99999", "port"),
            (":80", "no host and port"),
        ] {
            let error = Source::collector(text, [None, None, None]).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn what_a_server_says_is_escaped() {
        let error = failed(&Source::Socket("/x".into()), &Status::internal("a\x1b[2J\nb"));
        assert_eq!(error.to_string(), "the agent at /x failed: a\\x1b[2J\\nb");
    }
}
