//! What of this machine stands in the way of VIPs, or makes them less safe than they look: missing
//! capabilities, sysctls, a clock that stands still while the machine is paused.
//!
//! Reading is thin; judging is pure. Nothing is changed: /proc/sys is read-only in most containers,
//! and what is set there concerns others too.

use std::fs;

use super::{Interface, NetError};

const CLOCK_SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Works, less well.
    Note,
    /// Works, but a guarantee may not hold.
    Warning,
    /// Does not work.
    Error,
}

/// Something to tell the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What is the case and what follows from it.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl Finding {
    fn new(severity: Severity, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity, what: what.into(), remedy: remedy.into() }
    }
}

/// Looks at everything that matters to VIPs on this interface, worst first.
///
/// # Errors
/// [`NetError::Kernel`]: the interfaces cannot be listed.
pub fn check(interface: &str, ipv6_vips: bool) -> Result<Vec<Finding>, NetError> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let mut findings = capability_findings(effective_capabilities(&status).unwrap_or_default());
    let others: Vec<InterfaceSysctls> = (Interface::all()?.iter())
        .filter(|other| other.up && other.mac.is_some() && other.name != interface && other.name != "lo")
        .map(|other| InterfaceSysctls::read(&other.name))
        .collect();
    findings.extend(sysctl_findings(&InterfaceSysctls::read(interface), &others, ipv6_vips));
    let clock = fs::read_to_string(CLOCK_SOURCE).unwrap_or_default();
    findings.extend(clock_finding(clock.trim()));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Ok(findings)
}

/// The effective capabilities in a /proc/*/status, one bit each.
pub fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// What is missing among the capabilities. Numbers are those of `linux/capability.h`.
pub fn capability_findings(effective: u64) -> Vec<Finding> {
    let has = |bit: u32| effective & (1 << bit) != 0;
    let (net_admin, net_raw, ipc_lock, sys_admin, sys_nice, bpf) = (12, 13, 14, 21, 23, 39);
    let grant = |name: &str| {
        format!("add {name} to AmbientCapabilities= of the service, or start the container with --cap-add {name}")
    };
    let mut findings = Vec::new();
    let mut missing = |there: bool, severity, name: &str, effect: &str| {
        if !there {
            findings.push(Finding::new(severity, format!("CAP_{name} is missing: {effect}"), grant(name)));
        }
    };
    missing(has(net_admin), Severity::Error, "NET_ADMIN", "VIP addresses cannot be added, and nothing can be fenced");
    missing(has(net_raw), Severity::Error, "NET_RAW", "VIPs cannot be announced, and conflicts are not seen");
    let effect = "the eBPF fence cannot be loaded, and the nftables fence needs a larger margin";
    missing(has(bpf) || has(sys_admin), Severity::Warning, "BPF", effect);
    missing(has(sys_nice), Severity::Note, "SYS_NICE", "leases may be renewed late on a busy machine");
    missing(has(ipc_lock), Severity::Note, "IPC_LOCK", "leases may be renewed late on a machine that swaps");
    findings
}

/// The sysctls of an interface that matter to VIPs, as they take effect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceSysctls {
    /// The interface.
    pub interface: String,
    /// For which targets it answers ARP: 0 for any address of the machine.
    pub arp_ignore: Option<u32>,
    /// From which addresses it asks: 0 from any, 2 from the best one of the link.
    pub arp_announce: Option<u32>,
    /// 1 drops what would be answered through another interface.
    pub rp_filter: Option<u32>,
    /// 1 when it takes no IPv6 address.
    pub disable_ipv6: Option<u32>,
}

impl InterfaceSysctls {
    /// Reads them in the calling thread's network namespace; what cannot be read is nothing.
    pub fn read(interface: &str) -> Self {
        // The kernel takes the larger of the two.
        let larger = |key| sysctl("ipv4", interface, key).max(sysctl("ipv4", "all", key));
        Self {
            interface: interface.to_owned(),
            arp_ignore: larger("arp_ignore"),
            arp_announce: larger("arp_announce"),
            rp_filter: larger("rp_filter"),
            disable_ipv6: sysctl("ipv6", interface, "disable_ipv6"),
        }
    }
}

/// Whether the kernel says that it takes no IPv6 address on the interface.
pub(crate) fn ipv6_disabled(interface: &str) -> bool {
    sysctl("ipv6", interface, "disable_ipv6") == Some(1)
}

fn sysctl(family: &str, interface: &str, key: &str) -> Option<u32> {
    fs::read_to_string(format!("/proc/sys/net/{family}/conf/{interface}/{key}")).ok()?.trim().parse().ok()
}

/// Judges the sysctls of the VIPs' interface and of the machine's other interfaces that are up.
pub fn sysctl_findings(vip: &InterfaceSysctls, others: &[InterfaceSysctls], ipv6_vips: bool) -> Vec<Finding> {
    let name = &vip.interface;
    let mut findings = Vec::new();
    if vip.arp_announce == Some(0) {
        findings.push(Finding::new(
            Severity::Note,
            format!("arp_announce is 0 on {name}: this machine may ask for its neighbours from a VIP, which the fence then drops"),
            format!("set net/ipv4/conf/{name}/arp_announce to 2"),
        ));
    }
    if vip.rp_filter == Some(1) && !others.is_empty() {
        findings.push(Finding::new(
            Severity::Note,
            format!("rp_filter is 1 (strict) on {name}: clients that are routed back through another interface are not heard"),
            format!("if there are such clients, set net/ipv4/conf/{name}/rp_filter to 2"),
        ));
    }
    if ipv6_vips && vip.disable_ipv6.is_none_or(|value| value != 0) {
        findings.push(Finding::new(
            Severity::Error,
            format!("IPv6 is switched off on {name}, so its IPv6 VIPs cannot be added"),
            format!("set net/ipv6/conf/{name}/disable_ipv6 to 0, or give the VIPs no IPv6 addresses"),
        ));
    }
    findings
}

/// Judges the kernel's clock by its name: leases are safe only while it counts the time that this
/// machine spends paused.
pub fn clock_finding(name: &str) -> Option<Finding> {
    let why = match name {
        // Counters of the processor, which go on while a virtual machine is paused.
        "tsc" | "arch_sys_counter" => return None,
        "" => "cannot be told",
        "kvm-clock" => "is kvm-clock, which stands still while the hypervisor pauses the machine",
        "hpet" | "acpi_pm" => "is a timer chip, slow to read, and stands still while a virtual machine is paused",
        "xen" => "is that of Xen, which may stand still while the machine is paused or moved",
        name if name.starts_with("hyperv") => "is that of Hyper-V, which stands still while the machine is saved",
        name if name.starts_with("jiffies") => "counts ticks, and stands still while the machine is paused",
        _ => "is not known to go on while the machine is paused",
    };
    let remedy = if cfg!(target_arch = "x86_64") {
        "boot with clocksource=tsc if the processor has an invariant TSC; otherwise do not pause, suspend or move this machine while it runs Ballast"
    } else {
        "do not pause, suspend or move this machine while it runs Ballast"
    };
    let source = if name.is_empty() { "the clock source".to_owned() } else { format!("the clock source ({name})") };
    let what = format!("{source} {why}: after a pause this node may take a lease for valid that another has by then");
    Some(Finding::new(Severity::Warning, what, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(findings: &[Finding]) -> Vec<(Severity, &str)> {
        findings.iter().map(|finding| (finding.severity, finding.what.split(':').next().unwrap_or_default())).collect()
    }

    #[test]
    fn capabilities_are_read_and_missing_ones_named() {
        let status = "Name:\tballastd\nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000003000\nCapBnd:\t0\n";
        let effective = effective_capabilities(status).expect("a line");
        assert_eq!(
            said(&capability_findings(effective)),
            [
                (Severity::Warning, "CAP_BPF is missing"),
                (Severity::Note, "CAP_SYS_NICE is missing"),
                (Severity::Note, "CAP_IPC_LOCK is missing"),
            ]
        );
        assert!(capability_findings(0x1ff_ffff_ffff).is_empty());
        assert!(capability_findings(0b1010_0000_0111 << 12).is_empty(), "SYS_ADMIN stands in for BPF");
        assert_eq!(capability_findings(0).iter().filter(|finding| finding.severity == Severity::Error).count(), 2);
    }

    #[test]
    fn a_status_without_capabilities_gives_none() {
        for status in ["", "CapEff:", "CapEff:\tnothing", "CapEff:\t11112222333344445"] {
            assert_eq!(effective_capabilities(status), None, "{status:?}");
        }
    }

    fn sysctls(interface: &str, arp_ignore: u32) -> InterfaceSysctls {
        InterfaceSysctls {
            interface: interface.to_owned(),
            arp_ignore: Some(arp_ignore),
            arp_announce: Some(2),
            rp_filter: Some(0),
            disable_ipv6: Some(0),
        }
    }

    #[test]
    fn switched_off_ipv6_matters_only_to_ipv6_vips() {
        for disable_ipv6 in [Some(1), None] {
            let vip = InterfaceSysctls { disable_ipv6, ..sysctls("eth0", 0) };
            assert!(sysctl_findings(&vip, &[], false).is_empty());
            let expected = "IPv6 is switched off on eth0, so its IPv6 VIPs cannot be added";
            assert_eq!(said(&sysctl_findings(&vip, &[], true)), [(Severity::Error, expected)]);
        }
    }

    #[test]
    fn strict_reverse_paths_and_careless_arp_are_noted() {
        let vip = InterfaceSysctls { arp_announce: Some(0), rp_filter: Some(1), ..sysctls("eth0", 0) };
        assert_eq!(sysctl_findings(&vip, &[], true).len(), 1);
        let findings = sysctl_findings(&vip, &[sysctls("eth1", 1)], true);
        assert_eq!(findings.len(), 2);
        assert!(findings.iter().all(|finding| finding.severity == Severity::Note));
    }

    #[test]
    fn only_processor_counters_are_trusted_through_a_pause() {
        assert_eq!((clock_finding("tsc"), clock_finding("arch_sys_counter")), (None, None));
        for name in ["kvm-clock", "hpet", "acpi_pm", "xen", "hyperv_clocksource_tsc_page", "jiffies", "new", ""] {
            let finding = clock_finding(name).expect("not trusted");
            assert_eq!(finding.severity, Severity::Warning);
            assert!(finding.what.contains(name) && finding.what.contains("after a pause"), "{}", finding.what);
        }
    }
}
