//! What an agent sends, read off the wire once there is room for it.
//!
//! tonic would read and decode a request of each of ten thousand streams before anything here could say that it is too
//! much, and keep every stream's largest buffer for as long as the stream lasts. So the frames of gRPC are read here:
//!
//! - Of a request that there is no room for nothing is read but its length. What the agent sent of it waits in the
//!   connection's window ([`WINDOW`]), the rest in the agent.
//! - Room is taken for the whole of it, in the order of asking, until it is decoded; and before that for what it becomes
//!   by decoding ([`weight`]), until it is in the log. Large requests have half of either, so that they never take all.
//! - A request that was begun has to come to its end in time: nobody holds room and sends nothing.

use std::{fmt, future::poll_fn, mem, pin::Pin, sync::Arc, time::Duration};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::Full;
use hyper::body::Body as _;
use podtrail_proto::v1;
use prost::{DecodeError, Message as _};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};
use tonic::{
    Code, Status, Streaming,
    body::Body,
    codec::{DecodeBuf, Decoder},
};

use crate::{
    collector::weight,
    telemetry::{Emit as _, collector::IngestRoom},
    trail::MAX_MESSAGE_BYTES,
};

/// What a connection, and a stream on it, may have sent and not been read: the least that HTTP/2 knows.
pub(in crate::collector) const WINDOW: u32 = 64 * 1024;
/// Length of the requests that are being received at once. Larger ones than the second share half of it. What agents of
/// this version send is shorter, but for single large events.
const RECEIVED: (usize, usize) = (32 * 1024 * 1024, 1024 * 1024);
/// What requests become by decoding, and by being written: likewise.
const DECODED: (usize, usize) = (128 * 1024 * 1024, 8 * 1024 * 1024);
/// Beside what is decoded there are, while it is written: the store's copy, and the journal's.
const WRITTEN: usize = 2;
/// What a request costs, however short it is.
const LEAST_BYTES: usize = 1024;
/// From its length to its last byte.
const IN_TIME: Duration = Duration::from_secs(30);
/// Of a frame of gRPC: whether it is compressed, and the length of what follows.
const HEADER_BYTES: usize = 5;

/// Room for requests; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Room {
    received: Share,
    decoded: Share,
    in_time: Duration,
}

/// Of the memory, for one purpose.
#[derive(Clone, Debug)]
struct Share {
    bytes: usize,
    all: Arc<Semaphore>,
    large_bytes: usize,
    large: Arc<Semaphore>,
}

/// Room that is taken, until dropped.
#[derive(Debug)]
pub(in crate::collector) struct Taken {
    bytes: u32,
    _large: Option<OwnedSemaphorePermit>,
    _all: OwnedSemaphorePermit,
}

impl Drop for Taken {
    fn drop(&mut self) {
        IngestRoom { bytes: -f64::from(self.bytes) }.emit();
    }
}

impl Room {
    pub(super) fn new() -> Self {
        Self::with(IN_TIME)
    }

    fn with(in_time: Duration) -> Self {
        Self { received: Share::new(RECEIVED), decoded: Share::new(DECODED), in_time }
    }
}

impl Share {
    fn new((bytes, large_bytes): (usize, usize)) -> Self {
        let (all, large) = (Arc::new(Semaphore::new(bytes)), Arc::new(Semaphore::new(bytes / 2)));
        Self { bytes, all, large_bytes, large }
    }

    async fn take(&self, bytes: usize) -> Result<Taken, Status> {
        let gone = |_| Status::unavailable("shutting down: come again");
        let permits = u32::try_from(bytes.clamp(LEAST_BYTES, self.bytes / 2)).unwrap_or(u32::MAX);
        let large = if bytes > self.large_bytes {
            Some(self.large.clone().acquire_many_owned(permits).await.map_err(gone)?)
        } else {
            None
        };
        let all = self.all.clone().acquire_many_owned(permits).await.map_err(gone)?;
        IngestRoom { bytes: permits.into() }.emit();
        Ok(Taken { bytes: permits, _large: large, _all: all })
    }
}

/// The requests of one stream.
pub(super) struct Requests {
    body: Pin<Box<Body>>,
    room: Room,
    /// came already, and is of later requests
    rest: Bytes,
    state: State,
}

enum State {
    /// of the next header so much is there
    Header(BytesMut),
    Message {
        /// with its header
        frame: BytesMut,
        length: usize,
        _taken: Taken,
        until: Instant,
    },
}

impl Default for State {
    fn default() -> Self {
        Self::Header(BytesMut::new())
    }
}

impl Requests {
    pub(super) fn new(body: Body, room: Room) -> Self {
        Self { body: Box::pin(body), room, rest: Bytes::new(), state: State::default() }
    }

    /// Waits until another request begins; returns its length, or `None`: there are no more. May be cancelled.
    pub(super) async fn begun(&mut self) -> Result<Option<usize>, Status> {
        loop {
            let header = match &mut self.state {
                State::Header(header) => header,
                State::Message { length, .. } => return Ok(Some(*length)),
            };
            fill(header, HEADER_BYTES, &mut self.rest);
            if let Some(length) = length(header)? {
                return Ok(Some(length));
            }
            let begun = !header.is_empty();
            if !receive(&mut self.body, &mut self.rest).await? {
                return if begun { Err(cut_short()) } else { Ok(None) };
            }
        }
    }

    /// The next request, with the room that it takes; `None`: there are no more. May be cancelled: nothing is lost.
    pub(super) async fn next(&mut self) -> Result<Option<(v1::ReportRequest, Taken)>, Status> {
        let Some(length) = self.begun().await? else { return Ok(None) };
        if let State::Header(header) = &self.state {
            let taken = self.room.received.take(length).await?;
            let mut frame = BytesMut::with_capacity(HEADER_BYTES + length);
            frame.extend_from_slice(header);
            self.state =
                State::Message { frame, length, _taken: taken, until: Instant::now() + self.room.in_time };
        }
        while let State::Message { frame, length, until, .. } = &mut self.state {
            fill(frame, HEADER_BYTES + *length, &mut self.rest);
            if frame.len() == HEADER_BYTES + *length {
                break;
            }
            let more = timeout_at(*until, receive(&mut self.body, &mut self.rest)).await;
            if !more.map_err(|_elapsed| late(*length, self.room.in_time))?? {
                return Err(cut_short());
            }
        }
        let State::Message { frame, .. } = &self.state else { return Ok(None) };
        let decoded = self.room.decoded.take(decodes_to(frame)?).await?;
        let State::Message { frame, _taken, .. } = mem::take(&mut self.state) else { return Ok(None) };
        Ok(decode(frame.freeze()).await?.map(|request| (request, decoded)))
    }
}

/// Moves what is missing of `wanted` bytes, as far as it is there.
fn fill(bytes: &mut BytesMut, wanted: usize, rest: &mut Bytes) {
    let missing = wanted.saturating_sub(bytes.len()).min(rest.len());
    bytes.extend_from_slice(&rest.split_to(missing));
}

/// What a header says; `None`: it is not all there.
fn length(header: &[u8]) -> Result<Option<usize>, Status> {
    let Some((_compressed, length)) = header.split_first() else { return Ok(None) };
    let Ok(length) = <[u8; 4]>::try_from(length) else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_MESSAGE_BYTES {
        // As tonic words it, for every service alike.
        return Err(Status::out_of_range(format!(
            "decoded message length too large: found {length} bytes, the limit is: {MAX_MESSAGE_BYTES} bytes"
        )));
    }
    Ok(Some(length))
}

/// Waits for more; `false`: there is no more.
async fn receive(body: &mut Pin<Box<Body>>, rest: &mut Bytes) -> Result<bool, Status> {
    loop {
        match poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            None => return Ok(false),
            // It has left.
            Some(Err(status)) if status.code() == Code::Cancelled => return Ok(false),
            Some(Err(status)) => return Err(status),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data()
                    && !data.is_empty()
                {
                    *rest = data;
                    return Ok(true);
                }
            }
        }
    }
}

/// One whole frame. tonic knows how, and what it needs for it is gone with it.
async fn decode(frame: Bytes) -> Result<Option<v1::ReportRequest>, Status> {
    let body = Full::new(frame);
    Streaming::new_request(Copied, body, None, Some(MAX_MESSAGE_BYTES)).message().await
}

/// Decodes to memory of its own: a few bytes of an event must not keep the whole request that they came in.
#[derive(Debug)]
struct Copied;

impl Decoder for Copied {
    type Item = v1::ReportRequest;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<v1::ReportRequest>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        v1::ReportRequest::decode(&*bytes).map(Some).map_err(|e| no_request(&e))
    }
}

fn no_request(e: &DecodeError) -> Status {
    Status::invalid_argument(format!("that is no ReportRequest: {e}"))
}

/// What a frame becomes, until it is in the log.
fn decodes_to(frame: &[u8]) -> Result<usize, Status> {
    // Who refuses what is compressed is asked later.
    let Some((&0, rest)) = frame.split_first() else { return Ok(0) };
    let message = rest.get(HEADER_BYTES - 1..).unwrap_or_default();
    let bytes = weight::report(message).map_err(|e| no_request(&e))?;
    if bytes > DECODED.0 / 2 {
        // Counted as what is too long on the wire is.
        return Err(Status::out_of_range(format!(
            "decoded message length too large: a request of {} bytes takes {bytes}, the limit is: {} bytes",
            message.len(),
            DECODED.0 / 2
        )));
    }
    Ok(bytes + WRITTEN * message.len())
}

fn cut_short() -> Status {
    Status::invalid_argument("the stream ended in the middle of a request")
}

fn late(length: usize, in_time: Duration) -> Status {
    Status::deadline_exceeded(format!(
        "a request of {length} bytes did not come whole within {} s: send smaller ones",
        in_time.as_secs()
    ))
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").field("room", &self.room).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt as _, stream};
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;

    fn framed(request: &v1::ReportRequest) -> Vec<u8> {
        let bytes = request.encode_to_vec();
        [&[0][..], &u32::try_from(bytes.len()).unwrap().to_be_bytes(), &bytes].concat()
    }

    fn free(room: &Room) -> (usize, usize) {
        (room.received.all.available_permits(), room.decoded.all.available_permits())
    }

    fn request(seq: u64) -> v1::ReportRequest {
        let id = v1::EventId { seq, ..v1::EventId::default() };
        let event = v1::Event { id: Some(id), ..v1::Event::default() };
        v1::ReportRequest {
            hello: None,
            events: vec![event; usize::try_from(seq).unwrap()],
            gone: Vec::new(),
        }
    }

    /// A stream that goes on for ever after these bytes, or ends.
    fn requests(bytes: &[u8], chunk: usize, ends: bool, room: &Room) -> Requests {
        let chunks: Vec<_> =
            bytes.chunks(chunk).map(|c| Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(c)))).collect();
        let chunks = stream::iter(chunks);
        let body = if ends {
            Body::new(StreamBody::new(chunks))
        } else {
            Body::new(StreamBody::new(chunks.chain(stream::pending())))
        };
        Requests::new(body, room.clone())
    }

    #[tokio::test]
    async fn requests_are_read_however_they_are_cut() {
        let sent: Vec<_> = (0..20).map(request).collect();
        let bytes: Vec<u8> = sent.iter().flat_map(framed).collect();
        let room = Room::new();
        for chunk in (1..40).chain([bytes.len()]) {
            let mut requests = requests(&bytes, chunk, true, &room);
            for wanted in &sent {
                assert_eq!(requests.next().await.unwrap().unwrap().0, *wanted);
            }
            assert!(requests.next().await.unwrap().is_none());
        }
        assert_eq!(free(&room), (RECEIVED.0, DECODED.0));
        for cut in [1, 5, 6, bytes.len() - 1] {
            let mut requests = requests(&bytes[..cut], 7, true, &room);
            let error = loop {
                match requests.next().await {
                    Ok(Some(_)) => {}
                    Ok(None) => break None,
                    Err(e) => break Some(e),
                }
            };
            // The first is without anything, and so whole after its header.
            assert_eq!(
                error.map(|e| e.message().to_owned()),
                (cut != 5).then(|| cut_short().message().to_owned()),
                "{cut}"
            );
        }
    }

    #[tokio::test]
    async fn what_there_is_no_room_for_waits_and_what_does_not_come_is_given_up() {
        let room = Room::with(Duration::from_secs(1));
        let promise =
            |length: usize| [&[0][..], &u32::try_from(length).unwrap().to_be_bytes(), &[0; 100]].concat();
        let mut stalled: Vec<_> = (0..4).map(|_| requests(&promise(8 << 20), 64, false, &room)).collect();
        for requests in &mut stalled {
            assert!(tokio::time::timeout(Duration::from_millis(50), requests.next()).await.is_err());
        }
        // Two of them have half of the room; the others are not read.
        assert_eq!(free(&room).0, RECEIVED.0 / 2);
        assert!(
            matches!(stalled[1].state, State::Message { .. }) && matches!(stalled[2].state, State::Header(_))
        );
        let mut short = requests(&framed(&request(3)), 1000, false, &room);
        let taken = short.next().await.unwrap().unwrap();
        assert_eq!(taken.0, request(3));
        assert_eq!(free(&room).0, RECEIVED.0 / 2);
        drop(taken);

        let Err(late) = stalled[0].next().await else { panic!("it is there") };
        assert_eq!(late.code(), Code::DeadlineExceeded);
        stalled.truncate(0);
        assert_eq!(
            (free(&room), room.received.large.available_permits()),
            ((RECEIVED.0, DECODED.0), RECEIVED.0 / 2)
        );
    }

    #[tokio::test]
    async fn what_is_no_request_is_refused() {
        let room = Room::new();
        let header = |length: u32| [&[0][..], &length.to_be_bytes(), b"\xff\xff"].concat();
        for (bytes, wanted) in [
            (header(u32::MAX), Code::OutOfRange),
            (header(2), Code::InvalidArgument),
            // A million events without anything.
            ([&[0][..], &(2_u32 << 20).to_be_bytes(), &[0x12, 0].repeat(1 << 20)].concat(), Code::OutOfRange),
            ([&[1, 0, 0, 0, 2][..], b"xx"].concat(), Code::Internal),
        ] {
            assert_eq!(
                requests(&bytes, 1000, false, &room).next().await.map(|_| ()).unwrap_err().code(),
                wanted
            );
        }
        assert_eq!(free(&room), (RECEIVED.0, DECODED.0));
    }
}
