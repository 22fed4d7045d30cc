//! What one reader gets to see of what is there.

use std::sync::Arc;

use podtrail_proto::v1;

use super::{
    attributions::{Attributions, attributed},
    viewer::Viewer,
};
use crate::filter::Filter;

/// What they asked for, and what they may see of it.
#[derive(Clone, Debug)]
pub struct Sight {
    pub filter: Filter,
    pub viewer: Viewer,
    /// who knows whose sessions are
    pub attributions: Arc<dyn Attributions>,
}

impl Sight {
    /// The event as they get it; `None`: not at all.
    ///
    /// The filter is asked about what they may see of it: else its answer would tell them of the rest.
    #[must_use]
    pub fn show(&self, event: Arc<v1::Event>) -> Option<Arc<v1::Event>> {
        let event = self.viewer.rights().show(attributed(event, &*self.attributions))?;
        self.filter.passes(&event).then_some(event)
    }
}
