//! A reader as a SIEM would be one: a durable subscription, everything written to a file together with its cursor, and
//! acknowledged only then. A program of its own, to be killed at any moment.

use std::{ffi::OsString, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use podtrail_proto::v1::{
    SubscribeAck, SubscribeEvents, SubscribeOpen, SubscribeRequest, subscribe_open::From,
    subscribe_request::Request, subscribe_response::Response, trail_client::TrailClient,
};
use tokio::{sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use super::kept::Keeper;
use crate::text;

/// Its subscription.
const NAME: &str = "siem";

/// `podtrail-itest reader URL FILE SEED`
pub(crate) fn main(args: &[OsString]) -> ExitCode {
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("podtrail-itest reader: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[OsString]) -> Result<()> {
    let [url, file, seed] = args else { bail!("reader URL FILE SEED") };
    let mut random = fastrand::Rng::with_seed(text(seed)?.parse()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut keeper = Keeper::open(Path::new(file))?;
        let mut told = String::new();
        loop {
            if let Err(e) = follow(text(url)?, &mut keeper, &mut random).await {
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

/// One stream, to its end.
async fn follow(url: &str, keeper: &mut Keeper, random: &mut fastrand::Rng) -> Result<()> {
    let endpoint = Endpoint::from_shared(url.to_owned())?
        .connect_timeout(Duration::from_secs(2))
        .http2_keep_alive_interval(Duration::from_secs(3))
        .keep_alive_timeout(Duration::from_secs(5));
    let mut client = TrailClient::new(endpoint.connect().await?).max_decoding_message_size(usize::MAX);
    let (send, requests) = mpsc::channel(16);
    let request = |request| SubscribeRequest { request: Some(request) };
    send.send(request(Request::Open(open(keeper.cursor.as_deref(), random)))).await?;
    let mut stream = match client.subscribe(ReceiverStream::new(requests)).await {
        Ok(stream) => stream.into_inner(),
        Err(e) if e.code() == tonic::Code::Unimplemented => return tail(&mut client, keeper).await,
        Err(e) => return Err(e.into()),
    };
    // Up to here everything that comes is in the file already.
    let mut known = None;
    while let Some(response) = stream.message().await? {
        match response.response.context("an empty response")? {
            Response::Opened(opened) => {
                known = keeper.cursor.clone().filter(|kept| *kept != opened.cursor);
            }
            Response::Events(mut events) => {
                if let Some(kept) = &known {
                    if let Some(at) = events.cursors.iter().position(|cursor| cursor == kept) {
                        events = SubscribeEvents {
                            events: events.events.split_off(at + 1),
                            cursors: events.cursors.split_off(at + 1),
                        };
                        known = None;
                    } else {
                        events = SubscribeEvents::default();
                    }
                }
                let Some(cursor) = events.cursors.last().cloned() else { continue };
                keeper.keep(&events, &cursor)?;
                send.send(request(Request::Ack(SubscribeAck { cursor }))).await?;
            }
            Response::Heartbeat(_) => {}
        }
    }
    bail!("the collector closed the stream")
}

/// Half of the time it says where it was, half of the time it has the collector remember that.
fn open(kept: Option<&str>, random: &mut fastrand::Rng) -> SubscribeOpen {
    let from = match kept {
        None => From::Oldest(true),
        Some(_) if random.bool() => From::Resume(true),
        Some(cursor) => From::Cursor(cursor.to_owned()),
    };
    SubscribeOpen { name: NAME.to_owned(), from: Some(from), ..SubscribeOpen::default() }
}

async fn tail(client: &mut TrailClient<tonic::transport::Channel>, keeper: &mut Keeper) -> Result<()> {
    use podtrail_proto::v1::{TailRequest, tail_request};
    let from = keeper.cursor.clone().map_or(tail_request::From::Oldest(true), tail_request::From::Cursor);
    let mut stream =
        client.tail(TailRequest { from: Some(from), ..TailRequest::default() }).await?.into_inner();
    while let Some(next) = stream.message().await? {
        let cursor = next.cursor;
        let events =
            SubscribeEvents { events: next.event.into_iter().collect(), cursors: vec![cursor.clone()] };
        keeper.keep(&events, &cursor)?;
    }
    bail!("the collector closed the stream")
}
