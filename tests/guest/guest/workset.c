/* workset - processes with working sets, as a busy machine has them.
 *
 * Where memhog touches every page equally often, here a few processes each own
 * a region and come back to its popular pages far more often than to the rest
 * (Zipf's law), read runs of neighbours now and then, move their interest to
 * another part after a while, and end; another process takes the place. A
 * policy for what leaves memory can only show its worth on such traffic.
 *
 * Every access verifies the whole page, so it is a test as well as a load.
 * Nothing is locked: the programs' own stacks and tables may be swapped too.
 *
 *   workset --processes 4 --mib 56 --lives 10 --accesses 9000
 *           [--write-pct 30] [--seed 1] [--out /dev/ttyS1]
 *
 * Output: "GS prog ..." after each life, "GS err ..." for a wrong page, and
 * "GS phase name=workset ..." at the end. Exit: 0 all right, 1 data errors,
 * 2 usage or set-up.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "pages.h"
#include "say.h"

#define RUN_PCT 10		/* accesses that read a run of neighbours */
#define RUN_PAGES 12
#define SHIFTS 3		/* times that a life moves its popular pages */

/* Shared with the children: what they found. */
struct tally {
	uint64_t accesses, wrong;
};

struct settings {
	uint64_t pages, accesses, seed;
	unsigned processes, lives, write_pct;
};

/* One process: a region of its own and what it must hold. */
struct life {
	unsigned char *memory;
	uint8_t *generation;
	uint64_t pages, seed, random;
	struct tally *tally;
};

static uint64_t next_random(struct life *life)
{
	life->random = mix(life->random);
	return life->random;
}

/* A rank between 0 and pages - 1, rank r about (r + 1)^-1 as often as rank 0:
 * the inverse of the integral of 1/x, exact enough for a load. */
static uint64_t zipf_rank(struct life *life)
{
	double u = (next_random(life) >> 11) / 9007199254740992.0;
	uint64_t rank = (uint64_t)exp(u * log((double)life->pages)) - 1;
	return rank < life->pages ? rank : life->pages - 1;
}

static void check(struct life *life, uint64_t page)
{
	static uint64_t want[WORDS];
	make_page(want, life->seed, page, life->generation[page]);
	life->tally->accesses++;
	if (memcmp(want, life->memory + page * PAGE, PAGE) == 0) return;
	if (life->tally->wrong++ < 8)
		say("GS err kind=data page=%llu gen=%u life=%llu\n", (unsigned long long)page,
		    life->generation[page], (unsigned long long)life->seed);
}

static void rewrite(struct life *life, uint64_t page)
{
	life->generation[page]++;
	make_page((uint64_t *)(life->memory + page * PAGE), life->seed, page, life->generation[page]);
}

static void one_access(struct life *life, uint64_t popular, unsigned write_pct)
{
	/* Popular ranks lie in small runs all over the region, as objects of one
	 * age do in a heap, and not in one block. */
	uint64_t rank = zipf_rank(life);
	uint64_t page = (popular + (rank / 4) * 2654435761u + rank % 4) % life->pages;
	unsigned chance = next_random(life) % 100;
	if (chance < RUN_PCT) {
		for (uint64_t i = 0; i < RUN_PAGES; i++) check(life, (page + i) % life->pages);
		return;
	}
	check(life, page);
	if (chance < RUN_PCT + write_pct) rewrite(life, page);
}

/* Runs in a child of its own and does not return. */
static void live(const struct settings *settings, uint64_t number, struct tally *tally)
{
	struct life life = { .pages = settings->pages, .seed = settings->seed * 1000 + number,
			     .random = mix(settings->seed * 1000 + number), .tally = tally };
	life.memory = mmap(NULL, life.pages * PAGE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	life.generation = calloc(life.pages, 1);
	if (life.memory == MAP_FAILED || !life.generation) _exit(2);
	for (uint64_t page = 0; page < life.pages; page++)
		make_page((uint64_t *)(life.memory + page * PAGE), life.seed, page, 0);
	for (unsigned shift = 0; shift < SHIFTS; shift++) {
		uint64_t popular = next_random(&life);
		for (uint64_t i = 0; i < settings->accesses / SHIFTS; i++)
			one_access(&life, popular % life.pages, settings->write_pct);
	}
	_exit(0);
}

static void begin_life(const struct settings *settings, uint64_t number, struct tally *tally)
{
	pid_t child = fork();
	if (child == 0) live(settings, number, tally);
	if (child < 0) {
		perror("workset: fork");
		exit(2);
	}
}

static void parse(int argc, char **argv, struct settings *settings)
{
	for (int i = 1; i + 1 < argc; i += 2) {
		const char *name = argv[i], *value = argv[i + 1];
		if (!strcmp(name, "--processes")) settings->processes = atoi(value);
		else if (!strcmp(name, "--mib")) settings->pages = strtoull(value, NULL, 0) * 256;
		else if (!strcmp(name, "--lives")) settings->lives = atoi(value);
		else if (!strcmp(name, "--accesses")) settings->accesses = strtoull(value, NULL, 0);
		else if (!strcmp(name, "--write-pct")) settings->write_pct = atoi(value);
		else if (!strcmp(name, "--seed")) settings->seed = strtoull(value, NULL, 0);
		else if (!strcmp(name, "--out")) say_fd = open(value, O_WRONLY | O_NOCTTY);
		else {
			fprintf(stderr, "workset: unknown option %s\n", name);
			exit(2);
		}
	}
	if (!settings->pages || !settings->processes || settings->lives < settings->processes ||
	    say_fd < 0) {
		fprintf(stderr, "workset: --mib, --processes and at least as many --lives are needed\n");
		exit(2);
	}
}

int main(int argc, char **argv)
{
	struct settings settings = { .processes = 4, .lives = 10, .accesses = 9000, .write_pct = 30,
				     .seed = 1 };
	parse(argc, argv, &settings);
	pages_init();
	struct tally *tallies = mmap(NULL, settings.lives * sizeof *tallies, PROT_READ | PROT_WRITE,
				     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (tallies == MAP_FAILED) return 2;
	uint64_t start = now_ns();
	unsigned begun = 0, ended = 0, broken = 0;
	while (begun < settings.processes) {
		begin_life(&settings, begun, &tallies[begun]);
		begun++;
	}
	while (ended < settings.lives) {
		int status;
		if (wait(&status) < 0) return 2;
		ended++;
		if (status != 0) broken++;
		if (begun < settings.lives) {
			begin_life(&settings, begun, &tallies[begun]);
			begun++;
		}
		say("GS prog phase=workset pct=%u\n", ended * 100 / settings.lives);
	}
	struct tally all = { 0 };
	for (unsigned i = 0; i < settings.lives; i++) {
		all.accesses += tallies[i].accesses;
		all.wrong += tallies[i].wrong;
	}
	say("GS phase name=workset pages=%llu ok=%llu bad=%llu sigbus=%u sec=%.2f\n",
	    (unsigned long long)(settings.pages * settings.lives),
	    (unsigned long long)(all.accesses - all.wrong), (unsigned long long)all.wrong, broken,
	    (now_ns() - start) / 1e9);
	return all.wrong || broken;
}
