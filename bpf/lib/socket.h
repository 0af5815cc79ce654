/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Sockets of pods of this node that write to one another (sockops.bpf.c). */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "addr.h"
#include "counters.h"
#include "ct.h"
#include "endpoints.h"
#include "policy.h"
#include "settings.h"

/* A connection as one of its ends sees it. */
struct socket_key {
	struct addr local;
	struct addr remote;
	__be16 local_port;
	__be16 remote_port;
};

/* key: above. value: the socket. written by: note_socket. read by: redirect_message. full: the connection goes by the
 * veth pair. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 65535);
	__type(key, struct socket_key);
	__type(value, __u64);
} sockets SEC(".maps");

/* key: above. value: the number that the kernel knows that socket by.
 * written by: note_socket. read by: redirect_message of the other end. full: the least recently used goes, and what is
 * written to that socket goes by the veth pair. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct socket_key);
	__type(value, __u64);
} numbers SEC(".maps");

struct stream {
	struct socket_key key;
	__u64 acked; /* bytes, when it was established */
};

/* key: a socket. value: above, its key in `sockets` first. written by: note_socket. read by: redirect_message. full:
 * goes by the veth pair. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct stream);
} streams SEC(".maps");

struct netns_key {
	struct addr ip;
};

struct netns_value {
	__u64 cookie; /* as SO_NETNS_COOKIE says it */
};

/* key: address of a pod of this node. value: its network namespace.
 * written by: the agent. read by: note_socket, redirect_message. full: the agent's write fails; connections of that pod
 * go by the veth pair. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct netns_key);
	__type(value, struct netns_value);
} pod_netns SEC(".maps");

/* key: 0. value: which programs may go from socket to socket; 0: none. A socket keeps the program that it came into
 * `sockets` with, also when others follow, which may write to other maps.
 * written by: the agent. read by: redirect_message. full: cannot be. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} sockops_force SEC(".maps");

static __always_inline bool is_in_force(void)
{
	const volatile __u32 *force = bpf_map_lookup_elem(&sockops_force, &(__u32){0});

	return force && sockops_version && *force == sockops_version;
}

static __always_inline const struct netns_value *find_netns(const struct addr *ip)
{
	struct netns_key key = {.ip = *ip};

	return bpf_map_lookup_elem(&pod_netns, &key);
}

static __always_inline bool is_pod(const struct addr *ip, __u64 cookie)
{
	const struct netns_value *netns = find_netns(ip);

	return netns && netns->cookie == cookie;
}

/* One side's consent, given or given again at the side's present revision. */
static __always_inline bool consents_still(struct ct_verdict *verdict, __u32 subject, __u32 peer, __u8 direction,
					   __be16 port)
{
	struct subject_key key = {.identity = subject};
	const struct subject_value *row = bpf_map_lookup_elem(&subjects, &key);
	struct side side = {.subject = subject, .peer = peer, .direction = direction, .judged = LOCAL};

	if (!row || verdict->subject != subject || verdict->peer != peer)
		return false;
	side.row = *row;
	if (side.row.flags & SUBJECT_UNKNOWN)
		return false;
	if (verdict->revision == side.row.revision)
		return true;
	if (judge_side(&side, IPPROTO_TCP, port))
		return false;
	verdict->revision = side.row.revision;
	return true;
}

/* Whether both ends, pods of this node, consent in this epoch too. */
static __always_inline bool is_admitted_anew(struct ct_entry *entry, const struct socket_key *key, bool initiator,
					     __u32 epoch)
{
	__be16 port = initiator ? key->remote_port : key->local_port;
	struct endpoint_value local, remote;
	__u32 from, to;

	if (!find_endpoint(&key->local, &local) || !find_endpoint(&key->remote, &remote) ||
	    (local.flags | remote.flags) & ENDPOINT_AUDITED)
		return false;
	from = initiator ? local.identity : remote.identity;
	to = initiator ? remote.identity : local.identity;
	if (!consents_still(&entry->verdicts[EGRESS], from, to, EGRESS, port) ||
	    !consents_still(&entry->verdicts[INGRESS], to, from, INGRESS, port))
		return false;
	entry->epoch = epoch;
	return true;
}

/* Only what both ends have consented to as ends of this node. Keeps the connection alive. `cookie`: of the socket's
 * network namespace, which outlives its pod where somebody holds it: the entry may be of who has the address now. */
static __always_inline bool is_admitted(const struct socket_key *key, __u64 cookie)
{
	__u32 epoch = current_epoch(EPOCH_NODE), now = clock_ticks();
	struct ct_entry *entry;
	struct ct_key ends = {};
	bool initiator;

	initiator = ct_key_of(&ends, &key->local, &key->remote, key->local_port, key->remote_port, IPPROTO_TCP);
	entry = bpf_map_lookup_elem(&ct, &ends);
	if (!is_pod(&key->local, cookie) || !entry || !epoch || entry->expires <= now || entry->audited ||
	    ct_closing(entry))
		return false;
	initiator = initiator == entry->initiator;
	if (!entry->verdicts[EGRESS].subject || !entry->verdicts[INGRESS].subject)
		return false;
	if (entry->epoch != epoch && !is_admitted_anew(entry, key, initiator, epoch))
		return false;
	ct_touch(entry, IPPROTO_TCP, 0, !initiator, now);
	return true;
}

/* What goes from socket to socket counts as a packet each time. Packets may interrupt this where they are counted. */
static __always_inline void count_message(__u32 direction, __u64 bytes)
{
	__u32 key = FORWARDED * 2 + direction;
	struct metric_value *value = bpf_map_lookup_elem(&metrics, &key);

	if (!value)
		return;
	__sync_fetch_and_add(&value->packets, 1);
	__sync_fetch_and_add(&value->bytes, bytes);
}
