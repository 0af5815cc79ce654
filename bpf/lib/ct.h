/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Connections. One entry serves both directions and both ends of a connection on this node: the two (address, port)
 * ends are stored in order, whichever way the packet goes. */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "addr.h"
#include "packet.h"
#include "policy.h"
#include "settings.h"

struct ct_key {
	struct addr ip_lo;
	struct addr ip_hi;
	__be16 port_lo;
	__be16 port_hi;
	__u8 protocol;
	__u8 pad[3];
};

/* That a side allowed the connection, and what that was decided on. Anything else now: decide again. */
struct ct_verdict {
	__u32 subject; /* 0: this side has not been judged here */
	__u32 peer;
	__u32 revision;
};

/* An endpoint as packets from it and to it are known; of a pod beyond the tunnel all of it is the struct addr of its
 * node (ct_tunnel). */
struct ct_end {
	__u32 ifindex;
	__u8 mac[6];
	__u8 node_mac[6];
};
_Static_assert(sizeof(struct ct_end) == sizeof(struct addr), "one in the place of the other");

/* Of ct_way. */
#define VIA_NODE   1 /* both ends are endpoints of this node */
#define VIA_WIRE   2 /* one is a pod of another node, without a tunnel */
#define VIA_TUNNEL 3

/* Between which ends packets go the short way (shortcut.h). */
struct ct_way {
	__u32 epoch;	       /* in which `ends` are right; 0: they are not */
	__u32 wire_epoch;      /* in which that end is there which is not of this node */
	struct ct_end ends[2]; /* lo, hi */
	__u8 via;	       /* VIA_*; 0: nothing is known */
	__u8 away;	       /* which end is not of this node: 0 lo, 1 hi */
	__u8 pad[2];
};

/* What each packet needs comes first. */
struct ct_entry {
	__u32 expires;	   /* ticks; not after: as good as no entry */
	__u8 initiator;	   /* which end opened it: 0 lo, 1 hi */
	__u8 tcp_flags[2]; /* FIN SYN RST ACK seen from the initiator, from the other end */
	__u8 audited;	   /* bits by direction: passes by audit mode alone, which has been recorded */
	__u32 epoch;	   /* in which all verdicts were found to hold; 0: none */
	struct ct_way way;
	struct ct_verdict verdicts[2]; /* by INGRESS, EGRESS, of the original direction */
};

/* key, value: above. written by: the programs alone. read by: the programs; the agent for display.
 * full: the least recently used entry goes; its connection is judged as a new one at its next packet. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 262144);
	__type(key, struct ct_key);
	__type(value, struct ct_entry);
} ct SEC(".maps");

/* Returns which end is the sender: 0 lo, 1 hi. */
static __always_inline __u8 ct_key_of(struct ct_key *key, const struct addr *src, const struct addr *dst,
				      __be16 src_port, __be16 dst_port, __u8 protocol)
{
	bool src_is_lo = addr_less(src, dst) || (addr_equal(src, dst) && src_port <= dst_port);

	key->ip_lo = src_is_lo ? *src : *dst;
	key->ip_hi = src_is_lo ? *dst : *src;
	key->port_lo = src_is_lo ? src_port : dst_port;
	key->port_hi = src_is_lo ? dst_port : src_port;
	key->protocol = protocol;
	return !src_is_lo;
}

static __always_inline bool ct_closing(const struct ct_entry *entry)
{
	__u8 either = entry->tcp_flags[0] | entry->tcp_flags[1];
	__u8 both = entry->tcp_flags[0] & entry->tcp_flags[1];

	return (either & TCP_RST) || (both & TCP_FIN);
}

/* Open is what both ends have agreed to: who asks in the name of others, and never gets the answer, has no long life
 * for it. */
static __always_inline __u32 ct_life(const struct ct_entry *entry, __u8 protocol)
{
	if (protocol != IPPROTO_TCP)
		return ct_life_other;
	if (ct_closing(entry))
		return ct_life_closing;
	return entry->tcp_flags[0] & entry->tcp_flags[1] & TCP_ACK ? ct_life_tcp : ct_life_syn;
}

/* What does not belong to the connection of the entry but opens another with the same ends: a SYN when the entry is
 * closing, a SYN from the end that did not open it, and such an echo request (with id 0 both ends have one port). */
static __always_inline bool ct_reopened_by(const struct ct_entry *entry, __u8 protocol, __u8 tcp_flags, __u8 sender)
{
	if (protocol != IPPROTO_TCP || (tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
		return false;
	return sender != entry->initiator || ct_closing(entry);
}

static __always_inline bool ct_reopens(const struct ct_entry *entry, const struct packet *p, __u8 sender)
{
	if (p->echo)
		return sender != entry->initiator && p->echo == ECHO_REQUEST;
	return ct_reopened_by(entry, p->protocol, p->tcp_flags, sender);
}

/* Records one more packet. Writes only what changed: the entry's cache line is shared between CPUs. */
static __always_inline void ct_touch(struct ct_entry *entry, __u8 protocol, __u8 tcp_flags, __u8 reply, __u32 now)
{
	__u8 flags = entry->tcp_flags[reply & 1] | (tcp_flags & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK));
	__u32 expires;

	if (protocol == IPPROTO_TCP && entry->tcp_flags[reply & 1] != flags)
		entry->tcp_flags[reply & 1] = flags;
	expires = now + ct_life(entry, protocol);
	if (entry->expires != expires)
		entry->expires = expires;
}

static __always_inline const struct addr *ct_tunnel(const struct ct_end *end)
{
	return (const struct addr *)end;
}

/* Whom the verdicts take an end for; of two ends of which one is not of this node. */
static __always_inline __u32 ct_identity(const struct ct_entry *entry, __u8 end)
{
	const struct ct_verdict *verdict = &entry->verdicts[entry->way.away == entry->initiator ? INGRESS : EGRESS];

	return end == entry->way.away ? verdict->peer : verdict->subject;
}

/* Whether the entry holds this side's consent, given on what is true now. */
static __always_inline bool ct_agrees(const struct ct_entry *entry, const struct side *side)
{
	const struct ct_verdict *verdict = &entry->verdicts[side->direction & 1];

	return !side->judged || (verdict->subject == side->subject && verdict->peer == side->peer &&
				 verdict->revision == side->row.revision);
}

/* Whether the sides of this packet are those that consented. The revisions of their policies are as they were for as
 * long as the epoch is. */
static __always_inline bool ct_has_sides(const struct ct_entry *entry, const struct packet *p, bool reply)
{
	const struct ct_verdict *egress = &entry->verdicts[EGRESS], *ingress = &entry->verdicts[INGRESS];
	__u32 initiator = reply ? p->dst_identity : p->src_identity;
	__u32 responder = reply ? p->src_identity : p->dst_identity;

	if ((reply ? p->dst_local : p->src_local) && (egress->subject != initiator || egress->peer != responder))
		return false;
	return !(reply ? p->src_local : p->dst_local) || (ingress->subject == responder && ingress->peer == initiator);
}

/* Whether the two hold the same consents and the same word of audit mode. */
static __always_inline bool ct_same_verdicts(const struct ct_entry *one, const struct ct_entry *other)
{
	__u32 differs = one->audited ^ other->audited;

	for (int direction = INGRESS; direction <= EGRESS; direction++) {
		differs |= one->verdicts[direction].subject ^ other->verdicts[direction].subject;
		differs |= one->verdicts[direction].peer ^ other->verdicts[direction].peer;
		differs |= one->verdicts[direction].revision ^ other->verdicts[direction].revision;
	}
	return !differs;
}

/* ct_agrees of an end whose peer's identity is not at hand, as routers on the way speak for themselves. */
static __always_inline bool ct_consented(const struct ct_entry *entry, __u32 subject, __u8 direction)
{
	const struct ct_verdict *verdict = &entry->verdicts[direction & 1];
	struct subject_key key = {.identity = subject};
	const struct subject_value *row = bpf_map_lookup_elem(&subjects, &key);

	return row && verdict->subject == subject && verdict->revision == row->revision;
}

/* The packet that an ICMP error is about, from its own headers: who sent it, to whom, and what it was. */
struct quoted {
	struct addr src;
	struct addr dst;
	__be16 src_port;
	__be16 dst_port;
	__u8 protocol;
	__u32 l4_offset; /* from the start of the frame */
};

/* A later fragment has no ports, so what it belongs to cannot be said. */
static __always_inline bool read_quoted_ip(struct __sk_buff *skb, struct quoted *quoted, __u32 *offset, bool is_ipv4)
{
	struct fragment fragment = {};
	struct iphdr ip;

	if (is_ipv4) {
		if (bpf_skb_load_bytes(skb, *offset, &ip, sizeof(ip)))
			return false;
		addr_set_ipv4(&quoted->src, ip.saddr);
		addr_set_ipv4(&quoted->dst, ip.daddr);
		quoted->protocol = ip.protocol;
		*offset += ip.ihl * 4;
		return !(ip.frag_off & bpf_htons(FRAGMENT_OFFSET));
	}
	if (bpf_skb_load_bytes(skb, *offset + offsetof(struct ipv6hdr, nexthdr), &quoted->protocol, 1) ||
	    bpf_skb_load_bytes(skb, *offset + offsetof(struct ipv6hdr, saddr), &quoted->src, sizeof(quoted->src)) ||
	    bpf_skb_load_bytes(skb, *offset + offsetof(struct ipv6hdr, daddr), &quoted->dst, sizeof(quoted->dst)))
		return false;
	*offset += sizeof(struct ipv6hdr);
	return !skip_extensions(skb, offset, &quoted->protocol, &fragment) && fragment.part != FRAGMENT_LATER;
}

static __always_inline bool read_quoted(struct __sk_buff *skb, const struct packet *p, struct quoted *quoted)
{
	bool is_ipv4 = addr_is_ipv4(&p->src);
	__u32 offset = p->l4_offset + ICMP_HEADER_LEN;
	__be16 l4[4];

	if (!read_quoted_ip(skb, quoted, &offset, is_ipv4))
		return false;
	if (bpf_skb_load_bytes(skb, offset, l4, sizeof(l4)))
		return false;
	quoted->l4_offset = offset;
	quoted->src_port = l4[0];
	quoted->dst_port = l4[1];
	if (quoted->protocol == (is_ipv4 ? IPPROTO_ICMP : IPPROTO_ICMPV6)) { /* type and code, checksum, id, sequence */
		bool request = *(__u8 *)l4 == (is_ipv4 ? ICMP_ECHO : ICMPV6_ECHO_REQUEST);

		quoted->src_port = request ? l4[2] : 0;
		quoted->dst_port = request ? 0 : l4[2];
	}
	return true;
}

/* Whether an ICMP error is about a live connection of this node, to which its ends here consent at present. The
 * quoted packet must be one that the receiver of the error has sent, and an endpoint can only complain about what was
 * sent to itself. Global, so that the verifier goes through it once. */
__noinline int ct_related(struct __sk_buff *skb, const struct packet *p)
{
	const struct ct_entry *entry;
	struct quoted quoted = {};
	struct ct_key key = {};
	__u8 direction; /* in which the receiver's policy has judged */

	if (!p || !read_quoted(skb, p, &quoted))
		return false;
	if (addr_differs(&quoted.src, &p->dst) || (p->src_local && addr_differs(&quoted.dst, &p->src)))
		return false;
	direction = ct_key_of(&key, &quoted.src, &quoted.dst, quoted.src_port, quoted.dst_port, quoted.protocol);
	entry = bpf_map_lookup_elem(&ct, &key);
	if (!entry || entry->expires <= clock_ticks())
		return false;
	direction = direction == entry->initiator ? EGRESS : INGRESS;
	if (p->dst_local && !ct_consented(entry, p->dst_identity, direction))
		return false;
	return !p->src_local || ct_consented(entry, p->src_identity, !direction);
}
