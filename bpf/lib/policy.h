/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who may speak to whom. A subject's rows lie under a table number that its row in `subjects` names, so that the agent
 * changes all of them at once by writing a new table and then that one row. */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "packet.h"

#define PEER_ANY     0
#define VERDICT_DENY 2

#define SUBJECT_INGRESS_ENFORCED 1
#define SUBJECT_EGRESS_ENFORCED	 2

struct subject_key {
	__u32 identity;
};

struct subject_value {
	__u32 table;	/* where in `policy` its rows are */
	__u32 revision; /* raised at every change that could take a verdict back */
	__u32 flags;	/* SUBJECT_* */
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

/* Most significant first, as the trie compares: 104 bits are always exact (up to the direction), then 8 bits of
 * protocol unless the row is for any, then 0..16 bits of the port. */
struct policy_key {
	__u32 prefix_len;
	__u32 table;
	__u32 subject;
	__u32 peer; /* PEER_ANY: whoever */
	__u8 direction;
	__u8 protocol;
	__be16 port; /* for ICMP the type */
};

struct policy_value {
	__u8 verdict; /* 1 allow, 2 deny */
	__u8 pad[3];
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
	__u8 judged; /* 0: that end is not of this node, nothing to decide here */
};

/* 0: no row. */
static __always_inline __u8 find_verdict(const struct policy_key *key)
{
	const struct policy_value *found = bpf_map_lookup_elem(&policy, key);

	return found ? found->verdict : 0;
}

/*
 * 1. The direction is not enforced: allowed.
 * 2. The longest match for this peer and the longest match for any peer are both looked up; one that denies: denied.
 * 3. One of them allows: allowed.
 * 4. Nothing found: denied.
 */
static __noinline int judge_side(const struct side *side, __u8 protocol, __be16 port)
{
	__u32 enforced = side->direction == EGRESS ? SUBJECT_EGRESS_ENFORCED : SUBJECT_INGRESS_ENFORCED;
	struct policy_key key = {
		.prefix_len = 128,
		.table = side->row.table,
		.subject = side->subject,
		.peer = side->peer,
		.direction = side->direction,
		.protocol = protocol,
		.port = port,
	};
	__u8 by_peer, by_any;

	if (!(side->row.flags & enforced))
		return 0;
	by_peer = find_verdict(&key);
	key.peer = PEER_ANY;
	by_any = find_verdict(&key);
	if (by_peer == VERDICT_DENY || by_any == VERDICT_DENY)
		return DROP_POLICY_DENY;
	return by_peer || by_any ? 0 : DROP_POLICY_DENIED;
}
