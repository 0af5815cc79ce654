// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What comes from the wire without a tunnel: from the world and from other nodes themselves. Attached at tc ingress of
 * the underlay device. All that is not for an endpoint of this node passes after one look-up, untouched and uncounted.
 */
#include "lib/deliver.h"
#include "lib/identity.h"
#include "lib/masquerade.h"
#include "lib/neighbor.h"
#include "lib/node.h"
#include "lib/shortcut.h"
#include "lib/verdict.h"

#define VLAN_NUMBER 0xfff /* of the tag */

/* The wire may not speak for this node or its endpoints, nor for a pod that has a tunnel to speak through. */
static __always_inline bool find_sender(struct packet *p)
{
	struct ipcache_value remote;
	struct endpoint_value local;

	if (is_own_ip(&p->src) || find_endpoint(&p->src, &local))
		return false;
	remote = find_ipcache(&p->src);
	p->src_identity = remote.identity;
	return !(tunnel_ifindex && addr_is_set(&remote.tunnel_endpoint));
}

/* What comes to the node's address and is a reply to what left with it becomes the endpoint's own packet. Returns 0,
 * NOT_NAT for what is the node's, or a drop reason. */
static __always_inline int read_reply(struct __sk_buff *skb, struct packet *p)
{
	return read_l4(skb, p) ? NOT_NAT : unmasquerade(skb, p);
}

/* Of a VLAN, which has a device of its own. Number 0 is none: such a tag tells a priority (IEEE 802.1Q, 6.9.1). */
static __always_inline bool is_of_vlan(const struct __sk_buff *skb)
{
	return skb->vlan_present && skb->vlan_tci & VLAN_NUMBER;
}

SEC("tc")
int from_netdev(struct __sk_buff *skb)
{
	struct packet p = {.direction = INGRESS, .dst_local = LOCAL};
	struct endpoint_value dst;
	bool to_node, from_pod;
	int reason, of_l4 = 0;

	if (!is_ip(skb) || is_of_vlan(skb))
		return TC_ACT_OK;
	reason = take_shortcut_from_wire(skb);
	if (reason >= 0)
		return reason;
	p.unheld = reason == NO_ENTRY;
	begin_epochs(&p);
	reason = read_l3(skb, &p);
	to_node = masquerades(&p.dst) && is_node_ip(&p.dst);
	if (to_node) {
		p.unheld = 0; /* what was looked for has the node's address */
		reason = reason ? NOT_NAT : read_reply(skb, &p);
	} else if (!reason) {
		of_l4 = read_l4(skb, &p);
	}
	if (reason == NOT_NAT || !addr_is_set(&p.dst) || !find_endpoint(&p.dst, &dst))
		return TC_ACT_OK;
	p.dst_identity = dst.identity;
	p.dst_local = local_end(&dst);
	p.endpoint_id = dst.endpoint_id;
	if (!reason)
		reason = of_l4;
	if (reason)
		return drop(skb, &p, reason);
	reason = refuse_foreign_link(&p);
	if (reason)
		return drop_quietly(skb, reason, INGRESS);
	if (!find_sender(&p))
		return drop(skb, &p, DROP_INVALID_SOURCE_IP);
	from_pod = !to_node && is_endpoint_identity(p.src_identity);
	reason = admit_between(skb, &p, NULL, from_pod ? &dst : NULL, NULL);
	if (reason)
		return drop(skb, &p, reason);
	return deliver(skb, &p, &dst);
}

char _license[] SEC("license") = "Dual BSD/GPL";
