//! One question by HTTP/1.1 to somebody on this node: `GET`, and a whole answer, bounded.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    Request, StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::AbortOnDropHandle;

/// What is asked for.
#[derive(Debug)]
pub struct Question<'a> {
    pub host: &'a str,
    pub path: &'static str,
    pub accept: &'static str,
    pub authorization: Option<HeaderValue>,
    /// bytes of the answer
    pub max: usize,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// {0}
    #[error("it does not speak HTTP: {0}")]
    Http(#[from] hyper::Error),
    /// {0} is no name
    #[error("{0:?} is neither a name nor an address")]
    Name(String),
    /// another status
    #[error("it says {0}")]
    Status(StatusCode),
    /// too much
    #[error("its answer breaks off, or is longer than {0} MiB: {1}")]
    Body(usize, String),
}

/// Asks over this connection.
pub async fn get<S>(stream: S, question: Question<'_>) -> Result<Vec<u8>, AskError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Question { host, path, accept, authorization, max } = question;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(async move {
        // What went wrong is told to who asked.
        _ = connection.await;
    }));
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = Uri::from_static(path);
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_str(host).map_err(|_| AskError::Name(host.to_owned()))?);
    headers.insert(ACCEPT, HeaderValue::from_static(accept));
    if let Some(value) = authorization {
        headers.insert(AUTHORIZATION, value);
    }
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::OK {
        return Err(AskError::Status(response.status()));
    }
    let body = Limited::new(response.into_body(), max).collect().await;
    Ok(body.map_err(|error| AskError::Body(max >> 20, error.to_string()))?.to_bytes().to_vec())
}
