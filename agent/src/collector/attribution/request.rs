//! A request to the API server, put together from the stages that its audit tells.

use podtrail_proto::v1::{self, api_request::Action};

use super::session::PodKey;
use crate::trail::{Moment, log::Cursor};

/// Longest command that is kept; one that is cut fits to nothing.
const MAX_COMMAND_BYTES: usize = 64 * 1024;

/// Names a request. The audit id alone does not: clients can choose it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestKey {
    pub cluster: String,
    pub audit_id: String,
    pub user: String,
    pub uri: String,
    pub received: Moment,
}

/// Who is behind a request, as far as one may be told from another.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Who {
    user: (String, String),
    impersonated: (String, String),
    /// the last: the only one that the API server has seen itself
    address: String,
}

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// of the first stage that came
    pub cursor: Cursor,
    /// when the newest stage came
    pub logged: Moment,
    pub key: RequestKey,
    pub pod: PodKey,
    pub action: Action,
    /// an exec by way of a node's or a pod's proxy
    pub proxied: bool,
    pub container: String,
    pub command: Vec<String>,
    pub truncated: bool,
    pub tty: bool,
    pub stdin: bool,
    pub user: Option<v1::User>,
    pub impersonated: Option<v1::User>,
    pub source_ips: Vec<String>,
    pub user_agent: String,
    pub ephemeral: Vec<String>,
    pub code: Option<i32>,
    pub started: Option<Moment>,
    pub complete: Option<Moment>,
    /// a session decided long ago is its
    pub consumed: bool,
}

impl Who {
    #[must_use]
    pub fn new(user: (String, String), impersonated: (String, String), address: String) -> Self {
        Self { user, impersonated, address }
    }
}

fn identity(user: Option<&v1::User>) -> (String, String) {
    user.map(|user| (user.name.clone(), user.uid.clone())).unwrap_or_default()
}

impl RequestKey {
    pub fn of(cluster: &str, request: &v1::ApiRequest) -> Self {
        Self {
            cluster: cluster.to_owned(),
            audit_id: request.audit_id.clone(),
            user: identity(request.user.as_ref()).0,
            uri: request.request_uri.clone(),
            received: moment(request.received.as_ref())
                .or_else(|| moment(request.stage_time.as_ref()))
                .unwrap_or_default(),
        }
    }
}

fn moment(time: Option<&podtrail_proto::Timestamp>) -> Option<Moment> {
    time.map(Moment::from_timestamp)
}

impl Request {
    /// From its first stage.
    pub fn new(cursor: Cursor, logged: Moment, key: RequestKey, request: &v1::ApiRequest) -> Self {
        let mut bytes = 0;
        let fits = request.command.iter().take_while(|word| {
            bytes += word.len();
            bytes <= MAX_COMMAND_BYTES
        });
        let command: Vec<String> = fits.cloned().collect();
        let proxied = request.action() == Action::NodeProxy;
        let mut this = Self {
            cursor,
            logged,
            pod: PodKey {
                cluster: key.cluster.clone(),
                namespace: request.namespace.clone(),
                name: request.pod.clone(),
            },
            key,
            action: action(request),
            proxied,
            container: request.container.clone(),
            truncated: request.truncated || command.len() < request.command.len(),
            command,
            tty: request.tty(),
            stdin: request.stdin(),
            user: request.user.clone(),
            impersonated: request.impersonated.clone(),
            source_ips: request.source_ips.clone(),
            user_agent: request.user_agent.clone(),
            ephemeral: request.ephemeral_containers.clone(),
            code: None,
            started: None,
            complete: None,
            consumed: false,
        };
        this.add(logged, request);
        this
    }

    /// Adds a stage; late and repeated ones do no harm.
    pub fn add(&mut self, logged: Moment, request: &v1::ApiRequest) {
        let at = moment(request.stage_time.as_ref());
        match request.stage.as_str() {
            "ResponseStarted" => self.started = self.started.or(at),
            "ResponseComplete" | "Panic" => self.complete = self.complete.or(at),
            _ => {}
        }
        // It went through, whatever is told of its end.
        if self.code != Some(101) {
            self.code = request.code.or(self.code);
        }
        self.logged = self.logged.max(logged);
    }

    /// Whether it led into the pod.
    #[must_use]
    pub fn went_through(&self) -> bool {
        match self.action {
            Action::EphemeralContainer => self.code.is_some_and(|code| (200..300).contains(&code)),
            // The kubelet's `run` answers with the output itself.
            _ => self.code == Some(101) || (self.proxied && self.code == Some(200)),
        }
    }

    /// When it was answered, as far as is known: before that nothing comes of it.
    #[must_use]
    pub fn begin(&self) -> Moment {
        self.started.unwrap_or(self.key.received)
    }

    #[must_use]
    pub fn who(&self) -> Who {
        Who {
            user: identity(self.user.as_ref()),
            impersonated: identity(self.impersonated.as_ref()),
            address: self.source_ips.last().cloned().unwrap_or_default(),
        }
    }
}

/// By way of a proxy it is the kubelet's own call, which its path names.
fn action(request: &v1::ApiRequest) -> Action {
    let action = request.action();
    if action != Action::NodeProxy || request.pod.is_empty() {
        return action;
    }
    let path = request.request_uri.split('?').next().unwrap_or_default();
    let has = |call: &str| path.split('/').any(|part| part.eq_ignore_ascii_case(call));
    if !request.command.is_empty() || has("exec") || has("run") {
        Action::Exec
    } else if has("portForward") {
        Action::PortForward
    } else if has("attach") {
        Action::Attach
    } else {
        action
    }
}
