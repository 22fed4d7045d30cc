//! The answer to a call, and what makes it end early.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::time::{self, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{
    Code, Status,
    body::Body,
    codegen::http::{HeaderMap, Response},
};

use crate::{
    telemetry::{Emit as _, refused::Refused},
    tls::{Identity, counts::Place},
};

/// How tonic words its refusal of a message that is too long, which nobody else gets to see.
const TOO_LONG: &str = "message length too large";

/// A call that was taken in.
#[derive(Debug)]
pub(super) struct Call {
    peer: String,
    place: Option<Place<Identity>>,
    left: Option<Duration>,
    changed: CancellationToken,
}

/// An answer on its way.
#[derive(Debug)]
pub(in crate::collector) struct Guarded {
    body: Body,
    guard: Option<Guard>,
}

#[derive(Debug)]
struct Guard {
    peer: String,
    _place: Option<Place<Identity>>,
    expires: Option<Pin<Box<Sleep>>>,
    changed: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Call {
    pub(super) fn new(
        peer: String,
        place: Option<Place<Identity>>,
        left: Option<Duration>,
        changed: CancellationToken,
    ) -> Self {
        Self { peer, place, left, changed }
    }

    pub(super) fn guard(self, answer: Response<Body>) -> Response<Guarded> {
        let Self { peer, place, left, changed } = self;
        note_too_long(&peer, answer.headers());
        let guard = Guard {
            peer,
            _place: place,
            expires: left.map(|left| Box::pin(time::sleep(left))),
            changed: Box::pin(changed.cancelled_owned()),
        };
        answer.map(|body| Guarded { body, guard: Some(guard) })
    }
}

/// A message that was too long is refused deep in the service that was to get it; here it is counted.
fn note_too_long(peer: &str, headers: &HeaderMap) {
    let Some(status) = Status::from_header_map(headers) else { return };
    if status.code() == Code::OutOfRange && status.message().contains(TOO_LONG) {
        Refused { peer, reason: "message_too_long", message: status.message() }.emit();
    }
}

impl Guard {
    /// Why the answer has to end now.
    fn over(&mut self, cx: &mut Context<'_>) -> Option<Status> {
        if self.changed.as_mut().poll(cx).is_ready() {
            return Some(Status::unavailable("the rights of this principal have changed: come again"));
        }
        if self.expires.as_mut().is_some_and(|expires| expires.as_mut().poll(cx).is_ready()) {
            let what = "the certificate has expired: connect again with a new one";
            return Some(Status::unauthenticated(what));
        }
        None
    }
}

impl Guarded {
    /// Ends when it ends.
    pub(super) fn plain(body: Body) -> Self {
        Self { body, guard: None }
    }
}

impl hyper::body::Body for Guarded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Self { body, guard } = self.get_mut();
        if let Some(status) = guard.as_mut().and_then(|guard| guard.over(cx)) {
            // What the service still has to say is for nobody any more.
            *body = Body::empty();
            *guard = None;
            let mut trailers = HeaderMap::new();
            return Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))));
        }
        let frame = Pin::new(body).poll_frame(cx);
        if let (Poll::Ready(Some(Ok(frame))), Some(guard)) = (&frame, guard)
            && let Some(trailers) = frame.trailers_ref()
        {
            note_too_long(&guard.peer, trailers);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
