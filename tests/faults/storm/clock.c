/* Preloaded into a process: its wall clock is the machine's plus the nanoseconds in the file that KILIM_LAB_CLOCK names.
 *
 * What waits until a time of day must be moved back, for the kernel's clock has not moved: Abseil, in gRPC, calls
 * futex(2) so. glibc's own waits go past us, so a timed wait of theirs on the wall clock would be off by the offset.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS 1000000000LL

static const volatile int64_t *offset_ns;
static int64_t none;

__attribute__((constructor)) static void map_offset(void)
{
	const char *path = getenv("KILIM_LAB_CLOCK");
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	void *page = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);

	if (fd >= 0)
		close(fd);
	offset_ns = page == MAP_FAILED ? &none : page;
}

static int64_t offset(void)
{
	return offset_ns ? *offset_ns : 0;
}

static void shift(struct timespec *ts, int64_t by_ns)
{
	int64_t ns = ts->tv_sec * SECOND_NS + ts->tv_nsec + by_ns;

	ts->tv_sec = ns / SECOND_NS;
	ts->tv_nsec = ns % SECOND_NS;
}

int clock_gettime(clockid_t clock, struct timespec *ts)
{
	static int (*next)(clockid_t, struct timespec *);
	int result;

	if (!next)
		next = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
	result = next(clock, ts);
	if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		shift(ts, offset());
	return result;
}

int gettimeofday(struct timeval *tv, void *zone)
{
	struct timespec ts;

	(void)zone;
	if (clock_gettime(CLOCK_REALTIME, &ts))
		return -1;
	tv->tv_sec = ts.tv_sec;
	tv->tv_usec = ts.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *result)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	if (result)
		*result = ts.tv_sec;
	return ts.tv_sec;
}

long syscall(long number, ...)
{
	static long (*next)(long, ...);
	struct timespec moved;
	long a[6];
	va_list args;

	va_start(args, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(args, long);
	va_end(args);
	if (!next)
		next = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
	if (number == SYS_futex && (a[1] & FUTEX_CLOCK_REALTIME) && (a[1] & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET && a[3]) {
		moved = *(const struct timespec *)a[3];
		shift(&moved, -offset());
		a[3] = (long)&moved;
	}
	return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
