/* memhog - touch more memory than the machine has and prove that every page
 * comes back from swap unchanged.
 *
 * Static, no dependencies.  Control data (permutation, generations, scratch
 * pages, stacks) is mlocked; only the big test mapping may be swapped.
 *
 *   memhog --mib 288 [--rounds 2] [--rewrite-pct 25] [--threads 1]
 *          [--seed 1] [--out /dev/ttyS1] [--progress 5]
 *          [--settle-ms 2500] [--no-free] [--in-order]
 *
 * Phases: touch, verify1..R (rewrites a share of the pages with a new
 * generation, so stale data cannot pass), free (MADV_DONTNEED of every second
 * 8 MiB block), zero (the freed part must read as zeroes), refill (the freed
 * part gets new data), final (everything is verified once more).
 * Output: lines "GS prog ...", "GS phase ...", "GS err ...", "GS hogend ...".
 * Exit: 0 all right, 1 data errors, 2 usage or set-up.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "pages.h"

#define NBUCKET 40
#define BLOCK_PAGES 2048UL		/* 8 MiB: the unit that "free" gives back */

static int out_fd = 1;
static unsigned char *mem;
static uint32_t *perm;
static uint8_t *gen;
static uint64_t npages, seed = 1;
static unsigned progress_pct = 5, rewrite_pct = 25;
static int nthreads = 1, in_order;

static __thread sigjmp_buf jb;
static __thread volatile sig_atomic_t jb_armed;

static void say(const char *fmt, ...)
{
	char b[512];
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(b, sizeof b, fmt, ap);
	va_end(ap);
	if (n > (int)sizeof b) n = sizeof b;
	for (int o = 0; o < n;) {
		ssize_t w = write(out_fd, b + o, n - o);
		if (w < 0) { if (errno == EINTR || errno == EAGAIN) continue; break; }
		o += w;
	}
}

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* ---- statistics --------------------------------------------------------- */

struct stats {
	uint64_t pages, ok, bad, bus, max_ns;
	uint64_t hist[NBUCKET];
};

static void lat(struct stats *st, uint64_t ns)
{
	if (ns > st->max_ns) st->max_ns = ns;
	int b = 0;
	for (uint64_t us = ns / 1000; us > 1 && b < NBUCKET - 1; us >>= 1) b++;
	st->hist[b]++;
}

static uint64_t pct_us(const struct stats *st, double q)
{
	uint64_t n = 0, t = 0;
	for (int i = 0; i < NBUCKET; i++) n += st->hist[i];
	for (int i = 0; i < NBUCKET; i++) {
		t += st->hist[i];
		if (t >= q * n) return 1ull << i;
	}
	return 0;
}

static uint64_t keyval(const char *file, const char *key)
{
	char b[16384];
	int fd = open(file, O_RDONLY);
	if (fd < 0) return 0;
	size_t n = 0;
	ssize_t r;
	while (n < sizeof b - 1 && (r = read(fd, b + n, sizeof b - 1 - n)) > 0) n += r;
	close(fd);
	b[n] = 0;
	size_t kl = strlen(key);
	for (char *p = b; p && *p; p = strchr(p, '\n'), p = p ? p + 1 : p)
		if (!strncmp(p, key, kl) && (p[kl] == ' ' || p[kl] == ':'))
			return strtoull(p + kl + 1, NULL, 10);
	return 0;
}

static atomic_uint errs_said;

static void error_at(const char *kind, uint64_t page, unsigned g, const char *more)
{
	if (atomic_fetch_add(&errs_said, 1) < 12)
		say("GS err kind=%s page=%llu gen=%u %s\n", kind,
		    (unsigned long long)page, g, more);
}

static void on_bus(int sig)
{
	(void)sig;
	if (jb_armed) siglongjmp(jb, 1);
	static const char m[] = "GS err kind=sigbus-outside\n";
	if (write(out_fd, m, sizeof m - 1)) {}
	_exit(4);
}

/* ---- the phases ---------------------------------------------------------- */

enum op { OP_FILL, OP_VERIFY, OP_VERIFY_REWRITE, OP_ZERO };

struct job {
	enum op op;
	const char *name;
	const uint32_t *list;
	uint64_t n;
	atomic_ullong *done;
	uint64_t t0;
	int tid;
	unsigned round;
	struct stats st;
	uint64_t *scratch;
};

static void one(struct job *j, uint64_t pg)
{
	uint64_t *p = (uint64_t *)(mem + pg * PAGE);
	struct stats *st = &j->st;
	uint64_t t0 = now_ns();
	st->pages++;
	if (sigsetjmp(jb, 0)) {
		jb_armed = 0;
		st->bus++;
		error_at("sigbus", pg, gen[pg], j->name);
		return;
	}
	jb_armed = 1;
	if (j->op == OP_FILL) {
		((volatile uint64_t *)p)[0] = 0;	/* the fault, timed on its own */
		lat(st, now_ns() - t0);
		make_page(p, seed, pg, gen[pg]);
		st->ok++;
	} else {
		(void)((volatile uint64_t *)p)[0];
		lat(st, now_ns() - t0);
		if (j->op == OP_ZERO) memset(j->scratch, 0, PAGE);
		else make_page(j->scratch, seed, pg, gen[pg]);
		if (!memcmp(p, j->scratch, PAGE)) {
			st->ok++;
		} else {
			char more[160];
			unsigned i = 0;
			while (i < WORDS - 1 && p[i] == j->scratch[i]) i++;
			/* whose page is it, if it is one we know? */
			const char *guess = "unknown";
			for (unsigned g = gen[pg]; g-- > 0;) {
				make_page(j->scratch, seed, pg, g);
				if (!memcmp(p, j->scratch, PAGE)) { guess = "stale-generation"; break; }
			}
			snprintf(more, sizeof more, "phase=%s word=%u got=%016llx is=%s",
				 j->name, i, (unsigned long long)p[i], guess);
			st->bad++;
			error_at("data", pg, gen[pg], more);
		}
		if (j->op == OP_VERIFY_REWRITE &&
		    mix(pg * 7919 + j->round * 104729 + seed) % 100 < rewrite_pct) {
			gen[pg]++;
			make_page(p, seed, pg, gen[pg]);
		}
	}
	jb_armed = 0;
}

static void *worker(void *arg)
{
	struct job *j = arg;
	uint64_t step = j->n * progress_pct / 100;
	if (!step) step = 1;
	for (uint64_t i = j->tid; i < j->n; i += nthreads) {
		one(j, j->list[i]);
		uint64_t d = atomic_fetch_add(j->done, 1) + 1;
		if (d % step == 0)
			say("GS prog phase=%s pct=%llu t=%.2f\n", j->name,
			    (unsigned long long)(d * 100 / j->n), (now_ns() - j->t0) / 1e9);
	}
	return NULL;
}

static uint64_t tot_ok, tot_bad, tot_bus, tot_verified, peak_used_kb;

static void report(const char *name, struct stats *s, uint64_t t0, uint64_t v0in, uint64_t v0out)
{
	double sec = (now_ns() - t0) / 1e9;
	uint64_t in = keyval("/proc/vmstat", "pswpin"), out = keyval("/proc/vmstat", "pswpout");
	uint64_t tot = keyval("/proc/meminfo", "SwapTotal"), fr = keyval("/proc/meminfo", "SwapFree");
	if (tot - fr > peak_used_kb) peak_used_kb = tot - fr;
	say("GS phase name=%s pages=%llu ok=%llu bad=%llu sigbus=%llu sec=%.2f pps=%.0f "
	    "fault_p50_us=%llu fault_p99_us=%llu fault_max_ms=%.1f swapin_pages=%llu "
	    "swapout_pages=%llu swap_used_kb=%llu\n", name,
	    (unsigned long long)s->pages, (unsigned long long)s->ok,
	    (unsigned long long)s->bad, (unsigned long long)s->bus, sec,
	    sec > 0 ? s->pages / sec : 0, (unsigned long long)pct_us(s, .5),
	    (unsigned long long)pct_us(s, .99), s->max_ns / 1e6,
	    (unsigned long long)(in - v0in), (unsigned long long)(out - v0out),
	    (unsigned long long)(tot - fr));
}

static void run(const char *name, enum op op, const uint32_t *list, uint64_t n, unsigned round)
{
	static struct job jobs[64];
	static uint64_t *scratch;
	atomic_ullong done = 0;
	pthread_t th[64];
	struct stats s = { 0 };
	uint64_t t0 = now_ns();
	uint64_t vin = keyval("/proc/vmstat", "pswpin"), vout = keyval("/proc/vmstat", "pswpout");

	pthread_attr_t at;		/* small stacks: they are locked in memory */
	pthread_attr_init(&at);
	pthread_attr_setstacksize(&at, 128 << 10);
	if (!scratch) scratch = aligned_alloc(PAGE, PAGE * nthreads);
	for (int i = 0; i < nthreads; i++) {
		jobs[i] = (struct job){ .op = op, .name = name, .list = list, .n = n,
			.done = &done, .t0 = t0, .tid = i, .round = round,
			.scratch = scratch + i * WORDS };
		if (i && pthread_create(&th[i], &at, worker, &jobs[i])) { perror("memhog: thread"); exit(2); }
	}
	worker(&jobs[0]);
	for (int i = 0; i < nthreads; i++) {
		if (i) pthread_join(th[i], NULL);
		struct stats *a = &jobs[i].st;
		s.pages += a->pages; s.ok += a->ok; s.bad += a->bad; s.bus += a->bus;
		if (a->max_ns > s.max_ns) s.max_ns = a->max_ns;
		for (int k = 0; k < NBUCKET; k++) s.hist[k] += a->hist[k];
	}
	tot_bad += s.bad; tot_bus += s.bus;
	if (op != OP_FILL) { tot_verified += s.ok; }
	tot_ok += s.ok;
	report(name, &s, t0, vin, vout);
}

static void shuffle(uint32_t *a, uint64_t n, uint64_t s)
{
	for (uint64_t i = 0; i < n; i++) a[i] = i;
	for (uint64_t i = n - 1; i > 0 && !in_order; i--) {
		s = mix(s);
		uint64_t k = s % (i + 1);
		uint32_t t = a[i]; a[i] = a[k]; a[k] = t;
	}
}

static uint64_t freed_only(uint32_t *list, uint64_t s)
{
	uint64_t m = 0;
	shuffle(perm, npages, s);
	for (uint64_t i = 0; i < npages; i++)
		if ((perm[i] / BLOCK_PAGES) & 1) list[m++] = perm[i];
	return m;
}

int main(int argc, char **argv)
{
	uint64_t mib = 0;
	unsigned rounds = 2, settle_ms = 2500;
	int do_free = 1;

	for (int i = 1; i < argc; i++) {
		const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : "";
		if (!strcmp(a, "--no-free")) { do_free = 0; continue; }
		if (!strcmp(a, "--in-order")) { in_order = 1; continue; }
		i++;
		if (!strcmp(a, "--mib")) mib = strtoull(v, NULL, 0);
		else if (!strcmp(a, "--rounds")) rounds = atoi(v);
		else if (!strcmp(a, "--rewrite-pct")) rewrite_pct = atoi(v);
		else if (!strcmp(a, "--threads")) nthreads = atoi(v);
		else if (!strcmp(a, "--seed")) seed = strtoull(v, NULL, 0);
		else if (!strcmp(a, "--progress")) progress_pct = atoi(v);
		else if (!strcmp(a, "--settle-ms")) settle_ms = atoi(v);
		else if (!strcmp(a, "--out")) {
			out_fd = open(v, O_WRONLY | O_NOCTTY);
			if (out_fd < 0) { perror(v); return 2; }
		} else { fprintf(stderr, "memhog: unknown option %s\n", a); return 2; }
	}
	if (!mib || nthreads < 1 || nthreads > 64 || progress_pct < 1) {
		fprintf(stderr, "memhog: --mib is needed\n");
		return 2;
	}
	pages_init();
	npages = mib * 256;
	perm = malloc(npages * sizeof *perm);
	uint32_t *part = malloc(npages * sizeof *part);
	gen = calloc(npages, 1);
	if (!perm || !part || !gen) return 2;
	memset(part, 0, npages * sizeof *part);
	/* new mappings (stacks, scratch) are locked too ... */
	if (mlockall(MCL_CURRENT | MCL_FUTURE)) { perror("memhog: mlockall"); return 2; }
	/* ... except the one under test: PROT_NONE keeps mmap from filling it */
	mem = mmap(NULL, npages * PAGE, PROT_NONE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (mem == MAP_FAILED || munlock(mem, npages * PAGE) ||
	    mprotect(mem, npages * PAGE, PROT_READ | PROT_WRITE)) {
		perror("memhog: mmap");
		return 2;
	}

	struct sigaction sa = { .sa_handler = on_bus, .sa_flags = SA_NODEFER };
	sigaction(SIGBUS, &sa, NULL);

	uint64_t start = now_ns();
	shuffle(perm, npages, seed + 1);
	run("touch", OP_FILL, perm, npages, 0);
	for (unsigned r = 1; r <= rounds; r++) {
		char nm[32];
		snprintf(nm, sizeof nm, "verify%u", r);
		shuffle(perm, npages, seed + 100 + r);
		run(nm, r < rounds ? OP_VERIFY_REWRITE : OP_VERIFY, perm, npages, r);
	}
	if (do_free) {
		struct stats s = { 0 };
		uint64_t t0 = now_ns();
		uint64_t vin = keyval("/proc/vmstat", "pswpin"), vout = keyval("/proc/vmstat", "pswpout");
		for (uint64_t b = 1; b * BLOCK_PAGES < npages; b += 2) {
			uint64_t f = b * BLOCK_PAGES, l = f + BLOCK_PAGES;
			if (l > npages) l = npages;
			madvise(mem + f * PAGE, (l - f) * PAGE, MADV_DONTNEED);
			s.pages += l - f;
		}
		for (uint64_t i = 0; i < npages; i++)
			if ((i / BLOCK_PAGES) & 1) gen[i]++;
		usleep(settle_ms * 1000);	/* discards are sent from a worker */
		s.ok = s.pages;
		report("free", &s, t0, vin, vout);
		uint64_t m = freed_only(part, seed + 201);
		run("zero", OP_ZERO, part, m, 0);
		m = freed_only(part, seed + 202);
		run("refill", OP_FILL, part, m, 0);
		shuffle(perm, npages, seed + 300);
		run("final", OP_VERIFY, perm, npages, 0);
	}
	uint64_t t1 = now_ns();
	munmap(mem, npages * PAGE);
	usleep(settle_ms * 1000);
	say("GS hogend pages=%llu verified=%llu bad=%llu sigbus=%llu sec=%.2f "
	    "swap_used_peak_kb=%llu pswpin=%llu pswpout=%llu pgmajfault=%llu\n",
	    (unsigned long long)npages, (unsigned long long)tot_verified,
	    (unsigned long long)tot_bad, (unsigned long long)tot_bus, (t1 - start) / 1e9,
	    (unsigned long long)peak_used_kb,
	    (unsigned long long)keyval("/proc/vmstat", "pswpin"),
	    (unsigned long long)keyval("/proc/vmstat", "pswpout"),
	    (unsigned long long)keyval("/proc/vmstat", "pgmajfault"));
	return tot_bad || tot_bus;
}
