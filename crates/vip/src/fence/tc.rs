//! Interfaces, and our classifiers on them.
//!
//! Attached by netlink to the `clsact` qdisc and not by a link of BPF, because a link is taken away with the
//! process that holds it, and the fence must stand exactly then. Priority and handle are fixed, so that a new
//! process replaces in one step what an earlier one left.
//!
//! A `clsact` qdisc goes with our filters when the fence is removed and nobody else has a filter on it: it does
//! nothing by itself, and who put it there is not known.
//! Programs of the newer `tcx` kind run before all of these (see `tcx`).

use std::{io, os::fd::RawFd};

use super::{
    FenceError,
    netlink::{Messages, Received, Socket, attributes, number},
};

/// The first to be asked, because a filter before ours could accept a packet and end the search.
const PRIORITY: u32 = 1;
/// Marks our filters among those of the same priority.
const HANDLE: u32 = 0x0ba1_1a57;
/// How our filters are called in listings, and how what an earlier process left is known.
const NAME: &str = "ballast-fence";

// linux/pkt_sched.h, linux/pkt_cls.h, linux/rtnetlink.h
const TC_H_CLSACT: u32 = 0xffff_fff1;
const CLSACT: u32 = 0xffff_0000;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_CHAIN: u16 = 11;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
const IFLA_IFNAME: u16 = 3;
const TCMSG: usize = 20;
const IFINFOMSG: usize = 16;

/// Where packets are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hook {
    Ingress,
    Egress,
}

impl Hook {
    pub(super) const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    fn parent(self) -> u32 {
        match self {
            Self::Ingress => 0xffff_fff2,
            Self::Egress => 0xffff_fff3,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// A network interface.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub index: u32,
    pub name: String,
    /// Frames begin with an Ethernet header.
    pub ethernet: bool,
}

/// Talks to the kernel about the interfaces of one network namespace.
pub(super) struct Tc {
    socket: Socket,
}

impl Tc {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open(libc::NETLINK_ROUTE)? })
    }

    pub(super) fn links(&mut self) -> io::Result<Vec<Link>> {
        self.socket.dump(libc::RTM_GETLINK, |message| message.body(&[0; IFINFOMSG]), read_link)
    }

    /// Makes sure that the interface has the hooks. One that is there stays as it is; an `ingress` qdisc in their place is
    /// an error, because it hands both directions' filters to what arrives.
    pub(super) fn ensure_hooks(&mut self, interface: u32) -> io::Result<()> {
        let flags = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
        let added = self.socket.request(libc::RTM_NEWQDISC, flags, |message| {
            message.body(&tcmsg(interface, CLSACT, TC_H_CLSACT, 0));
            message.string(TCA_KIND, "clsact");
        });
        match added {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                if self.has_both_hooks(interface)? {
                    Ok(())
                } else {
                    Err(error)
                }
            }
            other => other,
        }
    }

    fn has_both_hooks(&mut self, interface: u32) -> io::Result<bool> {
        let clsact = self.socket.dump(
            libc::RTM_GETQDISC,
            |message| message.body(&tcmsg(interface, 0, 0, 0)),
            |message| {
                let kind =
                    attributes(message.body.get(TCMSG..).unwrap_or_default()).find(|(kind, _)| *kind == TCA_KIND);
                let found = number(message.body, 4) == Some(interface)
                    && number(message.body, 12) == Some(TC_H_CLSACT)
                    && kind.is_some_and(|(_, kind)| kind == b"clsact\0");
                found.then_some(())
            },
        )?;
        Ok(!clsact.is_empty())
    }

    /// Attaches the program, in the place of any that has our handle.
    pub(super) fn attach(&mut self, interface: u32, hook: Hook, program: RawFd) -> io::Result<()> {
        self.socket.request(libc::RTM_NEWTFILTER, libc::NLM_F_CREATE as u16, |message| {
            filter(message, interface, hook);
            let options = message.nest(TCA_OPTIONS);
            message.attribute(TCA_BPF_FD, &program.to_ne_bytes());
            message.string(TCA_BPF_NAME, NAME);
            message.attribute(TCA_BPF_FLAGS, &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes());
            message.end_nest(options);
        })
    }

    /// The id of the program that our filter runs, if there is one.
    pub(super) fn attached(&mut self, interface: u32, hook: Hook) -> io::Result<Option<u32>> {
        self.look(interface, hook, &mut Vec::new())
    }

    /// As [`Tc::attached`], and names the filters that are asked before ours. The kernel lists them in their order, and puts
    /// a later program of our priority before ours.
    pub(super) fn look(&mut self, interface: u32, hook: Hook, before: &mut Vec<String>) -> io::Result<Option<u32>> {
        let filters = self.socket.dump(
            libc::RTM_GETTFILTER,
            |message| message.body(&tcmsg(interface, 0, hook.parent(), 0)),
            |message| read_filter(message).map(Ok).or_else(|| other_filter(message).map(Err)),
        )?;
        for filter in filters {
            match filter {
                Ok(ours) => return Ok(Some(ours)),
                Err(other) => before.push(other),
            }
        }
        Ok(None)
    }

    /// Takes our filters away, whichever process put them there. Says whether there were any.
    pub(super) fn detach_both(&mut self, link: &Link) -> Result<bool, FenceError> {
        let mut any = false;
        for hook in Hook::BOTH {
            any |= unless_gone(link, self.detach(link.index, hook))?;
        }
        Ok(any)
    }

    /// Takes our filters away, and the hooks when they were for ours alone. Where we have no filter, others' hooks are
    /// none of our business, used or not.
    pub(super) fn clear(&mut self, link: &Link) -> Result<(), FenceError> {
        if self.detach_both(link)? {
            let removed = self.remove_idle_hooks(link.index);
            unless_gone(link, removed)?;
        }
        Ok(())
    }

    fn detach(&mut self, interface: u32, hook: Hook) -> io::Result<bool> {
        if self.attached(interface, hook)?.is_none() {
            return Ok(false);
        }
        self.socket.request(libc::RTM_DELTFILTER, 0, |message| filter(message, interface, hook))?;
        Ok(true)
    }

    /// Removes the hooks of an interface if there is no filter on them. Says whether they are removed.
    fn remove_idle_hooks(&mut self, interface: u32) -> io::Result<bool> {
        for hook in Hook::BOTH {
            let filters = self.socket.dump(
                libc::RTM_GETTFILTER,
                |message| message.body(&tcmsg(interface, 0, hook.parent(), 0)),
                |message| (message.kind == libc::RTM_NEWTFILTER).then_some(()),
            )?;
            if !filters.is_empty() {
                return Ok(false);
            }
        }
        self.socket.request(libc::RTM_DELQDISC, 0, |message| {
            message.body(&tcmsg(interface, CLSACT, TC_H_CLSACT, 0));
            message.string(TCA_KIND, "clsact");
        })?;
        Ok(true)
    }
}

/// An interface that went meanwhile took everything on it along.
fn unless_gone(link: &Link, result: io::Result<bool>) -> Result<bool, FenceError> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
        other => other.map_err(|source| FenceError::Detach { interface: link.name.clone(), source }),
    }
}

fn filter(message: &mut Messages, interface: u32, hook: Hook) {
    let protocol = u32::from((libc::ETH_P_ALL as u16).to_be());
    message.body(&tcmsg(interface, HANDLE, hook.parent(), PRIORITY << 16 | protocol));
    message.string(TCA_KIND, "bpf");
}

fn tcmsg(interface: u32, handle: u32, parent: u32, info: u32) -> [u8; TCMSG] {
    let mut body = [0; TCMSG];
    for (place, value) in [interface, handle, parent, info].into_iter().enumerate() {
        let at = 4 + place * 4;
        body[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    body
}

fn read_link(message: Received<'_>) -> Option<Link> {
    let kind = u16::from_ne_bytes(message.body.get(2..4)?.try_into().ok()?);
    let index = number(message.body, 4)?;
    let (_, name) = attributes(message.body.get(IFINFOMSG..)?).find(|(kind, _)| *kind == IFLA_IFNAME)?;
    let name = String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned();
    Some(Link { index, name, ethernet: kind == libc::ARPHRD_ETHER || kind == libc::ARPHRD_LOOPBACK })
}

/// What the filter is called, if it is one that packets get to by themselves.
fn other_filter(message: Received<'_>) -> Option<String> {
    // Each kind at each priority is listed once without a handle, and what is in another chain has to be sent there.
    if message.kind != libc::RTM_NEWTFILTER || number(message.body, 8)? == 0 {
        return None;
    }
    let outer = || attributes(message.body.get(TCMSG..).unwrap_or_default());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned();
    if outer().any(|(kind, value)| kind == TCA_CHAIN && number(value, 0) != Some(0)) {
        return None;
    }
    let (_, kind) = outer().find(|(kind, _)| *kind == TCA_KIND)?;
    let options = outer().find(|(kind, _)| *kind == TCA_OPTIONS).map_or(&[][..], |(_, options)| options);
    let name = attributes(options).find(|(kind, _)| *kind == TCA_BPF_NAME).filter(|_| kind == b"bpf\0");
    let name = name.map_or_else(String::new, |(_, name)| format!(" {}", text(name)));
    Some(format!("{} filter{name} of priority {}", text(kind), number(message.body, 16)? >> 16))
}

/// The program's id if the filter is ours.
fn read_filter(message: Received<'_>) -> Option<u32> {
    if message.kind != libc::RTM_NEWTFILTER || number(message.body, 8)? != HANDLE {
        return None;
    }
    let outer = message.body.get(TCMSG..)?;
    let (_, options) = attributes(outer).find(|(kind, _)| *kind == TCA_OPTIONS)?;
    let value = |wanted| attributes(options).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let ours = value(TCA_BPF_NAME)?.strip_suffix(&[0]) == Some(NAME.as_bytes());
    ours.then(|| number(value(TCA_BPF_ID)?, 0)).flatten()
}
