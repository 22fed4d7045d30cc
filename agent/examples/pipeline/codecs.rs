//! What it costs to compress reports of several lengths, each by itself, as gRPC does.

use std::{hint::black_box, io::Read as _, time::Instant};

use anyhow::Result;
use podtrail::trail::Moment;
use podtrail_proto::v1;
use prost::Message as _;
use serde_json::json;

use super::{events::Maker, float, wire::Report};

/// At 100 and 1,000 execs a second, at 10,000, and behind.
const LENGTHS: [usize; 5] = [1, 4, 16, 128, 700];
/// Events that each length is measured with in a round.
const EVENTS: usize = 20_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

#[derive(Clone, Copy, Debug)]
enum Codec {
    None,
    Gzip,
    Zstd,
}

/// gzip's level in tonic 0.14.
const GZIP_LEVEL: u32 = 6;

/// As tonic 0.14 does it: a new encoder for each message, which reads from the message.
fn compress(codec: Codec, message: &[u8], out: &mut Vec<u8>) -> Result<()> {
    out.clear();
    match codec {
        Codec::None => out.extend_from_slice(message),
        Codec::Gzip => {
            let level = flate2::Compression::new(GZIP_LEVEL);
            flate2::read::GzEncoder::new(message, level).read_to_end(out).map(drop)?;
        }
        Codec::Zstd => {
            let level = zstd::DEFAULT_COMPRESSION_LEVEL;
            zstd::stream::read::Encoder::new(message, level)?.read_to_end(out).map(drop)?;
        }
    }
    Ok(())
}

fn decompress(codec: Codec, message: &[u8], out: &mut Vec<u8>) -> Result<()> {
    out.clear();
    match codec {
        Codec::None => out.extend_from_slice(message),
        Codec::Gzip => flate2::read::GzDecoder::new(message).read_to_end(out).map(drop)?,
        Codec::Zstd => zstd::stream::read::Decoder::new(message)?.read_to_end(out).map(drop)?,
    }
    Ok(())
}

pub(crate) fn run(options: &Options) -> Result<()> {
    for length in LENGTHS {
        let id = v1::EventId {
            cluster: "bench".to_owned(),
            node: "node-0".to_owned(),
            epoch: 1_764_000_000,
            seq: 0,
        };
        let mut maker = Maker::new(id);
        let messages: Vec<Vec<u8>> = (0..EVENTS / length)
            .map(|_| {
                let events = (0..length).map(|_| maker.next(Moment::now()).1).collect();
                Report { hello: None, events }.encode_to_vec()
            })
            .collect();
        let events = (messages.len() * length) as u64;
        let cases = [Codec::None, Codec::Gzip, Codec::Zstd];
        let mut times = cases.map(|_| (Vec::new(), Vec::new()));
        let mut sizes = cases.map(|_| 0);
        for _ in 0..options.rounds.max(1) {
            for ((case, (pack, unpack)), size) in cases.iter().zip(&mut times).zip(&mut sizes) {
                let mut packed = vec![Vec::new(); messages.len()];
                let began = Instant::now();
                for (message, packed) in messages.iter().zip(&mut packed) {
                    compress(*case, message, packed)?;
                }
                pack.push(began.elapsed().as_secs_f64());
                *size = packed.iter().map(Vec::len).sum::<usize>() as u64;
                let mut out = Vec::new();
                let began = Instant::now();
                for packed in &packed {
                    decompress(*case, packed, &mut out)?;
                    black_box(&out);
                }
                unpack.push(began.elapsed().as_secs_f64());
            }
        }
        for ((case, (mut pack, mut unpack)), size) in cases.iter().zip(times).zip(sizes) {
            let line = json!({
                "compression": format!("{case:?}").to_lowercase(),
                "report_events": length,
                "bytes_an_event": float(size) / float(events),
                "compress_us_an_event": median(&mut pack) * 1e6 / float(events),
                "decompress_us_an_event": median(&mut unpack) * 1e6 / float(events),
            });
            println!("{line}");
        }
    }
    Ok(())
}

pub(crate) fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}
