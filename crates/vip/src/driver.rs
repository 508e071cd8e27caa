//! What owning a VIP means on this machine.

use std::{net::IpAddr, os::fd::RawFd, sync::Arc};

use ballast_core::{
    ids::{NodeId, VipId},
    lease::{Epoch, LeaseView},
    time::BootNanos,
};

/// What became of the way in to a VIP that this node owns no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Closing {
    /// Nothing new is accepted any more.
    Closed,
    /// It could not be closed, and closes by itself when the right that was given last ends, or a moment after this returned
    /// where there is no fence. Nobody may be told before that right ends.
    ByItself,
}

/// What clients have begun on a VIP that was given up, while it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finishing {
    /// Who takes over, if somebody has agreed to.
    pub successor: Option<NodeId>,
    /// Until when it may be finished here.
    pub until: BootNanos,
}

/// Carries out ownership. Called on the lease thread, which waits for nothing: every call has to
/// return within a millisecond or so.
pub trait Driver: Send + 'static {
    /// The agreed state changed. Called before anything that follows from it.
    fn view(&mut self, view: &Arc<LeaseView>);

    /// This node has agreed to take the VIP over and will be asked to within a round trip, or never.
    fn prepare(&mut self, vip: VipId);

    /// This node owns the VIP from now on, until `until` unless it is renewed. `predecessor` handed it over and may
    /// still be finishing what clients have begun there.
    fn acquired(&mut self, vip: VipId, epoch: Epoch, until: BootNanos, predecessor: Option<NodeId>);

    /// The right was extended to `until`.
    fn renewed(&mut self, vip: VipId, epoch: Epoch, until: BootNanos);

    /// Until when connections may be finished here that clients have begun before `successor`, or whoever comes, takes over;
    /// nothing when they end with the ownership.
    fn finish_until(&self, vip: VipId, successor: Option<NodeId>, now: BootNanos) -> Option<BootNanos>;

    /// This node owns the VIP no longer. Its gate is closed; the successor is told as soon as this returns, so nothing
    /// new may be accepted on the VIP's addresses after that, or this says that it may be. `finishing` has what
    /// [`Driver::finish_until`] said.
    fn released(&mut self, vip: VipId, finishing: Option<Finishing>) -> Closing;

    /// Does what is due, once a turn and after everything above. Returns when there is something to do next.
    fn turn(&mut self, now: BootNanos) -> Option<BootNanos>;

    /// Somebody who was not heard for a while is heard again, and may have learnt another owner meanwhile.
    fn announce_again(&mut self, now: BootNanos);

    /// A node has not been heard for long: it finishes nothing any more of what clients had begun there, and they should be
    /// told.
    fn peer_gone(&mut self, node: NodeId);

    /// What else the thread should wake up for: [`Driver::turn`] follows when one of them can be read.
    fn descriptors(&self) -> &[RawFd];
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
    view: Option<Arc<LeaseView>>,
}

impl LoopbackDriver {
    /// Calls `change` for each gain and loss. When it returns from an `Unbind`, the listeners must
    /// not accept any more: asking the gate before each accepted connection is enough for that, and
    /// closing them may follow.
    pub fn new(change: impl FnMut(ListenerChange) + Send + 'static) -> Self {
        Self { change: Box::new(change), view: None }
    }
}

impl Driver for LoopbackDriver {
    fn view(&mut self, view: &Arc<LeaseView>) {
        self.view = Some(Arc::clone(view));
    }

    fn prepare(&mut self, _vip: VipId) {}

    fn acquired(&mut self, vip: VipId, epoch: Epoch, _until: BootNanos, _predecessor: Option<NodeId>) {
        let known = self.view.as_ref().and_then(|view| view.vips.iter().find(|known| known.id == vip));
        let addresses =
            known.map_or_else(Vec::new, |known| known.addresses.iter().map(|address| address.ip()).collect());
        (self.change)(ListenerChange::Bind { vip, addresses, epoch });
    }

    fn renewed(&mut self, _vip: VipId, _epoch: Epoch, _until: BootNanos) {}

    /// Connections belong to the sockets of this process, and no other process can hand packets on to it.
    fn finish_until(&self, _vip: VipId, _successor: Option<NodeId>, _now: BootNanos) -> Option<BootNanos> {
        None
    }

    fn released(&mut self, vip: VipId, _finishing: Option<Finishing>) -> Closing {
        (self.change)(ListenerChange::Unbind { vip });
        Closing::Closed
    }

    fn turn(&mut self, _now: BootNanos) -> Option<BootNanos> {
        None
    }

    fn announce_again(&mut self, _now: BootNanos) {}

    /// Nothing is sent on.
    fn peer_gone(&mut self, _node: NodeId) {}

    fn descriptors(&self) -> &[RawFd] {
        &[]
    }
}
