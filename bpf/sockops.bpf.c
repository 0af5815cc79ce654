// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Same-node acceleration (--sockops-enable): what one pod of this node writes to a TCP connection with another goes
 * from socket to socket.
 *
 *     handshake ──[veth, from_endpoint: policy, ct, record]──▶ established ──▶ both sockets in `sockets`
 *     write ─▶ admitted still? ─▶ the other end's socket
 *                  └─▶ no, not known, not to be had: the veth pair, for this and all that follows in this direction
 *
 * 1. Nothing is refused here: what policy takes back goes by the veth pair, where it is judged, dropped and recorded.
 * 2. There is no way back. A receiver reads what came from socket to socket first, so what went by the veth pair before
 *    would be overtaken; what goes by it after is not. So a direction begins here only if nothing has gone before.
 * 3. Whether it is admitted the entry of the connection says, by epochs as in shortcut.h; in another one it is judged
 *    anew, here.
 * 4. A socket is a pod's if it has the pod's address in the pod's network namespace. Anybody may have the address
 *    elsewhere.
 */
#include "lib/socket.h"

#define AF_INET6 10

/* Of the kernel's own, those fields that are read; found by its BTF. */
struct sock;
struct inet_connection_sock {
	const void *icsk_ulp_ops;
} __attribute__((preserve_access_index));
struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u32 write_seq;
	__u32 snd_una;
	__u64 bytes_acked;
} __attribute__((preserve_access_index));

/* The SYN counts as a byte. With TCP Fast Open (RFC 7413) there may be more, sent or still to be sent. */
static __always_inline bool has_sent(struct bpf_sock *sk)
{
	struct tcp_sock *tcp = sk ? bpf_skc_to_tcp_sock(sk) : NULL;

	return !tcp || tcp->write_seq != tcp->snd_una || tcp->bytes_acked > 1;
}

/* TLS in the kernel, for one: what is written is not what is to be sent. */
static __always_inline bool has_upper_layer(struct bpf_sock *sk)
{
	struct tcp_sock *tcp = sk ? bpf_skc_to_tcp_sock(sk) : NULL;

	return !tcp || tcp->inet_conn.icsk_ulp_ops;
}

SEC("sockops")
int note_socket(struct bpf_sock_ops *ops)
{
	struct socket_key key = {};

	if (ops->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB && ops->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		return 1;
	if (ops->state != BPF_TCP_ESTABLISHED && ops->state != BPF_TCP_SYN_RECV)
		return 1;
	if (ops->family == AF_INET6) {
		for (int i = 0; i < 4; i++) {
			key.local.w[i] = ops->local_ip6[i];
			key.remote.w[i] = ops->remote_ip6[i];
		}
	} else {
		addr_set_ipv4(&key.local, ops->local_ip4);
		addr_set_ipv4(&key.remote, ops->remote_ip4);
	}
	key.local_port = bpf_htons(ops->local_port);
	key.remote_port = bpf_htons(bpf_ntohl(ops->remote_port));
	if (!is_pod(&key.local, bpf_get_netns_cookie(ops)) || !find_netns(&key.remote) || has_sent(ops->sk))
		return 1;
	bpf_sock_hash_update(ops, &sockets, &key, BPF_ANY);
	return 1;
}

SEC("sk_msg")
int redirect_message(struct sk_msg_md *msg)
{
	struct socket_key key = {}, peer;
	struct stream *stream;

	if (!msg->sk)
		return SK_PASS;
	stream = bpf_sk_storage_get(&streams, msg->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!stream || stream->by_veth)
		return SK_PASS;
	stream->by_veth = 1;
	if (!is_in_force() || has_upper_layer(msg->sk))
		return SK_PASS;
	if (msg->family == AF_INET6) {
		key.local.w[0] = msg->local_ip6[0];
		key.local.w[1] = msg->local_ip6[1];
		key.local.w[2] = msg->local_ip6[2];
		key.local.w[3] = msg->local_ip6[3];
		key.remote.w[0] = msg->remote_ip6[0];
		key.remote.w[1] = msg->remote_ip6[1];
		key.remote.w[2] = msg->remote_ip6[2];
		key.remote.w[3] = msg->remote_ip6[3];
	} else {
		addr_set_ipv4(&key.local, msg->local_ip4);
		addr_set_ipv4(&key.remote, msg->remote_ip4);
	}
	key.local_port = bpf_htons(msg->local_port);
	key.remote_port = bpf_htons(bpf_ntohl(msg->remote_port));
	if (!is_admitted(&key, bpf_get_netns_cookie(msg)))
		return SK_PASS;
	peer.local = key.remote;
	peer.remote = key.local;
	peer.local_port = key.remote_port;
	peer.remote_port = key.local_port;
	if (bpf_msg_redirect_hash(msg, &sockets, &peer, BPF_F_INGRESS) != SK_PASS)
		return SK_PASS; /* without the other end it goes by the veth pair */
	stream->by_veth = 0;
	count_message(EGRESS, msg->size);
	count_message(INGRESS, msg->size);
	return SK_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
