//! `google.protobuf.Timestamp` with its canonical JSON.
//!
//! pbjson's own writes an offset ("+00:00"); canonical protobuf JSON, and so the contract, is normalized to "Z", with
//! 0, 3, 6 or 9 digits of a second.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

/// A moment: seconds since 1970-01-01T00:00:00Z, and nanoseconds of that second.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Timestamp {
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// 0 to 999,999,999, also before 1970
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl prost::Name for Timestamp {
    const NAME: &'static str = "Timestamp";
    const PACKAGE: &'static str = "google.protobuf";
}

impl Timestamp {
    fn to_jiff(self) -> Result<jiff::Timestamp, String> {
        if !(0..1_000_000_000).contains(&self.nanos) {
            return Err(format!("{} nanoseconds are not within a second", self.nanos));
        }
        jiff::Timestamp::new(self.seconds, self.nanos).map_err(|e| e.to_string())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let time = self.to_jiff().map_err(ser::Error::custom)?;
        let digits = match self.nanos {
            0 => 0,
            n if n % 1_000_000 == 0 => 3,
            n if n % 1_000 == 0 => 6,
            _ => 9,
        };
        serializer.collect_str(&format_args!("{time:.digits$}"))
    }
}

struct Visitor;

impl de::Visitor<'_> for Visitor {
    type Value = Timestamp;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a time as RFC 3339 has it")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
        let time: jiff::Timestamp = text.parse().map_err(E::custom)?;
        // jiff counts both parts in one direction; nanoseconds here are never negative.
        let (seconds, nanos) = (time.as_second(), time.subsec_nanosecond());
        Ok(if nanos < 0 {
            Timestamp { seconds: seconds - 1, nanos: nanos + 1_000_000_000 }
        } else {
            Timestamp { seconds, nanos }
        })
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_canonical_and_comes_back() {
        for (seconds, nanos, text) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (1_795_382_440, 774_091_531, "2026-11-22T21:20:40.774091531Z"),
            (1_795_382_440, 500_000_000, "2026-11-22T21:20:40.500Z"),
            (1_795_382_440, 1_000, "2026-11-22T21:20:40.000001Z"),
            (-1, 750_000_000, "1969-12-31T23:59:59.750Z"),
        ] {
            let time = Timestamp { seconds, nanos };
            let json = serde_json::to_string(&time).unwrap();
            assert_eq!(json, format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<Timestamp>(&json).unwrap(), time);
        }
    }

    #[test]
    fn what_is_no_time_is_an_error() {
        assert!(serde_json::to_string(&Timestamp { seconds: 0, nanos: -1 }).is_err());
        assert!(serde_json::to_string(&Timestamp { seconds: i64::MAX, nanos: 0 }).is_err());
        assert!(serde_json::from_str::<Timestamp>("\"yesterday\"").is_err());
    }
}
