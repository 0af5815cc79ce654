/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Handing a packet that may pass to an endpoint of this node. */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "endpoints.h"
#include "events.h"
#include "packet.h"

/* Straight into the pod's namespace, past the host's side of the pair and its to_endpoint program. Only from an ingress
 * hook. */
static __always_inline int deliver(struct __sk_buff *skb, const struct packet *p, struct endpoint_value *endpoint)
{
	if (bpf_skb_store_bytes(skb, 0, endpoint->mac, sizeof(endpoint->mac) + sizeof(endpoint->node_mac), 0))
		return drop(skb, p, DROP_WRITE_ERROR);
	if (p->src_local)
		count(FORWARDED, EGRESS, skb->len);
	count(FORWARDED, INGRESS, skb->len);
	return bpf_redirect_peer(endpoint->ifindex, 0);
}
