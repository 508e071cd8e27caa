//! What applications without a Redis client use: plain HTTP.
//!
//! Not here: listening, TLS, HTTP's framing, and who the client is: whoever serves a resource says so with each request.

pub mod sessions;
