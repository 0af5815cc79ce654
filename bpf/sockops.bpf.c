// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Same-node acceleration (--sockops-enable): what one pod of this node writes to a TCP connection with another goes
 * from socket to socket.
 *
 *     handshake ──[veth, from_endpoint: policy, ct, record]──▶ established ──▶ both sockets in `sockets`
 *     write ─▶ admitted still, and room at the other end? ─▶ the other end's socket
 *                  └─▶ no: the veth pair, as all that this end writes from then on
 *
 * 1. Nothing is refused here: what policy takes back goes by the veth pair, where it is judged, dropped and recorded.
 * 2. A receiver reads what came from socket to socket first, and who waits for the rest of what came by the veth pair
 *    (MSG_WAITALL) looks for nothing else. So after the first byte by the veth pair, or the end of what is sent
 *    (shutdown), nothing of the same direction goes from socket to socket.
 * 3. Whether it is admitted the entry of the connection says, by epochs as in shortcut.h; in another one it is judged
 *    anew, here.
 * 4. The kernel holds nobody back who writes to another socket's queue: more than UNREAD_MAX, and it goes by the veth
 *    pair, where TCP does.
 * 5. A socket is a pod's if it has the pod's address in the pod's network namespace. Anybody may have the address
 *    elsewhere.
 */
#include <bpf/bpf_core_read.h>

#include "lib/socket.h"

#define AF_INET6   10
#define UNREAD_MAX (1 << 20) /* bytes, as the kernel counts them */

/* Of the kernel's own, those fields that are read; found by its BTF. */
typedef struct {
	int counter;
} atomic_t;
struct sock {
	struct {
		atomic_t rmem_alloc;
	} sk_backlog;
} __attribute__((preserve_access_index));
struct inet_connection_sock {
	const void *icsk_ulp_ops;
} __attribute__((preserve_access_index));
struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u32 write_seq;
	__u32 snd_una;
	__u64 bytes_acked;
} __attribute__((preserve_access_index));

/* By the veth pair, or is still to. A FIN counts as a byte. `acked`: before that. */
static __always_inline bool has_sent(const struct tcp_sock *own, __u64 acked)
{
	return own->write_seq != own->snd_una || own->bytes_acked != acked;
}

/* Whether the other end has room. It is a number that the kernel knows the socket by, which may be gone by now: then
 * what is read is nonsense, and there is none in `sockets`. */
static __always_inline bool takes_more(__u64 peer)
{
	__u32 unread = BPF_CORE_READ((struct sock *)peer, sk_backlog.rmem_alloc.counter);

	return unread <= UNREAD_MAX;
}

SEC("sockops")
int note_socket(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;
	struct socket_key key = {};
	const struct tcp_sock *own;
	struct stream *stream;
	__u64 number;

	if (ops->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB && ops->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
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
	if (!is_pod(&key.local, bpf_get_netns_cookie(ops)) || !find_netns(&key.remote) || !sk)
		return 1;
	own = bpf_skc_to_tcp_sock(sk);
	/* The SYN counts as a byte. With TCP Fast Open (RFC 7413) there may be more, sent or still to be sent. */
	if (!own || own->bytes_acked > 1 || has_sent(own, own->bytes_acked))
		return 1;
	stream = bpf_sk_storage_get(&streams, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!stream)
		return 1;
	stream->key = key;
	stream->acked = own->bytes_acked;
	number = (__u64)own;
	bpf_map_update_elem(&numbers, &key, &number, BPF_ANY);
	bpf_sock_hash_update(ops, &sockets, &key, BPF_ANY);
	return 1;
}

SEC("sk_msg")
int redirect_message(struct sk_msg_md *msg)
{
	struct bpf_sock *sk = msg->sk;
	const struct tcp_sock *own;
	struct socket_key peer;
	struct stream *stream;
	const __u64 *number;

	if (!sk)
		return SK_PASS;
	stream = bpf_sk_storage_get(&streams, sk, NULL, 0);
	own = bpf_skc_to_tcp_sock(sk);
	/* What TLS in the kernel, for one, is given to write is not what it sends. */
	if (!stream || !own || own->inet_conn.icsk_ulp_ops || has_sent(own, stream->acked))
		return SK_PASS;
	peer.local = stream->key.remote;
	peer.remote = stream->key.local;
	peer.local_port = stream->key.remote_port;
	peer.remote_port = stream->key.local_port;
	number = bpf_map_lookup_elem(&numbers, &peer);
	if (!number || !takes_more(*number) || !is_in_force() || !is_admitted(&stream->key, bpf_get_netns_cookie(msg)))
		return SK_PASS;
	if (bpf_msg_redirect_hash(msg, &sockets, &peer, BPF_F_INGRESS) != SK_PASS)
		return SK_PASS; /* the other end is gone */
	count_message(EGRESS, msg->size);
	count_message(INGRESS, msg->size);
	return SK_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
