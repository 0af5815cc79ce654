/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The endpoints of this node by address. */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "addr.h"
#include "packet.h"

#define ENDPOINT_AUDITED 1

struct endpoint_key {
	struct addr ip;
};

struct endpoint_value {
	__u32 ifindex; /* of the host's side of the veth pair */
	__u32 identity;
	__u16 endpoint_id;
	__u16 flags;	  /* ENDPOINT_AUDITED */
	__u8 mac[6];	  /* of the pod's side; with node_mac the first 12 bytes of a frame to the pod */
	__u8 node_mac[6]; /* of the host's side */
};

/* key: address of an endpoint of this node. value: where it is and who it is.
 * written by: the agent. read by: every program. full: the agent's write fails and that endpoint stays closed. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct endpoint_key);
	__type(value, struct endpoint_value);
} endpoints SEC(".maps");

/* What src_local or dst_local of its packets are. */
static __always_inline __u8 local_end(const struct endpoint_value *endpoint)
{
	return LOCAL | (endpoint->flags & ENDPOINT_AUDITED ? LOCAL_AUDITED : 0);
}

/* Copies the row: a hash map may reuse an element at once after a removal, under the hands of its readers. */
static __always_inline bool find_endpoint(const struct addr *ip, struct endpoint_value *endpoint)
{
	struct endpoint_key key = {.ip = *ip};
	const struct endpoint_value *found = bpf_map_lookup_elem(&endpoints, &key);

	if (!found)
		return false;
	*endpoint = *found;
	return true;
}
