/* nbdkeep: attaches a kernel NBD device and keeps it attached.
 *
 * What nbd-client before 3.27 cannot do: it gives the kernel a dead-connection timeout, stays
 * resident (locked in memory, marked as part of the I/O path) and hands the kernel a new socket when
 * one dies, so that I/O waits for the server to come back instead of failing.
 *
 *   nbdkeep --host 10.0.2.2 --port 10809 --dev 0 [--name EXPORT] [--connections 1]
 *           [--block-size 4096] [--timeout 3] [--dead-timeout 120] [--retry-ms 200]
 *
 * IPv4 literal address, no libraries.  Ends with 0 once the device is up (the resident part stays
 * behind), with 1 on failure.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/genetlink.h>
#include <linux/nbd-netlink.h>
#include <linux/netlink.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif
#ifndef SOL_NETLINK
#define SOL_NETLINK 270
#endif
#define MAXCONN 16

static const char *host = "10.0.2.2", *name = "";
static int port = 10809, devno, nconn = 1;
static uint64_t block_size = 4096, timeout_s = 3, dead_s = 120;
static unsigned retry_ms = 200;

static int kmsg = -1;
static uint64_t exp_size;
static uint16_t exp_flags;

static uint64_t now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000ull + t.tv_nsec / 1000000;
}

static void nap(unsigned ms)
{
	struct timespec t = { ms / 1000, (ms % 1000) * 1000000L };
	nanosleep(&t, NULL);
}

/* One short line to stderr at first, to the kernel log once resident. */
static void note(const char *fmt, ...)
{
	char b[256];
	va_list ap;
	int n = snprintf(b, sizeof b, "<5>nbdkeep: nbd%d: ", devno);
	va_start(ap, fmt);
	n += vsnprintf(b + n, sizeof b - n - 1, fmt, ap);
	va_end(ap);
	if (n > (int)sizeof b - 2) n = sizeof b - 2;
	b[n++] = '\n';
	if (kmsg >= 0) { if (write(kmsg, b, n)) {} }
	else if (write(2, b + 3, n - 3)) {}
}

/* ---- NBD negotiation ------------------------------------------------------ */

static int rd(int fd, void *p, size_t n)
{
	char *c = p;
	while (n) {
		ssize_t r = recv(fd, c, n, 0);
		if (r <= 0) { if (r < 0 && errno == EINTR) continue; return -1; }
		c += r; n -= r;
	}
	return 0;
}

static int wr(int fd, const void *p, size_t n)
{
	const char *c = p;
	while (n) {
		ssize_t r = send(fd, c, n, MSG_NOSIGNAL);
		if (r < 0) { if (errno == EINTR) continue; return -1; }
		c += r; n -= r;
	}
	return 0;
}

static int negotiate(int fd, uint64_t *size, uint16_t *flags)
{
	struct { uint64_t magic, opt; uint16_t hs; } __attribute__((packed)) hello;
	struct { uint64_t magic; uint32_t opt, type, len; } __attribute__((packed)) rep;
	static unsigned char buf[4096];
	uint32_t cflags, nl = strlen(name);

	if (rd(fd, &hello, sizeof hello)) return -1;
	if (be64toh(hello.magic) != 0x4e42444d41474943ull ||
	    be64toh(hello.opt) != 0x49484156454f5054ull) { errno = EPROTO; return -1; }
	cflags = htobe32((be16toh(hello.hs) & 2) | 1);
	if (wr(fd, &cflags, 4)) return -1;

	unsigned char *p = buf;
	uint64_t m = htobe64(0x49484156454f5054ull);
	uint32_t o = htobe32(7), l = htobe32(4 + nl + 2), n = htobe32(nl);
	uint16_t none = 0;	/* no information asked for: the size comes unasked */
	memcpy(p, &m, 8); memcpy(p + 8, &o, 4); memcpy(p + 12, &l, 4);
	memcpy(p + 16, &n, 4); memcpy(p + 20, name, nl);
	memcpy(p + 20 + nl, &none, 2);
	if (wr(fd, buf, 22 + nl)) return -1;
	int have = 0;
	for (;;) {
		if (rd(fd, &rep, sizeof rep)) return -1;
		uint32_t type = be32toh(rep.type), len = be32toh(rep.len);
		if (be64toh(rep.magic) != 0x3e889045565a9ull || len > sizeof buf) {
			errno = EPROTO;
			return -1;
		}
		if (rd(fd, buf, len)) return -1;
		if (type & 0x80000000u) { errno = EREMOTEIO; return -1; }
		if (type == 1) break;			/* NBD_REP_ACK */
		if (type != 3 || len < 2) continue;	/* NBD_REP_INFO */
		uint16_t it;
		memcpy(&it, buf, 2);
		if (be16toh(it) == 0 && len >= 12) {
			memcpy(size, buf + 2, 8); *size = be64toh(*size);
			memcpy(flags, buf + 10, 2); *flags = be16toh(*flags);
			have = 1;
		}
	}
	if (!have) { errno = EPROTO; return -1; }
	return 0;
}

/* A negotiated socket, or -1.  Never blocks for more than about 3 s a step. */
static int dial(uint64_t *size, uint16_t *flags)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct timeval tv = { 3, 0 }, zero = { 0, 0 };
	int one = 1, fd;

	if (!inet_aton(host, &a.sin_addr)) { errno = EINVAL; return -1; }
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0) return -1;
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);	/* connect() too */
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (connect(fd, (struct sockaddr *)&a, sizeof a) || negotiate(fd, size, flags)) {
		int e = errno;
		close(fd);
		errno = e;
		return -1;
	}
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &zero, sizeof zero);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &zero, sizeof zero);
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
	return fd;
}

/* ---- generic netlink --------------------------------------------------------- */

static int nl = -1;
static uint16_t fam;
static uint32_t group;
static char msg[4096], ans[8192];
static unsigned mlen;

static void put(int type, const void *d, unsigned n)
{
	struct nlattr a = { .nla_len = NLA_HDRLEN + n, .nla_type = type };
	memcpy(msg + mlen, &a, sizeof a);
	memcpy(msg + mlen + NLA_HDRLEN, d, n);
	memset(msg + mlen + NLA_HDRLEN + n, 0, NLA_ALIGN(n) - n);
	mlen += NLA_HDRLEN + NLA_ALIGN(n);
}
static void put32(int t, uint32_t v) { put(t, &v, 4); }
static void put64(int t, uint64_t v) { put(t, &v, 8); }

static void begin(uint16_t family, uint8_t cmd, uint8_t version)
{
	struct genlmsghdr g = { .cmd = cmd, .version = version };
	memset(msg, 0, NLMSG_HDRLEN);
	((struct nlmsghdr *)msg)->nlmsg_type = family;
	memcpy(msg + NLMSG_HDRLEN, &g, sizeof g);
	mlen = NLMSG_HDRLEN + GENL_HDRLEN;
}

/* Send and wait for the acknowledgement; 0 or -errno.  Any reply data stays
 * in ans (the first message that is not an ack). */
static int talk(void)
{
	static uint32_t seq;
	struct sockaddr_nl to = { .nl_family = AF_NETLINK };
	struct nlmsghdr *h = (struct nlmsghdr *)msg;
	static char in[8192];

	h->nlmsg_len = mlen;
	h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	h->nlmsg_seq = ++seq;
	ans[0] = ans[1] = ans[2] = ans[3] = 0;
	if (sendto(nl, msg, mlen, 0, (struct sockaddr *)&to, sizeof to) < 0) return -errno;
	for (;;) {
		int n = recv(nl, in, sizeof in, 0);
		if (n < 0) { if (errno == EINTR) continue; return -errno; }
		for (struct nlmsghdr *r = (struct nlmsghdr *)in; NLMSG_OK(r, (unsigned)n);
		     r = NLMSG_NEXT(r, n)) {
			if (r->nlmsg_seq != seq) continue;	/* a multicast */
			if (r->nlmsg_type == NLMSG_ERROR)
				return ((struct nlmsgerr *)NLMSG_DATA(r))->error;
			if (r->nlmsg_len <= sizeof ans) memcpy(ans, r, r->nlmsg_len);
		}
	}
}

static int nl_open(void)
{
	struct sockaddr_nl me = { .nl_family = AF_NETLINK };
	nl = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
	if (nl < 0 || bind(nl, (struct sockaddr *)&me, sizeof me)) return -errno;
	begin(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 1);
	put(CTRL_ATTR_FAMILY_NAME, NBD_GENL_FAMILY_NAME, sizeof NBD_GENL_FAMILY_NAME);
	int e = talk();
	if (e) return e;
	struct nlmsghdr *h = (struct nlmsghdr *)ans;
	char *p = (char *)NLMSG_DATA(h) + GENL_HDRLEN, *end = ans + h->nlmsg_len;
	for (; p + NLA_HDRLEN <= end; p += NLA_ALIGN(((struct nlattr *)p)->nla_len)) {
		struct nlattr *a = (struct nlattr *)p;
		if (a->nla_type == CTRL_ATTR_FAMILY_ID) memcpy(&fam, p + NLA_HDRLEN, 2);
		if ((a->nla_type & NLA_TYPE_MASK) == CTRL_ATTR_MCAST_GROUPS) {
			/* one group: nest of { nest of { name, id } } */
			char *q = p + 2 * NLA_HDRLEN, *qe = p + a->nla_len;
			for (; q + NLA_HDRLEN <= qe; q += NLA_ALIGN(((struct nlattr *)q)->nla_len))
				if (((struct nlattr *)q)->nla_type == CTRL_ATTR_MCAST_GRP_ID)
					memcpy(&group, q + NLA_HDRLEN, 4);
		}
	}
	return fam ? 0 : -ENOENT;
}

static int nl_sockets(uint8_t cmd, const int *fds, int n)
{
	begin(fam, cmd, NBD_GENL_VERSION);
	put32(NBD_ATTR_INDEX, devno);
	if (cmd == NBD_CMD_CONNECT) {
		put64(NBD_ATTR_SIZE_BYTES, exp_size);
		put64(NBD_ATTR_BLOCK_SIZE_BYTES, block_size);
		put64(NBD_ATTR_SERVER_FLAGS, exp_flags);
		if (timeout_s) put64(NBD_ATTR_TIMEOUT, timeout_s);
		if (dead_s) put64(NBD_ATTR_DEAD_CONN_TIMEOUT, dead_s);
	}
	unsigned at = mlen;
	mlen += NLA_HDRLEN;
	for (int i = 0; i < n; i++) {
		struct nlattr it = { .nla_len = 2 * NLA_HDRLEN + 4, .nla_type = NBD_SOCK_ITEM };
		memcpy(msg + mlen, &it, sizeof it);
		mlen += NLA_HDRLEN;
		put32(NBD_SOCK_FD, fds[i]);
	}
	struct nlattr nest = { .nla_len = mlen - at, .nla_type = NBD_ATTR_SOCKETS };
	memcpy(msg + at, &nest, sizeof nest);
	return talk();
}

/* ---- the resident part --------------------------------------------------------- */

static int device_up(void)
{
	char p[64];
	snprintf(p, sizeof p, "/sys/block/nbd%d/pid", devno);
	return access(p, F_OK) == 0;
}

/* The kernel silently ignores a new socket while it believes all of its own
 * are alive.  It sets the send timeout on a socket it takes: that is how we
 * know (needs --timeout > 0). */
static int taken(int fd)
{
	struct timeval tv = { 0, 0 };
	socklen_t l = sizeof tv;
	if (!timeout_s) return 1;
	return getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, &l) == 0 && (tv.tv_sec || tv.tv_usec);
}

static int renew(int fd_old, int i)
{
	uint64_t t0 = now_ms(), last = 0;
	unsigned tries = 0;

	note("connection %d is dead, reconnecting", i);
	for (;;) {
		uint64_t size = 0;
		uint16_t flags = 0;
		if (!device_up()) { note("device is gone"); exit(0); }
		tries++;
		int fd = dial(&size, &flags);
		if (fd < 0) {
			if (now_ms() - last > 5000) {
				note("still trying (%u tries, %s)", tries, strerror(errno));
				last = now_ms();
			}
			nap(retry_ms);
			continue;
		}
		if (size != exp_size || flags != exp_flags) {
			note("server came back different (size %llu flags 0x%x), refused",
			     (unsigned long long)size, flags);
			close(fd);
			nap(1000);
			continue;
		}
		int e = 0;
		for (int k = 0; k < 200; k++) {		/* until the kernel sees it too */
			e = nl_sockets(NBD_CMD_RECONFIGURE, &fd, 1);
			if (e || taken(fd)) break;
			nap(10);
		}
		if (!e && taken(fd)) {
			close(fd_old);
			note("connection %d is back after %llu ms (%u tries)", i,
			     (unsigned long long)(now_ms() - t0), tries);
			return fd;
		}
		note("RECONFIGURE: %s", e ? strerror(-e) : "socket not taken");
		close(fd);
		if (e == -EINVAL && !device_up()) exit(0);
		nap(retry_ms);
	}
}

int main(int argc, char **argv)
{
	int fds[MAXCONN];

	for (int i = 1; i < argc; i++) {
		const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : "0";
		i++;
		if (!strcmp(a, "--host")) host = v;
		else if (!strcmp(a, "--name")) name = v;
		else if (!strcmp(a, "--port")) port = atoi(v);
		else if (!strcmp(a, "--dev")) devno = atoi(v);
		else if (!strcmp(a, "--connections")) nconn = atoi(v);
		else if (!strcmp(a, "--block-size")) block_size = strtoull(v, NULL, 0);
		else if (!strcmp(a, "--timeout")) timeout_s = strtoull(v, NULL, 0);
		else if (!strcmp(a, "--dead-timeout")) dead_s = strtoull(v, NULL, 0);
		else if (!strcmp(a, "--retry-ms")) retry_ms = atoi(v);
		else { fprintf(stderr, "nbdkeep: unknown option %s\n", a); return 1; }
	}
	if (nconn < 1 || nconn > MAXCONN || strlen(name) > 2048) return 1;
	signal(SIGPIPE, SIG_IGN);
	int e = nl_open();
	if (e) { note("netlink: %s (is the nbd module loaded?)", strerror(-e)); return 1; }
	for (int i = 0; i < nconn; i++) {
		uint64_t size = 0;
		uint16_t flags = 0;
		fds[i] = dial(&size, &flags);
		if (fds[i] < 0) { note("connect %s:%d: %s", host, port, strerror(errno)); return 1; }
		if (i && (size != exp_size || flags != exp_flags)) { note("connections differ"); return 1; }
		exp_size = size;
		exp_flags = flags;
	}
	if (nconn > 1 && !(exp_flags & (1 << 8))) {
		note("server does not advertise multi-conn");
		return 1;
	}
	e = nl_sockets(NBD_CMD_CONNECT, fds, nconn);
	if (e) { note("CONNECT: %s", strerror(-e)); return 1; }
	note("connected, size %llu flags 0x%x, %d connection(s), timeout %llu s, dead-timeout %llu s",
	     (unsigned long long)exp_size, exp_flags, nconn, (unsigned long long)timeout_s,
	     (unsigned long long)dead_s);

	pid_t p = fork();
	if (p < 0) return 1;
	if (p) _exit(0);
	setsid();
	kmsg = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
	int fd = open("/proc/self/oom_score_adj", O_WRONLY);
	if (fd >= 0) { if (write(fd, "-1000", 5)) {} close(fd); }
	if (mlockall(MCL_CURRENT | MCL_FUTURE)) note("mlockall: %s", strerror(errno));
	/* our own allocations must not wait for the device we serve */
	if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0)) note("PR_SET_IO_FLUSHER: %s", strerror(errno));
	if (group) setsockopt(nl, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group);

	/* Death shows as POLLHUP on our own copy of the socket (the kernel shuts
	 * it down in both directions when it gives up on it).  The netlink
	 * LINK_DEAD message only wakes us: the kernel may fail to allocate it. */
	for (;;) {
		struct pollfd pf[MAXCONN + 1];
		for (int i = 0; i < nconn; i++) pf[i] = (struct pollfd){ .fd = fds[i], .events = 0 };
		pf[nconn] = (struct pollfd){ .fd = nl, .events = POLLIN };
		if (poll(pf, nconn + 1, 1000) < 0 && errno != EINTR) nap(100);
		if (pf[nconn].revents & POLLIN) { char b[1024]; if (recv(nl, b, sizeof b, MSG_DONTWAIT)) {} }
		for (int i = 0; i < nconn; i++)
			if (pf[i].revents & (POLLHUP | POLLERR | POLLNVAL)) fds[i] = renew(fds[i], i);
		if (!device_up()) { note("device is gone"); return 0; }
	}
}
