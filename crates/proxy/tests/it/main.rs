//! The data plane over real loopback sockets: raw clients, scripted backends, fake agreement.

mod differential;
mod hostile;
mod lifecycle;
mod persistence;
mod serving;
mod support;
mod timing;
