//! Whose session an event is of: known later than the event, and put on it when it is sent.

use std::sync::Arc;

use podtrail_proto::v1;

use super::{Indexed, log::Log};

/// Who knows it.
pub trait Attributions: std::fmt::Debug + Send + Sync + 'static {
    /// As far as is known now.
    fn of(&self, event: &v1::Event) -> Option<Arc<v1::Attribution>>;

    /// Whether it is still to come.
    fn is_awaited(&self, event: &v1::Event) -> bool;
}

/// Nobody knows.
#[derive(Clone, Copy, Debug)]
pub struct Unknown;

impl Attributions for Unknown {
    fn of(&self, _event: &v1::Event) -> Option<Arc<v1::Attribution>> {
        None
    }

    fn is_awaited(&self, _event: &v1::Event) -> bool {
        false
    }
}

impl<L: Log + std::fmt::Debug> Attributions for Indexed<L> {
    fn of(&self, event: &v1::Event) -> Option<Arc<v1::Attribution>> {
        if event.session_id.is_empty() {
            return None;
        }
        self.index().attribution(event)
    }

    fn is_awaited(&self, event: &v1::Event) -> bool {
        self.attributes() && !event.session_id.is_empty() && self.index().awaits_verdict(event)
    }
}

/// The event as it is sent: with its attribution, where that is known.
#[must_use]
pub fn attributed(event: Arc<v1::Event>, attributions: &dyn Attributions) -> Arc<v1::Event> {
    let Some(attribution) = attributions.of(&event) else { return event };
    let mut event = Arc::unwrap_or_clone(event);
    event.attribution = Some((*attribution).clone());
    Arc::new(event)
}
