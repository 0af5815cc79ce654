/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One end of a packet, or of what an ICMP error quotes, becomes another: address, port and all checksums over them. */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "addr.h"
#include "packet.h"
#include "reasons.h"

/* linux/bpf.h has it since 6.16: the checksum of a whole IPv6 packet stays, whatever its addresses (CHECKSUM_COMPLETE).
 */
#define L4_CSUM_IPV6 (1ULL << 7)

/* Where something of an IP packet is from the start of the frame, and what is to be there. */
struct rewrite {
	struct addr from;
	struct addr to;
	__be16 from_port;
	__be16 to_port;
	__u8 protocol; /* 0: there is nothing but addresses */
	__u8 source;   /* 1: the source is changed; 0: the destination */
	__u32 ip_offset;
	__u32 l4_offset;
};

static __always_inline bool is_icmp(__u8 protocol)
{
	return protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6;
}

static __always_inline __u32 ip_address_offset(const struct rewrite *r)
{
	if (addr_is_ipv4(&r->from))
		return r->ip_offset + (r->source ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr));
	return r->ip_offset + (r->source ? offsetof(struct ipv6hdr, saddr) : offsetof(struct ipv6hdr, daddr));
}

static __always_inline __u32 port_offset(const struct rewrite *r)
{
	if (is_icmp(r->protocol))
		return r->l4_offset + 4; /* id */
	return r->l4_offset + (r->source ? 0 : 2);
}

/* 0: has none that covers what is changed. */
static __always_inline __u32 checksum_offset(const struct rewrite *r)
{
	switch (r->protocol) {
	case IPPROTO_TCP:
		return r->l4_offset + offsetof(struct tcphdr, check);
	case IPPROTO_UDP:
		return r->l4_offset + 6;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return r->l4_offset + 2;
	}
	return 0;
}

/* Zero is "no checksum" in UDP over IPv4 and stays. */
static __always_inline __u64 checksum_flags(const struct rewrite *r)
{
	return r->protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
}

/* The address in the checksum of what is within. `pseudo`: BPF_F_PSEUDO_HDR, 0 in what an ICMP error quotes. */
static __always_inline int mend_for_address(struct __sk_buff *skb, const struct rewrite *r, __u32 offset, __u64 pseudo)
{
	__u64 flags = checksum_flags(r) | pseudo;
	__s64 diff;

	if (addr_is_ipv4(&r->from)) {
		if (r->protocol == IPPROTO_ICMP)
			return 0;
		return bpf_l4_csum_replace(skb, offset, r->from.w[3], r->to.w[3], flags | 4);
	}
	diff = bpf_csum_diff((__be32 *)r->from.w, sizeof(r->from.w), (__be32 *)r->to.w, sizeof(r->to.w), 0);
	if (pseudo && !bpf_l4_csum_replace(skb, offset, 0, diff, flags | L4_CSUM_IPV6))
		return 0;
	return bpf_l4_csum_replace(skb, offset, 0, diff, flags);
}

static __always_inline int write_address(struct __sk_buff *skb, const struct rewrite *r)
{
	__u32 check = r->ip_offset + offsetof(struct iphdr, check);

	/* Where no checksum within makes up for the address, that of the whole changes. */
	if (!addr_is_ipv4(&r->from))
		return bpf_skb_store_bytes(skb, ip_address_offset(r), r->to.w, sizeof(r->to.w),
					   checksum_offset(r) ? 0 : BPF_F_RECOMPUTE_CSUM);
	if (bpf_l3_csum_replace(skb, check, r->from.w[3], r->to.w[3], 4))
		return -1;
	return bpf_skb_store_bytes(skb, ip_address_offset(r), &r->to.w[3], sizeof(r->to.w[3]), 0);
}

/* One address and, but in ICMP errors, one port of the packet itself. Returns 0 or a drop reason. */
__noinline int rewrite_packet(struct __sk_buff *skb, const struct rewrite *r, bool has_port)
{
	__u32 checksum;

	if (!r)
		return DROP_WRITE_ERROR;
	checksum = checksum_offset(r);
	if (checksum && mend_for_address(skb, r, checksum, BPF_F_PSEUDO_HDR))
		return DROP_WRITE_ERROR;
	if (write_address(skb, r))
		return DROP_WRITE_ERROR;
	if (!has_port || r->from_port == r->to_port)
		return 0;
	if (checksum && bpf_l4_csum_replace(skb, checksum, r->from_port, r->to_port, checksum_flags(r) | 2))
		return DROP_WRITE_ERROR;
	if (bpf_skb_store_bytes(skb, port_offset(r), &r->to_port, sizeof(r->to_port), 0))
		return DROP_WRITE_ERROR;
	return 0;
}

/* The checksum within the packet that the error quotes, if that much of it is quoted. */
static __always_inline int mend_quoted_checksum(struct __sk_buff *skb, const struct rewrite *r, __u32 icmp_checksum)
{
	__u32 checksum = checksum_offset(r);
	__be16 before, after;

	if (!checksum || bpf_skb_load_bytes(skb, checksum, &before, sizeof(before)))
		return 0;
	if (mend_for_address(skb, r, checksum, 0) ||
	    bpf_l4_csum_replace(skb, checksum, r->from_port, r->to_port, checksum_flags(r) | 2))
		return -1;
	if (bpf_skb_load_bytes(skb, checksum, &after, sizeof(after)))
		return -1;
	return bpf_l4_csum_replace(skb, icmp_checksum, before, after, 2);
}

/* The same end in what an ICMP error quotes: an address, a port, checksums, and that of the error itself, which is over
 * all of it. Of IPv4 the header's own checksum makes up for the address. */
__noinline int rewrite_quoted(struct __sk_buff *skb, const struct rewrite *r, __u32 icmp_checksum)
{
	__s64 diff;

	if (!r || mend_quoted_checksum(skb, r, icmp_checksum) || write_address(skb, r))
		return DROP_WRITE_ERROR;
	if (!addr_is_ipv4(&r->from)) {
		diff = bpf_csum_diff((__be32 *)r->from.w, sizeof(r->from.w), (__be32 *)r->to.w, sizeof(r->to.w), 0);
		if (bpf_l4_csum_replace(skb, icmp_checksum, 0, diff, 0))
			return DROP_WRITE_ERROR;
	}
	if (r->from_port == r->to_port)
		return 0;
	if (bpf_skb_store_bytes(skb, port_offset(r), &r->to_port, sizeof(r->to_port), 0) ||
	    bpf_l4_csum_replace(skb, icmp_checksum, r->from_port, r->to_port, 2))
		return DROP_WRITE_ERROR;
	return 0;
}
