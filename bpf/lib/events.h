/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What user space is told beside counters: a record for each new connection, each drop, and for each
 * connection that begins to pass by audit mode alone (of what belongs to none, as other ICMP, for each packet). */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "addr.h"
#include "counters.h"
#include "packet.h"
#include "reasons.h"
#include "settings.h"

#define EVENT_CONNECTION 1
#define EVENT_DROP	 2
#define EVENT_AUDIT	 3 /* passes; the reason is why it would not */

#define EVENT_SRC_LOCAL 1
#define EVENT_DST_LOCAL 2

struct event {
	__u64 time_ns; /* CLOCK_MONOTONIC */
	struct addr src_ip;
	struct addr dst_ip;
	__be16 src_port; /* ICMP: echo id */
	__be16 dst_port; /* ICMP: type */
	__u8 protocol;
	__u8 tcp_flags;
	__u8 type;	    /* EVENT_CONNECTION, EVENT_DROP, EVENT_AUDIT */
	__u8 direction;	    /* whose policy decided: ingress of the destination, egress of the source */
	__u32 src_identity; /* 0: not known when it was dropped */
	__u32 dst_identity;
	__u32 length; /* of the frame */
	__u32 ifindex;
	__u16 reason; /* enum drop_reason */
	__u16 endpoint_id;
	__u32 flags; /* EVENT_SRC_LOCAL, EVENT_DST_LOCAL */
};

/* Records of struct event.
 * written by: every program. read by: the agent. full: the record is lost and counted under RECORDS_LOST. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 2097152);
} events SEC(".maps");

/* key: 0. value: a record that is being made; programs do not interrupt one another on a CPU, and have no stack for it.
 * written by, read by: every program. full: cannot be. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct event);
} event_draft SEC(".maps");

#define RECORD_BYTES (sizeof(struct event) + 8) /* with its header in the ring, linux/bpf.h */

/* The pointer type in this function's signature is what puts struct event into the object's BTF (I12). */
static __noinline int send_event(struct event *event)
{
	__u64 flags = BPF_RB_NO_WAKEUP;

	/* Once each time that much has come together: to wake somebody costs more than the record. */
	if (bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) % wakeup_bytes + RECORD_BYTES >= wakeup_bytes)
		flags = BPF_RB_FORCE_WAKEUP;
	event->time_ns = bpf_ktime_get_ns();
	if (bpf_ringbuf_output(&events, event, sizeof(*event), flags))
		count(RECORDS_LOST, event->direction, sizeof(*event));
	return 0;
}

/* What `send_event` takes, filled but for what only its caller knows; NULL never happens. */
static __always_inline struct event *begin_event(struct __sk_buff *skb, const struct packet *p, __u8 type, __u16 reason)
{
	struct event *event = bpf_map_lookup_elem(&event_draft, &(__u32){0});

	if (!event)
		return NULL;
	event->src_ip = p->src;
	event->dst_ip = p->dst;
	event->src_port = p->src_port;
	event->dst_port = p->policy_port;
	event->protocol = p->protocol;
	event->tcp_flags = p->tcp_flags;
	event->type = type;
	event->direction = p->direction;
	event->src_identity = p->src_identity;
	event->dst_identity = p->dst_identity;
	event->length = skb->len;
	event->ifindex = skb->ifindex;
	event->reason = reason;
	event->endpoint_id = p->endpoint_id;
	event->flags = (p->src_local ? EVENT_SRC_LOCAL : 0) | (p->dst_local ? EVENT_DST_LOCAL : 0);
	return event;
}

static __noinline int report(struct __sk_buff *skb, const struct packet *p, __u8 type, __u16 reason)
{
	struct event *event = begin_event(skb, p, type, reason);

	return event ? send_event(event) : 0;
}

/* The only way to drop a packet. */
static __noinline int drop(struct __sk_buff *skb, const struct packet *p, __u16 reason)
{
	count(reason, p->direction, skb->len);
	report(skb, p, EVENT_DROP, reason);
	return TC_ACT_SHOT;
}

/* ... but for what every pod sends all day and nobody wants to read of (IPv6 router solicitations): counted only. */
static __always_inline int drop_quietly(struct __sk_buff *skb, __u32 reason, __u32 direction)
{
	count(reason, direction, skb->len);
	return TC_ACT_SHOT;
}
