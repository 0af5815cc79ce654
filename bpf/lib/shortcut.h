/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The short way between two pods of this node: what the rows of both endpoints and both policies came to is kept in the
 * entry of their connection, with the epoch of those rows. In the same epoch it is so still, and the packet goes by the
 * entry alone. It must come from the interface and the MAC address of the end that it names as its sender.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "ct.h"
#include "endpoints.h"
#include "neighbor.h"
#include "packet.h"
#include "policy.h"
#include "settings.h"

/* A first fragment is to be remembered (admit). */
static __always_inline bool may_take_shortcut(const struct packet *p)
{
	return p->epoch && p->fragment != FRAGMENT_FIRST && (p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP);
}

static __always_inline void copy_end(struct ct_end *end, const struct endpoint_value *endpoint)
{
	end->ifindex = endpoint->ifindex;
	__builtin_memcpy(end->mac, endpoint->mac, sizeof(end->mac));
	__builtin_memcpy(end->node_mac, endpoint->node_mac, sizeof(end->node_mac));
}

/* Fills of `dst` what deliver() takes, and records the packet in its entry. */
static __always_inline bool find_shortcut(struct __sk_buff *skb, struct packet *p, struct endpoint_value *dst)
{
	struct ct_entry *entry;
	struct ct_key key = {};
	const struct ct_end *from, *to;
	__u32 now = clock_ticks();
	__u8 sender;

	if (!may_take_shortcut(p))
		return false;
	sender = ct_key_of(&key, &p->src, &p->dst, p->src_port, p->dst_port, p->protocol);
	entry = bpf_map_lookup_elem(&ct, &key);
	if (!entry || entry->epoch != p->epoch || entry->way.epoch != p->epoch || entry->expires <= now ||
	    ct_reopens(entry, p, sender))
		return false;
	from = &entry->way.ends[sender & 1];
	to = &entry->way.ends[!sender];
	if (from->ifindex != skb->ifindex || !sends_with(skb, from->mac))
		return false;
	dst->ifindex = to->ifindex;
	__builtin_memcpy(dst->mac, to->mac, sizeof(dst->mac));
	__builtin_memcpy(dst->node_mac, to->node_mac, sizeof(dst->node_mac));
	p->src_local = LOCAL;
	ct_touch(entry, p, sender != entry->initiator, now);
	return true;
}

/* After a packet of a connection that there was before has passed. */
static __always_inline void note_shortcut(const struct packet *p, const struct endpoint_value *src,
					  const struct endpoint_value *dst)
{
	struct ct_entry *entry;
	struct ct_key key = {};
	__u8 sender;

	if (p->ct_state == CT_NEW || !may_take_shortcut(p))
		return;
	sender = ct_key_of(&key, &p->src, &p->dst, p->src_port, p->dst_port, p->protocol);
	entry = bpf_map_lookup_elem(&ct, &key);
	if (!entry || entry->epoch != p->epoch || entry->way.epoch == p->epoch)
		return;
	entry->way.epoch = 0;
	barrier();
	copy_end(&entry->way.ends[sender & 1], src);
	copy_end(&entry->way.ends[!sender], dst);
	barrier();
	entry->way.epoch = p->epoch;
}
