// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What the node's own stack sends to a pod. Attached at tc egress of the host's side of its veth pair; packets from
 * other pods and from the wire do not come this way, they are delivered by redirect_peer.
 */
#include "lib/identity.h"
#include "lib/neighbor.h"
#include "lib/verdict.h"

/* What the stack forwards has come in where no program of ours has looked at it: it may not speak for an endpoint of
 * this node, nor for a pod that has a tunnel to speak through. With the node's address it may be, translated to it. */
static __always_inline bool is_forged(const struct __sk_buff *skb, const struct packet *p)
{
	struct ipcache_value remote;
	struct endpoint_value local;

	if (!skb->ingress_ifindex)
		return false;
	if (find_endpoint(&p->src, &local))
		return true;
	remote = find_ipcache(&p->src);
	return tunnel_ifindex && addr_is_set(&remote.tunnel_endpoint);
}

SEC("tc")
int to_endpoint(struct __sk_buff *skb)
{
	struct packet p = {.direction = INGRESS, .dst_local = LOCAL};
	struct endpoint_value dst;
	int reason;

	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return TC_ACT_OK;
	begin_epochs(&p);
	if (!is_ip(skb))
		return drop_quietly(skb, DROP_UNSUPPORTED_L3, INGRESS);
	reason = read_l3(skb, &p);
	if (!reason)
		reason = read_l4(skb, &p);
	if (reason)
		return drop(skb, &p, reason);
	if (is_neighbor_discovery(&p) && is_from_neighbor(skb))
		return TC_ACT_OK;
	if (is_chatter(&p) || is_link_message(&p))
		return drop_quietly(skb, DROP_FORBIDDEN_ICMPV6, INGRESS);
	p.src_identity = identity_of(&p.src);
	if (is_forged(skb, &p))
		return drop(skb, &p, DROP_INVALID_SOURCE_IP);
	if (!find_endpoint(&p.dst, &dst) || dst.ifindex != skb->ifindex)
		return drop(skb, &p, DROP_NO_LOCAL_ENDPOINT);
	p.dst_identity = dst.identity;
	p.dst_local = local_end(&dst);
	p.endpoint_id = dst.endpoint_id;
	reason = admit(skb, &p);
	if (reason)
		return drop(skb, &p, reason);
	count(FORWARDED, INGRESS, skb->len);
	return TC_ACT_OK;
}

char _license[] SEC("license") = "Dual BSD/GPL";
