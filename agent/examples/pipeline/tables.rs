//! The log's tables in the store, compressed and not: written as the log writes them, and read in order.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, path::PathBuf, time::Instant};

use anyhow::{Context as _, Result};
use fjall::{
    CompressionType, Database, KeyspaceCreateOptions, PersistMode,
    config::{BlockSizePolicy, CompressionPolicy},
};
use podtrail::trail::Moment;
use podtrail_proto::v1;
use serde_json::json;

use super::{codecs::median, events::Maker, float};

/// As in `collector::log`.
const MEMTABLE: u64 = 32 * 1024 * 1024;
const BATCH: u64 = 2000;
const KIB: u32 = 1024;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// A folder for it; what is made there is removed
    #[arg(long)]
    data: PathBuf,
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let cases = [
        ("none", CompressionType::None, 4),
        ("lz4", CompressionType::Lz4, 4),
        ("lz4", CompressionType::Lz4, 16),
        ("lz4", CompressionType::Lz4, 64),
    ];
    let mut results = cases.map(|_| (Vec::new(), Vec::new(), Vec::new()));
    for _ in 0..options.rounds.max(1) {
        for ((_, compression, block), (writes, reads, bytes)) in cases.iter().zip(&mut results) {
            let dir = tempfile::tempdir_in(&options.data).context("cannot make a folder for tables")?;
            let policy = CompressionPolicy::all(*compression);
            let database = Database::builder(dir.path()).worker_threads(2).open()?;
            let keyspace = database.keyspace("events", || {
                KeyspaceCreateOptions::default()
                    .max_memtable_size(MEMTABLE)
                    .data_block_compression_policy(policy.clone())
                    .data_block_size_policy(BlockSizePolicy::all(block * KIB))
            })?;
            let id = v1::EventId {
                cluster: "bench".to_owned(),
                node: "node-0".to_owned(),
                epoch: 1,
                ..Default::default()
            };
            let mut maker = Maker::new(id);
            let began = Instant::now();
            let mut next = 1;
            while next <= options.events {
                let last = options.events.min(next + BATCH - 1);
                let mut batch = database.batch().durability(Some(PersistMode::SyncData));
                for cursor in next..=last {
                    // What the log puts before every event changes as little from one to the next.
                    let header =
                        [1_764_000_000_000_000_000 + next, cursor * 350].map(u64::to_be_bytes).concat();
                    let (_, event) = maker.next(Moment::now());
                    batch.insert(&keyspace, cursor.to_be_bytes(), [&header[..], &event].concat());
                }
                batch.commit()?;
                next = last + 1;
            }
            keyspace.rotate_memtable_and_wait()?;
            writes.push(began.elapsed().as_secs_f64());
            bytes.push(float(length(&dir.path().join("keyspaces"))?));
            let began = Instant::now();
            let mut read = 0_u64;
            for item in keyspace.iter() {
                read += item.into_inner()?.1.len() as u64;
            }
            std::hint::black_box(read);
            reads.push(began.elapsed().as_secs_f64());
        }
    }
    let events = float(options.events);
    for ((compression, _, block), (mut writes, mut reads, mut bytes)) in cases.iter().zip(results) {
        let line = json!({
            "compression": compression,
            "block_kib": block,
            "bytes_an_event": median(&mut bytes) / events,
            "write_us_an_event": median(&mut writes) * 1e6 / events,
            "read_us_an_event": median(&mut reads) * 1e6 / events,
        });
        println!("{line}");
    }
    Ok(())
}

/// What the files of a folder take on the disk, in bytes.
fn length(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        let about = entry.metadata()?;
        sum += if about.is_dir() { length(&entry.path())? } else { about.blocks() * 512 };
    }
    Ok(sum)
}
