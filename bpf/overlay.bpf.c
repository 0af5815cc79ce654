// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What comes out of the tunnel from other nodes. Attached at tc ingress of the vxlan device. The VNI is the sender's
 * identity: the sending node has judged egress and vouches for it. */
#include "lib/deliver.h"
#include "lib/identity.h"
#include "lib/verdict.h"

/*
 * Whether `from`, who sent the outer packet, may speak for the inner source. Anybody can send UDP to the tunnel's port.
 *
 * 1. An address with a tunnel is spoken for by the node at the tunnel's other end, and by no one else.
 * 2. An address nobody knows is spoken for by any node: the first packet of a new pod may be faster than its row.
 * 3. This node, its endpoints and other nodes do not speak through the tunnel.
 */
static __always_inline bool vouched_for(const struct packet *p, __be32 from)
{
	struct ipcache_value sender = find_ipcache(p->src_ip);
	struct endpoint_value local;

	if (sender.tunnel_endpoint)
		return sender.tunnel_endpoint == from;
	if (sender.identity != IDENTITY_WORLD && sender.identity <= IDENTITY_ENDPOINT_MAX)
		return false;
	if (is_remote_node(sender.identity))
		return false;
	if (p->src_ip == node_ip || find_endpoint(p->src_ip, &local))
		return false;
	return is_remote_node(find_ipcache(from).identity);
}

SEC("tc")
int overlay(struct __sk_buff *skb)
{
	struct packet p = {.direction = INGRESS, .dst_local = LOCAL};
	struct bpf_tunnel_key key = {};
	struct endpoint_value dst;
	int reason;

	if (!is_ipv4(skb))
		return drop_quietly(skb, DROP_UNSUPPORTED_L3, INGRESS);
	reason = read_l3(skb, &p);
	if (!reason)
		reason = read_l4(skb, &p);
	if (reason)
		return drop(skb, &p, reason);
	if (bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0))
		return drop(skb, &p, DROP_NO_TUNNEL_KEY);
	if (!is_endpoint_identity(key.tunnel_id))
		return drop(skb, &p, DROP_INVALID_VNI);
	if (!vouched_for(&p, bpf_htonl(key.remote_ipv4)))
		return drop(skb, &p, DROP_INVALID_SOURCE_IP);
	p.src_identity = key.tunnel_id;
	if (!find_endpoint(p.dst_ip, &dst))
		return drop(skb, &p, DROP_NO_LOCAL_ENDPOINT);
	p.dst_identity = dst.identity;
	p.dst_local = local_end(&dst);
	p.endpoint_id = dst.endpoint_id;
	reason = admit(skb, &p);
	if (reason)
		return drop(skb, &p, reason);
	/* The inner frame was not addressed to the vxlan device; the pod's stack would refuse it as somebody else's. */
	bpf_skb_change_type(skb, PACKET_HOST);
	return deliver(skb, &p, &dst);
}

char _license[] SEC("license") = "Dual BSD/GPL";
