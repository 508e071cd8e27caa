//! Whether somebody changed rules of nftables: the kernel tells every change, our own renewals too.
//!
//! So that the rules need to be listed, which takes processes, only when there is a reason, and now and then.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
};

use ballast_clock::boot_now;
use ballast_core::time::BootNanos;

use super::{
    netlink::{Received, Socket, attributes},
    nft_lease::{
        NFNL_SUBSYS_NFTABLES, NFT_MSG_DELSETELEM, NFT_MSG_NEWSETELEM, NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_TABLE,
    },
    nft_text::TABLE,
};

// linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
const NFNLGRP_NFTABLES: u32 = 7;
const NFT_MSG_NEWGEN: u16 = 15;

/// How long rules are believed to be as they were without a word of the kernel. It tells everything; this is in case it
/// does not.
const LIST_NANOS: u64 = 5_000_000_000;

/// Why the rules should be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// They may have changed.
    Changed,
    /// They were not listed for a while.
    Old,
}

pub(super) struct NftWatch {
    socket: Socket,
    /// When the rules were last found as they should be.
    good_at: Option<BootNanos>,
}

impl NftWatch {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open_member(libc::NETLINK_NETFILTER, NFNLGRP_NFTABLES)?, good_at: None })
    }

    /// Readable when the kernel tells of something.
    pub(super) fn descriptor(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Takes note of what the kernel told, and whether rules may have changed.
    pub(super) fn changed(&mut self) -> bool {
        let mut changed = false;
        // One that overran has lost word of something.
        let drained = self.socket.drain(|message| changed |= !is_renewal(message));
        changed |= drained.is_err();
        if changed {
            self.good_at = None;
        }
        changed
    }

    /// Whether the rules should be listed.
    pub(super) fn in_doubt(&mut self) -> Option<Doubt> {
        self.changed();
        match self.good_at {
            None => Some(Doubt::Changed),
            Some(at) => (boot_now().since(at) >= LIST_NANOS).then_some(Doubt::Old),
        }
    }

    /// They were listed, after [`NftWatch::in_doubt`], and are as they should be.
    pub(super) fn good(&mut self) {
        self.good_at = Some(boot_now());
    }
}

/// Whether the kernel tells of what letting a VIP pass for a while brings about.
fn is_renewal(message: Received<'_>) -> bool {
    const NEWSETELEM: u16 = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWSETELEM;
    const DELSETELEM: u16 = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_DELSETELEM;
    const NEWGEN: u16 = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN;
    match message.kind {
        // Comes with every change.
        NEWGEN => true,
        NEWSETELEM | DELSETELEM => {
            let text = |wanted| {
                let found = attributes(message.body.get(4..)?).find(|(kind, _)| *kind == wanted);
                found.and_then(|(_, text)| text.strip_suffix(&[0]))
            };
            text(NFTA_SET_ELEM_LIST_TABLE) == Some(TABLE.as_bytes())
                && matches!(text(NFTA_SET_ELEM_LIST_SET), Some(b"lease4" | b"lease6"))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::netlink::{Messages, messages},
        *,
    };

    #[test]
    fn renewals_are_told_from_changes_of_rules() {
        let check = |kind: u16, set: &str, expected: bool| {
            let mut bytes = Messages::default();
            let mark = bytes.begin(NFNL_SUBSYS_NFTABLES << 8 | kind, 0, 0, &[5, 0, 0, 0]);
            bytes.string(NFTA_SET_ELEM_LIST_TABLE, TABLE);
            bytes.string(NFTA_SET_ELEM_LIST_SET, set);
            bytes.end(mark);
            let renewals: Vec<_> = messages(bytes.bytes()).map(is_renewal).collect();
            assert_eq!(renewals, [expected], "{kind} {set}");
        };
        check(NFT_MSG_NEWSETELEM, "lease4", true);
        check(NFT_MSG_DELSETELEM, "lease6", true);
        check(NFT_MSG_NEWGEN, "", true);
        // What is guarded; a table that goes; a rule that comes.
        check(NFT_MSG_DELSETELEM, "vip4", false);
        check(2, "", false);
        check(6, "", false);
    }
}
