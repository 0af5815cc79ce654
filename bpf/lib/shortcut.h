/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The short way between two pods, of this node or one of them beyond the wire without a tunnel: what the rows of
 * endpoints, addresses and policies came to is kept in the entry of their connection, with the epochs of those rows. In
 * the same epochs it is so still, and the packet goes by the entry alone. What a pod sends must come from the interface
 * and the MAC address of the end that it names as its sender.
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

/* The entry of the connection if all is as it was: both policies, and the endpoints of this node. Whether it is opened
 * anew is seen here too. `sender`: 0 lo, 1 hi. */
static __always_inline struct ct_entry *find_known(const struct packet *p, __u8 *sender)
{
	struct ct_entry *entry;
	struct ct_key key = {};

	if (!may_take_shortcut(p))
		return NULL;
	*sender = ct_key_of(&key, &p->src, &p->dst, p->src_port, p->dst_port, p->protocol);
	entry = bpf_map_lookup_elem(&ct, &key);
	if (!entry || entry->epoch != p->epoch || entry->way.epoch != p->epoch || entry->expires <= clock_ticks() ||
	    ct_reopens(entry, p, *sender))
		return NULL;
	return entry;
}

static __always_inline bool has_wire(const struct ct_entry *entry, const struct packet *p)
{
	return p->wire_epoch && entry->way.wire_epoch == p->wire_epoch;
}

/* What deliver() takes. */
static __always_inline void fill_destination(struct endpoint_value *dst, const struct ct_end *to)
{
	dst->ifindex = to->ifindex;
	__builtin_memcpy(dst->mac, to->mac, sizeof(dst->mac));
	__builtin_memcpy(dst->node_mac, to->node_mac, sizeof(dst->node_mac));
}

/* Of an endpoint. Global, as the next ones, for the stack that they need. Records the packet in its entry; `dst`
 * without interface: out of the underlay device. */
__noinline bool find_shortcut(struct __sk_buff *skb, struct packet *p, struct endpoint_value *dst)
{
	struct ct_entry *entry;
	const struct ct_end *from, *to;
	__u8 sender = 0;

	if (!p || !dst)
		return false;
	entry = find_known(p, &sender);
	if (!entry)
		return false;
	from = &entry->way.ends[sender & 1];
	to = &entry->way.ends[!sender];
	if (from->ifindex != skb->ifindex || !sends_with(skb, from->mac))
		return false;
	if (!to->ifindex && (!has_wire(entry, p) || skb->len > ETH_HLEN + MTU_LEAST))
		return false;
	fill_destination(dst, to);
	p->src_local = LOCAL;
	ct_touch(entry, p, sender != entry->initiator, clock_ticks());
	return true;
}

/* From the wire to an endpoint. */
__noinline bool find_shortcut_in(struct packet *p, struct endpoint_value *dst)
{
	struct ct_entry *entry;
	const struct ct_end *to;
	__u8 sender = 0;

	if (!p || !dst)
		return false;
	entry = find_known(p, &sender);
	if (!entry || !has_wire(entry, p) || entry->way.ends[sender & 1].ifindex)
		return false;
	to = &entry->way.ends[!sender];
	if (!to->ifindex)
		return false;
	fill_destination(dst, to);
	ct_touch(entry, p, sender != entry->initiator, clock_ticks());
	return true;
}

/* After a packet of a connection that there was before has passed. NULL: that end is a pod beyond the wire. */
__noinline int note_shortcut(const struct packet *p, const struct endpoint_value *src, const struct endpoint_value *dst)
{
	const struct ct_end nowhere = {};
	struct ct_entry *entry;
	struct ct_key key = {};
	__u32 wire_epoch;
	__u8 sender;

	if (!p)
		return 0;
	wire_epoch = src && dst ? 0 : p->wire_epoch;
	if (p->ct_state == CT_NEW || !may_take_shortcut(p))
		return 0;
	sender = ct_key_of(&key, &p->src, &p->dst, p->src_port, p->dst_port, p->protocol);
	entry = bpf_map_lookup_elem(&ct, &key);
	if (!entry || entry->epoch != p->epoch)
		return 0;
	if (entry->way.epoch == p->epoch && entry->way.wire_epoch == wire_epoch)
		return 0;
	entry->way.epoch = 0;
	barrier();
	entry->way.ends[sender & 1] = nowhere;
	entry->way.ends[!sender] = nowhere;
	if (src)
		copy_end(&entry->way.ends[sender & 1], src);
	if (dst)
		copy_end(&entry->way.ends[!sender], dst);
	entry->way.wire_epoch = wire_epoch;
	barrier();
	entry->way.epoch = p->epoch;
	return 0;
}
