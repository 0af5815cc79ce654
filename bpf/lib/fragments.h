/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Fragments of packets. Later ones have no ports, so they follow the first:
 *
 *     first  [IP, id][ports …]  ─▶ judged as a whole packet; when it may pass, its ports are remembered under its id
 *     later  [IP, id][… data]   ─▶ gets these ports, and is judged itself: what policy takes back stops in between, too
 *
 * 1. A first fragment has to hold all that is read of its payload, by the length that its IP header says (RFC 1858,
 *    RFC 7112), and no later one may begin within that. So what is judged is what the receiver puts together.
 * 2. A later one whose first has not come, or was refused, drops.
 * 3. Ends and ids are those on the wire where the packet came in: before masquerade on the way out, and on the way in.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/tcp.h>
#include <bpf/bpf_helpers.h>

#include "addr.h"
#include "settings.h"

/* Which part of a packet this is. */
#define FRAGMENT_NONE	0 /* it is whole */
#define FRAGMENT_FIRST	1
#define FRAGMENT_LATER	2
#define FRAGMENT_NOTED	3 /* a first one whose ports are remembered already */
#define FRAGMENT_OFFSET 0x1fff
#define FRAGMENT_BITS	0x3fff /* more-fragments and offset */
#define FRAGMENT_TICKS	60     /* as long as receivers wait for all of them, at most (RFC 8200, 4.5) */

#define PAYLOAD_READ_TCP sizeof(struct tcphdr)
#define PAYLOAD_READ	 8

struct fragment {
	__be32 id;
	__u8 part;
};

struct fragment_key {
	struct addr src;
	struct addr dst;
	__be32 id;
	__u8 protocol; /* IPv6: 0, its ids are of the addresses alone */
	__u8 pad[3];
};

struct fragment_value {
	__u32 expires;	 /* ticks */
	__be16 src_port; /* this and what follows: as in struct packet */
	__be16 dst_port;
	__be16 policy_port;
	__u8 protocol;
	__u8 echo;
};

/* key, value: above. written by, read by: the programs alone.
 * full: the least recently used row goes; later fragments of its packet drop. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct fragment_key);
	__type(value, struct fragment_value);
} fragments SEC(".maps");

/* Notes which part of a packet it is, from the bits and the id of its header; false: it begins where a first one must
 * still be going on. */
static __always_inline bool note_part(struct fragment *fragment, __u16 offset, __be32 id)
{
	fragment->id = id;
	fragment->part = offset ? FRAGMENT_LATER : FRAGMENT_FIRST;
	return !offset || offset * 8 >= PAYLOAD_READ_TCP;
}

/* Whether a first fragment that ends at `end` holds what is read of its payload. */
static __always_inline bool holds_header(__u8 protocol, __u32 l4_offset, __u32 end)
{
	return l4_offset + (protocol == IPPROTO_TCP ? PAYLOAD_READ_TCP : PAYLOAD_READ) <= end;
}
