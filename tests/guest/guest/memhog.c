/* memhog - touch more memory than the machine has and prove that every page
 * comes back from swap unchanged.
 *
 *   memhog --mib 288 [--rounds 2] [--rewrite-pct 25] [--seed 1]
 *          [--out /dev/ttyS1] [--progress 5] [--settle-ms 2500] [--no-free]
 *
 * Phases, each in a random order of its own: touch; verify1..R, all but the
 * last of which rewrite a share of the pages, so that stale data cannot pass;
 * free (every second 8 MiB is given back), zero (it must read as zeroes),
 * refill (it gets new data) and final (all pages once more).
 *
 * All but the memory under test is locked: what the program itself needs must
 * not depend on the swap that it judges.
 *
 * Output: "GS prog ...", "GS phase ...", "GS err ...". Exit: 0 all right, 1 data
 * errors, 2 usage or set-up. Not here: realistic access patterns (workset.c).
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "pages.h"
#include "say.h"

#define BLOCK_PAGES 2048UL	/* 8 MiB: the unit that "free" gives back */
#define ERRORS_SHOWN 12
#define BUCKETS 40		/* of a histogram by powers of two microseconds */

enum action { FILL, VERIFY, VERIFY_AND_REWRITE, VERIFY_ZERO };

struct settings {
	uint64_t pages, seed;
	unsigned rounds, rewrite_pct, progress_pct, settle_ms;
	int free;
};

static struct settings settings = {
	.seed = 1, .rounds = 2, .rewrite_pct = 25, .progress_pct = 5, .settle_ms = 2500, .free = 1,
};
static unsigned char *memory;
static uint8_t *generation;	/* of each page, what it must hold */
static uint32_t *order;
static unsigned errors_said;

/* One phase and what it found. */
struct phase {
	const char *name;
	enum action action;
	unsigned round;
	uint64_t pages, ok, bad, sigbus, start_ns;
	uint64_t fault_us[BUCKETS];
};

/* A page that swap could not bring back raises SIGBUS at the first touch. */
static sigjmp_buf unreadable;
static volatile sig_atomic_t touching;

static void on_sigbus(int signal_number)
{
	(void)signal_number;
	if (touching) siglongjmp(unreadable, 1);
	static const char message[] = "GS err kind=sigbus-outside\n";
	if (write(say_fd, message, sizeof message - 1) < 0) _exit(5);
	_exit(4);
}

static void report_error(const char *kind, uint64_t page, const char *phase, const char *more)
{
	if (errors_said++ < ERRORS_SHOWN)
		say("GS err kind=%s page=%llu gen=%u phase=%s %s\n", kind, (unsigned long long)page,
		    generation[page], phase, more);
}

static uint64_t *page_at(uint64_t page)
{
	return (uint64_t *)(memory + page * PAGE);
}

/* The swap-in happens here and nowhere else, so its time is the fault's. */
static void touch(struct phase *phase, uint64_t page)
{
	uint64_t start = now_ns();
	volatile uint64_t *word = page_at(page);
	if (phase->action == FILL) *word = 0;
	else (void)*word;
	unsigned bucket = 0;
	for (uint64_t us = (now_ns() - start) / 1000; us > 1 && bucket < BUCKETS - 1; us >>= 1) bucket++;
	phase->fault_us[bucket]++;
}

static void verify(struct phase *phase, uint64_t page)
{
	static uint64_t want[WORDS];
	if (phase->action == VERIFY_ZERO) memset(want, 0, PAGE);
	else make_page(want, settings.seed, page, generation[page]);
	if (!memcmp(page_at(page), want, PAGE)) {
		phase->ok++;
		return;
	}
	phase->bad++;
	const char *what = "is=unknown";
	for (unsigned older = generation[page]; older-- > 0;) {
		make_page(want, settings.seed, page, older);
		if (!memcmp(page_at(page), want, PAGE)) what = "is=stale-generation";
	}
	report_error("data", page, phase->name, what);
}

static void visit(struct phase *phase, uint64_t page)
{
	phase->pages++;
	if (sigsetjmp(unreadable, 0)) {
		touching = 0;
		phase->sigbus++;
		report_error("sigbus", page, phase->name, "");
		return;
	}
	touching = 1;
	touch(phase, page);
	if (phase->action == FILL) {
		make_page(page_at(page), settings.seed, page, generation[page]);
		phase->ok++;
	} else {
		verify(phase, page);
	}
	uint64_t chance = mix(page * 7919 + phase->round * 104729 + settings.seed) % 100;
	if (phase->action == VERIFY_AND_REWRITE && chance < settings.rewrite_pct)
		make_page(page_at(page), settings.seed, page, ++generation[page]);
	touching = 0;
}

/* The upper bound of the bucket in which `share` of the faults is reached. */
static uint64_t fault_us(const struct phase *phase, double share)
{
	uint64_t all = 0, seen = 0;
	for (unsigned i = 0; i < BUCKETS; i++) all += phase->fault_us[i];
	for (unsigned i = 0; i < BUCKETS; i++) {
		seen += phase->fault_us[i];
		if (seen >= share * all) return 1ull << i;
	}
	return 0;
}

static void report_phase(const struct phase *phase)
{
	double seconds = (now_ns() - phase->start_ns) / 1e9;
	say("GS phase name=%s pages=%llu ok=%llu bad=%llu sigbus=%llu sec=%.2f pps=%.0f "
	    "fault_p50_us=%llu fault_p99_us=%llu\n", phase->name,
	    (unsigned long long)phase->pages, (unsigned long long)phase->ok,
	    (unsigned long long)phase->bad, (unsigned long long)phase->sigbus, seconds,
	    seconds > 0 ? phase->pages / seconds : 0, (unsigned long long)fault_us(phase, .5),
	    (unsigned long long)fault_us(phase, .99));
}

static void shuffle(uint64_t seed)
{
	for (uint64_t i = 0; i < settings.pages; i++) order[i] = i;
	for (uint64_t i = settings.pages - 1; i > 0; i--) {
		seed = mix(seed);
		uint64_t other = seed % (i + 1);
		uint32_t page = order[i];
		order[i] = order[other];
		order[other] = page;
	}
}

static int is_freed(uint64_t page)
{
	return settings.free && (page / BLOCK_PAGES) & 1;
}

/* Visits all pages, or those alone that were freed; returns 1 if one was wrong. */
static int run(const char *name, enum action action, unsigned round, int freed_only)
{
	struct phase phase = { .name = name, .action = action, .round = round, .start_ns = now_ns() };
	uint64_t step = settings.pages * settings.progress_pct / 100;
	shuffle(settings.seed + 1 + round);
	for (uint64_t i = 0; i < settings.pages; i++) {
		if (!freed_only || is_freed(order[i])) visit(&phase, order[i]);
		if (step && (i + 1) % step == 0)
			say("GS prog phase=%s pct=%llu\n", name,
			    (unsigned long long)((i + 1) * 100 / settings.pages));
	}
	report_phase(&phase);
	return phase.bad || phase.sigbus;
}

static void free_half(void)
{
	struct phase phase = { .name = "free", .start_ns = now_ns() };
	for (uint64_t page = BLOCK_PAGES; page < settings.pages; page += 2 * BLOCK_PAGES) {
		uint64_t left = settings.pages - page;
		uint64_t count = left < BLOCK_PAGES ? left : BLOCK_PAGES;
		madvise(page_at(page), count * PAGE, MADV_DONTNEED);
		for (uint64_t i = 0; i < count; i++) generation[page + i]++;
		phase.pages += count;
	}
	phase.ok = phase.pages;
	usleep(settings.settle_ms * 1000);	/* The kernel sends discards from a worker. */
	report_phase(&phase);
}

static int run_all(void)
{
	int wrong = run("touch", FILL, 0, 0);
	for (unsigned round = 1; round <= settings.rounds; round++) {
		char name[32];
		snprintf(name, sizeof name, "verify%u", round);
		wrong |= run(name, round < settings.rounds ? VERIFY_AND_REWRITE : VERIFY, round, 0);
	}
	if (settings.free) {
		free_half();
		wrong |= run("zero", VERIFY_ZERO, settings.rounds + 1, 1);
		wrong |= run("refill", FILL, settings.rounds + 2, 1);
		wrong |= run("final", VERIFY, settings.rounds + 3, 0);
	}
	return wrong;
}

static void fail(const char *what)
{
	perror(what);
	exit(2);
}

static void parse(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
		if (!strcmp(name, "--no-free")) {
			settings.free = 0;
			continue;
		}
		i++;
		if (!strcmp(name, "--mib")) settings.pages = strtoull(value, NULL, 0) * 256;
		else if (!strcmp(name, "--rounds")) settings.rounds = atoi(value);
		else if (!strcmp(name, "--rewrite-pct")) settings.rewrite_pct = atoi(value);
		else if (!strcmp(name, "--seed")) settings.seed = strtoull(value, NULL, 0);
		else if (!strcmp(name, "--progress")) settings.progress_pct = atoi(value);
		else if (!strcmp(name, "--settle-ms")) settings.settle_ms = atoi(value);
		else if (!strcmp(name, "--out")) say_fd = open(value, O_WRONLY | O_NOCTTY);
		else {
			fprintf(stderr, "memhog: unknown option %s\n", name);
			exit(2);
		}
	}
	if (settings.pages == 0 || say_fd < 0) {
		fprintf(stderr, "memhog: --mib is needed, and --out must exist\n");
		exit(2);
	}
}

int main(int argc, char **argv)
{
	parse(argc, argv);
	pages_init();
	order = malloc(settings.pages * sizeof *order);
	generation = calloc(settings.pages, 1);
	if (!order || !generation) fail("memhog: malloc");
	if (mlockall(MCL_CURRENT | MCL_FUTURE)) fail("memhog: mlockall");
	/* The one mapping that may be swapped: PROT_NONE keeps mmap from filling it. */
	uint64_t bytes = settings.pages * PAGE;
	memory = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED || munlock(memory, bytes) ||
	    mprotect(memory, bytes, PROT_READ | PROT_WRITE))
		fail("memhog: mmap");
	struct sigaction action = { .sa_handler = on_sigbus, .sa_flags = SA_NODEFER };
	sigaction(SIGBUS, &action, NULL);
	return run_all();
}
