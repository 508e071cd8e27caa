//! Hosts beside the nodes: clients, the observer and backends, each in a network of its own.
//!
//! They are on the bridge of a lab, or on one that somebody else made for nodes that are no lab's, as Docker does for containers.
//!
//! Not here: nodes, and what befalls them.

use std::{
    net::Ipv4Addr,
    os::unix::process::CommandExt,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use anyhow::{Context, Result, bail};

use super::{Door, Host, feed, namespace::Namespace, stale};

/// Three hosts. They end when this is dropped, with all processes on them.
pub struct Guests {
    client: Namespace,
    observer: Namespace,
    backends: Namespace,
}

/// Addresses of hosts on a network of somebody else's, of which all but the last byte are those of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// Where clients are.
    pub client: Ipv4Addr,
    /// By which the observer asks. No kernel has it.
    pub observer: Ipv4Addr,
    /// Where backends are.
    pub backends: Ipv4Addr,
}

impl Guests {
    /// Which hosts they are.
    pub(super) const HOSTS: [Host; 3] = [Host::Client, Host::Observer, Host::Backends];

    /// Makes them, on no network yet. All names begin with `prefix`.
    pub(super) fn add(prefix: &str) -> Result<Self> {
        let add = |host: Host| Namespace::add(format!("{prefix}{host}"));
        Ok(Self { client: add(Host::Client)?, observer: add(Host::Observer)?, backends: add(Host::Backends)? })
    }

    /// Makes them, and joins them to a bridge of this process' network.
    ///
    /// # Errors
    /// Where the kernel does not allow it, which takes root, or there is no such bridge.
    pub fn join(bridge: &str, places: Places) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        stale::sweep();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let guests = Self::add(&stale::prefix(1000 + number)?)?;
        for (host, ip) in
            [(Host::Client, Some(places.client)), (Host::Observer, None), (Host::Backends, Some(places.backends))]
        {
            let namespace = guests.namespace(host)?;
            // Names of devices have fifteen characters at most.
            let port = format!("bg{:x}-{number:x}{}", std::process::id(), &host.to_string()[..1]);
            let outside = format!(
                "link add {port} type veth peer name eth0 netns {}\nlink set {port} master {bridge}\nlink set {port} up\n",
                namespace.name()
            );
            let mut ip_here = Command::new("ip");
            ip_here.args(["-batch", "-"]).process_group(0);
            feed(ip_here, &outside)?;
            // The observer speaks raw frames only.
            let address = ip.map(|ip| format!("addr add {ip}/24 dev eth0\n")).unwrap_or_default();
            let mut ip_there = Command::new("ip");
            ip_there.args(["-batch", "-"]);
            namespace.place(&mut ip_there)?;
            let inside =
                format!("link set lo up\nlink set eth0 address {}\n{address}link set eth0 up\n", host.mac_text());
            feed(ip_there, &inside)?;
        }
        guests.within(Host::Client, || {
            // Clients come with a new port for each request.
            std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65535")
        })??;
        Ok(guests)
    }

    /// Runs `work` on a thread of its own in a host's network. Sockets that it opens stay there.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or the host is none of these.
    ///
    /// # Panics
    /// When `work` does.
    pub fn within<T: Send>(&self, host: Host, work: impl FnOnce() -> T + Send) -> Result<T> {
        within(self.namespace(host)?, host, work)
    }

    /// A way into a host's network for a thread that stays there.
    ///
    /// # Errors
    /// When the process has no descriptor left, or the host is none of these.
    pub fn door(&self, host: Host) -> Result<Door> {
        self.namespace(host)?.door()
    }

    pub(super) fn namespace(&self, host: Host) -> Result<&Namespace> {
        match host {
            Host::Client => Ok(&self.client),
            Host::Observer => Ok(&self.observer),
            Host::Backends => Ok(&self.backends),
            Host::Node(_) | Host::Bridge => bail!("{host} is no host beside the nodes"),
        }
    }
}

/// Runs `work` on a thread of its own in a network.
pub(super) fn within<T: Send>(namespace: &Namespace, host: Host, work: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        let body = scope.spawn(move || {
            namespace.enter().with_context(|| format!("enter the network of {host}"))?;
            Ok(work())
        });
        body.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
