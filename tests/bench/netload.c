/* Latency load between two pods: one transaction at a time, both ends pinned to
 * one CPU, percentiles as JSON.
 *
 *   netload tcp|udp|sink HOST PORT CPU SECONDS   serves at this address: echo, or
 *                                                a byte for each MiB; ends by itself
 *   netload rr|crr|udp_rr|bulk HOST PORT CPU SECONDS
 * rr: one byte there and back; crr: connect, one rr, reset; bulk: a MiB there, a
 * byte back
 *
 * HOST: an address of either family.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define MAX_SAMPLES 4000000
#define MIB	    (1 << 20)
#define PIECE	    65536

static uint32_t *samples;
static size_t count;

static struct sockaddr_storage host;
static socklen_t host_len;

static void die(const char *what)
{
	fprintf(stderr, "netload: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("sched_setaffinity");
}

static void set_timeout(int fd, int seconds)
{
	struct timeval tv = {.tv_sec = seconds};

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static double percentile(double p)
{
	return samples[(size_t)((count - 1) * p)] / 1000.0;
}

static void record(int64_t ns)
{
	if (count < MAX_SAMPLES)
		samples[count++] = ns > UINT32_MAX ? UINT32_MAX : (uint32_t)ns;
}

static void report(double seconds)
{
	if (!count) {
		fprintf(stderr, "netload: no transaction succeeded\n");
		exit(1);
	}
	qsort(samples, count, sizeof(*samples), compare);
	printf("{\"transactions\": %zu, \"per_second\": %.0f, \"p50_us\": %.2f, "
	       "\"p90_us\": %.2f, \"p99_us\": %.2f}\n",
	       count, count / seconds, percentile(0.5), percentile(0.9), percentile(0.99));
}

static void exchange(int fd)
{
	char byte = 'k';

	if (write(fd, &byte, 1) != 1)
		die("write");
	if (read(fd, &byte, 1) != 1)
		die("read");
}

static int parse_host(const char *ip, int port)
{
	struct sockaddr_in *ipv4 = (struct sockaddr_in *)&host;
	struct sockaddr_in6 *ipv6 = (struct sockaddr_in6 *)&host;

	if (inet_pton(AF_INET, ip, &ipv4->sin_addr) == 1) {
		ipv4->sin_family = AF_INET;
		ipv4->sin_port = htons(port);
		host_len = sizeof(*ipv4);
		return 1;
	}
	ipv6->sin6_family = AF_INET6;
	ipv6->sin6_port = htons(port);
	host_len = sizeof(*ipv6);
	return inet_pton(AF_INET6, ip, &ipv6->sin6_addr) == 1;
}

static int dial(int type)
{
	int fd = socket(host.ss_family, type, 0), one = 1;

	if (fd < 0)
		die("socket");
	set_timeout(fd, 3);
	if (type == SOCK_STREAM)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(fd, (const struct sockaddr *)&host, host_len))
		die("connect");
	return fd;
}

static void run_rr(int type, int64_t end)
{
	int fd = dial(type);

	for (int i = 0; i < 200; i++)
		exchange(fd);
	for (int64_t start = now_ns(); start < end; start = now_ns()) {
		exchange(fd);
		record(now_ns() - start);
	}
	close(fd);
}

static void run_crr(int64_t end)
{
	struct linger reset = {.l_onoff = 1, .l_linger = 0};

	for (int64_t start = now_ns(); start < end; start = now_ns()) {
		int fd = dial(SOCK_STREAM);

		exchange(fd);
		record(now_ns() - start);
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		close(fd);
	}
}

static void run_bulk(int64_t end)
{
	static char piece[PIECE];
	int fd = dial(SOCK_STREAM);

	for (int64_t start = now_ns(); start < end; start = now_ns()) {
		for (int sent = 0; sent < MIB; sent += PIECE)
			if (write(fd, piece, PIECE) != PIECE)
				die("write");
		if (read(fd, piece, 1) != 1)
			die("read");
		record(now_ns() - start);
	}
	close(fd);
}

static void serve_sink(int fd, int64_t end)
{
	static char piece[PIECE];

	if (listen(fd, 128))
		die("listen");
	set_timeout(fd, 1);
	while (now_ns() < end) {
		int conn = accept(fd, NULL, NULL);
		long got = 0, more;

		if (conn < 0)
			continue;
		set_timeout(conn, 1);
		while ((more = read(conn, piece, PIECE)) > 0)
			if ((got += more) >= MIB) {
				got -= MIB;
				if (write(conn, piece, 1) != 1)
					break;
			}
		close(conn);
	}
}

static void serve_tcp(int fd, int64_t end)
{
	if (listen(fd, 128))
		die("listen");
	set_timeout(fd, 1);
	while (now_ns() < end) {
		char byte;
		int one = 1, conn = accept(fd, NULL, NULL);

		if (conn < 0)
			continue;
		set_timeout(conn, 1);
		setsockopt(conn, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		while (read(conn, &byte, 1) == 1 && write(conn, &byte, 1) == 1)
			;
		close(conn);
	}
}

static void serve_udp(int fd, int64_t end)
{
	set_timeout(fd, 1);
	while (now_ns() < end) {
		struct sockaddr_storage from;
		socklen_t len = sizeof(from);
		char byte;

		if (recvfrom(fd, &byte, 1, 0, (struct sockaddr *)&from, &len) == 1)
			sendto(fd, &byte, 1, 0, (struct sockaddr *)&from, len);
	}
}

static void serve(const char *mode, int64_t end)
{
	int type = strcmp(mode, "udp") ? SOCK_STREAM : SOCK_DGRAM;
	int fd = socket(host.ss_family, type, 0), one = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || bind(fd, (struct sockaddr *)&host, host_len))
		die("bind");
	if (type == SOCK_DGRAM)
		serve_udp(fd, end);
	else if (!strcmp(mode, "sink"))
		serve_sink(fd, end);
	else
		serve_tcp(fd, end);
}

static void load(const char *mode, int64_t end)
{
	samples = malloc(MAX_SAMPLES * sizeof(*samples));
	if (!samples)
		die("malloc");
	if (!strcmp(mode, "crr"))
		run_crr(end);
	else if (!strcmp(mode, "bulk"))
		run_bulk(end);
	else
		run_rr(strcmp(mode, "rr") ? SOCK_DGRAM : SOCK_STREAM, end);
}

int main(int argc, char **argv)
{
	double seconds;
	int64_t end;

	if (argc != 6 || !parse_host(argv[2], atoi(argv[3]))) {
		fprintf(stderr, "usage: netload tcp|udp|sink|rr|crr|udp_rr|bulk HOST PORT CPU SECONDS\n");
		return 2;
	}
	pin(atoi(argv[4]));
	seconds = atof(argv[5]);
	end = now_ns() + (int64_t)(seconds * 1e9);
	if (!strcmp(argv[1], "tcp") || !strcmp(argv[1], "udp") || !strcmp(argv[1], "sink")) {
		serve(argv[1], end);
		return 0;
	}
	load(argv[1], end);
	report(seconds);
	return 0;
}
