/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The short way between two pods: what the rows of endpoints, addresses and policies came to is kept in the entry of
 * their connection (ct_way), with the epochs of those rows. In the same epochs it is so still, and the packet goes by
 * the entry alone, before anything else is asked of it. What a pod sends must come from the interface and the MAC
 * address of the end that it names as its sender, and what comes through the tunnel from that end's node and with its
 * identity.
 *
 * Only whole TCP and UDP packets without options or extension headers; and each program comes here first, so it reads
 * what it needs itself and no more.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/udp.h>
#include <bpf/bpf_helpers.h>

#include "ct.h"
#include "events.h"
#include "neighbor.h"
#include "packet.h"
#include "policy.h"
#include "settings.h"
#include "tunnel.h"

/* Instead of a verdict: the packet goes the long way. */
#define NO_SHORTCUT -1
#define NO_ENTRY    -2 /* and there is none of its connection */

struct flow {
	struct ct_key key;
	__u8 sender; /* 0 lo, 1 hi */
	__u8 tcp_flags;
	__be16 dst_port;
};

static __always_inline bool has_room(const struct __sk_buff *skb, const void *header, __u32 length)
{
	return header + length <= (const void *)(long)skb->data_end;
}

static __always_inline bool read_flow(struct __sk_buff *skb, struct flow *flow)
{
	const void *l3 = (const void *)(long)skb->data + ETH_HLEN, *l4;
	struct addr src, dst;
	__be16 src_port;
	__u8 protocol;

	if (skb->vlan_present)
		return false;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		const struct iphdr *ip = l3;

		l4 = ip + 1;
		if (!has_room(skb, l4, sizeof(struct udphdr)) || ip->version != 4 || ip->ihl != 5 ||
		    ip->frag_off & bpf_htons(FRAGMENT_BITS))
			return false;
		addr_set_ipv4(&src, ip->saddr);
		addr_set_ipv4(&dst, ip->daddr);
		protocol = ip->protocol;
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		const struct ipv6hdr *ip = l3;

		l4 = ip + 1;
		if (!has_room(skb, l4, sizeof(struct udphdr)) || ip->version != 6)
			return false;
		__builtin_memcpy(src.w, &ip->saddr, sizeof(src.w));
		__builtin_memcpy(dst.w, &ip->daddr, sizeof(dst.w));
		if (addr_is_ipv4(&src) || addr_is_ipv4(&dst))
			return false;
		protocol = ip->nexthdr;
	} else {
		return false;
	}
	if (protocol == IPPROTO_TCP) {
		if (!has_room(skb, l4, sizeof(struct tcphdr)))
			return false;
		flow->tcp_flags = ((const __u8 *)l4)[13];
	} else if (protocol != IPPROTO_UDP) {
		return false;
	}
	src_port = *(const __be16 *)l4;
	flow->dst_port = *(const __be16 *)(l4 + 2);
	flow->sender = ct_key_of(&flow->key, &src, &dst, src_port, flow->dst_port, protocol);
	return true;
}

/* The entry of the connection if all is as it was: both policies, the endpoints of this node, and, where it leads
 * away from it, addresses. Sets why there is none. */
static __always_inline struct ct_entry *find_way(const struct flow *flow, int *why)
{
	__u32 epoch = current_epoch(EPOCH_NODE), wire_epoch = current_epoch(EPOCH_WIRE);
	struct ct_entry *entry = bpf_map_lookup_elem(&ct, &flow->key);

	*why = entry ? NO_SHORTCUT : NO_ENTRY;
	if (!entry || !epoch || entry->epoch != epoch || entry->way.epoch != epoch || !entry->way.via)
		return NULL;
	if (entry->way.via != VIA_NODE && (!wire_epoch || entry->way.wire_epoch != wire_epoch))
		return NULL;
	if (entry->expires <= clock_ticks() || ct_reopened_by(entry, flow->key.protocol, flow->tcp_flags, flow->sender))
		return NULL;
	return entry;
}

static __always_inline void touch(struct ct_entry *entry, const struct flow *flow)
{
	ct_touch(entry, flow->key.protocol, flow->tcp_flags, flow->sender != entry->initiator, clock_ticks());
}

static __always_inline int hand_over(struct __sk_buff *skb, const struct ct_end *to)
{
	__u32 ifindex = to->ifindex;

	if (bpf_skb_store_bytes(skb, 0, to->mac, sizeof(to->mac) + sizeof(to->node_mac), 0))
		return drop_quietly(skb, DROP_WRITE_ERROR, INGRESS);
	count(FORWARDED, INGRESS, skb->len);
	return bpf_redirect_peer(ifindex, 0);
}

/* Of an endpoint. Global, as the next ones, so that the verifier goes through it once, and for the stack that they
 * need. Returns a verdict, NO_SHORTCUT or NO_ENTRY. */
__noinline int take_shortcut(struct __sk_buff *skb)
{
	const struct ct_end *from;
	struct flow flow = {};
	struct ct_entry *entry;
	int why;

	if (!read_flow(skb, &flow))
		return NO_SHORTCUT;
	entry = find_way(&flow, &why);
	if (!entry)
		return why;
	from = &entry->way.ends[flow.sender & 1];
	if ((entry->way.via != VIA_NODE && entry->way.away == flow.sender) || from->ifindex != skb->ifindex ||
	    !sends_with(skb, from->mac))
		return NO_SHORTCUT;
	if (entry->way.via == VIA_NODE) {
		touch(entry, &flow);
		count(FORWARDED, EGRESS, skb->len);
		return hand_over(skb, &entry->way.ends[!flow.sender]);
	}
	if (skb->len > ETH_HLEN + MTU_LEAST)
		return NO_SHORTCUT;
	touch(entry, &flow);
	count(FORWARDED, EGRESS, skb->len);
	if (entry->way.via == VIA_WIRE)
		return bpf_redirect_neigh(underlay_ifindex, NULL, 0, 0);
	if (set_tunnel(skb, ct_identity(entry, flow.sender), ct_tunnel(&entry->way.ends[!flow.sender])))
		return drop_quietly(skb, DROP_WRITE_ERROR, EGRESS);
	return bpf_redirect(tunnel_ifindex, 0);
}

/* From the wire to an endpoint. Of what is for the node itself, the tunnel's own packets need no look at all. */
__noinline int take_shortcut_from_wire(struct __sk_buff *skb)
{
	struct flow flow = {};
	struct ct_entry *entry;
	int why;

	if (!read_flow(skb, &flow))
		return NO_SHORTCUT;
	if (tunnel_port && flow.key.protocol == IPPROTO_UDP && flow.dst_port == bpf_htons(tunnel_port))
		return is_node_ip(flow.sender ? &flow.key.ip_lo : &flow.key.ip_hi) ? TC_ACT_OK : NO_SHORTCUT;
	entry = find_way(&flow, &why);
	if (!entry)
		return why;
	if (entry->way.via != VIA_WIRE || entry->way.away != flow.sender)
		return NO_SHORTCUT;
	touch(entry, &flow);
	return hand_over(skb, &entry->way.ends[!flow.sender]);
}

/* Out of the tunnel to an endpoint. */
__noinline int take_shortcut_from_tunnel(struct __sk_buff *skb)
{
	struct flow flow = {};
	struct ct_entry *entry;
	struct addr from;
	__u32 identity;
	int why;

	if (!read_flow(skb, &flow))
		return NO_SHORTCUT;
	entry = find_way(&flow, &why);
	if (!entry)
		return why;
	if (entry->way.via != VIA_TUNNEL || entry->way.away != flow.sender || read_tunnel(skb, &identity, &from) ||
	    identity != ct_identity(entry, flow.sender) ||
	    addr_differs(&from, ct_tunnel(&entry->way.ends[flow.sender & 1])))
		return NO_SHORTCUT;
	touch(entry, &flow);
	/* The inner frame was not addressed to the vxlan device; the pod's stack would refuse it as somebody else's. */
	bpf_skb_change_type(skb, PACKET_HOST);
	return hand_over(skb, &entry->way.ends[!flow.sender]);
}
