//! `podtrail subscriptions`, and `podtrail tail --subscription`: who reads the collector's log, and how far they are.

use std::{io::Write as _, time::Duration};

use futures::FutureExt as _;
use podtrail_proto::v1::{self, subscribe_response::Response};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    CliError, Out,
    args::{Output, SubscriptionsArgs, TailArgs},
    client::Client,
    table, tail,
};

/// How long the collector may take to hear the last acknowledgement.
const GOODBYE: Duration = Duration::from_secs(5);

/// All of the caller's, or the one that is named.
pub(super) async fn run(
    client: &mut Client,
    args: &SubscriptionsArgs,
    out: &mut Out,
) -> Result<(), CliError> {
    let all = match &args.name {
        Some(name) if args.delete => return Ok(client.delete_subscription(name).await?),
        Some(name) => vec![client.subscription(name).await?],
        None => client.subscriptions().await?,
    };
    match out.format {
        Output::Json => all.iter().try_for_each(|subscription| out.json(subscription)),
        Output::Text if all.is_empty() => {
            super::complain("no subscriptions");
            Ok(())
        }
        Output::Text => Ok(out.write(table::subscriptions(&all, &out.look).as_bytes())?),
    }
}

/// Shows what comes, and acknowledges what was written.
pub(super) async fn tail(
    client: &mut Client,
    name: &str,
    args: &TailArgs,
    out: &mut Out,
) -> Result<(), CliError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CliError::Runtime)?;
    let mut subscription = tokio::select! {
        subscription = client.subscribe(args.open(name, out.look.now)) => subscription?,
        _ = interrupt.recv() => return Ok(()),
    };
    let mut printer = tail::Printer::new(out.look);
    // Written, but not to the end of the pipe yet.
    let mut written = None;
    let done: Result<(), CliError> = loop {
        let next = match subscription.next().now_or_never() {
            Some(next) => next,
            None => {
                out.flush()?;
                if let Some(cursor) = written.take() {
                    subscription.ack(cursor).await;
                }
                tokio::select! {
                    next = subscription.next() => next,
                    _ = interrupt.recv() => break Ok(()),
                }
            }
        };
        match next {
            Ok(Some(Response::Opened(_))) => {}
            Ok(Some(Response::Heartbeat(v1::SubscribeHeartbeat { cursor, .. }))) => written = Some(cursor),
            Ok(Some(Response::Events(v1::SubscribeEvents { events, mut cursors }))) => {
                for event in &events {
                    out.event(event, &mut printer)?;
                }
                written = cursors.pop().or(written);
                // While a lot comes: not only when nothing more does.
                out.flush()?;
                if let Some(cursor) = written.take() {
                    subscription.ack(cursor).await;
                }
            }
            Ok(None) => break Err(subscription.ended().into()),
            Err(error) => break Err(error.into()),
        }
    };
    out.flush()?;
    if let Some(cursor) = written {
        subscription.ack(cursor).await;
    }
    // It hears all that was acknowledged before it ends the stream.
    _ = tokio::time::timeout(GOODBYE, subscription.close()).await;
    done
}
