//! Ballast's gRPC interfaces, generated from `proto/`.
//!
//! One module for each package: [`admin::v1`], node-to-node traffic in `cluster::v1`, and
//! [`google_rpc`], the error model of gRPC. Generated code and nothing else: conversions to and
//! from the types of `ballast-core` live with whoever speaks the protocol.

#![allow(missing_docs, reason = "the generator documents fields, not everything it makes")]
#![allow(clippy::all, clippy::allow_attributes_without_reason, reason = "generated code is judged by its generator")]

mod generated {
    include!(concat!(env!("OUT_DIR"), "/modules.rs"));
}

pub use generated::{ballast::*, google::rpc as google_rpc};

/// Every file of `proto/` and what it imports, as an encoded `FileDescriptorSet`: for reflection,
/// and for the JSON form of messages.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
