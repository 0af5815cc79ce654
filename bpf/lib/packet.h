/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Reading a packet. Headers may lie outside the linear part of the skb (GRO, vxlan), so they are pulled when short. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "addr.h"
#include "fragments.h"
#include "reasons.h"

#define INGRESS 0
#define EGRESS	1

/* Of src_local and dst_local. */
#define LOCAL	      1 /* an endpoint of this node, whose policy counts */
#define LOCAL_AUDITED 2 /* what its policy refuses passes all the same */

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* linux/icmp.h pulls in the C library's headers for the host. */
#define ICMP_ECHOREPLY	   0
#define ICMP_DEST_UNREACH  3
#define ICMP_ECHO	   8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define ICMP_HEADER_LEN	   8 /* of both families */

#define ICMPV6_PARAMPROB	4 /* the last of the errors, which begin at 1 */
#define ICMPV6_ECHO_REQUEST	128
#define ICMPV6_ECHO_REPLY	129
#define ICMPV6_MLD_QUERY	130 /* with report 131 and done 132 */
#define ICMPV6_ROUTER_SOLICIT	133 /* with router advertisement 134, */
#define ICMPV6_NEIGHBOR_SOLICIT 135
#define ICMPV6_NEIGHBOR_ADVERT	136
#define ICMPV6_REDIRECT		137
#define ICMPV6_MLD2_REPORT	143

/* What a packet is to the table of connections. */
#define CT_NEW	       0
#define CT_ESTABLISHED 1
#define CT_REPLY       2 /* from the end that did not open the connection */
#define CT_RELATED     3 /* an ICMP error about one */

/* IPv6's least MTU. Whether what is no longer fits is not looked at, so a way has to leave this much to pods. */
#define MTU_LEAST 1280

#define ECHO_REQUEST 1
#define ECHO_REPLY   2

#define EXTENSIONS_MAX 6
#define L4_OFFSET_MAX  0x3fff

/* One packet and what has been learned about it so far; on the stack of the program. */
struct packet {
	struct addr src;
	struct addr dst;
	__be16 src_port; /* ICMP echo: the id at the end that asks, 0 at the end that answers */
	__be16 dst_port;
	__be16 policy_port; /* what policy calls the port: dst_port, or the ICMP type */
	__u8 protocol;
	__u8 tcp_flags;
	__u32 l4_offset;
	__u32 src_identity;
	__u32 dst_identity;
	__u16 endpoint_id; /* the local endpoint at which the packet was seen */
	__u8 direction;	   /* of the verdict: as seen by that endpoint */
	__u8 src_local;	   /* LOCAL, whose egress policy counts; with it maybe LOCAL_AUDITED */
	__u8 dst_local;	   /* the same of ingress */
	__u8 tracked;	   /* 1: belongs into the connection table */
	__u8 icmp_error;   /* 1: an ICMP error about another packet */
	__u8 echo;	   /* ECHO_REQUEST, ECHO_REPLY of either family */
	__u8 ct_state;	   /* CT_*, once it was admitted */
	__u8 fragment;	   /* FRAGMENT_* */
	__u8 unheld;	   /* 1: a moment ago there was no entry of its connection */
	__u32 epoch;	   /* EPOCH_NODE, before any row was read */
	__u32 wire_epoch;
	__be32 fragment_id;
};

static __always_inline bool is_ip(const struct __sk_buff *skb)
{
	return skb->protocol == bpf_htons(ETH_P_IP) || skb->protocol == bpf_htons(ETH_P_IPV6);
}

static __always_inline bool is_icmp_of(__u8 protocol, bool is_ipv4)
{
	return protocol == (is_ipv4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
}

static __always_inline bool is_icmpv6(const struct packet *p)
{
	return p->protocol == IPPROTO_ICMPV6 && !addr_is_ipv4(&p->src);
}

/* Makes `length` bytes from the start of the frame readable; false when the packet is not as long. */
static __always_inline bool readable(struct __sk_buff *skb, __u32 length)
{
	if ((void *)(long)skb->data + length <= (void *)(long)skb->data_end)
		return true;
	return !bpf_skb_pull_data(skb, length);
}

static __always_inline void copy_fragment(struct packet *p, const struct fragment *fragment)
{
	p->fragment = fragment->part;
	p->fragment_id = fragment->id;
}

static __always_inline bool first_is_short(const struct packet *p, __u32 end)
{
	return p->fragment == FRAGMENT_FIRST && !holds_header(p->protocol, p->l4_offset, end);
}

static __always_inline int read_ipv4(struct __sk_buff *skb, struct packet *p)
{
	const struct iphdr *ip;
	struct fragment fragment;
	int reason;
	void *data;

	if (!readable(skb, ETH_HLEN + sizeof(*ip)))
		return DROP_INVALID_PACKET;
	data = (void *)(long)skb->data;
	if (data + ETH_HLEN + sizeof(*ip) > (void *)(long)skb->data_end)
		return DROP_INVALID_PACKET;
	ip = data + ETH_HLEN;
	if (ip->version != 4 || ip->ihl < 5)
		return DROP_INVALID_PACKET;
	addr_set_ipv4(&p->src, ip->saddr);
	addr_set_ipv4(&p->dst, ip->daddr);
	p->protocol = ip->protocol;
	p->l4_offset = ETH_HLEN + ip->ihl * 4;
	if (!(ip->frag_off & bpf_htons(FRAGMENT_BITS)))
		return 0;
	reason = note_part(&fragment, bpf_ntohs(ip->frag_off) & FRAGMENT_OFFSET, ip->id) ? 0 : DROP_FRAGMENT;
	copy_fragment(p, &fragment);
	if (reason)
		return reason;
	return first_is_short(p, ETH_HLEN + bpf_ntohs(ip->tot_len)) ? DROP_FRAGMENT : 0;
}

struct fragment_header {
	__u8 next;
	__u8 reserved;
	__be16 offset; /* in units of 8, as in its place; 1: more to come */
	__be32 id;
};

/* Of IPv6. What says that it is a fragment and is a whole packet is one (RFC 6946). */
static __always_inline bool read_fragment_header(struct __sk_buff *skb, __u32 *offset, __u8 *protocol,
						 struct fragment *fragment)
{
	struct fragment_header header;
	__u16 place;

	if (fragment->part || bpf_skb_load_bytes(skb, *offset, &header, sizeof(header)))
		return false;
	*offset += sizeof(header);
	*protocol = header.next;
	place = bpf_ntohs(header.offset);
	return !(place & 0xfff9) || note_part(fragment, place >> 3, header.id);
}

/* Goes over extension headers (RFC 8200, 4), from the header of type `protocol` at `offset` to the first that is none,
 * or to what a later fragment carries. */
static __noinline int skip_extensions(struct __sk_buff *skb, __u32 *offset, __u8 *protocol, struct fragment *fragment)
{
	__u8 header[2]; /* type of the next, length */

	for (int i = 0; i < EXTENSIONS_MAX; i++) {
		__u32 length;

		if (*protocol == IPPROTO_FRAGMENT) {
			if (!read_fragment_header(skb, offset, protocol, fragment))
				return DROP_FRAGMENT;
			if (fragment->part == FRAGMENT_LATER)
				return 0;
			continue;
		}
		if (*protocol != IPPROTO_HOPOPTS && *protocol != IPPROTO_ROUTING && *protocol != IPPROTO_DSTOPTS &&
		    *protocol != IPPROTO_AH)
			return 0;
		if (*protocol == IPPROTO_HOPOPTS && i)
			return DROP_INVALID_EXTHDR;
		if (bpf_skb_load_bytes(skb, *offset, header, sizeof(header)))
			return DROP_INVALID_EXTHDR;
		length = *protocol == IPPROTO_AH ? (header[1] + 2) * 4 : (header[1] + 1) * 8;
		*offset += length;
		*protocol = header[0];
	}
	return DROP_INVALID_EXTHDR;
}

static __always_inline int read_ipv6(struct __sk_buff *skb, struct packet *p)
{
	const struct ipv6hdr *ip;
	__u32 offset = ETH_HLEN + sizeof(*ip), end;
	struct fragment fragment = {};
	__u8 protocol;
	void *data;
	int reason;

	if (!readable(skb, offset))
		return DROP_INVALID_PACKET;
	data = (void *)(long)skb->data;
	if (data + offset > (void *)(long)skb->data_end)
		return DROP_INVALID_PACKET;
	ip = data + ETH_HLEN;
	if (ip->version != 6)
		return DROP_INVALID_PACKET;
	__builtin_memcpy(p->src.w, &ip->saddr, sizeof(p->src.w));
	__builtin_memcpy(p->dst.w, &ip->daddr, sizeof(p->dst.w));
	protocol = ip->nexthdr;
	/* In our maps these are IPv4's; on a wire they have no business (RFC 4291, 2.5.5.2). */
	if (addr_is_ipv4(&p->src) || addr_is_ipv4(&p->dst))
		return DROP_INVALID_PACKET;
	end = offset + bpf_ntohs(ip->payload_len);
	reason = skip_extensions(skb, &offset, &protocol, &fragment);
	copy_fragment(p, &fragment);
	p->protocol = protocol;
	p->l4_offset = offset;
	if (!reason && first_is_short(p, end))
		return DROP_FRAGMENT;
	return reason;
}

/* Addresses and protocol. Returns 0 or a drop reason. Global, as read_l4, so that the verifier goes through it once,
 * whatever the callers know. */
__noinline int read_l3(struct __sk_buff *skb, struct packet *p)
{
	if (!p)
		return DROP_INVALID_PACKET;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return read_ipv4(skb, p);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return read_ipv6(skb, p);
	return DROP_UNSUPPORTED_L3;
}

/* The types of the two families do not meet where it matters here. */
static __always_inline void read_icmp(struct packet *p, const __u8 *l4, bool is_ipv4)
{
	__u8 type = l4[0];

	p->policy_port = bpf_htons(type);
	if (is_ipv4)
		p->icmp_error = type == ICMP_DEST_UNREACH || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETERPROB;
	else
		p->icmp_error = type && type <= ICMPV6_PARAMPROB;
	if (type == (is_ipv4 ? ICMP_ECHO : ICMPV6_ECHO_REQUEST))
		p->echo = ECHO_REQUEST;
	else if (type == (is_ipv4 ? ICMP_ECHOREPLY : ICMPV6_ECHO_REPLY))
		p->echo = ECHO_REPLY;
	else
		return;
	p->tracked = 1;
	if (p->echo == ECHO_REQUEST)
		p->src_port = *(const __be16 *)(l4 + 4);
	else
		p->dst_port = *(const __be16 *)(l4 + 4);
}

static __always_inline void fragment_key_of(struct fragment_key *key, const struct packet *p)
{
	key->src = p->src;
	key->dst = p->dst;
	key->id = p->fragment_id;
	key->protocol = addr_is_ipv4(&p->src) ? p->protocol : 0;
}

/* Of a first fragment that may pass. Where there is no room for it later ones drop. */
__noinline int remember_first(struct packet *p)
{
	struct fragment_value value = {};
	struct fragment_key key = {};

	if (!p)
		return 0;
	fragment_key_of(&key, p);
	value.expires = clock_ticks() + FRAGMENT_TICKS;
	value.src_port = p->src_port;
	value.dst_port = p->dst_port;
	value.policy_port = p->policy_port;
	value.protocol = p->protocol;
	value.echo = p->echo;
	bpf_map_update_elem(&fragments, &key, &value, BPF_ANY);
	p->fragment = FRAGMENT_NOTED;
	return 0;
}

/* What the first fragment has said of the packet. Returns 0 or a drop reason. */
__noinline int follow_first(struct packet *p)
{
	const struct fragment_value *first;
	struct fragment_key key = {};

	if (!p)
		return DROP_INVALID_PACKET;
	fragment_key_of(&key, p);
	first = bpf_map_lookup_elem(&fragments, &key);
	if (!first || first->expires <= clock_ticks())
		return DROP_NO_FIRST_FRAGMENT;
	p->src_port = first->src_port;
	p->dst_port = first->dst_port;
	p->policy_port = first->policy_port;
	p->protocol = first->protocol;
	p->echo = first->echo;
	p->tracked = first->echo || !is_icmp_of(p->protocol, addr_is_ipv4(&p->src));
	return 0;
}

/* Ports, flags, ICMP type; after read_l3. Returns 0 or a drop reason. */
__noinline int read_l4(struct __sk_buff *skb, struct packet *p)
{
	__u32 offset, length;
	const __u8 *l4;
	bool is_ipv4;

	if (!p)
		return DROP_INVALID_PACKET;
	if (p->fragment == FRAGMENT_LATER)
		return follow_first(p);
	is_ipv4 = addr_is_ipv4(&p->src);
	length = p->protocol == IPPROTO_TCP ? sizeof(struct tcphdr) : 8;
	offset = p->l4_offset;
	if (offset > L4_OFFSET_MAX)
		return DROP_INVALID_EXTHDR;
	if (!readable(skb, offset + length))
		return DROP_CT_INVALID_HEADER;
	l4 = (const __u8 *)(long)skb->data + offset;
	if (l4 + 8 > (const __u8 *)(long)skb->data_end)
		return DROP_CT_INVALID_HEADER;
	if (is_icmp_of(p->protocol, is_ipv4)) {
		read_icmp(p, l4, is_ipv4);
		return 0;
	}
	if (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP && p->protocol != IPPROTO_SCTP)
		return DROP_CT_UNKNOWN_L4;
	p->tracked = 1;
	p->src_port = *(const __be16 *)l4;
	p->dst_port = *(const __be16 *)(l4 + 2);
	p->policy_port = p->dst_port;
	if (p->protocol == IPPROTO_TCP) {
		if (l4 + sizeof(struct tcphdr) > (const __u8 *)(long)skb->data_end)
			return DROP_CT_INVALID_HEADER;
		p->tcp_flags = l4[13];
	}
	return 0;
}
