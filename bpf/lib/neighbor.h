/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who has which address on a pod's link: ARP (RFC 826) and IPv6's neighbor discovery (RFC 4861). It stays on the link,
 * and a pod may speak there of its own addresses only: the node's neighbor table is finite, and what is in it counts.
 */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "endpoints.h"
#include "events.h"
#include "packet.h"
#include "settings.h"

#define ARP_SENDER_IP	(ETH_HLEN + 14)
#define NEIGHBOR_TARGET 8 /* from the ICMPv6 header on */

#define HOP_LIMIT_OF_NEIGHBORS 255 /* RFC 4861, 7.1: what is less has come by way of a router */

static __always_inline bool sends_with(struct __sk_buff *skb, const __u8 *mac)
{
	__u8 sent[ETH_ALEN];

	if (bpf_skb_load_bytes(skb, ETH_ALEN, sent, sizeof(sent)))
		return false;
	return !__builtin_memcmp(sent, mac, sizeof(sent));
}

static __always_inline bool sends_as(struct __sk_buff *skb, const struct endpoint_value *endpoint)
{
	return sends_with(skb, endpoint->mac);
}

static __always_inline int pass_arp(struct __sk_buff *skb)
{
	struct endpoint_value endpoint;
	struct addr sender;
	__be32 ip;

	if (bpf_skb_load_bytes(skb, ARP_SENDER_IP, &ip, sizeof(ip)))
		return drop_quietly(skb, DROP_INVALID_PACKET, EGRESS);
	addr_set_ipv4(&sender, ip);
	if (!find_endpoint(&sender, &endpoint) || endpoint.ifindex != skb->ifindex)
		return drop_quietly(skb, DROP_INVALID_SOURCE_IP, EGRESS);
	if (!sends_as(skb, &endpoint))
		return drop_quietly(skb, DROP_INVALID_SOURCE_MAC, EGRESS);
	return TC_ACT_OK;
}

static __always_inline bool is_neighbor_discovery(const struct packet *p)
{
	__u16 type = bpf_ntohs(p->policy_port);

	return is_icmpv6(p) && (type == ICMPV6_NEIGHBOR_SOLICIT || type == ICMPV6_NEIGHBOR_ADVERT);
}

/* Router and group messages: nothing in a pod's network takes or gives them. */
static __always_inline bool is_link_message(const struct packet *p)
{
	__u16 type = bpf_ntohs(p->policy_port);

	if (!is_icmpv6(p))
		return false;
	return (type >= ICMPV6_MLD_QUERY && type <= ICMPV6_REDIRECT) || type == ICMPV6_MLD2_REPORT;
}

static __always_inline bool is_from_neighbor(struct __sk_buff *skb)
{
	__u8 hop_limit;

	return !bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, hop_limit), &hop_limit, 1) &&
	       hop_limit == HOP_LIMIT_OF_NEIGHBORS;
}

static __always_inline bool is_link_local(const struct addr *ip)
{
	return bpf_ntohl(ip->w[0]) >> 22 == 0xfe80 >> 6;
}

/* What every device with IPv6 sends all day without an address of ours: before it has one, and about its link. */
static __always_inline bool is_chatter(const struct packet *p)
{
	return !addr_is_set(&p->src) || is_link_local(&p->src);
}

/* What goes there goes no further than to the node, as to groups of the link (RFC 4291, 2.7). */
static __always_inline bool ends_on_link(const struct addr *ip)
{
	return is_link_local(ip) || (ip->w[0] & bpf_htonl(0xff0f0000)) == bpf_htonl(0xff020000) || is_node_ip(ip);
}

/* An advertisement of another address than the sender's own. */
static __always_inline bool advertises_other(struct __sk_buff *skb, const struct packet *p)
{
	struct addr target;

	if (p->policy_port != bpf_htons(ICMPV6_NEIGHBOR_ADVERT))
		return false;
	return bpf_skb_load_bytes(skb, p->l4_offset + NEIGHBOR_TARGET, &target, sizeof(target)) ||
	       addr_differs(&target, &p->src);
}

/* Of a pod, whose source address has been found to be its own. */
static __always_inline int pass_link_message(struct __sk_buff *skb, const struct packet *p)
{
	if (!is_neighbor_discovery(p) || !ends_on_link(&p->dst)) /* beyond it policy would have to be asked */
		return drop_quietly(skb, DROP_FORBIDDEN_ICMPV6, EGRESS);
	if (advertises_other(skb, p))
		return drop_quietly(skb, DROP_INVALID_SOURCE_IP, EGRESS);
	return TC_ACT_OK;
}

/* A pod believes what its link says, redirects and routers and neighbors, so nothing from elsewhere may look like that:
 * redirect_peer is no router, of which it could tell. Returns 0 or a drop reason. */
static __always_inline int refuse_foreign_link(const struct packet *p)
{
	if (is_chatter(p))
		return DROP_INVALID_SOURCE_IP;
	return is_link_message(p) ? DROP_FORBIDDEN_ICMPV6 : 0;
}
