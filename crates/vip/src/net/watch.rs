//! Tells when links, addresses or traffic-control filters of this machine change.
//!
//! An event says where to look again, not what is true: the reader reads the present state. When the
//! kernel has dropped events because nobody read them, [`LinkEvent::Lost`] says to look everywhere.

use std::{
    io::{self, Read},
    net::IpAddr,
    os::fd::{AsRawFd, RawFd},
};

use socket2::Socket;

use super::{
    NetError,
    interface::{read_address, read_link},
    route,
    wire::{Message, messages, read_u32},
};

/// Enough for a few hundred events in one read; more come with the next.
const BUFFER_BYTES: usize = 32 * 1024;

/// Reads per call, so that a storm of events cannot hold the reader. Arbitrary.
const READS_MAX: usize = 16;

/// Events that the kernel keeps while nobody reads: thousands.
const QUEUE_BYTES: usize = 1 << 20;

/// Something changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// An interface came, or its state, name or MAC changed.
    Link {
        /// The interface.
        index: u32,
        /// Whether it is up and has a carrier.
        up: bool,
    },
    /// An interface is gone.
    LinkGone {
        /// The number it had.
        index: u32,
    },
    /// An address was added or changed.
    Address {
        /// The interface.
        index: u32,
        /// The address.
        address: IpAddr,
    },
    /// An address was taken away.
    AddressGone {
        /// The interface.
        index: u32,
        /// The address.
        address: IpAddr,
    },
    /// A queueing discipline or a filter was added, changed or removed: the fence may be gone.
    Filter {
        /// The interface.
        index: u32,
    },
    /// Events were lost: anything may have changed.
    Lost,
}

/// A socket that hears of changes in the network namespace it was opened in.
pub struct Watch {
    socket: Socket,
    buffer: Vec<u8>,
    /// Events were dropped, and what was queued before is not all read yet.
    lost: bool,
}

impl Watch {
    /// Hears of everything from now on; read the present state after this, so that nothing is
    /// missed between.
    ///
    /// # Errors
    /// [`NetError::Kernel`].
    pub fn open() -> Result<Self, NetError> {
        let groups = [libc::RTNLGRP_LINK, libc::RTNLGRP_TC, libc::RTNLGRP_IPV4_IFADDR, libc::RTNLGRP_IPV6_IFADDR];
        let mask = groups.iter().fold(0, |mask, group| mask | 1 << (group - 1));
        let open = || {
            let socket = route::open(mask)?;
            socket.set_nonblocking(true)?;
            socket.set_recv_buffer_size(QUEUE_BYTES)?;
            Ok(socket)
        };
        let socket = open().map_err(NetError::kernel("watch the links"))?;
        Ok(Self { socket, buffer: vec![0; BUFFER_BYTES], lost: false })
    }

    /// Appends what has happened since the last call; does not wait.
    ///
    /// # Errors
    /// [`NetError::Kernel`]: open another, and look everywhere.
    pub fn read(&mut self, out: &mut Vec<LinkEvent>) -> Result<(), NetError> {
        for _ in 0..READS_MAX {
            match (&self.socket).read(&mut self.buffer) {
                Ok(length) => out.extend(messages(&self.buffer[..length]).filter_map(|message| event(&message))),
                // A full queue takes nothing until it has been read empty, so only what is looked at
                // after that is up to date.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    out.extend(std::mem::take(&mut self.lost).then_some(LinkEvent::Lost));
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.lost = true,
                Err(source) => return Err(NetError::kernel("read changes of the links")(source)),
            }
        }
        Ok(())
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn event(message: &Message<'_>) -> Option<LinkEvent> {
    match message.kind {
        libc::RTM_NEWLINK => read_link(message).map(|link| LinkEvent::Link { index: link.index, up: link.up }),
        libc::RTM_DELLINK => read_u32(message.payload, 4).map(|index| LinkEvent::LinkGone { index }),
        libc::RTM_NEWADDR => {
            read_address(message).map(|(index, held)| LinkEvent::Address { index, address: held.address })
        }
        libc::RTM_DELADDR => {
            read_address(message).map(|(index, held)| LinkEvent::AddressGone { index, address: held.address })
        }
        libc::RTM_NEWQDISC | libc::RTM_DELQDISC | libc::RTM_NEWTFILTER | libc::RTM_DELTFILTER => {
            read_u32(message.payload, 4).map(|index| LinkEvent::Filter { index })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 16_u16..60) {
            event(&Message { kind, flags: 0, sequence: 0, payload: &bytes });
        }
    }
}
