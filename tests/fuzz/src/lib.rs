//! What each fuzz target does with its bytes. None may panic, hang or take memory without bound; what must hold beyond
//! that is asserted.

mod files;

use std::{fs, path::PathBuf, sync::LazyLock};

use peak_alloc::PeakAlloc;
use podtrail::{
    cli::{self, line::Look},
    collector::{self, audit::Batch, weight},
    config::settings::Settings,
    container::name,
    detector, escape,
    filter::{Filter, FilterError},
    json, probe,
    trail::{Moment, index::Index, log::Entry},
    wayin::spec,
};
use podtrail_proto::{
    Timestamp,
    v1::{self, event::Body},
};
use prost::Message as _;

pub use files::{log_files, spool_files};

/// The kernel side's records.
pub fn records(data: &[u8]) {
    _ = probe::decode(data);
}

/// A kernel's types, as `--btf` is given them.
pub fn btf(data: &[u8]) {
    probe::fuzz_btf(data);
}

/// A kubelet's pods: whoever may make a pod writes them. What they become is not much larger than they are.
pub fn kubelet(data: &[u8]) {
    let before = ALLOCATED.current_usage();
    ALLOCATED.reset_peak_usage();
    let pods = spec::read(data);
    let took = ALLOCATED.peak_usage().saturating_sub(before);
    assert!(took <= EXPANDED + 64 * data.len(), "{took} bytes of {}", data.len());
    for (uid, pod) in pods.unwrap_or_default() {
        assert!((1..=512).contains(&uid.len()), "{uid:?}");
        for container in pod.containers {
            assert!((1..=512).contains(&container.name.len()), "{container:?}");
            assert!(container.id.is_none_or(|id| (1..=512).contains(&id.len())));
            assert!(container.commands.len() <= 5);
        }
    }
}

/// Cgroup paths.
pub fn names(data: &[u8]) {
    _ = name::parse(data);
    _ = name::of_container(data);
    _ = name::kind(data);
    let word = escape::word(data);
    assert!(word.chars().all(escape::is_plain), "{word:?}");
}

/// Filters: a text, and the event that it is asked about.
pub fn filter(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (text, event) = data.split_at(end);
    let Ok(text) = str::from_utf8(text) else { return };
    match Filter::compile(text) {
        Err(error) => {
            assert!(error.line >= 1 && error.column >= 1, "{error:?}");
            assert!(error.line <= text.split('\n').count(), "{error:?}");
            assert!(!error.why.starts_with("the parser cannot read this"), "the parser panicked");
            assert_eq!(FilterError::read(&error.to_string()), Some(error));
        }
        Ok(filter) => {
            let event = v1::Event::decode(event.get(1..).unwrap_or_default()).unwrap_or_default();
            let first = filter.decide(&event);
            assert_eq!(filter.decide(&event), first, "it depends on chance");
            _ = filter.decide(&v1::Event::default());
        }
    }
}

/// What an API server posts, or writes to its audit log.
pub fn audit(data: &[u8]) {
    let Ok(batch) = Batch::parse(data) else { return };
    assert!(batch.first <= batch.last, "{:?} {:?}", batch.first, batch.last);
    assert!(batch.events <= data.len() as u64 && batch.requests.len() as u64 <= batch.events);
    for request in batch.requests {
        // A character that is none becomes one of three bytes.
        let bytes = request.encoded_len();
        assert!(bytes <= 8 * data.len() + 1024, "{bytes} bytes of {}", data.len());
        let times = [&request.received, &request.stage_time];
        assert!(times.into_iter().flatten().all(|t| (0..1_000_000_000).contains(&t.nanos)), "{times:?}");
        _ = cli::words::api_request(&request);
        let event = v1::Event { body: Some(Body::ApiRequest(request)), ..v1::Event::default() };
        let mut line = Vec::new();
        assert!(json::push(&mut line, &event).is_ok(), "no JSON of {event:?}");
    }
}

/// What an API server says of nodes and Events, and a node-problem-detector of its node.
pub fn nodes(data: &[u8]) {
    detector::fuzz_read(data);
    for event in collector::nodes::fuzz_read(data) {
        assert!(event.encoded_len() <= 2 * data.len() + 256, "{event:?}");
        let event = v1::Event { body: Some(Body::ClusterEvent(event)), ..v1::Event::default() };
        let (mut line, mut text) = (Vec::new(), String::new());
        assert!(json::push(&mut line, &event).is_ok(), "no JSON of {event:?}");
        printer().push(&mut text, &event);
        assert!(text.chars().all(|c| c == '\n' || escape::is_plain(c)), "{text:?}");
    }
}

fn printer() -> cli::tail::Printer {
    let now = "2026-11-22T20:00:00Z".parse().unwrap_or_default();
    cli::tail::Printer::new(Look { colour: false, width: Some(80), now })
}

/// What agents and readers send, and all that is done with an event that came.
pub fn wire(data: &[u8]) {
    _ = v1::SubscribeRequest::decode(data);
    _ = v1::TailRequest::decode(data);
    let Ok(report) = v1::ReportRequest::decode(data) else { return };
    let mut printer = printer();
    let mut index = Index::new();
    let filter = Filter::compile("executed.argv.exists(a, a == '') || has(gap.from) || time.getHours() < 6");
    for (cursor, event) in (1..).zip(report.events) {
        let mut text = String::new();
        printer.push(&mut text, &event);
        assert!(text.chars().all(|c| c == '\n' || escape::is_plain(c)), "{text:?}");
        let mut line = Vec::new();
        _ = json::push(&mut line, &event);
        if let Ok(filter) = &filter {
            let missing = matches!(event.body, Some(Body::Gap(_) | Body::AgentState(_)));
            assert!(filter.passes(&event) || !missing);
        }
        let logged = Moment::from_timestamp(&Timestamp { seconds: 1_795_382_440, nanos: 0 });
        index.apply(&Entry { cursor, logged, event: event.into() });
    }
    _ = index.nodes();
}

/// What an agent sends, as the collector takes it in: nothing takes more memory than it was told to take.
pub fn report(data: &[u8]) {
    let told = weight::report(data);
    let before = ALLOCATED.current_usage();
    ALLOCATED.reset_peak_usage();
    let request = v1::ReportRequest::decode(data);
    let took = ALLOCATED.peak_usage().saturating_sub(before);
    match (told, request) {
        (Err(e), Ok(_)) => panic!("{e}, and it was decoded all the same"),
        (Err(_), Err(_)) => {}
        (Ok(told), request) => {
            assert!(took <= told + ERROR, "{took} bytes, and {told} were told");
            request.map(collector::fuzz_check).unwrap_or_default();
        }
    }
}

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;
/// An error says in which fields it was.
const ERROR: usize = 4096;
/// What variables in a pod's commands may stand for, twice: a text grows by doubling.
const EXPANDED: usize = 2 << 20;

/// Configuration files.
pub fn settings(data: &[u8]) {
    static PATH: LazyLock<PathBuf> = LazyLock::new(|| folder().join(format!("{}.toml", std::process::id())));
    if fs::write(&*PATH, data).is_err() {
        return;
    }
    let read = Settings::read(Some(&PATH), &["listen", "data", "retention"], &[]);
    if let Err(error) = read {
        let text = error.to_string();
        assert!(!text.is_empty());
    }
}

/// In memory, where there is such a place: a target opens thousands of files.
fn folder() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}
