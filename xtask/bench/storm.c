/*
 * storm COUNT RATE WORKERS FIRST_CPU: executes /bin/nop COUNT times in each of WORKERS processes, by vfork and execve,
 * each worker on a processor of its own from FIRST_CPU on; with a RATE, so many a second and worker, evenly spaced.
 * Prints "COUNT NANOSECONDS" for all workers together.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void work(long count, long rate, int cpu)
{
	static char *const arguments[] = {"/bin/nop", "a", "few", "arguments", NULL};
	/* As in a small pod: 1 KiB. */
	static char variables[16][64];
	static char *environment[17];
	for (int i = 0; i < 16; i++) {
		snprintf(variables[i], sizeof variables[i], "STORM_SERVICE_%02d_PORT_443_TCP_ADDR=%026d", i, i);
		environment[i] = variables[i];
	}
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof set, &set))
		perror("storm: sched_setaffinity"), exit(1);
	long long begin = now();
	for (long i = 0; i < count; i++) {
		if (rate) {
			long long due = begin + i * 1000000000LL / rate;
			struct timespec t = {due / 1000000000LL, due % 1000000000LL};
			clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
		}
		pid_t child = vfork();
		if (child == 0) {
			execve(arguments[0], arguments, environment);
			_exit(127);
		}
		int status;
		if (child < 0 || waitpid(child, &status, 0) != child || status)
			fputs("storm: an exec failed\n", stderr), exit(1);
	}
}

int main(int argc, char **argv)
{
	if (argc != 5)
		return 2;
	long count = atol(argv[1]), rate = atol(argv[2]), workers = atol(argv[3]);
	int cpu = atoi(argv[4]);
	long long begin = now();
	for (long i = 0; i < workers; i++)
		if (fork() == 0) {
			work(count, rate, cpu + i);
			exit(0);
		}
	int failed = 0, status;
	while (wait(&status) > 0)
		failed |= status;
	if (failed)
		return 1;
	printf("%ld %lld\n", count * workers, now() - begin);
	return 0;
}
