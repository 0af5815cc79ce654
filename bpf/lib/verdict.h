/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whether a packet may pass. Policy speaks of connections, so a packet is first turned into the connection it belongs
 * to:
 *
 *     opened by initiator ──▶ responder        egress  side: initiator's subject, if the initiator is of this node
 *                                              ingress side: responder's subject, if the responder is of this node
 *
 * 1. An ICMP error about a live connection passes, if the ends here consent to that still. Any other is judged as what
 * it is, an ICMP packet of its type.
 * 2. The entry of the connection, unless expired or reopened, says who opened it; without one, the sender did.
 * 3. If the entry holds the consent of each side, given at the side's present revision, it passes (no policy look-up);
 *    in the epoch in which that was last found so, the revisions are not looked up either.
 * 4. Otherwise each side is judged again, in the original direction. The first that refuses gives the reason.
 * 5. What an audited side refuses passes without its consent, so that each packet is judged again and none passes by
 *    audit mode any more once that is off. The entry remembers that it was recorded.
 * 6. With all consents but those the entry is written. A refusal leaves it as it was: were it removed, a reply could
 *    pass as a connection opened from the other end.
 * 7. A TCP packet without SYN and without entry is of a connection that was forgotten (evicted, flushed): where policy
 *    does not allow it as one that its sender opened, it may be one that the other end did. A SYN of either end is
 *    judged as what it is, so nobody opens anything by this. There is an entry again when the end that may open it has
 *    sent something: who may not open connections fills no table with them.
 */
#pragma once

#include "ct.h"
#include "endpoints.h"
#include "events.h"
#include "packet.h"
#include "policy.h"

struct decision {
	struct side sides[2]; /* by INGRESS, EGRESS */
	struct ct_key key;
	struct ct_entry entry; /* as it was, or as it begins */
	struct ct_way way;     /* between whom; its epoch 0: no short one */
	__u32 now;
	__u8 reply;
	__u8 fresh;   /* 1: there was no entry */
	__u8 audited; /* bits by direction: refused, and passes all the same */
	__u8 reasons[2];
};

/* key: 0. value: a decision that is being made; programs do not interrupt one another on a CPU, and have no stack for
 * it. written by, read by: admit. full: cannot be. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct decision);
} decision_draft SEC(".maps");

static __always_inline bool find_side(struct side *side, __u32 subject, __u32 peer, __u8 direction, __u8 local)
{
	struct subject_key key = {.identity = subject};
	const struct subject_value *row;

	side->subject = subject;
	side->peer = peer;
	side->direction = direction;
	side->judged = local;
	if (!local)
		return true;
	row = bpf_map_lookup_elem(&subjects, &key);
	if (!row)
		return false;
	side->row = *row;
	return !(row->flags & SUBJECT_UNKNOWN);
}

/* Fills both sides; returns 0 or, with the packet's direction set to the failing side's, a drop reason. */
static __always_inline int find_sides(struct decision *d, struct packet *p)
{
	__u32 initiator = d->reply ? p->dst_identity : p->src_identity;
	__u32 responder = d->reply ? p->src_identity : p->dst_identity;

	if (!find_side(&d->sides[EGRESS], initiator, responder, EGRESS, d->reply ? p->dst_local : p->src_local)) {
		p->direction = EGRESS;
		return DROP_NO_POLICY;
	}
	if (!find_side(&d->sides[INGRESS], responder, initiator, INGRESS, d->reply ? p->src_local : p->dst_local)) {
		p->direction = INGRESS;
		return DROP_NO_POLICY;
	}
	return 0;
}

static __always_inline void consent(struct ct_verdict *verdict, const struct side *side, bool audited)
{
	if (!side->judged)
		return;
	if (audited) {
		verdict->subject = 0;
		return;
	}
	verdict->subject = side->subject;
	verdict->peer = side->peer;
	verdict->revision = side->row.revision;
}

/* Whether audit mode lets through what this side refuses for this reason: its policy's word, and nothing else. */
static __always_inline bool is_audited(const struct side *side, int reason)
{
	return (side->judged & LOCAL_AUDITED) && (reason == DROP_POLICY_DENIED || reason == DROP_POLICY_DENY);
}

/* Counts the packet, and records it for each side that has not recorded its connection. */
static __noinline void audit(struct __sk_buff *skb, struct packet *p, const struct decision *d)
{
	for (int direction = EGRESS; direction >= INGRESS; direction--) {
		if (!(d->audited >> direction & 1))
			continue;
		count(AUDITED, direction, skb->len);
		if (d->entry.audited >> direction & 1)
			continue;
		p->direction = direction;
		report(skb, p, EVENT_AUDIT, d->reasons[direction]);
	}
}

/* What policy calls the port of the connection that the packet belongs to. */
static __always_inline __be16 policy_port(const struct packet *p, const struct decision *d)
{
	if (!p->echo)
		return d->reply ? p->src_port : p->policy_port;
	if (d->fresh)
		return p->policy_port;
	return bpf_htons(p->protocol == IPPROTO_ICMP ? ICMP_ECHO
						     : ICMPV6_ECHO_REQUEST); /* the connection is the request's */
}

/* The record of a connection that passes by policy from now on, as its first packet was: a reply may be what tells. */
static __noinline int report_connection(struct __sk_buff *skb, const struct packet *p, bool reply, __be16 port)
{
	struct event *event = begin_event(skb, p, EVENT_CONNECTION, FORWARDED);

	if (!event)
		return 0;
	if (reply) {
		event->src_ip = p->dst;
		event->dst_ip = p->src;
		event->src_port = p->dst_port;
		event->src_identity = p->dst_identity;
		event->dst_identity = p->src_identity;
		event->flags = (p->dst_local ? EVENT_SRC_LOCAL : 0) | (p->src_local ? EVENT_DST_LOCAL : 0);
	}
	event->dst_port = port;
	return send_event(event);
}

/* Rule 4, and 5 as far as it is about passing. */
__noinline int judge(struct packet *p, struct decision *d, __be16 port)
{
	int reason;

	if (!p || !d)
		return DROP_NO_POLICY;
	d->audited = 0;
	for (int direction = EGRESS; direction >= INGRESS; direction--) {
		if (!d->sides[direction].judged)
			continue;
		reason = judge_side(&d->sides[direction], p->protocol, port);
		if (!reason)
			continue;
		if (!is_audited(&d->sides[direction], reason)) {
			p->direction = direction;
			return reason;
		}
		d->audited |= 1 << direction;
		d->reasons[direction] = reason;
	}
	return 0;
}

__noinline int judge_as(struct packet *p, struct decision *d, bool reply)
{
	int reason;

	if (!p || !d)
		return DROP_NO_POLICY;
	if (d->reply != reply) {
		d->reply = reply;
		d->entry.initiator ^= 1;
	}
	reason = find_sides(d, p);
	return reason ? reason : judge(p, d, policy_port(p, d));
}

/* Rule 7, where it does not pass as what its sender opened. */
__noinline int judge_forgotten(struct packet *p, struct decision *d)
{
	if (!p || !d)
		return DROP_NO_POLICY;
	if (!judge_as(p, d, true) && !d->audited) {
		p->ct_state = CT_REPLY;
		return 0;
	}
	return judge_as(p, d, false);
}

static __always_inline bool is_forgotten(const struct packet *p, const struct decision *d)
{
	return d->fresh && p->protocol == IPPROTO_TCP && !(p->tcp_flags & TCP_SYN);
}

/* Others may go by it while it is written. */
static __always_inline void note_way(struct ct_entry *entry, const struct ct_way *way)
{
	if (!way->epoch || (entry->way.epoch == way->epoch && entry->way.wire_epoch == way->wire_epoch))
		return;
	entry->way.epoch = 0;
	barrier();
	entry->way.wire_epoch = way->wire_epoch;
	entry->way.ends[0] = way->ends[0];
	entry->way.ends[1] = way->ends[1];
	entry->way.via = way->via;
	entry->way.away = way->away;
	barrier();
	entry->way.epoch = way->epoch;
}

/* Rule 6. `held`: the entry in the map, if there is one. */
__noinline int remember(struct __sk_buff *skb, struct packet *p, struct decision *d, struct ct_entry *held, __be16 port)
{
	bool opens;

	if (!p || !d)
		return DROP_NO_POLICY;
	opens = d->fresh || d->entry.audited;

	/* An echo reply that nobody asked for opens nothing. */
	if (!p->tracked || (d->fresh && p->echo == ECHO_REPLY))
		return 0;
	consent(&d->entry.verdicts[EGRESS], &d->sides[EGRESS], d->audited >> EGRESS & 1);
	consent(&d->entry.verdicts[INGRESS], &d->sides[INGRESS], d->audited >> INGRESS & 1);
	d->entry.audited = d->audited;
	d->entry.epoch = d->audited ? 0 : p->epoch;
	/* In place where it can be: a copy would undo what another CPU notes in the entry meanwhile. */
	if (held && !d->fresh && ct_same_verdicts(held, &d->entry)) {
		ct_touch(held, p->protocol, p->tcp_flags, d->reply, d->now);
		held->epoch = d->entry.epoch;
		note_way(held, &d->way);
		return 0;
	}
	d->entry.way = d->way;
	ct_touch(&d->entry, p->protocol, p->tcp_flags, d->reply, d->now);
	if (bpf_map_update_elem(&ct, &d->key, &d->entry, BPF_ANY))
		return DROP_CT_INSERTION;
	if (opens && record_connections && !d->audited)
		report_connection(skb, p, d->reply, port);
	return 0;
}

/* Rules 2 to 7. */
__noinline int decide(struct __sk_buff *skb, struct packet *p)
{
	struct decision *d = bpf_map_lookup_elem(&decision_draft, &(__u32){0});
	struct ct_entry *entry = NULL;
	__u8 sender, direction;
	int reason;

	if (!p || !d)
		return DROP_NO_POLICY;
	direction = p->direction;
	d->now = clock_ticks();
	d->audited = 0;
	sender = ct_key_of(&d->key, &p->src, &p->dst, p->src_port, p->dst_port, p->protocol);
	if (p->tracked && !p->unheld)
		entry = bpf_map_lookup_elem(&ct, &d->key);
	d->fresh = !entry || entry->expires <= d->now || ct_reopens(entry, p, sender);
	d->reply = !d->fresh && sender != entry->initiator;
	p->ct_state = d->fresh ? CT_NEW : d->reply ? CT_REPLY : CT_ESTABLISHED;
	if (!d->fresh && entry && p->epoch && entry->epoch == p->epoch && ct_has_sides(entry, p, d->reply)) {
		ct_touch(entry, p->protocol, p->tcp_flags, d->reply, d->now);
		note_way(entry, &d->way);
		return 0;
	}
	reason = find_sides(d, p);
	if (reason)
		return reason;
	if (d->fresh || !entry) {
		__builtin_memset(&d->entry, 0, sizeof(d->entry));
		d->entry.initiator = sender;
	} else {
		if (ct_agrees(entry, &d->sides[EGRESS]) && ct_agrees(entry, &d->sides[INGRESS])) {
			ct_touch(entry, p->protocol, p->tcp_flags, d->reply, d->now);
			entry->epoch = p->epoch;
			note_way(entry, &d->way);
			return 0;
		}
		d->entry = *entry;
	}
	reason = judge(p, d, policy_port(p, d));
	if ((reason || d->audited) && is_forgotten(p, d))
		reason = judge_forgotten(p, d);
	if (reason)
		return reason;
	if (d->audited)
		audit(skb, p, d);
	p->direction = direction;
	if (d->fresh && d->reply)
		return 0;
	return remember(skb, p, d, entry, policy_port(p, d));
}

static __always_inline void copy_end(struct ct_end *end, const struct endpoint_value *endpoint)
{
	end->ifindex = endpoint->ifindex;
	__builtin_memcpy(end->mac, endpoint->mac, sizeof(end->mac));
	__builtin_memcpy(end->node_mac, endpoint->node_mac, sizeof(end->node_mac));
}

/* The short way that the entry of this packet's connection may keep: between the pods of this node among the two, and
 * of one that is not of it, where no tunnel is given, beyond the wire. None: it is not kept. */
static __always_inline void draft_way(struct ct_way *way, const struct packet *p, const struct endpoint_value *src,
				      const struct endpoint_value *dst, const struct addr *tunnel)
{
	bool src_is_hi = addr_less(&p->dst, &p->src);
	__u8 here = 0; /* of the ends, how many */

	__builtin_memset(way, 0, sizeof(*way));
	way->away = src_is_hi;
	if (src) {
		copy_end(&way->ends[src_is_hi], src);
		way->away = !src_is_hi;
		here++;
	}
	if (dst) {
		copy_end(&way->ends[!src_is_hi], dst);
		here++;
	}
	if (!here || (here == 1 && !p->wire_epoch))
		return;
	way->via = here == 2 ? VIA_NODE : VIA_WIRE;
	way->wire_epoch = here == 2 ? 0 : p->wire_epoch;
	if (tunnel) {
		__builtin_memcpy(&way->ends[way->away & 1], tunnel, sizeof(*tunnel));
		way->via = VIA_TUNNEL;
	}
	way->epoch = p->epoch;
}

/* Whether a packet between these two may pass. `src`, `dst`, `tunnel`: what draft_way takes. Returns 0 or a drop
 * reason; then p->direction is that of the side that refused. Global, so that the verifier goes through it once,
 * whatever the callers know. */
__noinline int admit_between(struct __sk_buff *skb, struct packet *p, const struct endpoint_value *src,
			     const struct endpoint_value *dst, const struct addr *tunnel)
{
	struct decision *d = bpf_map_lookup_elem(&decision_draft, &(__u32){0});
	int reason;

	if (!p || !d)
		return DROP_NO_POLICY;
	draft_way(&d->way, p, src, dst, tunnel);
	if (p->icmp_error && ct_related(skb, p)) {
		p->ct_state = CT_RELATED;
		return 0;
	}
	reason = decide(skb, p);
	if (!reason && p->fragment == FRAGMENT_FIRST)
		remember_first(p);
	return reason;
}

/* ... which keeps no short way. */
static __always_inline int admit(struct __sk_buff *skb, struct packet *p)
{
	return admit_between(skb, p, NULL, NULL, NULL);
}
