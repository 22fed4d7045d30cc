//! Log lines on stderr: text for people, `key=value` or JSON for machines.

use std::{
    borrow::Cow,
    env,
    fmt::{self, Write as _},
    io::{self, IsTerminal as _},
};

use jiff::Timestamp;
use serde_json::Value;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer as _,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

use super::TelemetryError;
use crate::escape;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// text on a terminal, otherwise logfmt
    #[default]
    Auto,
    /// for people
    Text,
    /// key=value pairs
    Logfmt,
    /// an object a line
    Json,
}

/// Starts logging to stderr. `level` is a filter as in `RUST_LOG`, and goes before it; without both it is `info`.
pub fn init(level: Option<&str>, format: LogFormat) -> Result<(), TelemetryError> {
    let filter = filter(level)?;
    let terminal = io::stderr().is_terminal();
    let colour = terminal && env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let fmt = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let layer = match format {
        LogFormat::Json => fmt.event_format(Line { style: Style::Json }).boxed(),
        LogFormat::Logfmt => fmt.event_format(Line { style: Style::Logfmt }).boxed(),
        LogFormat::Auto if !terminal => fmt.event_format(Line { style: Style::Logfmt }).boxed(),
        LogFormat::Auto | LogFormat::Text => fmt.event_format(Line { style: Style::Text { colour } }).boxed(),
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init()
        .map_err(|_| TelemetryError::Twice)
}

fn filter(level: Option<&str>) -> Result<EnvFilter, TelemetryError> {
    let (what, filter) = match (level, env::var("RUST_LOG")) {
        (Some(level), _) => ("--log-level", level.to_owned()),
        (None, Ok(env)) if !env.is_empty() => ("RUST_LOG", env),
        // The store tells of its housekeeping at info. To kube each attempt that fails is an error: we tell of it once.
        (None, _) => {
            ("--log-level", "info,fjall=warn,lsm_tree=warn,kube_client::client::builder=off".to_owned())
        }
    };
    EnvFilter::try_new(&filter).map_err(|e| TelemetryError::Filter { what, filter, why: e.to_string() })
}

/// One line an event.
#[derive(Debug)]
struct Line {
    style: Style,
}

#[derive(Clone, Copy, Debug)]
enum Style {
    Text { colour: bool },
    Logfmt,
    Json,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        writeln!(out, "{}", line(self.style, Timestamp::now(), *event.metadata().level(), &fields))
    }
}

fn line(style: Style, time: Timestamp, level: Level, fields: &Fields) -> String {
    let Fields { message, pairs } = fields;
    let level_name = level.as_str().to_ascii_lowercase();
    let mut line = match style {
        Style::Text { colour } => {
            let (on, off) = match (colour, level) {
                (false, _) => ("", ""),
                (true, Level::ERROR) => ("\x1b[31m", "\x1b[0m"),
                (true, Level::WARN) => ("\x1b[33m", "\x1b[0m"),
                (true, _) => ("\x1b[2m", "\x1b[0m"),
            };
            format!("{time:.3} {on}{level:>5}{off} {}", escape::guard(message))
        }
        Style::Logfmt => format!("ts={time:.3} level={level_name} msg={}", escape::value(message)),
        Style::Json => return json(time, level_name, fields),
    };
    for (name, value) in pairs {
        let text = value.as_str().map_or_else(|| value.to_string().into(), Cow::Borrowed);
        _ = write!(line, " {name}={}", escape::value(&text));
    }
    line
}

fn json(time: Timestamp, level: String, fields: &Fields) -> String {
    let Fields { message, pairs } = fields;
    let mut object = serde_json::Map::new();
    object.insert("ts".to_owned(), format!("{time:.3}").into());
    object.insert("level".to_owned(), level.into());
    object.insert("msg".to_owned(), message.clone().into());
    object.extend(pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    let mut line = String::new();
    for c in Value::Object(object).to_string().chars() {
        // What JSON itself leaves as it is and a terminal does not.
        if escape::is_plain(c) {
            line.push(c);
        } else {
            escape::push_json(&mut line, c);
        }
    }
    line
}

/// An event's message, and its other fields.
#[derive(Default)]
struct Fields {
    message: String,
    pairs: Vec<(&'static str, Value)>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match field.name() {
            "message" => self.message = value.as_str().map_or_else(|| value.to_string(), str::to_owned),
            // From the `log` crate, about itself.
            name if name.starts_with("log.") => {}
            name => self.pairs.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Fields {
        Fields { message: "a\x1b[2J b".to_owned(), pairs: vec![("grpc", "127.0.0.1:1".into())] }
    }

    #[test]
    fn lines_are_escaped_in_every_style() {
        let t = Timestamp::from_millisecond(1_700_000_000_123).unwrap();
        assert_eq!(
            line(Style::Text { colour: false }, t, Level::INFO, &sample()),
            "2023-11-14T22:13:20.123Z  INFO a\\x1b[2J b grpc=127.0.0.1:1"
        );
        assert_eq!(
            line(Style::Logfmt, t, Level::WARN, &sample()),
            "ts=2023-11-14T22:13:20.123Z level=warn msg=\"a\\x1b[2J b\" grpc=127.0.0.1:1"
        );
        let fields = Fields { message: "\u{9b}2J\u{202e}\x1b\"é".to_owned(), pairs: vec![("n", 3.into())] };
        let json = line(Style::Json, t, Level::WARN, &fields);
        let told =
            r#"{"level":"warn","msg":"\u009b2J\u202e\u001b\"é","n":3,"ts":"2023-11-14T22:13:20.123Z"}"#;
        assert_eq!(json, told);
        let read: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(read["msg"], fields.message);
    }

    #[test]
    fn fields_from_outside_are_escaped() {
        let out = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let make = {
            let out = out.clone();
            move || Out(out.clone())
        };
        let layer =
            tracing_subscriber::fmt::layer().with_writer(make).event_format(Line { style: Style::Logfmt });
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(node = "n\n level=error", n = 3, why = %"é\x07", "said {}", "\x1b[H");
        });
        let text = String::from_utf8(out.lock().unwrap().clone()).unwrap();
        let (_, rest) = text.split_once(" level=").unwrap();
        assert_eq!(rest, "warn msg=\"said \\x1b[H\" node=\"n\\n level=error\" n=3 why=\"é\\x07\"\n");
    }

    #[test]
    fn a_bad_filter_is_told_in_one_line() {
        let e = filter(Some("a=b=c")).unwrap_err().to_string();
        assert!(e.starts_with("--log-level \"a=b=c\" is not a log filter"), "{e}");
        assert!(!e.contains('\n'), "{e}");
    }

    struct Out(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl io::Write for Out {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
