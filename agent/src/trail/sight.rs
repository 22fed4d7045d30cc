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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trail::{
        attributions::Unknown,
        rights::{Fields, Namespaces, Rights},
        testing::{event, executed},
    };

    /// Knows one person.
    #[derive(Debug)]
    struct Alice;

    impl Attributions for Alice {
        fn of(&self, _: &v1::Event) -> Option<Arc<v1::Attribution>> {
            let user = Some(v1::User { name: "alice".to_owned(), ..v1::User::default() });
            let verdict = Some(v1::Verdict::Matched.into());
            Some(Arc::new(v1::Attribution { verdict, user, impersonated: None }))
        }

        fn is_awaited(&self, _: &v1::Event) -> bool {
            false
        }
    }

    #[test]
    fn a_filter_knows_whose_it_is_as_far_as_its_reader_may() {
        let shown = |filter: &str, fields: &[&str], attributions: Arc<dyn Attributions>| {
            let rights = Rights {
                namespaces: Namespaces::All,
                fields: Fields::compile(fields.iter().copied()).unwrap(),
                ..Rights::default()
            };
            let viewer = Viewer::new("p", rights);
            let sight = Sight { filter: Filter::compile(filter).unwrap(), viewer, attributions };
            sight.show(Arc::new(event("n", 1, 1, "s", executed(&["id"], true))))
        };
        let hers = "attribution.user.name == 'alice'";
        let seen = shown(hers, &["*"], Arc::new(Alice)).unwrap();
        assert_eq!(seen.attribution.as_ref().unwrap().user.as_ref().unwrap().name, "alice");
        assert!(shown("attribution.user.name == 'bob'", &["*"], Arc::new(Alice)).is_none());
        assert!(shown(hers, &["*"], Arc::new(Unknown)).is_none());
        // Whoever may not see it learns nothing by asking: the answer is the same for her and for anybody.
        for hidden in [&["*", "!attributed.user"][..], &["*", "!attribution"], &["executed"]] {
            for filter in [hers, "attribution.user.name == 'bob'", "has(attribution.verdict)"] {
                let (known, unknown) =
                    (shown(filter, hidden, Arc::new(Alice)), shown(filter, hidden, Arc::new(Unknown)));
                assert_eq!(known, unknown, "{filter} {hidden:?}");
            }
        }
    }
}
