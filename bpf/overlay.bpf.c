// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What comes out of the tunnel from other nodes. Attached at tc ingress of the vxlan device. The VNI is the sender's
 * identity: the sending node has judged egress and vouches for it. */
#include "lib/deliver.h"
#include "lib/identity.h"
#include "lib/neighbor.h"
#include "lib/node.h"
#include "lib/shortcut.h"
#include "lib/tunnel.h"
#include "lib/verdict.h"

/*
 * Whether `from`, who sent the outer packet, may speak for the inner source. Anybody can send UDP to the tunnel's port.
 *
 * 1. An address with a tunnel is spoken for by the node at the tunnel's other end, and by no one else.
 * 2. An address nobody knows is spoken for by any node: the first packet of a new pod may be faster than its row.
 * 3. This node, its endpoints and other nodes do not speak through the tunnel.
 * `known`: it is by the first, and ipcache knows it by the identity that it comes with.
 */
static __always_inline bool vouched_for(const struct packet *p, __u32 identity, const struct addr *from, bool *known)
{
	struct ipcache_value sender = find_ipcache(&p->src);
	struct endpoint_value local;

	*known = addr_is_set(&sender.tunnel_endpoint) && sender.identity == identity;
	if (addr_is_set(&sender.tunnel_endpoint))
		return addr_equal(&sender.tunnel_endpoint, from);
	if (!is_world(sender.identity) && sender.identity <= IDENTITY_ENDPOINT_MAX)
		return false;
	if (is_remote_node(sender.identity))
		return false;
	if (is_own_ip(&p->src) || find_endpoint(&p->src, &local))
		return false;
	return is_remote_node(find_ipcache(from).identity);
}

SEC("tc")
int overlay(struct __sk_buff *skb)
{
	struct packet p = {.direction = INGRESS, .dst_local = LOCAL};
	struct endpoint_value dst;
	struct addr from;
	__u32 identity;
	bool known;
	int reason = take_shortcut_from_tunnel(skb);

	if (reason >= 0)
		return reason;
	p.unheld = reason == NO_ENTRY;
	begin_epochs(&p);
	if (!is_ip(skb))
		return drop_quietly(skb, DROP_UNSUPPORTED_L3, INGRESS);
	reason = read_l3(skb, &p);
	if (reason != DROP_INVALID_PACKET && is_chatter(&p))
		return drop_quietly(skb, DROP_INVALID_SOURCE_IP, INGRESS);
	if (!reason)
		reason = read_l4(skb, &p);
	if (!reason && read_tunnel(skb, &identity, &from))
		reason = DROP_NO_TUNNEL_KEY;
	else if (!reason && !is_endpoint_identity(identity))
		reason = DROP_INVALID_VNI;
	if (reason)
		return drop(skb, &p, reason);
	reason = refuse_foreign_link(&p);
	if (reason)
		return drop_quietly(skb, reason, INGRESS);
	if (!vouched_for(&p, identity, &from, &known))
		return drop(skb, &p, DROP_INVALID_SOURCE_IP);
	p.src_identity = identity;
	if (!find_endpoint(&p.dst, &dst))
		return drop(skb, &p, DROP_NO_LOCAL_ENDPOINT);
	p.dst_identity = dst.identity;
	p.dst_local = local_end(&dst);
	p.endpoint_id = dst.endpoint_id;
	reason = admit_between(skb, &p, NULL, known ? &dst : NULL, &from);
	if (reason)
		return drop(skb, &p, reason);
	/* The inner frame was not addressed to the vxlan device; the pod's stack would refuse it as somebody else's. */
	bpf_skb_change_type(skb, PACKET_HOST);
	return deliver(skb, &p, &dst);
}

char _license[] SEC("license") = "Dual BSD/GPL";
