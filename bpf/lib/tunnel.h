/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The outer header of a packet in the tunnel: the sender's identity as VNI, and the address of the other node, of
 * either family, whatever the family of the packet within. */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "addr.h"

/* Returns 0 or an error. */
static __always_inline long set_tunnel(struct __sk_buff *skb, __u32 identity, const struct addr *to)
{
	struct bpf_tunnel_key key = {.tunnel_id = identity, .tunnel_ttl = 64};
	__u64 flags = BPF_F_ZERO_CSUM_TX | BPF_F_DONT_FRAGMENT;

	if (addr_is_ipv4(to)) {
		key.remote_ipv4 = bpf_ntohl(to->w[3]);
	} else {
		__builtin_memcpy(key.remote_ipv6, to->w, sizeof(to->w));
		flags = BPF_F_TUNINFO_IPV6; /* without a checksum IPv6 takes no UDP (RFC 8200, 8.1) */
	}
	return bpf_skb_set_tunnel_key(skb, &key, sizeof(key), flags);
}

/* Returns 0 or an error: the packet has come by no tunnel. */
static __always_inline long read_tunnel(struct __sk_buff *skb, __u32 *identity, struct addr *from)
{
	struct bpf_tunnel_key key = {};

	if (!bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0))
		addr_set_ipv4(from, bpf_htonl(key.remote_ipv4));
	else if (!bpf_skb_get_tunnel_key(skb, &key, sizeof(key), BPF_F_TUNINFO_IPV6))
		__builtin_memcpy(from->w, key.remote_ipv6, sizeof(from->w));
	else
		return -1;
	*identity = key.tunnel_id;
	return 0;
}
