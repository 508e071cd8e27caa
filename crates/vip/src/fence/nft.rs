//! The fence by nftables: rules set up, read back and repaired through the `nft` program.
//!
//! What stands in the kernel is compared as text with what stood there right after it was set up, because `nft` prints
//! rules in a form of its own; elements that time out are left out of that.
//!
//! Not here: renewals (`nft_lease`), which go into the kernel directly.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::IpAddr,
    os::fd::RawFd,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use ballast_core::ids::VipId;

use super::{
    Breach, FenceError, Guarded, Unfenced,
    nft_lease::{Renewals, Shared, delete_table},
    nft_text::{Rules, TABLE, change, remove_gone, replace, without_chains},
    nft_watch::{Doubt, NftWatch},
    tc::{Link, Tc},
};

/// An `nft` that takes longer hangs, on a disk or on a lock of the kernel: what it does here takes some ten milliseconds.
const NFT_MAX: Duration = Duration::from_secs(2);

/// Why nftables did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program cannot be run.
    #[error("running the nft program (Debian package nftables)")]
    Run(#[source] io::Error),
    /// It did not end.
    #[error("the nft program did not end within {0:?} and was killed; a disk or the kernel holds it up")]
    Hung(Duration),
    /// Rules like the fence's are not possible.
    #[error(
        "Linux 5.16 or newer with nftables and its netdev egress hooks, and CAP_NET_ADMIN, are needed; nft says: {0}"
    )]
    Unsupported(String),
    /// It refused.
    #[error("nft says: {0}")]
    Refused(String),
    /// A name that cannot be written in rules.
    #[error("the interface name {0:?} cannot be written in nftables rules; rename the interface")]
    Name(String),
    /// No netlink.
    #[error("opening a netlink socket")]
    Netlink(#[source] io::Error),
}

pub(super) struct NftFence {
    tc: Tc,
    shared: Arc<Shared>,
    /// `None` until the table is ours.
    rules: Option<Rules>,
    vips: BTreeMap<IpAddr, VipId>,
    /// What the kernel had after the last change.
    standing: Vec<String>,
    refused_seen: u64,
    watch: NftWatch,
}

impl NftFence {
    pub(super) fn open() -> Result<(Self, Renewals), NftError> {
        let probe = Rules {
            addresses: [IpAddr::from([192, 0, 2, 1]), IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1])].into(),
            interfaces: BTreeMap::from([(1, "lo".to_owned())]),
        };
        nft(&["--check", "--file", "-"], &replace(&probe)).map_err(|error| match error {
            NftError::Refused(said) => NftError::Unsupported(said),
            other => other,
        })?;
        let shared = Arc::<Shared>::default();
        let renewals = Renewals::open(Arc::clone(&shared)).map_err(NftError::Netlink)?;
        let tc = Tc::open().map_err(NftError::Netlink)?;
        let watch = NftWatch::open().map_err(NftError::Netlink)?;
        let (vips, standing) = (BTreeMap::new(), Vec::new());
        Ok((Self { tc, shared, rules: None, vips, standing, refused_seen: 0, watch }, renewals))
    }

    pub(super) fn guard(&mut self, wanted: &[Guarded], also: &[u32]) -> Result<Vec<Unfenced>, FenceError> {
        let links = self.tc.links().map_err(FenceError::Links)?;
        let mut rules = Rules::default();
        // What one interface meets keeps no other unguarded.
        let mut refused = None;
        for guarded in wanted {
            let interface = guarded.interface;
            rules.addresses.insert(guarded.address);
            // One that has gone since it was named lets nothing pass.
            let Some(link) = links.iter().find(|link| link.index == interface) else { continue };
            match usable(link) {
                Ok(name) => drop(rules.interfaces.insert(interface, name)),
                Err(error) => drop(refused.get_or_insert(error)),
            }
        }
        let (narrow, mut unfenced) = (rules.clone(), Vec::new());
        for link in links.iter().filter(|link| link.ethernet && also.contains(&link.index)) {
            match writable(link) {
                Ok(name) => drop(rules.interfaces.insert(link.index, name)),
                Err(error) => unfenced.push(Unfenced { interface: link.index, why: super::chain(&error) }),
            }
        }
        if let Err(error) = self.change_to(&rules, &links) {
            // Which of the further interfaces is to blame is not said.
            if rules == narrow {
                return Err(error);
            }
            self.change_to(&narrow, &links)?;
            let further = rules.interfaces.keys().filter(|index| !narrow.interfaces.contains_key(index));
            unfenced.extend(further.map(|index| Unfenced { interface: *index, why: super::chain(&error) }));
            rules = narrow;
        }
        self.rules = Some(rules);
        self.vips = wanted.iter().map(|guarded| (guarded.address, guarded.vip)).collect();
        let mut addresses: Vec<_> = self.vips.iter().map(|(address, vip)| (*vip, *address)).collect();
        addresses.sort_unstable();
        self.shared.addresses.store(Arc::new(addresses));
        refused.map_or(Ok(unfenced), Err)
    }

    fn change_to(&mut self, rules: &Rules, links: &[Link]) -> Result<(), FenceError> {
        let changed = match self.rules.clone() {
            Some(mut old) => {
                let gone = old.without(|index| links.iter().any(|link| link.index == index));
                let text = remove_gone(&gone) + &change(&old, rules);
                self.load(&text)
            }
            None => self.load(&replace(rules)),
        };
        // What is there is not what we left: begin anew.
        changed.or_else(|_| self.load(&replace(rules)))
    }

    pub(super) fn verify(&mut self) -> Vec<Breach> {
        let mut breaches = Vec::new();
        let mut breach = |what| breaches.push(Breach { interface: 0, what });
        let refused = self.shared.refused.load(Ordering::Relaxed);
        if refused != self.refused_seen {
            let error = io::Error::from_raw_os_error(self.shared.refusal.load(Ordering::Relaxed));
            breach(format!("the kernel refused {} renewals: {error}", refused - self.refused_seen));
            self.refused_seen = refused;
        }
        // Asked before the rules are listed, so that what changes meanwhile is told by the next look.
        if let Some(rules) = &self.rules
            && let Some(doubt) = self.watch.in_doubt()
        {
            match listing() {
                Ok(found) if found == self.standing => self.watch.good(),
                Ok(found) => {
                    // Chains of an interface that is gone may be gone too: nothing passes there.
                    let links = self.tc.links().unwrap_or_default();
                    let gone = rules.clone().without(|index| links.iter().any(|link| link.index == index));
                    let [found, standing] = [&found, &self.standing].map(|lines| without_chains(lines, &gone));
                    if found == standing {
                        return breaches;
                    }
                    let missing = standing.iter().filter(|line| !found.contains(line));
                    let added = found.iter().filter(|line| !standing.contains(line));
                    let differences: Vec<_> = missing
                        .map(|line| format!("missing: {line}"))
                        .chain(added.map(|line| format!("added: {line}")))
                        .collect();
                    let what = if differences.is_empty() { "their order".to_owned() } else { differences.join("; ") };
                    breach(format!("the nftables rules differ: {what}"));
                }
                // The kernel has told of no change. Whoever is held up so long says that.
                Err(NftError::Hung(_)) if doubt == Doubt::Old => {}
                Err(error) => breach(super::chain(&error)),
            }
        }
        breaches
    }

    /// Readable when the kernel tells of something.
    pub(super) fn descriptor(&self) -> RawFd {
        self.watch.descriptor()
    }

    /// Takes note of what the kernel told, and whether rules may have changed.
    pub(super) fn changed(&mut self) -> bool {
        self.watch.changed()
    }

    pub(super) fn guards(&self, interface: u32, address: IpAddr) -> bool {
        self.rules
            .as_ref()
            .is_some_and(|rules| rules.interfaces.contains_key(&interface) && rules.addresses.contains(&address))
    }

    pub(super) fn repair(&mut self) -> Result<(), FenceError> {
        match &self.rules {
            Some(rules) => self.load(&replace(rules)),
            None => Ok(()),
        }
    }

    pub(super) fn remove(&mut self) -> Result<(), FenceError> {
        self.rules = None;
        self.vips.clear();
        self.shared.addresses.store(Arc::default());
        delete_table().map_err(FenceError::Leftovers)
    }

    fn load(&mut self, text: &str) -> Result<(), FenceError> {
        if !text.is_empty() {
            nft(&["--file", "-"], text).map_err(FenceError::Rules)?;
            self.standing = listing().map_err(FenceError::Rules)?;
        }
        Ok(())
    }
}

/// The name of an interface of VIPs, in rules.
fn usable(link: &Link) -> Result<String, FenceError> {
    if !link.ethernet {
        return Err(FenceError::NotEthernet { interface: link.name.clone() });
    }
    writable(link).map_err(FenceError::Rules)
}

/// The name of an interface as it can stand in rules.
fn writable(link: &Link) -> Result<String, NftError> {
    let bad = link.name.contains(['"', '\\', '\n', '*']);
    if bad { Err(NftError::Name(link.name.clone())) } else { Ok(link.name.clone()) }
}

/// The table without elements, and then those of the guarded addresses.
fn listing() -> Result<Vec<String>, NftError> {
    let mut lines: Vec<String> =
        nft(&["--terse", "list", "table", "netdev", TABLE], "")?.lines().map(str::to_owned).collect();
    for set in ["vip4", "vip6"] {
        lines.extend(nft(&["list", "set", "netdev", TABLE, set], "")?.lines().map(str::to_owned));
    }
    lines.retain(|line| !line.is_empty());
    Ok(lines)
}

fn nft(arguments: &[&str], input: &str) -> Result<String, NftError> {
    match run("nft", arguments, input, NFT_MAX) {
        // Services and containers often run without the folders of administrators in their path.
        Err(NftError::Run(error)) if error.kind() == io::ErrorKind::NotFound => {
            run("/usr/sbin/nft", arguments, input, NFT_MAX)
        }
        other => other,
    }
}

/// What the program prints. It is killed if it does not end in time.
fn run(program: &str, arguments: &[&str], input: &str, within: Duration) -> Result<String, NftError> {
    let pipe = Stdio::piped;
    let mut command = Command::new(program);
    let mut child =
        command.args(arguments).stdin(pipe()).stdout(pipe()).stderr(pipe()).spawn().map_err(NftError::Run)?;
    let ended = converse(&mut child, input, within).and_then(|(printed, said)| {
        let status = child.wait().map_err(NftError::Run)?;
        Ok((status.success(), printed, said))
    });
    match ended {
        Ok((true, printed, _)) => Ok(String::from_utf8_lossy(&printed).into_owned()),
        Ok((false, _, said)) => {
            let said = String::from_utf8_lossy(&said);
            Err(NftError::Refused(said.lines().next().unwrap_or("nothing").to_owned()))
        }
        Err(error) => {
            let _ = child.kill();
            // One that waits in the kernel dies when that lets it go, which nobody here waits for.
            let _ = beside(move || drop(child.wait()));
            Err(error)
        }
    }
}

/// Gives the program its input and takes what it prints and says until it closes both, which it does when it ends.
fn converse(child: &mut Child, input: &str, within: Duration) -> Result<(Vec<u8>, Vec<u8>), NftError> {
    let (until, input) = (Instant::now() + within, input.to_owned());
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    // A program that ended early, and reads no more, says why on its standard error.
    let given = stdin.map(|mut stdin| beside(move || drop(stdin.write_all(input.as_bytes()))));
    given.transpose()?;
    let all = |mut from: Box<dyn Read + Send>| {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        bytes
    };
    let said = stderr.map(|stderr| beside(move || all(Box::new(stderr)))).transpose()?;
    let printed = stdout.map(|stdout| beside(move || all(Box::new(stdout)))).transpose()?;
    let wait = |from: Option<Receiver<Vec<u8>>>| match from {
        Some(from) => {
            let left = until.saturating_duration_since(Instant::now());
            from.recv_timeout(left).map_err(|_| NftError::Hung(within))
        }
        None => Ok(Vec::new()),
    };
    Ok((wait(printed)?, wait(said)?))
}

/// Does on a thread of its own what ends with a program. If that ends late nobody listens any more.
fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<Receiver<T>, NftError> {
    let (done, result) = sync_channel(1);
    let work = move || drop(done.send(work()));
    thread::Builder::new().name("ballast-nft".to_owned()).spawn(work).map_err(NftError::Run)?;
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_hangs_is_killed() {
        // It neither reads nor ends, and its pipe holds less than it is given.
        let long = "x".repeat(1 << 20);
        let within = Duration::from_millis(50);
        let error = run("sleep", &["1000"], &long, within).expect_err("it does not end");
        assert!(matches!(error, NftError::Hung(limit) if limit == within), "{error}");
    }

    #[test]
    fn a_program_is_given_all_and_heard_to_its_end() {
        let long = "x".repeat(1 << 20);
        let heard = run("cat", &[], &long, Duration::from_secs(60));
        assert_eq!(heard.expect("ends").len(), long.len());
        let error = run("sh", &["-c", "echo no >&2; exit 1"], "", Duration::from_secs(60));
        assert!(matches!(error, Err(NftError::Refused(said)) if said == "no"));
        let error = run("no-such-program", &[], "", Duration::from_secs(60));
        assert!(matches!(error, Err(NftError::Run(error)) if error.kind() == io::ErrorKind::NotFound));
    }
}
