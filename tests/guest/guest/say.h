/* Lines for the host, and the clock: what both programs of the guest need.
 *
 * A header and not a library: each program of the guest is one static file.
 */
#ifndef SAY_H
#define SAY_H

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

/* Where the lines go; a program changes it before its first line. */
static int say_fd = 1;

static void say(const char *format, ...)
{
	char line[512];
	va_list arguments;
	va_start(arguments, format);
	int bytes = vsnprintf(line, sizeof line, format, arguments);
	va_end(arguments);
	if (bytes >= (int)sizeof line) bytes = sizeof line - 1;
	for (int done = 0; done < bytes;) {
		ssize_t written = write(say_fd, line + done, bytes - done);
		if (written > 0) done += written;
		else if (errno != EINTR && errno != EAGAIN) return;
	}
}

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

#endif
