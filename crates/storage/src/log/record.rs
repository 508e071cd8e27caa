//! The frame around each stored value: one byte of version, four of CRC-32C, then the bytes.
//!
//! RocksDB checks its own blocks; this checks what lies between us and it, and keeps the format
//! ours when the store below changes.

/// Version of the frame and of what is in it. Raised when older readers would misread newer data.
pub(super) const VERSION: u8 = 1;

const HEADER: usize = 5;

/// Replaces `out` with the framed `bytes`.
pub(super) fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.reserve(HEADER + bytes.len());
    out.push(VERSION);
    out.extend_from_slice(&crc32c::crc32c(bytes).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// The version a value claims.
pub(super) fn version(value: &[u8]) -> Option<u8> {
    value.first().copied()
}

/// The bytes in a frame, or what is wrong with it.
pub(super) fn decode(value: &[u8]) -> Result<&[u8], &'static str> {
    let Some((header, bytes)) = value.split_first_chunk::<HEADER>() else { return Err("it is too short") };
    let [version, crc @ ..] = *header;
    if version != VERSION {
        return Err("its format is not known");
    }
    if u32::from_le_bytes(crc) != crc32c::crc32c(bytes) {
        return Err("its checksum does not match");
    }
    Ok(bytes)
}
