// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What BPF_PROG_TEST_RUN does not do by itself: give a packet the tunnel that it came from. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

struct origin {
	struct bpf_tunnel_key key;
	__u64 flags;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct origin);
} origin SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} next SEC(".maps");

SEC("tc")
int out_of_tunnel(struct __sk_buff *skb)
{
	struct origin *from = bpf_map_lookup_elem(&origin, &(__u32){0});
	struct bpf_tunnel_key key;

	if (!from)
		return TC_ACT_UNSPEC;
	key = from->key;
	if (bpf_skb_set_tunnel_key(skb, &key, sizeof(key), from->flags & BPF_F_TUNINFO_IPV6))
		return TC_ACT_UNSPEC;
	bpf_tail_call(skb, &next, 0);
	return TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "Dual BSD/GPL";
