//! The command line, checked before anything is opened.

use std::{env, ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use podtrail_proto::v1::{self, EntryMethod, subscribe_open, tail_request};

use super::{
    client::Source,
    time::{Moment, TimeError},
};
use crate::{escape, trail::cursor::is_cursor};

/// Where the local agent listens.
pub const DEFAULT_SOCKET: &str = "/run/podtrail/agent.sock";

const HEADING: &str = "Options of every command";

/// What is run inside containers after somebody gets in.
#[derive(Debug, Parser)]
#[command(name = "podtrail", version, max_term_width = 100)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// Colours: auto means on a terminal, unless NO_COLOR is set or TERM is dumb
    #[arg(long, global = true, help_heading = HEADING, value_name = "WHEN", value_enum, default_value_t = Colour::Auto)]
    pub color: Colour,
    /// Form of the output: text for people; json is canonical protobuf JSON, one message a line
    #[arg(short, long, global = true, help_heading = HEADING, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, ClapArgs)]
struct SourceArgs {
    /// Read from a collector (https://host:port, or http:// on this machine) [env: PODTRAIL_COLLECTOR]
    #[arg(long, global = true, help_heading = HEADING, value_name = "URL", conflicts_with = "socket")]
    collector: Option<String>,
    /// Certificate authorities (PEM) that the collector must have its certificate from [env: PODTRAIL_TLS_CA]
    #[arg(long, global = true, help_heading = HEADING, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Your certificate (PEM), which names a principal [env: PODTRAIL_TLS_CERT]
    #[arg(long, global = true, help_heading = HEADING, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The key of that certificate (PEM) [env: PODTRAIL_TLS_KEY]
    #[arg(long, global = true, help_heading = HEADING, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Read from the agent of this node [default: /run/podtrail/agent.sock]
    #[arg(long, global = true, help_heading = HEADING, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// What the environment says, where no flag does.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    collector: Option<String>,
    tls_ca: Option<OsString>,
    tls_cert: Option<OsString>,
    tls_key: Option<OsString>,
}

impl Environment {
    #[must_use]
    pub fn read() -> Self {
        Self {
            collector: env::var("PODTRAIL_COLLECTOR").ok(),
            tls_ca: env::var_os("PODTRAIL_TLS_CA"),
            tls_cert: env::var_os("PODTRAIL_TLS_CERT"),
            tls_key: env::var_os("PODTRAIL_TLS_KEY"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Colour {
    Auto,
    Always,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Events, as they come
    Tail(TailArgs),
    /// Sessions: who was in which container
    Sessions(SessionsArgs),
    /// The timeline of one session
    Session {
        /// Its id, or a unique beginning of it
        #[arg(value_parser = session_id)]
        id: String,
    },
    /// Nodes, how far their events have come, and how much is kept
    Nodes,
    /// Your subscriptions to a collector, and how far behind each is
    Subscriptions(SubscriptionsArgs),
}

#[derive(Debug, ClapArgs)]
pub struct TailArgs {
    /// Where to begin: oldest, latest, a cursor (what comes after it), a time, or a duration ago
    /// [default: latest; a subscription: where it was]
    #[arg(long, value_name = "oldest|latest|CURSOR|TIME", value_parser = From::parse)]
    pub from: Option<From>,
    /// Only events of which this CEL expression is true; --help has examples
    ///
    /// Its names are those of the events' fields, as -o json writes them. Gaps and agent states pass every filter.
    ///
    ///   --filter 'container.pod.namespace == "prod" && has(executed)'
    ///   --filter 'executed.argv.exists(a, a.matches("(?i)passw(or)?d"))'
    ///   --filter 'sessionStarted.method in ["NAMESPACE_JOIN", "HOST_NAMESPACE"]'
    ///
    /// See docs/filters.md.
    #[arg(long, value_name = "CEL", default_value = "", hide_default_value = true, verbatim_doc_comment)]
    pub filter: String,
    /// End at the newest event, do not wait for more
    #[arg(long)]
    pub no_follow: bool,
    /// Go on where the subscription of this name was, and acknowledge what is written; one that is not there is made
    #[arg(long, value_name = "NAME", conflicts_with = "no_follow")]
    pub subscription: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub struct SubscriptionsArgs {
    /// Only this one
    pub name: Option<String>,
    /// Forget it: whoever has it open is closed
    #[arg(long, requires = "name")]
    pub delete: bool,
}

#[derive(Debug, ClapArgs)]
pub struct SessionsArgs {
    /// Sessions open at or after this time, or this long ago (1h30m, 2d, 2026-11-22T20:14:00Z, 20:14)
    #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
    since: Option<Moment>,
    /// Sessions open at or before this time
    #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
    until: Option<Moment>,
    /// Namespace of the pod
    #[arg(long, value_name = "NS")]
    namespace: Option<String>,
    /// Name of the pod
    #[arg(long, value_name = "POD")]
    pod: Option<String>,
    /// Kubernetes user that the session belongs to
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// How the session came in
    #[arg(long, value_enum, ignore_case = true)]
    method: Option<Method>,
    /// Name of the node
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// Id of the container, or a unique beginning of it
    #[arg(long, value_name = "ID")]
    container: Option<String>,
}

/// `EntryMethod`, as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Method {
    #[value(alias = "runtime_exec")]
    RuntimeExec,
    #[value(alias = "exec_probe")]
    ExecProbe,
    #[value(alias = "lifecycle_hook")]
    LifecycleHook,
    #[value(alias = "ephemeral_container")]
    EphemeralContainer,
    #[value(alias = "namespace_join")]
    NamespaceJoin,
    #[value(alias = "host_namespace")]
    HostNamespace,
    Attach,
    PortForward,
    Unknown,
}

/// Where `tail` begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    Oldest,
    Latest,
    Cursor(String),
    Time(Moment),
}

impl From {
    fn parse(text: &str) -> Result<Self, TimeError> {
        Ok(match text {
            "oldest" => Self::Oldest,
            "latest" => Self::Latest,
            _ if is_cursor(text) => Self::Cursor(text.to_owned()),
            _ => Self::Time(Moment::parse(text)?),
        })
    }
}

/// An empty id would be the beginning of every session's.
fn session_id(text: &str) -> Result<String, &'static str> {
    if text.is_empty() { Err("an empty id names no session") } else { Ok(text.to_owned()) }
}

impl Args {
    /// Reads the command line; on wrong usage or a call for help, says so and gives the exit code.
    pub fn read() -> Result<Self, ExitCode> {
        Self::try_parse().map_err(|error| {
            let text = error.render();
            let typed: String = env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
            if typed.chars().all(escape::is_plain) {
                // There is nobody to tell where that fails.
                let _ = error.print();
            } else {
                // What was typed may have come from elsewhere; it is repeated here.
                for line in text.to_string().lines() {
                    eprintln!("{}", escape::guard(line));
                }
            }
            u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
        })
    }

    /// Where to read from. A flag wins over the environment.
    pub fn source(&self, environment: Environment) -> Result<Source, super::client::ClientError> {
        let SourceArgs { collector, tls_ca, tls_cert, tls_key, socket } = &self.source;
        let either = |flag: &Option<PathBuf>, set: Option<OsString>| {
            flag.clone().or_else(|| set.filter(|path| !path.is_empty()).map(PathBuf::from))
        };
        if let Some(path) = socket {
            return Ok(Source::Socket(path.clone()));
        }
        match collector.clone().or(environment.collector.filter(|url| !url.is_empty())) {
            Some(url) => Source::collector(
                &url,
                [
                    either(tls_ca, environment.tls_ca),
                    either(tls_cert, environment.tls_cert),
                    either(tls_key, environment.tls_key),
                ],
            ),
            None => Ok(Source::Socket(PathBuf::from(DEFAULT_SOCKET))),
        }
    }
}

impl TailArgs {
    #[must_use]
    pub fn request(&self, now: jiff::Timestamp) -> v1::TailRequest {
        let from = match &self.from {
            Some(From::Oldest) => tail_request::From::Oldest(true),
            Some(From::Latest) | None => tail_request::From::Latest(true),
            Some(From::Cursor(cursor)) => tail_request::From::Cursor(cursor.clone()),
            Some(From::Time(moment)) => tail_request::From::Time(moment.resolve(now)),
        };
        v1::TailRequest { from: Some(from), filter: self.filter.clone(), follow: Some(!self.no_follow) }
    }
}

impl TailArgs {
    /// As a subscription of this name.
    #[must_use]
    pub fn open(&self, name: &str, now: jiff::Timestamp) -> v1::SubscribeOpen {
        let v1::TailRequest { from, filter, follow: _ } = self.request(now);
        let from = self.from.is_some().then_some(from).flatten().map(|from| match from {
            tail_request::From::Oldest(yes) => subscribe_open::From::Oldest(yes),
            tail_request::From::Latest(yes) => subscribe_open::From::Latest(yes),
            tail_request::From::Cursor(cursor) => subscribe_open::From::Cursor(cursor),
            tail_request::From::Time(time) => subscribe_open::From::Time(time),
        });
        // A person wants to see what is left, and reads the gap.
        v1::SubscribeOpen { name: name.to_owned(), from, filter, gap_if_trimmed: true, ..Default::default() }
    }
}

impl SessionsArgs {
    #[must_use]
    pub fn request(&self, now: jiff::Timestamp) -> v1::ListSessionsRequest {
        let Self { since, until, namespace, pod, user, method, node, container } = self;
        v1::ListSessionsRequest {
            since: since.map(|moment| moment.resolve(now)),
            until: until.map(|moment| moment.resolve(now)),
            namespace: namespace.clone().unwrap_or_default(),
            pod: pod.clone().unwrap_or_default(),
            user: user.clone().unwrap_or_default(),
            method: method.map(|method| method.proto().into()),
            node: node.clone().unwrap_or_default(),
            container_id: container.clone().unwrap_or_default(),
            page_size: 0,
            page_token: String::new(),
        }
    }
}

impl Method {
    fn proto(self) -> EntryMethod {
        match self {
            Self::RuntimeExec => EntryMethod::RuntimeExec,
            Self::ExecProbe => EntryMethod::ExecProbe,
            Self::LifecycleHook => EntryMethod::LifecycleHook,
            Self::EphemeralContainer => EntryMethod::EphemeralContainer,
            Self::NamespaceJoin => EntryMethod::NamespaceJoin,
            Self::HostNamespace => EntryMethod::HostNamespace,
            Self::Attach => EntryMethod::Attach,
            Self::PortForward => EntryMethod::PortForward,
            Self::Unknown => EntryMethod::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::Files;

    fn parse(line: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once(&"podtrail").chain(line))
    }

    fn tail(from: &str) -> Option<tail_request::From> {
        let args = parse(&["tail", "--from", from]).unwrap();
        let Command::Tail(tail) = args.command else { panic!("not tail") };
        tail.request("2026-11-22T20:00:00Z".parse().unwrap()).from
    }

    #[test]
    fn clap_finds_no_fault() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }

    #[test]
    fn tail_begins_where_it_is_told() {
        assert_eq!(tail("oldest"), Some(tail_request::From::Oldest(true)));
        assert_eq!(tail("latest"), Some(tail_request::From::Latest(true)));
        assert_eq!(tail("17-9f3c2a71"), Some(tail_request::From::Cursor("17-9f3c2a71".to_owned())));
        let time = podtrail_proto::Timestamp { seconds: 1_795_377_540, nanos: 0 };
        assert_eq!(tail("2026-11-22T19:59:00Z"), Some(tail_request::From::Time(time)));
        assert_eq!(tail("1m"), Some(tail_request::From::Time(time)));
    }

    #[test]
    fn a_subscription_goes_on_where_it_was_unless_it_is_told_where() {
        let open = |line: &[&str]| {
            let args = parse(&[&["tail", "--subscription", "s"], line].concat()).unwrap();
            let Command::Tail(tail) = args.command else { panic!("not tail") };
            tail.open("s", jiff::Timestamp::UNIX_EPOCH)
        };
        assert_eq!(open(&[]).from, None);
        assert_eq!(open(&["--from", "oldest"]).from, Some(subscribe_open::From::Oldest(true)));
        assert_eq!(open(&["--from", "latest"]).from, Some(subscribe_open::From::Latest(true)));
        assert!(open(&[]).gap_if_trimmed);
    }

    #[test]
    fn a_flag_wins_over_the_environment() {
        let environment =
            || Environment { collector: Some("http://c:1".to_owned()), ..Environment::default() };
        let source = |line: &[&str]| parse(line).unwrap().source(environment()).unwrap();
        let collector = |url| Source::collector(url, [None, None, None]).unwrap();
        assert_eq!(source(&["nodes"]), collector("c:1"));
        assert_eq!(source(&["nodes", "--collector", "d:2"]), collector("d:2"));
        assert_eq!(source(&["--socket", "/x", "nodes"]), Source::Socket("/x".into()));
        let empty = Environment { collector: Some(String::new()), ..Environment::default() };
        let unset = parse(&["nodes"]).unwrap().source(empty).unwrap();
        assert_eq!(unset, Source::Socket(DEFAULT_SOCKET.into()));
    }

    #[test]
    fn certificates_come_from_flags_or_the_environment() {
        let environment = || Environment {
            collector: Some("https://c:1".to_owned()),
            tls_ca: Some("/ca".into()),
            tls_cert: Some("/cert".into()),
            tls_key: Some("/key".into()),
        };
        let source = |line: &[&str]| parse(line).unwrap().source(environment());
        let files = |cert: &str| Files { ca: "/ca".into(), cert: cert.into(), key: "/key".into() };
        let secure = |cert| Source::Collector { url: "https://c:1".to_owned(), tls: Some(files(cert)) };
        assert_eq!(source(&["nodes"]).unwrap(), secure("/cert"));
        assert_eq!(source(&["nodes", "--tls-cert", "/mine"]).unwrap(), secure("/mine"));
        // The environment may be set for another collector than the one that was typed.
        let plain = Source::Collector { url: "http://d:2".to_owned(), tls: None };
        assert_eq!(source(&["nodes", "--collector", "http://d:2"]).unwrap(), plain);
        assert_eq!(
            source(&["nodes", "--collector", "d:2"]).unwrap(),
            Source::Collector { url: "https://d:2".to_owned(), tls: Some(files("/cert")) }
        );
        let half = Environment { tls_key: Some(OsString::new()), ..environment() };
        let error = parse(&["nodes"]).unwrap().source(half).unwrap_err().to_string();
        assert!(error.contains("--tls-ca, --tls-cert and --tls-key"), "{error}");
    }

    #[test]
    fn wrong_usage_says_what_is_right() {
        for (line, says) in [
            (&["sessions", "--since", "yesterday"][..], "1h30m"),
            (&["sessions", "--method", "ssh"], "runtime-exec, exec-probe, lifecycle-hook"),
            (&["tail", "--from", "abc"], "2026-11-22T20:14:00Z"),
            (&["session"], "<ID>"),
            (&["session", ""], "names no session"),
            (&["nodes", "--socket", "/x", "--collector", "c:1"], "cannot be used with"),
            (&["nodes", "-o", "yaml"], "text, json"),
            (&["tail", "--filter"], "a value is required for '--filter <CEL>'"),
            (&["tail", "--subscription", "s", "--no-follow"], "cannot be used with"),
            (&["subscriptions", "--delete"], "<NAME>"),
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line:?}");
            assert!(error.to_string().contains(says), "{line:?}: {error}");
        }
    }

    #[test]
    fn methods_are_typed_as_in_json_too() {
        let args = parse(&["sessions", "--method", "NAMESPACE_JOIN"]).unwrap();
        let Command::Sessions(sessions) = args.command else { panic!("not sessions") };
        let request = sessions.request(jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(request.method, Some(EntryMethod::NamespaceJoin.into()));
    }
}
