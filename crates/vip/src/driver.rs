//! What owning a VIP means on this machine.

use std::net::IpAddr;

use ballast_core::{ids::VipId, lease::Epoch, time::BootNanos};

/// Carries out ownership. Called on the lease thread, which waits for nothing: every call has to
/// return within a millisecond or so.
pub trait Driver: Send + 'static {
    /// This node owns the VIP from now on. Its gate is open.
    fn acquired(&mut self, vip: VipId, addresses: &[IpAddr], epoch: Epoch);

    /// The right was extended to `until`.
    fn renewed(&mut self, vip: VipId, epoch: Epoch, until: BootNanos);

    /// This node owns the VIP no longer. Its gate is closed; the successor is told as soon as this
    /// returns, so nothing may be accepted on the VIP's addresses after that.
    fn released(&mut self, vip: VipId);
}

/// What the listener manager has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenerChange {
    /// Bind the VIP's listeners.
    Bind {
        /// The VIP.
        vip: VipId,
        /// Its addresses.
        addresses: Vec<IpAddr>,
        /// Under this epoch.
        epoch: Epoch,
    },
    /// Close the VIP's listeners.
    Unbind {
        /// The VIP.
        vip: VipId,
    },
}

/// No privileges: the owner alone binds the VIP's listeners (127.x.y.z). For the demo and tests.
pub struct LoopbackDriver {
    change: Box<dyn FnMut(ListenerChange) + Send>,
}

impl LoopbackDriver {
    /// Calls `change` for each gain and loss. When it returns from an `Unbind`, the listeners must
    /// not accept any more: asking the gate before each accepted connection is enough for that, and
    /// closing them may follow.
    pub fn new(change: impl FnMut(ListenerChange) + Send + 'static) -> Self {
        Self { change: Box::new(change) }
    }
}

impl Driver for LoopbackDriver {
    fn acquired(&mut self, vip: VipId, addresses: &[IpAddr], epoch: Epoch) {
        (self.change)(ListenerChange::Bind { vip, addresses: addresses.to_vec(), epoch });
    }

    fn renewed(&mut self, _vip: VipId, _epoch: Epoch, _until: BootNanos) {}

    fn released(&mut self, vip: VipId) {
        (self.change)(ListenerChange::Unbind { vip });
    }
}
