/* Page contents with the mix of kinds that swapped memory has.
 *
 * Contents depend on (seed, page, generation) alone. Not here: which pages are
 * touched when (memhog.c, workset.c).
 */
#ifndef PAGES_H
#define PAGES_H

#include <stdint.h>
#include <string.h>

#define PAGE 4096UL
#define WORDS (PAGE / 8)

static inline uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ull;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

static const char *const words[64] = {
	"the ", "page ", "memory ", "of ", "a ", "to ", "remote ", "and ",
	"host ", "swap ", "in ", "server ", "is ", "error ", "request ", "that ",
	"{\"id\": ", "\"name\": \"", "\", ", "}\n", "true, ", "null, ", "0, ", "1, ",
	"return ", "static ", "int ", "if (", ") {\n", "}\n\n", "\t\t", "const ",
	"<div>", "</div>\n", "class=\"", "\">", "http://", ".example/", "GET ", "200 ",
	"INFO ", "WARN ", "2024-05-", "T12:", ":00Z ", "worker ", "queue ", "user ",
	"block ", "offset ", "length ", "done\n", "for ", "with ", "from ", "not ",
	"be ", "on ", "by ", "as ", "it ", "are ", "was ", "this ",
};
static uint8_t word_len[64];

enum { K_ZERO, K_SAME, K_RANDOM, K_TEXT, K_HEAP, K_SPARSE, K_N };
/* of 16 pages: 2 zero, 1 one repeated word, 3 random, 4 text, 3 heap, 3 sparse */
static const uint8_t kind_of[16] = {
	K_ZERO, K_ZERO, K_SAME, K_RANDOM, K_RANDOM, K_RANDOM, K_TEXT, K_TEXT,
	K_TEXT, K_TEXT, K_HEAP, K_HEAP, K_HEAP, K_SPARSE, K_SPARSE, K_SPARSE,
};

/* Fills `p` with generation `g` of page number `page` of the stream `seed`. The
 * same three numbers always give the same bytes, so nothing has to be remembered
 * to verify a page. Call pages_init() once before. */
static void make_page(uint64_t *p, uint64_t seed, uint64_t page, unsigned g)
{
	uint64_t s = mix(seed * 0x100000001b3ull ^ mix(page * 256 + g));
	uint64_t r = s;
	switch (kind_of[s >> 60]) {
	case K_ZERO:
		memset(p, 0, PAGE);
		return;
	case K_SAME:
		r = mix(r);
		for (unsigned i = 0; i < WORDS; i++) p[i] = r;
		return;
	case K_RANDOM:
		for (unsigned i = 0; i < WORDS; i++) {
			r ^= r << 13; r ^= r >> 7; r ^= r << 17;
			p[i] = r;
		}
		return;
	case K_TEXT: {
		char *c = (char *)p;
		unsigned n = 0;
		while (n < PAGE) {
			r = mix(r);
			uint64_t x = r;
			for (int k = 0; k < 10 && n < PAGE; k++, x >>= 6) {
				/* low bits skewed: common words are common */
				unsigned w = (x & 63) & ((x >> 3) | 7);
				unsigned l = word_len[w];
				if (l > PAGE - n) l = PAGE - n;
				memcpy(c + n, words[w], l);
				n += l;
			}
		}
		return;
	}
	case K_HEAP: {		/* objects of 8 words: vtable, links, counters */
		uint64_t base = 0x00007f0000000000ull | (mix(s) & 0xffff000000ull);
		for (unsigned i = 0; i < WORDS; i += 8) {
			r = mix(r);
			p[i] = base | 0x1000 | ((r & 3) << 5);
			p[i + 1] = base + (page << 12) + ((r >> 8) & 0xffff8);
			p[i + 2] = base + (page << 12) + (i * 8) + 64;
			p[i + 3] = (r >> 32) & 0xff;
			p[i + 4] = 0x21;
			p[i + 5] = (r & 0x100) ? (r >> 16) & 0xffffffff : 0;
			p[i + 6] = 0;
			p[i + 7] = (r >> 40) & 1;
		}
		return;
	}
	default:		/* K_SPARSE: 24 small records in a zero page */
		memset(p, 0, PAGE);
		for (int k = 0; k < 24; k++) {
			r = mix(r);
			p[r % WORDS] = (r >> 20) & 0xffff;
		}
		p[0] = page; p[1] = g;
		return;
	}
}

static void pages_init(void)
{
	for (int i = 0; i < 64; i++) word_len[i] = strlen(words[i]);
}

#endif
