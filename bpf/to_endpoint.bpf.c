// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What the node's own stack sends to a pod. Attached at tc egress of the host's side of its veth pair; packets from
 * other pods and from the wire do not come this way, they are delivered by redirect_peer.
 */
#include "lib/identity.h"
#include "lib/neighbor.h"
#include "lib/verdict.h"

SEC("tc")
int to_endpoint(struct __sk_buff *skb)
{
	struct packet p = {.direction = INGRESS, .dst_local = LOCAL};
	struct endpoint_value dst;
	int reason;

	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return TC_ACT_OK;
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
