//! Reading the log for one reader: what they are shown, and what retention took before they got there.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use podtrail_proto::v1::{self, event::Body};

use super::feed::{Delivery, Look};
use crate::trail::{
    Moment,
    log::{Bounds, Cursor, Entry, Log, LogError, Page},
    sight::Sight,
};

/// How much is read at once.
const PAGE: Page = Page { max_events: 4096, max_bytes: 1024 * 1024 };

/// How long a page may be looked at; what is left is for the next.
const PATIENCE: Duration = Duration::from_millis(100);

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// what comes after `after` is not there any more, up to `oldest`
    #[error("events {} to {} are trimmed", after + 1, oldest - 1)]
    Trimmed { after: Cursor, oldest: Cursor },
    #[error(transparent)]
    Log(#[from] LogError),
}

/// The next piece of the log after `after`. Where retention took its beginning: an error, or, with `gaps`, an event
/// in its place that counts what is gone. May touch the disk.
///
/// It ends before an event whose session's verdict is still to come and that was logged at `held_from` or later; then
/// the second is `true`.
pub(super) fn look(
    log: &dyn Log,
    after: Cursor,
    sight: &Sight,
    gaps: bool,
    held_from: Moment,
) -> Result<(Look, bool), LookError> {
    let entries = log.read(after, PAGE)?;
    // Looked at after the read: what was trimmed before it is noticed for certain.
    let bounds = log.bounds()?;
    let first = entries.first().map_or(bounds.oldest, begin);
    let mut to = after;
    let mut shown = Vec::new();
    // Not every missing number is trimmed: where the log lost some itself, it says so in its own way.
    if first > after + 1 && bounds.oldest > after + 1 {
        if !gaps {
            return Err(LookError::Trimmed { after, oldest: bounds.oldest });
        }
        to = first - 1;
        shown.push(Delivery::new(to, Arc::new(gap(after, to, &bounds))));
    }
    shown.reserve(entries.len());
    let began = Instant::now();
    let mut held = false;
    for Entry { cursor, logged, event } in entries {
        held = logged >= held_from && sight.attributions.is_awaited(&event);
        if held {
            break;
        }
        to = cursor;
        shown.extend(sight.show(event).map(|event| Delivery::new(cursor, event)));
        // Filters are bounded for each event; a whole page of the worst of them is not to hold up a shutdown.
        if began.elapsed() > PATIENCE {
            break;
        }
    }
    Ok((Look { after, to, shown }, held))
}

/// The first cursor that an entry stands for: where the log cannot read what it has, one stands for several.
fn begin(entry: &Entry) -> Cursor {
    let before = match &entry.event.body {
        Some(Body::Gap(gap)) if entry.event.id.is_none() && gap.source() == v1::GapSource::CollectorStore => {
            gap.count().saturating_sub(1)
        }
        _ => 0,
    };
    entry.cursor.saturating_sub(before)
}

/// Says that the events after `after`, up to `to`, are gone.
fn gap(after: Cursor, to: Cursor, bounds: &Bounds) -> v1::Event {
    let until = bounds.oldest_time.map(Moment::timestamp);
    let gap = v1::Gap {
        source: Some(v1::GapSource::Retention.into()),
        count: Some(to - after),
        exact: Some(true),
        // Events may be logged long after they happened: when these did is not known.
        from: None,
        to: until,
        session_ids: Vec::new(),
        detail: "dropped from the log before this reader got them".to_owned(),
    };
    v1::Event { time: until, body: Some(Body::Gap(gap)), ..v1::Event::default() }
}

/// What `open` says of a position.
pub(super) fn is_trimmed(bounds: &Bounds, after: Cursor) -> bool {
    after + 1 < bounds.oldest
}

/// For a shared log.
pub(super) type SharedLog = Arc<dyn Log>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        filter::Filter,
        trail::{
            MemoryLog,
            attributions::Attributions,
            testing::{event, exited},
            viewer::Viewer,
        },
    };

    /// Waits for the verdict on one session.
    #[derive(Debug)]
    struct Waits;

    impl Attributions for Waits {
        fn of(&self, _: &v1::Event) -> Option<Arc<v1::Attribution>> {
            None
        }

        fn is_awaited(&self, event: &v1::Event) -> bool {
            event.session_id == "open"
        }
    }

    #[test]
    fn a_page_ends_before_what_is_held() {
        let log = MemoryLog::with_clock(1 << 20, Arc::new(|| Moment(1000)));
        let sessions = ["", "done", "open", "done"];
        let events = sessions.iter().zip(1..).map(|(s, n)| Arc::new(event("n", n, 1, s, exited())));
        log.append(events.collect()).unwrap();
        let sight = Sight {
            filter: Filter::compile("").unwrap(),
            viewer: Viewer::everything("test"),
            attributions: Arc::new(Waits),
        };
        let seen = |after, held_from| {
            let (page, held) = look(&log, after, &sight, false, held_from).unwrap();
            (page.to, page.shown.iter().map(|d| d.cursor).collect::<Vec<_>>(), held)
        };
        assert_eq!(seen(0, Moment(1000)), (2, vec![1, 2], true));
        assert_eq!(seen(2, Moment(1000)), (2, vec![], true));
        // It is old enough, or nobody asked for it.
        assert_eq!(seen(0, Moment(1001)), (4, vec![1, 2, 3, 4], false));
        assert_eq!(seen(0, Moment::MAX), (4, vec![1, 2, 3, 4], false));
    }
}
