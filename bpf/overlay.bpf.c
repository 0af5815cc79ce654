// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What comes out of the tunnel from other nodes. Attached at tc ingress of the vxlan device. The VNI is the sender's
 * identity: the sending node has judged egress and vouches for it. */
#include "lib/deliver.h"
#include "lib/identity.h"
#include "lib/neighbor.h"
#include "lib/verdict.h"

/*
 * Whether `from`, who sent the outer packet, may speak for the inner source. Anybody can send UDP to the tunnel's port.
 *
 * 1. An address with a tunnel is spoken for by the node at the tunnel's other end, and by no one else.
 * 2. An address nobody knows is spoken for by any node: the first packet of a new pod may be faster than its row.
 * 3. This node, its endpoints and other nodes do not speak through the tunnel.
 */
static __always_inline bool vouched_for(const struct packet *p, const struct addr *from)
{
	struct ipcache_value sender = find_ipcache(&p->src);
	struct endpoint_value local;

	if (addr_is_set(&sender.tunnel_endpoint))
		return addr_equal(&sender.tunnel_endpoint, from);
	if (!is_world(sender.identity) && sender.identity <= IDENTITY_ENDPOINT_MAX)
		return false;
	if (is_remote_node(sender.identity))
		return false;
	if (is_node_ip(&p->src) || find_endpoint(&p->src, &local))
		return false;
	return is_remote_node(find_ipcache(from).identity);
}

/* What the outer header says: the sender's identity and address. Returns 0 or a drop reason. */
static __always_inline int read_tunnel(struct __sk_buff *skb, __u32 *identity, struct addr *from)
{
	struct bpf_tunnel_key key = {};

	if (!bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0))
		addr_set_ipv4(from, bpf_htonl(key.remote_ipv4));
	else if (!bpf_skb_get_tunnel_key(skb, &key, sizeof(key), BPF_F_TUNINFO_IPV6))
		__builtin_memcpy(from->w, key.remote_ipv6, sizeof(from->w));
	else
		return DROP_NO_TUNNEL_KEY;
	*identity = key.tunnel_id;
	return is_endpoint_identity(key.tunnel_id) ? 0 : DROP_INVALID_VNI;
}

SEC("tc")
int overlay(struct __sk_buff *skb)
{
	struct packet p = {.direction = INGRESS, .dst_local = LOCAL};
	struct endpoint_value dst;
	struct addr from;
	__u32 identity;
	int reason;

	if (!is_ip(skb))
		return drop_quietly(skb, DROP_UNSUPPORTED_L3, INGRESS);
	reason = read_l3(skb, &p);
	if (reason != DROP_INVALID_PACKET && is_chatter(&p))
		return drop_quietly(skb, DROP_INVALID_SOURCE_IP, INGRESS);
	if (!reason)
		reason = read_l4(skb, &p);
	if (!reason)
		reason = read_tunnel(skb, &identity, &from);
	if (reason)
		return drop(skb, &p, reason);
	reason = refuse_foreign_link(&p);
	if (reason)
		return drop_quietly(skb, reason, INGRESS);
	if (!vouched_for(&p, &from))
		return drop(skb, &p, DROP_INVALID_SOURCE_IP);
	p.src_identity = identity;
	if (!find_endpoint(&p.dst, &dst))
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
