// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The floor: what it costs to hand a packet on and do nothing else about it. */
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

const volatile __u32 ifindex = 0;
const volatile __u8 macs[2 * ETH_ALEN] = {}; /* of the pod that is handed to, of its gateway */

/* Neighbours are the kernel's. */
static __always_inline bool is_for_kernel(struct __sk_buff *skb)
{
	__u8 next;

	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return true;
	if (skb->protocol != bpf_htons(ETH_P_IPV6))
		return false;
	if (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, nexthdr), &next, sizeof(next)))
		return true;
	return next == IPPROTO_ICMPV6;
}

/* To the pod at the other end of the cable `ifindex`. */
SEC("tc")
int to_pod(struct __sk_buff *skb)
{
	__u8 header[2 * ETH_ALEN];

	if (is_for_kernel(skb))
		return TC_ACT_OK;
	for (int i = 0; i < 2 * ETH_ALEN; i++)
		header[i] = macs[i];
	if (bpf_skb_store_bytes(skb, 0, header, sizeof(header), 0))
		return TC_ACT_SHOT;
	return bpf_redirect_peer(ifindex, 0);
}

/* To the next hop, by the device `ifindex`. */
SEC("tc")
int to_wire(struct __sk_buff *skb)
{
	return is_for_kernel(skb) ? TC_ACT_OK : bpf_redirect_neigh(ifindex, NULL, 0, 0);
}

char _license[] SEC("license") = "Dual BSD/GPL";
