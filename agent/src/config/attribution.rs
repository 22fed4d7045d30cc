//! What the collector can be told of how it finds out whose sessions are.

use std::time::Duration;

use super::settings::{
    Settings,
    value::{duration, quoted},
};
use crate::collector::attribution;

const SKEW_MAX: Duration = Duration::from_secs(60);
const LATENCY_MAX: Duration = Duration::from_secs(120);
const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(600);
/// What else than the clocks' difference is waited for.
const SETTLE: Duration = Duration::from_secs(1);

/// Its flags.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct AttributionFlags {
    /// How far the clocks of nodes and API servers may be apart [default: 2s]
    #[arg(long, value_name = "DURATION")]
    pub attribution_skew: Option<String>,
    /// The longest time from an API server's answer until the command runs [default: 10s]
    #[arg(long, value_name = "DURATION")]
    pub attribution_latency: Option<String>,
    /// How long is waited for an API server's audit before a session is called node-local [default: 60s]
    #[arg(long, value_name = "DURATION")]
    pub attribution_wait: Option<String>,
    /// What webhooks put before commands: words with spaces between them, several with ; between them, and * at the end
    /// of a word for anything [default: "env SPO_EXEC_REQUEST_UID=*"]
    #[arg(long, value_name = "WORDS")]
    pub attribution_prefixes: Option<String>,
}

pub(super) const KEYS: [&str; 4] =
    ["attribution-skew", "attribution-latency", "attribution-wait", "attribution-prefixes"];

impl AttributionFlags {
    pub(super) fn put(self, settings: &mut Settings) {
        let Self { attribution_skew, attribution_latency, attribution_wait, attribution_prefixes } = self;
        settings.flag("--attribution-skew", attribution_skew);
        settings.flag("--attribution-latency", attribution_latency);
        settings.flag("--attribution-wait", attribution_wait);
        settings.flag("--attribution-prefixes", attribution_prefixes);
    }
}

pub(super) fn check(settings: &mut Settings) -> attribution::Settings {
    let defaults = attribution::Settings::default();
    let skew =
        settings.check("attribution-skew", defaults.skew, |text| within(text, Duration::ZERO, SKEW_MAX));
    attribution::Settings {
        skew,
        settle: skew + SETTLE,
        latency: settings
            .check("attribution-latency", defaults.latency, |text| within(text, Duration::ZERO, LATENCY_MAX)),
        patience: settings
            .check("attribution-wait", defaults.patience, |text| within(text, WAIT_MIN, WAIT_MAX)),
        prefixes: settings.check("attribution-prefixes", defaults.prefixes.clone(), prefixes),
        ..defaults
    }
}

fn within(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let asked = duration(text, least)?;
    if asked > most {
        return Err(format!("{} is more than {} s", quoted(text), most.as_secs()));
    }
    Ok(asked)
}

fn prefixes(text: &str) -> Result<Vec<Vec<String>>, String> {
    let words = |part: &str| part.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let prefixes: Vec<_> = text.split(';').map(words).filter(|words| !words.is_empty()).collect();
    // One that stands for anything would make every command fit.
    match prefixes.iter().flatten().find(|word| word.starts_with('*')) {
        Some(_) => Err(format!("{} has a word that stands for anything: write how it begins", quoted(text))),
        None => Ok(prefixes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<attribution::Settings, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut settings = Settings::read(Some(file.path()), &KEYS, &[]).unwrap();
        let checked = check(&mut settings);
        let path = file.path().display().to_string();
        settings.finish(checked).map_err(|e| e.to_string().replace(&path, "F"))
    }

    #[test]
    fn what_is_told_and_what_is_not() {
        assert_eq!(load("").unwrap(), attribution::Settings::default());
        let told = "attribution-skew = \"200ms\"\nattribution-latency = \"30s\"\nattribution-wait = \"5m\"\n\
                    attribution-prefixes = \"env A=* ; /bin/wrap --\"\n";
        let words = |words: &[&str]| words.iter().map(|&w| w.to_owned()).collect::<Vec<_>>();
        assert_eq!(
            load(told).unwrap(),
            attribution::Settings {
                skew: Duration::from_millis(200),
                settle: Duration::from_millis(1200),
                latency: Duration::from_secs(30),
                patience: Duration::from_secs(300),
                prefixes: vec![words(&["env", "A=*"]), words(&["/bin/wrap", "--"])],
                ..attribution::Settings::default()
            }
        );
        assert_eq!(load("attribution-prefixes = \"\"\n").unwrap().prefixes, Vec::<Vec<String>>::new());
        let e = load("attribution-skew = \"61s\"\n").unwrap_err();
        assert_eq!(e, "F:1:1: attribution-skew: \"61s\" is more than 60 s");
        let e = load("attribution-prefixes = \"env *\"\n").unwrap_err();
        assert!(e.ends_with("\"env *\" has a word that stands for anything: write how it begins"), "{e}");
    }
}
