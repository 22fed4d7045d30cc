//! Appends every event of a collector to a file: none is missed and none is there twice, whoever is restarted:
//!     cargo run -p podtrail-proto --example follow -- http://127.0.0.1:7443 NAME events.jsonl
//! A line is {"cursor": …, "event": …}: event and place are written together, so the last whole line says where to go on.

use std::{
    error::Error,
    fs::File,
    io::{BufRead as _, BufReader, Seek as _, SeekFrom, Write as _},
    time::Duration,
};

use podtrail_proto::v1::{
    SubscribeAck, SubscribeOpen, SubscribeRequest, TailResponse, subscribe_open::From,
    subscribe_request::Request, subscribe_response::Response, trail_client::TrailClient,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, transport::Channel};

/// The cursor in the last whole line; what stands behind it is cut off.
fn last_cursor(out: &mut File) -> Result<Option<String>, Box<dyn Error>> {
    let (mut end, mut last, mut line) = (0, Vec::new(), Vec::new());
    out.seek(SeekFrom::Start(0))?;
    let mut lines = BufReader::new(&*out);
    while lines.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
        end += line.len() as u64;
        last = std::mem::take(&mut line);
    }
    out.set_len(end)?;
    if last.is_empty() { Ok(None) } else { Ok(Some(serde_json::from_slice::<TailResponse>(&last)?.cursor)) }
}

async fn follow(url: &str, name: &str, out: &mut File) -> Result<(), Box<dyn Error>> {
    let from = last_cursor(out)?.map_or(From::Oldest(true), From::Cursor);
    let open =
        SubscribeOpen { name: name.into(), from: Some(from), gap_if_trimmed: true, ..Default::default() };
    let (requests, stream) = tokio::sync::mpsc::channel(4);
    requests.send(SubscribeRequest { request: Some(Request::Open(open)) }).await?;
    let channel = Channel::from_shared(url.to_owned())?.connect().await?;
    let mut client = TrailClient::new(channel).max_decoding_message_size(32 << 20);
    let mut responses = client.subscribe(ReceiverStream::new(stream)).await?.into_inner();
    while let Some(response) = responses.message().await? {
        let cursor = match response.response {
            Some(Response::Events(batch)) => {
                let (mut lines, mut last) = (Vec::new(), String::new());
                for (event, cursor) in batch.events.into_iter().zip(batch.cursors) {
                    last.clone_from(&cursor);
                    serde_json::to_writer(&mut lines, &TailResponse { event: Some(event), cursor })?;
                    lines.push(b'\n');
                }
                out.write_all(&lines)?;
                out.sync_data()?;
                last
            }
            Some(Response::Heartbeat(heartbeat)) => heartbeat.cursor,
            Some(Response::Opened(_)) | None => continue,
        };
        requests.send(SubscribeRequest { request: Some(Request::Ack(SubscribeAck { cursor })) }).await?;
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, name, path] = arguments.as_slice() else { return Err("usage: follow URL NAME FILE".into()) };
    loop {
        let mut out = File::options().create(true).read(true).append(true).open(path)?;
        if let Err(error) = follow(url, name, &mut out).await {
            match error.downcast_ref::<Status>().map(Status::code) {
                // Not there now, or too slow: where it goes on stands in the file.
                Some(Code::Unavailable | Code::ResourceExhausted | Code::Unknown) | None => {
                    eprintln!("{error:?}");
                }
                Some(_) => return Err(error),
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
