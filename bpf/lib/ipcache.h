/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From an address to an identity and, for a pod of another node, the tunnel that leads there. */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "addr.h"

#define IDENTITY_HOST	     1
#define IDENTITY_WORLD	     2
#define IDENTITY_REMOTE_NODE 6
#define IDENTITY_WORLD_IPV6  10

/* Endpoints have these, the reserved ones lie below and those of CIDRs and of nodes above. Of the reserved ones the
 * health endpoint of each node has its own. */
#define IDENTITY_HEALTH	      4
#define IDENTITY_ENDPOINT_MIN 256
#define IDENTITY_ENDPOINT_MAX 65535

/* The upper byte of identities of CIDRs, and of nodes; other nodes are `remote-node` or have one of those. */
#define IDENTITY_SCOPE_CIDR 1
#define IDENTITY_SCOPE_NODE 2

#define FAMILY_BITS 32 /* of a key, before the address */

/* The family is compared first: no prefix of IPv6, as ::/0, has an IPv4 address in it, whatever their form here. */
struct ipcache_key {
	__u32 prefix_len; /* of family and address: FAMILY_BITS more than written, for IPv4 and IPV4_PREFIX_LEN */
	__u32 family;	  /* 4, 6 */
	struct addr ip;
};

struct ipcache_value {
	__u32 identity;
	struct addr tunnel_endpoint; /* zeros: on this node, or reached without a tunnel */
};

/* key: prefix. value: identity and tunnel of the addresses in it; no row: `world`, of IPv6 `world-ipv6`.
 * written by: the agent. read by: every program, after `endpoints` knew nothing. full: the agent's write fails, and
 * addresses without a row are `world`. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 524288);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ipcache_key);
	__type(value, struct ipcache_value);
} ipcache SEC(".maps");

static __always_inline bool is_endpoint_identity(__u32 identity)
{
	return identity == IDENTITY_HEALTH || (identity >= IDENTITY_ENDPOINT_MIN && identity <= IDENTITY_ENDPOINT_MAX);
}

static __always_inline bool is_remote_node(__u32 identity)
{
	return identity == IDENTITY_REMOTE_NODE || identity >> 24 == IDENTITY_SCOPE_NODE;
}

static __always_inline bool is_world(__u32 identity)
{
	return identity == IDENTITY_WORLD || identity == IDENTITY_WORLD_IPV6;
}

/* Matches the longest prefix that the address is in. */
static __always_inline struct ipcache_key ipcache_key_of(const struct addr *ip)
{
	struct ipcache_key key = {.prefix_len = FAMILY_BITS + 128, .family = addr_is_ipv4(ip) ? 4 : 6, .ip = *ip};

	return key;
}

static __always_inline struct ipcache_value find_ipcache(const struct addr *ip)
{
	struct ipcache_key key = ipcache_key_of(ip);
	const struct ipcache_value *found = bpf_map_lookup_elem(&ipcache, &key);
	struct ipcache_value world = {.identity = addr_is_ipv4(ip) ? IDENTITY_WORLD : IDENTITY_WORLD_IPV6};

	return found ? *found : world;
}
