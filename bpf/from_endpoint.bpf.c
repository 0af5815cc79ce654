// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What a pod sends. Attached at tc ingress of the host's side of its veth pair.
 *
 *   pod ─▶ [the short way of a connection between two pods] ─▶ redirect_peer into that pod
 *       ─▶ [source check] ─▶ local endpoint?  ─▶ egress + ingress policy ─▶ redirect_peer into that pod
 *                        └─▶ this node?       ─▶ egress policy ─▶ the stack
 *                        └─▶ tunnel endpoint? ─▶ egress policy ─▶ vxlan, identity in the VNI
 *                        └─▶ the rest         ─▶ egress policy ─▶ redirect_neigh out of the underlay device
 */
#include "lib/deliver.h"
#include "lib/identity.h"
#include "lib/masquerade.h"
#include "lib/mtu.h"
#include "lib/neighbor.h"
#include "lib/node.h"
#include "lib/shortcut.h"
#include "lib/verdict.h"

/* Multicast, broadcast, loopback, this link alone: no way leads there from a pod. */
static __always_inline bool unroutable(const struct addr *ip)
{
	__u32 first = bpf_ntohl(ip->w[0]);
	__u8 byte;

	if (addr_is_ipv4(ip)) {
		byte = bpf_ntohl(ip->w[3]) >> 24;
		return byte == 0 || byte == 127 || byte >= 224;
	}
	if (!(ip->w[0] | ip->w[1] | ip->w[2])) /* ::, ::1, and what else of IPv4 was once written so */
		return true;
	return first >> 24 == 0xff || first >> 22 == 0xfe80 >> 6;
}

/* Frames in UDP that a node would take for another node's, with whatever identity the pod chose to write on them. With
 * this node's own address they would be, at whichever address of another node they come in.
 * One comparison of both fields: the verifier would follow each further branch through all of admit. */
static __always_inline bool forges_tunnel(const struct packet *p)
{
	__u32 other = (p->protocol ^ IPPROTO_UDP) | (p->dst_port ^ bpf_htons(tunnel_port));

	if (!tunnel_port || other)
		return false;
	return p->dst_identity == IDENTITY_HOST || is_remote_node(p->dst_identity) ||
	       is_masqueraded(&p->dst, p->dst_identity);
}

static __noinline int enter_tunnel(struct __sk_buff *skb, const struct packet *p, const struct addr *to)
{
	if (set_tunnel(skb, p->src_identity, to))
		return drop(skb, p, DROP_WRITE_ERROR);
	return bpf_redirect(tunnel_ifindex, 0);
}

static __always_inline int leave_node(struct __sk_buff *skb, struct packet *p, const struct endpoint_value *src)
{
	struct ipcache_value remote = {.identity = IDENTITY_HOST};
	bool to_tunnel, to_pod;
	int reason, mtu;

	if (unroutable(&p->dst))
		return drop(skb, p, DROP_UNROUTABLE_IP);
	if (!is_own_ip(&p->dst))
		remote = find_ipcache(&p->dst);
	p->dst_identity = remote.identity;
	if (forges_tunnel(p))
		return drop(skb, p, DROP_ENCAPSULATION);
	to_tunnel = tunnel_ifindex && addr_is_set(&remote.tunnel_endpoint);
	to_pod = is_endpoint_identity(remote.identity) && (to_tunnel || underlay_ifindex);
	reason = admit_between(skb, p, to_pod ? src : NULL, NULL, to_tunnel ? &remote.tunnel_endpoint : NULL);
	if (reason)
		return drop(skb, p, reason);
	if (remote.identity != IDENTITY_HOST && skb->len > ETH_HLEN + MTU_LEAST) {
		mtu = narrow_way(skb, p, &remote.tunnel_endpoint);
		if (mtu)
			return refuse_too_big(skb, p, src, mtu);
	}
	if (is_masqueraded(&p->dst, remote.identity)) {
		reason = masquerade(skb, p);
		if (reason)
			return drop(skb, p, reason);
	}
	count(FORWARDED, EGRESS, skb->len);
	if (remote.identity == IDENTITY_HOST)
		return TC_ACT_OK;
	if (to_tunnel)
		return enter_tunnel(skb, p, &remote.tunnel_endpoint);
	return underlay_ifindex ? bpf_redirect_neigh(underlay_ifindex, NULL, 0, 0) : TC_ACT_OK;
}

SEC("tc")
int from_endpoint(struct __sk_buff *skb)
{
	struct packet p = {.direction = EGRESS};
	struct endpoint_value src, dst;
	int reason = take_shortcut(skb);

	if (reason >= 0)
		return reason;
	p.unheld = reason == NO_ENTRY;
	if (skb->vlan_present)
		return drop_quietly(skb, DROP_VLAN_FILTERED, EGRESS);
	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return pass_arp(skb);
	if (!is_ip(skb))
		return drop_quietly(skb, DROP_UNSUPPORTED_L3, EGRESS);
	reason = read_l3(skb, &p);
	if (reason != DROP_INVALID_PACKET && is_chatter(&p))
		return drop_quietly(skb, DROP_INVALID_SOURCE_IP, EGRESS);
	if (!reason)
		reason = read_l4(skb, &p);
	if (reason)
		return drop(skb, &p, reason);
	begin_epochs(&p);
	if (!find_endpoint(&p.src, &src) || src.ifindex != skb->ifindex)
		return drop(skb, &p, DROP_INVALID_SOURCE_IP);
	if (!sends_as(skb, &src))
		return drop(skb, &p, DROP_INVALID_SOURCE_MAC);
	if (is_link_message(&p))
		return pass_link_message(skb, &p);
	p.src_local = local_end(&src);
	p.src_identity = src.identity;
	p.endpoint_id = src.endpoint_id;
	if (!find_endpoint(&p.dst, &dst))
		return leave_node(skb, &p, &src);
	p.dst_local = local_end(&dst);
	p.dst_identity = dst.identity;
	reason = admit_between(skb, &p, &src, &dst, NULL);
	if (reason)
		return drop(skb, &p, reason);
	return deliver(skb, &p, &dst);
}

char _license[] SEC("license") = "Dual BSD/GPL";
