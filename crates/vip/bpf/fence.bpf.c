// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//
// The fence in the kernel: packets to and from a VIP pass only while its deadline lies ahead.
//
// Two classifiers, one for each direction of an interface. Ingress judges by what a packet is for
// (destination, ARP and neighbour discovery target), egress by whom it speaks for (source, ARP sender,
// advertised target). The deadline is absolute on CLOCK_BOOTTIME and is checked for each packet, so that
// a process that is dead, frozen or starved closes the fence by doing nothing.
//
// A planned move adds rules with deadlines of their own. The old owner keeps the TCP connections it
// has sockets for, and sends segments that open one to the new owner; the new owner sends segments of
// connections it does not know to the old one. So nothing loops between the two: what opens goes
// one way only and what does not the other. In longer chains segments that open a connection always lead
// to a later owner, because whoever is about to own the VIP forwards nothing, the loader sees to it. Others
// go back from owner to owner, as long as each had the VIP from the one before: a node that handed the VIP on
// takes them from its successor alone, and the owner sends none on from the one that was its successor once.
// So no step leads to where the way began. Where it ends, nobody has the connection, and the kernel there
// resets it, as it would have done if nothing had moved.
// Fragments carry no ports (or are followed by some that do not), so they obey the deadline alone.
//
// Whatever is not for a VIP returns TC_ACT_UNSPEC: the filters of others decide.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>
#include <linux/types.h>

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define MAP_UINT(name, value) int(*name)[value]
#define MAP_TYPE(name, value) typeof(value) *name

// Helpers by the numbers of linux/bpf.h, so that building needs no headers of libbpf.
static void *(*map_lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static __u64 (*boot_ns)(void) = (void *)BPF_FUNC_ktime_get_boot_ns;
static long (*load_bytes)(const void *skb, __u32 offset, void *to, __u32 len) = (void *)BPF_FUNC_skb_load_bytes;
static long (*store_bytes)(void *skb, __u32 offset, const void *from, __u32 len, __u64 flags) =
    (void *)BPF_FUNC_skb_store_bytes;
static long (*redirect)(__u32 ifindex, __u64 flags) = (void *)BPF_FUNC_redirect;
static struct bpf_sock *(*lookup_tcp)(void *ctx, struct bpf_sock_tuple *tuple, __u32 size, __u64 netns,
                                      __u64 flags) = (void *)BPF_FUNC_skc_lookup_tcp;
static long (*release)(void *sock) = (void *)BPF_FUNC_sk_release;
static long (*check_syncookie)(void *sock, void *ip, __u32 ip_len, void *tcp, __u32 tcp_len) =
    (void *)BPF_FUNC_tcp_check_syncookie;

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define BE16(x) ((__be16)__builtin_bswap16(x))
#define BE32(x) ((__be32)__builtin_bswap32(x))
#else
#define BE16(x) ((__be16)(x))
#define BE32(x) ((__be32)(x))
#endif

// One VIP: two cache lines. The loader writes the first through shared memory, each field by one store of
// eight bytes; the programs write the counters of what is rare.
struct slot {
    __u64 deadline;      // everything passes until then
    __u64 keep_until;    // connections this node has sockets for pass until then
    __u64 back_until;    // segments of unknown connections go to the predecessor until then
    __u64 pass_on_until; // while closed: segments that open a connection go to the successor until then
    __u8 predecessor[8]; // MAC addresses: six bytes and padding
    __u8 successor[8];   // the last one, also while this node owns the VIP again
    __u64 reserved[2];
    __u64 dropped, kept, forwarded;
    __u64 reserved_too[5];
};

struct {
    MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
    MAP_UINT(max_entries, 4096);
    MAP_UINT(map_flags, BPF_F_MMAPABLE);
    MAP_TYPE(key, __u32);
    MAP_TYPE(value, struct slot);
} slots SEC(".maps");

// IPv4 addresses are mapped (::ffff:a.b.c.d).
struct address {
    __be32 words[4];
};

struct {
    MAP_UINT(type, BPF_MAP_TYPE_HASH);
    MAP_UINT(max_entries, 16384);
    MAP_TYPE(key, struct address);
    MAP_TYPE(value, __u32);
} vips SEC(".maps");

struct ip4 {
    __u8 version_len, tos;
    __be16 len, id, fragment;
    __u8 ttl, protocol;
    __be16 check;
    __be32 source, target;
};

struct ip6 {
    __be32 flow;
    __be16 len;
    __u8 next, hops;
    struct address source, target;
};

struct tcp {
    __be16 source, target;
    __be32 seq, ack;
    __u8 offset, flags;
    __be16 window, check, urgent;
};
#define TCP_SYN 0x02
#define TCP_ACK 0x10

struct neighbour { // of ICMPv6: solicitation and advertisement look alike
    __u8 type, code;
    __be16 check;
    __be32 flags;
    struct address target;
};

enum direction { IN, OUT };
enum kind { OTHER, TCP4, TCP6 };

struct packet {
    enum kind kind;
    __u32 l3, l4; // offsets of the headers
};

#define HOP_BY_HOP 0
#define ROUTING 43
#define FRAGMENT 44
#define ICMPV6 58
#define DESTINATION 60
#define SOLICITATION 135
#define ADVERTISEMENT 136
// A chain that is longer has no business here; its packets obey the deadline alone.
#define EXTENSIONS_MAX 6

INLINE struct slot *find(const struct address *address) {
    __u32 *index = map_lookup(&vips, address);
    return index ? map_lookup(&slots, index) : 0;
}

INLINE struct slot *find4(__be32 address) {
    struct address mapped = {{0, 0, BE32(0xffff), address}};
    return find(&mapped);
}

INLINE struct slot *find_ip4(struct __sk_buff *skb, enum direction direction, struct packet *packet) {
    struct ip4 ip;
    if (load_bytes(skb, packet->l3, &ip, sizeof(ip)))
        return 0;
    packet->l4 = packet->l3 + (ip.version_len & 15) * 4;
    // Either more fragments follow or this is not the first.
    if (ip.protocol == IPPROTO_TCP && !(ip.fragment & BE16(0x3fff)))
        packet->kind = TCP4;
    return find4(direction == IN ? ip.target : ip.source);
}

INLINE struct slot *find_arp(struct __sk_buff *skb, enum direction direction, struct packet *packet) {
    // Sender and target protocol address of IPv4 over Ethernet (RFC 826). A probe (RFC 5227) has no sender.
    __be32 address;
    return load_bytes(skb, packet->l3 + (direction == IN ? 24 : 14), &address, 4) ? 0 : find4(address);
}

INLINE struct slot *find_ip6(struct __sk_buff *skb, enum direction direction, struct packet *packet) {
    struct ip6 ip;
    if (load_bytes(skb, packet->l3, &ip, sizeof(ip)))
        return 0;
    __u8 next = ip.next;
    packet->l4 = packet->l3 + sizeof(ip);
#pragma clang loop unroll(full)
    for (int i = 0; i < EXTENSIONS_MAX; i++) {
        __u8 extension[2];
        if (next != HOP_BY_HOP && next != ROUTING && next != DESTINATION)
            break;
        if (load_bytes(skb, packet->l4, extension, 2))
            break;
        next = extension[0];
        packet->l4 += (extension[1] + 1) * 8;
    }
    if (next == IPPROTO_TCP)
        packet->kind = TCP6;
    struct slot *slot = find(direction == IN ? &ip.target : &ip.source);
    if (slot || next != ICMPV6)
        return slot;
    struct neighbour neighbour;
    if (load_bytes(skb, packet->l4, &neighbour, sizeof(neighbour)))
        return 0;
    // Resolving another address, with a source that is no VIP, may leave; asking for a VIP too.
    if (neighbour.type == ADVERTISEMENT || (direction == IN && neighbour.type == SOLICITATION))
        return find(&neighbour.target);
    return 0;
}

// The slot of the VIP that the frame is for (IN) or speaks for (OUT).
INLINE struct slot *find_vip(struct __sk_buff *skb, enum direction direction, struct packet *packet) {
    __be16 protocol;
    packet->l3 = ETH_HLEN;
    if (load_bytes(skb, 12, &protocol, 2))
        return 0;
#pragma clang loop unroll(full)
    for (int i = 0; i < 2; i++) {
        if (protocol != BE16(ETH_P_8021Q) && protocol != BE16(ETH_P_8021AD))
            break;
        if (load_bytes(skb, packet->l3 + 2, &protocol, 2))
            return 0;
        packet->l3 += 4;
    }
    if (protocol == BE16(ETH_P_IP))
        return find_ip4(skb, direction, packet);
    if (protocol == BE16(ETH_P_IPV6))
        return find_ip6(skb, direction, packet);
    if (protocol == BE16(ETH_P_ARP))
        return find_arp(skb, direction, packet);
    return 0;
}

enum socket { NONE, LISTENER, COOKIE, CONNECTION };

// What this node has for the segment that came in.
INLINE enum socket local_socket(struct __sk_buff *skb, const struct packet *packet, struct tcp *tcp) {
    union {
        struct ip4 v4;
        struct ip6 v6;
    } ip;
    struct bpf_sock_tuple tuple;
    if (packet->kind == TCP4) {
        if (load_bytes(skb, packet->l3, &ip.v4, sizeof(ip.v4)))
            return NONE;
        tuple.ipv4.saddr = ip.v4.source;
        tuple.ipv4.daddr = ip.v4.target;
        tuple.ipv4.sport = tcp->source;
        tuple.ipv4.dport = tcp->target;
    } else {
        if (load_bytes(skb, packet->l3, &ip.v6, sizeof(ip.v6)))
            return NONE;
        __builtin_memcpy(tuple.ipv6.saddr, &ip.v6.source, 16);
        __builtin_memcpy(tuple.ipv6.daddr, &ip.v6.target, 16);
        tuple.ipv6.sport = tcp->source;
        tuple.ipv6.dport = tcp->target;
    }
    struct bpf_sock *sock = packet->kind == TCP4
                                ? lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0)
                                : lookup_tcp(skb, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
    if (!sock)
        return NONE;
    enum socket found = CONNECTION;
    if (sock->state == BPF_TCP_LISTEN) {
        long status = packet->kind == TCP4 ? check_syncookie(sock, &ip.v4, sizeof(ip.v4), tcp, sizeof(*tcp))
                                           : check_syncookie(sock, &ip.v6, sizeof(ip.v6), tcp, sizeof(*tcp));
        found = status == 0 ? COOKIE : LISTENER;
    }
    release(sock);
    return found;
}

// Reads the TCP header; 0 unless the packet is a whole segment.
INLINE int segment(struct __sk_buff *skb, const struct packet *packet, struct tcp *tcp) {
    return packet->kind != OTHER && !load_bytes(skb, packet->l4, tcp, sizeof(*tcp));
}

INLINE int established(struct __sk_buff *skb, const struct packet *packet, struct tcp *tcp) {
    return segment(skb, packet, tcp) && !(tcp->flags & TCP_SYN);
}

INLINE int opens(const struct tcp *tcp) {
    return (tcp->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

INLINE int drop(struct slot *slot) {
    __sync_fetch_and_add(&slot->dropped, 1);
    return TC_ACT_SHOT;
}

INLINE int same(const __u8 *mac, const __u8 *other) {
    int same = 1;
#pragma clang loop unroll(full)
    for (int i = 0; i < 6; i++)
        same &= mac[i] == other[i];
    return same;
}

// The frame came to this node's MAC and leaves by the same interface with it as its source.
INLINE int forward(struct __sk_buff *skb, struct slot *slot, const __u8 *to) {
    __u8 macs[12];
    // Never back to where it came from: whatever two nodes believe, a frame does not go round.
    if (load_bytes(skb, 0, macs, sizeof(macs)) || same(macs + 6, to))
        return drop(slot);
    __builtin_memcpy(macs + 6, macs, 6);
    __builtin_memcpy(macs, to, 6);
    if (store_bytes(skb, 0, macs, sizeof(macs), 0))
        return drop(slot);
    __sync_fetch_and_add(&slot->forwarded, 1);
    return redirect(skb->ifindex, 0);
}

INLINE int is_from_successor(struct __sk_buff *skb, const struct slot *slot) {
    __u8 mac[6];
    return !load_bytes(skb, 6, mac, sizeof(mac)) && same(mac, slot->successor);
}

SEC("classifier/fence_in") int fence_in(struct __sk_buff *skb) {
    struct packet packet = {};
    struct slot *slot = find_vip(skb, IN, &packet);
    if (!slot)
        return TC_ACT_UNSPEC;
    // Bridges flood frames whose address they do not know, and what stands on this interface (a VLAN, a macvlan) may have a
    // MAC of its own: this one takes nothing in of that, and whoever does has a fence of its own.
    if (skb->pkt_type == PACKET_OTHERHOST)
        return TC_ACT_UNSPEC;
    __u64 now = boot_ns();
    struct tcp tcp;
    if (now < slot->deadline) {
        if (now >= slot->back_until || skb->pkt_type != PACKET_HOST || !established(skb, &packet, &tcp))
            return TC_ACT_UNSPEC;
        enum socket found = local_socket(skb, &packet, &tcp);
        if (found == CONNECTION || found == COOKIE || is_from_successor(skb, slot))
            return TC_ACT_UNSPEC;
        return forward(skb, slot, slot->predecessor);
    }
    if (skb->pkt_type != PACKET_HOST || !segment(skb, &packet, &tcp))
        return drop(slot);
    if (opens(&tcp))
        return now < slot->pass_on_until ? forward(skb, slot, slot->successor) : drop(slot);
    int keeps = now < slot->keep_until;
    enum socket found = keeps ? local_socket(skb, &packet, &tcp) : NONE;
    if (found == CONNECTION) {
        __sync_fetch_and_add(&slot->kept, 1);
        return TC_ACT_UNSPEC;
    }
    // The successor does not have it. Of what clients send here by themselves, because they have not heard of the
    // move, that is not known.
    if ((tcp.flags & TCP_SYN) || !is_from_successor(skb, slot))
        return drop(slot);
    if (now < slot->back_until)
        return forward(skb, slot, slot->predecessor);
    // A cookie would begin something new.
    return keeps && found != COOKIE ? TC_ACT_UNSPEC : drop(slot);
}

SEC("classifier/fence_out") int fence_out(struct __sk_buff *skb) {
    struct packet packet = {};
    struct slot *slot = find_vip(skb, OUT, &packet);
    if (!slot)
        return TC_ACT_UNSPEC;
    __u64 now = boot_ns();
    struct tcp tcp;
    // What leaves needs no look-up of its socket: ingress let in only what belongs to a connection, and
    // the last RST of one leaves when its socket cannot be found any more. A SYN that was let in just
    // before the deadline is still answered, or its client would wait for a second.
    if (now < slot->deadline || (now < slot->keep_until && segment(skb, &packet, &tcp) && !opens(&tcp)))
        return TC_ACT_UNSPEC;
    return drop(slot);
}

// check_syncookie is for programs under the GPL only.
char _license[] SEC("license") = "GPL";
