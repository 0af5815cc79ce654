/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What does not fit the way that it is to take. Nothing is fragmented, neither inside nor outside a tunnel: who sent it
 * is told what fits (RFC 1191, RFC 8201), as a router would tell it. One who keeps to the MTU of its routes is never
 * told anything. */
#pragma once

#include "deliver.h"
#include "settings.h"

#define GSO_BY_FRAGS                                                                                                   \
	0xffff /* SCTP: segments as the sender has made them; skb->gso_size says nothing of their length               \
		*/

/* Of the packet that is complained of. A multiple of 4; with the header before it below what bpf_csum_diff takes. */
#define QUOTED 256

#define ICMP_FRAG_NEEDED      4 /* code of ICMP_DEST_UNREACH */
#define ICMPV6_PACKET_TOO_BIG 2
#define IPV4_DONT_FRAGMENT    0x4000
#define TOO_BIG_TTL	      64

struct too_big_ipv4 {
	struct iphdr ip;
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be16 unused;
	__be16 mtu;
};

struct too_big_ipv6 {
	struct ipv6hdr ip;
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 mtu;
};

/* From the IP header on, of the longest packet that is to leave; 0: that cannot be said. */
static __always_inline __u32 segment_length(struct __sk_buff *skb, const struct packet *p)
{
	__u32 l4_length = 8;
	__u8 words;

	if (!skb->gso_size)
		return skb->len - ETH_HLEN;
	if (skb->gso_size == GSO_BY_FRAGS)
		return 0;
	if (p->protocol == IPPROTO_TCP) {
		if (bpf_skb_load_bytes(skb, p->l4_offset + 12, &words, sizeof(words)))
			return 0;
		l4_length = (words >> 4) * 4;
	}
	return p->l4_offset - ETH_HLEN + l4_length + skb->gso_size;
}

/* The MTU of the route towards `to`, with what routers have said of it, if that is less than `length`; else 0. Also 0
 * where the kernel tells no routes: that of a device which does not forward. */
static __always_inline __u32 narrow_route(struct __sk_buff *skb, const struct addr *to, __u32 length)
{
	struct bpf_fib_lookup fib = {.ifindex = skb->ifindex, .tot_len = length};
	const volatile struct addr *from = addr_is_ipv4(to) ? &node_ipv4 : &node_ipv6;

	if (addr_is_ipv4(to)) {
		fib.family = 2; /* AF_INET */
		fib.ipv4_src = from->w[3];
		fib.ipv4_dst = to->w[3];
	} else {
		fib.family = 10; /* AF_INET6 */
		for (int i = 0; i < 4; i++)
			fib.ipv6_src[i] = from->w[i];
		__builtin_memcpy(fib.ipv6_dst, to->w, sizeof(fib.ipv6_dst));
	}
	if (bpf_fib_lookup(skb, &fib, sizeof(fib), 0) != BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return 0;
	return fib.mtu_result;
}

/* What the way leaves to the packet if that is too little, else 0. `tunnel`: the other end; zeros: no tunnel. Global,
 * so that the verifier goes through it once. */
__noinline int narrow_way(struct __sk_buff *skb, const struct packet *p, const struct addr *tunnel)
{
	__u32 header = 0, ifindex = underlay_ifindex, length, mtu, of_device = 0;

	if (!p || !tunnel)
		return 0;
	length = segment_length(skb, p);
	if (length <= MTU_LEAST)
		return 0;
	if (tunnel_ifindex && addr_is_set(tunnel)) {
		ifindex = tunnel_ifindex;
		/* IP, UDP, VXLAN and the inner Ethernet header */
		header = (addr_is_ipv4(tunnel) ? sizeof(struct iphdr) : sizeof(struct ipv6hdr)) + 8 + 8 + ETH_HLEN;
	}
	if (!ifindex)
		return 0;
	/* Said whatever the answer is; of the tunnel's device the agent sets what the underlay's leaves. */
	bpf_check_mtu(skb, ifindex, &of_device, 0, 0);
	mtu = narrow_route(skb, header ? tunnel : &p->dst, length + header);
	if (mtu > header && (!of_device || mtu - header < of_device))
		of_device = mtu - header;
	return length > of_device ? of_device : 0;
}

static __always_inline __be16 fold_checksum(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* Of the quoted part, which begins `offset` bytes into the frame. Negative: it is not that long. */
static __always_inline __s64 sum_quoted(struct __sk_buff *skb, __u32 offset)
{
	void *data = (void *)(long)skb->data;

	if (data + offset + QUOTED > (void *)(long)skb->data_end)
		return -1;
	return bpf_csum_diff(NULL, 0, data + offset, QUOTED, 0);
}

static __always_inline bool write_too_big_ipv4(struct __sk_buff *skb, const struct packet *p, __u32 mtu)
{
	struct too_big_ipv4 header = {.type = ICMP_DEST_UNREACH, .code = ICMP_FRAG_NEEDED, .mtu = bpf_htons(mtu)};
	__s64 sum = sum_quoted(skb, ETH_HLEN + sizeof(header));

	if (sum < 0)
		return false;
	header.ip.version = 4;
	header.ip.ihl = sizeof(header.ip) / 4;
	header.ip.tot_len = bpf_htons(sizeof(header) + QUOTED);
	header.ip.frag_off = bpf_htons(IPV4_DONT_FRAGMENT);
	header.ip.ttl = TOO_BIG_TTL;
	header.ip.protocol = IPPROTO_ICMP;
	header.ip.saddr = node_ipv4.w[3];
	header.ip.daddr = p->src.w[3];
	header.ip.check = fold_checksum(bpf_csum_diff(NULL, 0, (__be32 *)&header.ip, sizeof(header.ip), 0));
	header.checksum = fold_checksum(bpf_csum_diff(NULL, 0, (__be32 *)&header.type, ICMP_HEADER_LEN, sum));
	return !bpf_skb_store_bytes(skb, ETH_HLEN, &header, sizeof(header), 0);
}

static __always_inline bool write_too_big_ipv6(struct __sk_buff *skb, const struct packet *p, __u32 mtu)
{
	struct too_big_ipv6 header = {.type = ICMPV6_PACKET_TOO_BIG, .mtu = bpf_htonl(mtu)};
	__s64 sum = sum_quoted(skb, ETH_HLEN + sizeof(header));

	if (sum < 0)
		return false;
	header.ip.version = 6;
	header.ip.payload_len = bpf_htons(ICMP_HEADER_LEN + QUOTED);
	header.ip.nexthdr = IPPROTO_ICMPV6;
	header.ip.hop_limit = TOO_BIG_TTL;
	for (int i = 0; i < 4; i++)
		header.ip.saddr.in6_u.u6_addr32[i] = node_ipv6.w[i];
	__builtin_memcpy(&header.ip.daddr, p->src.w, sizeof(p->src.w));
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&header.ip.saddr, 2 * sizeof(p->src.w), sum);
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&header.type, ICMP_HEADER_LEN, sum);
	/* The rest of what IPv6 sums up beside the message itself: its length and protocol (RFC 8200, 8.1). */
	header.checksum = fold_checksum(sum + bpf_htonl(ICMP_HEADER_LEN + QUOTED) + bpf_htonl(IPPROTO_ICMPV6));
	return !bpf_skb_store_bytes(skb, ETH_HLEN, &header, sizeof(header), 0);
}

/* Turns the packet into the message about it. A segmented one becomes a plain one in bpf_skb_change_tail, the one thing
 * here that does that. */
static __noinline bool write_too_big(struct __sk_buff *skb, const struct packet *p, __u32 mtu)
{
	bool is_ipv4 = addr_is_ipv4(&p->src);
	int room = is_ipv4 ? sizeof(struct too_big_ipv4) : sizeof(struct too_big_ipv6);

	if (bpf_skb_change_tail(skb, ETH_HLEN + QUOTED, 0))
		return false;
	if (bpf_skb_adjust_room(skb, room, BPF_ADJ_ROOM_MAC, 0))
		return false;
	return is_ipv4 ? write_too_big_ipv4(skb, p, mtu) : write_too_big_ipv6(skb, p, mtu);
}

/* Drops the packet and tells its sender, an endpoint of this node, what fits, unless it is itself an error: none is
 * answered with another (RFC 1122, 3.2.2; RFC 4443, 2.4). Straight into the pod, whose policy has no say in it: nobody
 * can send this but us. */
static __always_inline int refuse_too_big(struct __sk_buff *skb, const struct packet *p,
					  const struct endpoint_value *sender, __u32 mtu)
{
	drop(skb, p, DROP_FRAGMENT);
	if (p->icmp_error || !write_too_big(skb, p, mtu))
		return TC_ACT_SHOT;
	if (bpf_skb_store_bytes(skb, 0, sender->mac, sizeof(sender->mac) + sizeof(sender->node_mac), 0))
		return TC_ACT_SHOT;
	return bpf_redirect_peer(sender->ifindex, 0);
}
