/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who may speak to whom. A subject's rows lie under a table number that its row in `subjects` names, so that the agent
 * changes all of them at once by writing a new table and then that one row. */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "packet.h"

#define PEER_ANY 0

/* Tiers, and what a row of one says; PASS goes on to the next tier. */
#define TIER_NORMAL   0
#define TIER_ADMIN    1
#define TIER_BASELINE 2

#define ACTION_MASK  3
#define ACTION_PASS  0
#define ACTION_ALLOW 1
#define ACTION_DENY  2

/* Of a subject's flags, above those of the tiers: the log does not know the identity, so nothing passes. */
#define SUBJECT_UNKNOWN 64

#define UNDECIDED 1 /* neither 0, allowed, nor a drop reason */

struct subject_key {
	__u32 identity;
};

struct subject_value {
	__u32 table;	/* where in `policy` its rows are */
	__u32 revision; /* raised at every change that could take a verdict back */
	__u32 flags;	/* bit by direction | tier << 1: the tier speaks there; of TIER_NORMAL: it is enforced;
			 * SUBJECT_UNKNOWN */
};

/* key: identity of an endpoint of this node. value: how its policy is found.
 * written by: the agent. read by: every program. full: the agent's write fails; no row: all its packets drop (I9). */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct subject_key);
	__type(value, struct subject_value);
} subjects SEC(".maps");

#define EPOCH_NODE 0 /* of `subjects` and `endpoints` */
#define EPOCH_WIRE 1 /* of `ipcache` */

/* key: EPOCH_*. value: changes with every change of those rows, after it; 0: no agent has been here.
 * written by: the agent. read by: admit, the short way. full: cannot be. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} epoch SEC(".maps");

/* What is found to hold after this was read holds for as long as it stays the same. */
static __always_inline __u32 current_epoch(__u32 of)
{
	const volatile __u32 *value = bpf_map_lookup_elem(&epoch, &of);

	return value ? *value : 0;
}

/* Before any row is read. */
static __always_inline void begin_epochs(struct packet *p)
{
	p->epoch = current_epoch(EPOCH_NODE);
	p->wire_epoch = current_epoch(EPOCH_WIRE);
}

/* Most significant first, as the trie compares: 104 bits are always exact (up to the way), then 8 bits of protocol
 * unless the row is for any, then 0..16 bits of the port. */
struct policy_key {
	__u32 prefix_len;
	__u32 table;
	__u32 subject;
	__u32 peer; /* PEER_ANY: whoever */
	__u8 way;   /* direction | tier << 1 */
	__u8 protocol;
	__be16 port; /* for ICMP the type */
};

/* Never 0. Of two rows that a packet matches the one with the greater value counts. */
struct policy_value {
	__u32 value; /* ACTION_*, above it the precedence */
};

/* key, value: above. written by: the agent. read by: judge_side for new connections and after a change of revision.
 * full: the agent's write fails before the subject points at the new table, so the old policy stays. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1048576);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct policy_key);
	__type(value, struct policy_value);
} policy SEC(".maps");

/* One end's part of a decision: its policy on the other end. */
struct side {
	__u32 subject;
	__u32 peer;
	struct subject_value row;
	__u8 direction;
	__u8 judged; /* 0: that end is not of this node, nothing to decide here; else LOCAL, LOCAL_AUDITED */
};

/* 0: no row. */
static __always_inline __u32 find_row(const struct policy_key *key)
{
	const struct policy_value *found = bpf_map_lookup_elem(&policy, key);

	return found ? found->value : 0;
}

/*
 * The longest match for this peer and the longest match for any peer are both looked up; the greater value counts.
 * Returns 0 (allowed), a drop reason, or UNDECIDED: the next tier speaks.
 */
static __always_inline int judge_tier(const struct side *side, __u8 tier, __u8 protocol, __be16 port)
{
	__u8 way = side->direction | tier << 1;
	struct policy_key key = {
		.prefix_len = 128,
		.table = side->row.table,
		.subject = side->subject,
		.peer = side->peer,
		.way = way,
		.protocol = protocol,
		.port = port,
	};
	__u32 value, by_any;

	if (!(side->row.flags >> way & 1))
		return UNDECIDED;
	value = find_row(&key);
	key.peer = PEER_ANY;
	by_any = find_row(&key);
	if (by_any > value)
		value = by_any;
	if (!value)
		return tier == TIER_NORMAL ? DROP_POLICY_DENIED : UNDECIDED;
	if ((value & ACTION_MASK) == ACTION_PASS)
		return UNDECIDED;
	return (value & ACTION_MASK) == ACTION_DENY ? DROP_POLICY_DENY : 0;
}

/*
 * 1. The admin tier, the normal one and the baseline speak in this order; the first that decides is final.
 * 2. The normal tier denies where it is enforced and has no row for the packet; a row of it may pass on.
 * 3. None has decided: allowed.
 * Global, so that the verifier goes through it once, whatever the callers know.
 */
__noinline int judge_side(const struct side *side, __u8 protocol, __be16 port)
{
	int verdict;

	if (!side)
		return DROP_NO_POLICY;
	verdict = judge_tier(side, TIER_ADMIN, protocol, port);
	if (verdict == UNDECIDED)
		verdict = judge_tier(side, TIER_NORMAL, protocol, port);
	if (verdict == UNDECIDED)
		verdict = judge_tier(side, TIER_BASELINE, protocol, port);
	return verdict == UNDECIDED ? 0 : verdict;
}
