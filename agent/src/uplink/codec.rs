//! `ReportRequest` on the wire from events that are encoded already: each event is encoded once in its life.

use bytes::BufMut as _;
use podtrail_proto::v1;
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint},
};
use tonic::{
    Status,
    codec::{Codec, EncodeBuf, Encoder},
};
use tonic_prost::ProstDecoder;

use crate::spool::Encoded;

/// One `ReportRequest`.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) hello: Option<v1::Hello>,
    pub(super) events: Vec<Encoded>,
    pub(super) gone: Vec<v1::SeqRange>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ReportCodec;

/// Field numbers of `ReportRequest`.
const HELLO: u32 = 1;
const EVENTS: u32 = 2;
const GONE: u32 = 3;

impl Codec for ReportCodec {
    type Encode = Batch;
    type Decode = v1::ReportResponse;
    type Encoder = Self;
    type Decoder = ProstDecoder<v1::ReportResponse>;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::default()
    }
}

impl Encoder for ReportCodec {
    type Item = Batch;
    type Error = Status;

    fn encode(&mut self, item: Batch, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let Batch { hello, events, gone } = item;
        if let Some(hello) = hello {
            encode_key(HELLO, WireType::LengthDelimited, out);
            hello.encode_length_delimited(out).map_err(|e| Status::internal(e.to_string()))?;
        }
        for Encoded { cursor: _, seq: _, logged: _, bytes } in events {
            encode_key(EVENTS, WireType::LengthDelimited, out);
            encode_varint(u64::try_from(bytes.len()).unwrap_or(u64::MAX), out);
            out.put_slice(&bytes);
        }
        for range in gone {
            encode_key(GONE, WireType::LengthDelimited, out);
            range.encode_length_delimited(out).map_err(|e| Status::internal(e.to_string()))?;
        }
        Ok(())
    }
}
