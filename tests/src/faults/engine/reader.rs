//! A reader as a SIEM would be one: a durable subscription, everything written to a file together with its cursor, and
//! acknowledged only then. A program of its own, to be killed at any moment.

use std::{
    collections::HashSet,
    ffi::OsString,
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use podtrail_proto::v1::{
    Event, SubscribeAck, SubscribeEvents, SubscribeOpen, SubscribeRequest, SubscribeResponse,
    subscribe_open::From, subscribe_request::Request, subscribe_response::Response,
    trail_client::TrailClient,
};
use prost::Message as _;
use tokio::{sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming, transport::Endpoint};

use super::kept::{self, Keeper};
use crate::text;

/// Its subscription.
const NAME: &str = "siem";

/// `podtrail-reader URL FILE SEED cursor|ids`: what it has already it knows by the cursor alone; or, for a log that may
/// not be the same one for ever, by the ids of events.
pub(crate) fn main(args: &[OsString]) -> ExitCode {
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("podtrail-reader: {e:#}");
            ExitCode::FAILURE
        }
    }
}

struct Subscriber {
    keeper: Keeper,
    random: fastrand::Rng,
    /// of the events in the file, with what they say
    ids: Option<HashSet<u64>>,
    /// the cursor in the file is of no use any more
    anew: bool,
    /// the collector knows nothing of the subscription
    lost: bool,
}

fn run(args: &[OsString]) -> Result<()> {
    let [url, file, seed, by] = args else { bail!("podtrail-reader URL FILE SEED cursor|ids") };
    let file = Path::new(file);
    let keeper = Keeper::open(file)?;
    let ids = if text(by)? == "ids" { Some(known(file)?) } else { None };
    let random = fastrand::Rng::with_seed(text(seed)?.parse()?);
    let mut subscriber = Subscriber { keeper, random, ids, anew: false, lost: false };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut told = String::new();
        loop {
            if let Err(e) = subscriber.follow(text(url)?).await {
                let line = format!("{e:#}");
                if line != told {
                    eprintln!("{line}");
                    told = line;
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
    })
}

/// What is in the file already.
fn known(file: &Path) -> Result<HashSet<u64>> {
    let mut reader = kept::Reader::open(file)?;
    let mut ids = HashSet::new();
    while let Some(events) = reader.next()? {
        ids.extend(events.events.iter().map(mark));
    }
    Ok(ids)
}

fn mark(event: &Event) -> u64 {
    let mut hasher = DefaultHasher::new();
    event.encode_to_vec().hash(&mut hasher);
    hasher.finish()
}

impl Subscriber {
    /// One stream, to its end.
    async fn follow(&mut self, url: &str) -> Result<()> {
        let endpoint = Endpoint::from_shared(url.to_owned())?
            .connect_timeout(Duration::from_secs(2))
            .http2_keep_alive_interval(Duration::from_secs(3))
            .keep_alive_timeout(Duration::from_secs(5));
        let mut client = TrailClient::new(endpoint.connect().await?).max_decoding_message_size(usize::MAX);
        let (send, requests) = mpsc::channel(16);
        send.send(SubscribeRequest { request: Some(Request::Open(self.open())) }).await?;
        let stream = match client.subscribe(ReceiverStream::new(requests)).await {
            Ok(stream) => stream.into_inner(),
            Err(e) => {
                self.refused(e.code());
                return Err(e.into());
            }
        };
        self.read(stream, &send).await
    }

    /// Half of the time it says where it was, half of the time it has the collector remember that.
    fn open(&mut self) -> SubscribeOpen {
        let from = match &self.keeper.cursor {
            Some(_) if !self.anew && !self.lost && self.random.bool() => From::Resume(true),
            Some(cursor) if !self.anew => From::Cursor(cursor.clone()),
            _ => From::Oldest(true),
        };
        SubscribeOpen {
            name: NAME.to_owned(),
            from: Some(from),
            gap_if_trimmed: self.anew,
            ..SubscribeOpen::default()
        }
    }

    fn refused(&mut self, code: Code) {
        self.lost = code == Code::NotFound;
        // Only who knows events by their ids can begin anew and take none twice.
        self.anew = code == Code::OutOfRange && self.ids.is_some();
    }

    async fn read(
        &mut self,
        mut stream: Streaming<SubscribeResponse>,
        acks: &mpsc::Sender<SubscribeRequest>,
    ) -> Result<()> {
        // Up to here everything that comes is in the file already.
        let mut known = None;
        loop {
            let response = match stream.message().await {
                Ok(Some(response)) => response,
                Ok(None) => bail!("the collector closed the stream"),
                Err(e) => {
                    self.refused(e.code());
                    return Err(e.into());
                }
            };
            match response.response.context("an empty response")? {
                Response::Opened(opened) => {
                    known = self.keeper.cursor.clone().filter(|kept| !self.anew && *kept != opened.cursor);
                }
                Response::Events(mut events) => {
                    if let Some(kept) = &known {
                        let Some(at) = events.cursors.iter().position(|cursor| cursor == kept) else {
                            continue;
                        };
                        events = SubscribeEvents {
                            events: events.events.split_off(at + 1),
                            cursors: events.cursors.split_off(at + 1),
                        };
                        known = None;
                    }
                    let Some(cursor) = events.cursors.last().cloned() else { continue };
                    if let Some(ids) = &mut self.ids {
                        events.events.retain(|event| ids.insert(mark(event)));
                        events.cursors.clear();
                    }
                    self.keeper.keep(&events, &cursor)?;
                    self.anew = false;
                    let request = Some(Request::Ack(SubscribeAck { cursor }));
                    acks.send(SubscribeRequest { request }).await?;
                }
                Response::Heartbeat(_) => {}
            }
        }
    }
}
