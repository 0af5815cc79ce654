// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The floor: what it costs to hand a packet to another pod of the node and do nothing else about it. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

const volatile __u32 ifindex = 0;
const volatile __u8 macs[2 * ETH_ALEN] = {}; /* of the pod that is handed to, of its gateway */

SEC("tc")
int redirect(struct __sk_buff *skb)
{
	__u8 header[2 * ETH_ALEN], next;

	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return TC_ACT_OK;
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) { /* neighbours are the kernel's */
		if (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, nexthdr), &next, sizeof(next)))
			return TC_ACT_OK;
		if (next == IPPROTO_ICMPV6)
			return TC_ACT_OK;
	}
	for (int i = 0; i < 2 * ETH_ALEN; i++)
		header[i] = macs[i];
	if (bpf_skb_store_bytes(skb, 0, header, sizeof(header), 0))
		return TC_ACT_SHOT;
	return bpf_redirect_peer(ifindex, 0);
}

char _license[] SEC("license") = "Dual BSD/GPL";
