//! What `Trail` asks of whoever keeps subscriptions: the collector does, an agent does not.

use futures::stream::BoxStream;
use podtrail_proto::v1;
use tonic::{Status, Streaming};

use super::viewer::Viewer;

pub type SubscribeStream = BoxStream<'static, Result<v1::SubscribeResponse, Status>>;

/// The calls about subscriptions, of somebody who may ask for them.
#[tonic::async_trait]
pub trait SubscriptionCalls: std::fmt::Debug + Send + Sync + 'static {
    async fn subscribe(
        &self,
        viewer: Viewer,
        requests: Streaming<v1::SubscribeRequest>,
    ) -> Result<SubscribeStream, Status>;

    /// The viewer's own.
    async fn list(&self, viewer: Viewer) -> Result<Vec<v1::Subscription>, Status>;

    async fn get(&self, viewer: Viewer, name: String) -> Result<v1::Subscription, Status>;

    async fn delete(&self, viewer: Viewer, name: String) -> Result<(), Status>;
}
