/*
 * Records through libxenvchan to another domain and back, as a peer of our ring in `cargo lab bench ring`.
 *
 *   vchan-peer serve SIZE...              in the domain that echoes: offers a channel to Dom0 for each size, in turn
 *   vchan-peer measure DOMID MS SIZE...   in Dom0: prints a line of JSON for each size, as `ring-peer measure` does
 *
 * Records are sent and received by the packet calls, one call each: both ends know the size, so none needs a length.
 * MS is how long each of the two measures takes.
 */
#include <errno.h>
#include <libxenvchan.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Bytes of each direction's ring: those of the ring that it is compared with. */
#define RING (256 * 1024)
#define MAX_RECORD (64 * 1024)
#define MAX_TRIPS 1000000

static char out[MAX_RECORD], in[MAX_RECORD];
static uint64_t trips[MAX_TRIPS];

static void die(const char *what) {
    fprintf(stderr, "vchan-peer: %s failed: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static size_t size_of(const char *text) {
    size_t size = strtoul(text, NULL, 10);
    if (size < 8 || size > MAX_RECORD) {
        fprintf(stderr, "vchan-peer: a record has 8 to %d bytes\n", MAX_RECORD);
        exit(1);
    }
    return size;
}

/* Echoes on one channel until its other end is closed. */
static void serve(size_t size) {
    char path[64];
    snprintf(path, sizeof(path), "data/vchan/%zu", size);
    struct libxenvchan *channel = libxenvchan_server_init(NULL, 0, path, RING, RING);
    if (!channel)
        die("offering a channel");
    channel->blocking = 1;
    for (;;) {
        if (libxenvchan_recv(channel, in, size) <= 0 || libxenvchan_send(channel, in, size) <= 0)
            break;
    }
    libxenvchan_close(channel);
}

/* False if there is no room for the record. */
static int send_one(struct libxenvchan *channel, size_t size, uint64_t number) {
    memcpy(out, &number, sizeof(number));
    int sent = libxenvchan_send(channel, out, size);
    if (sent < 0)
        die("sending");
    return sent > 0;
}

/* False if nothing is there; checks that what is there is the record with this number. */
static int receive_one(struct libxenvchan *channel, size_t size, uint64_t number) {
    int got = libxenvchan_recv(channel, in, size);
    if (got < 0)
        die("receiving");
    if (got > 0 && memcmp(in, &number, sizeof(number)) != 0) {
        fprintf(stderr, "vchan-peer: another record came back\n");
        exit(1);
    }
    return got > 0;
}

/* As many records as go at once; in MB, 10^6 bytes, a second that have come back. */
static double throughput(struct libxenvchan *channel, size_t size, uint64_t ns) {
    uint64_t sent = 0, got = 0, start = now();
    int over = 0;
    while (!over || got < sent) {
        uint64_t before = sent + got;
        while (!over && send_one(channel, size, sent))
            sent++;
        while (got < sent && receive_one(channel, size, got))
            got++;
        over = now() - start >= ns;
        if (sent + got == before && got < sent && libxenvchan_wait(channel) < 0)
            die("waiting");
    }
    return (double)got * (double)size / ((double)(now() - start) / 1e9) / 1e6;
}

/* One record at a time; how many times were taken. */
static size_t round_trips(struct libxenvchan *channel, size_t size, uint64_t ns) {
    size_t count = 0;
    uint64_t begin = now(), before = begin, after;
    do {
        while (!send_one(channel, size, count))
            if (libxenvchan_wait(channel) < 0)
                die("waiting");
        while (!receive_one(channel, size, count))
            if (libxenvchan_wait(channel) < 0)
                die("waiting");
        after = now();
        trips[count++] = after - before;
        before = after;
    } while (after - begin < ns && count < MAX_TRIPS);
    return count;
}

static int by_time(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void measure(int domid, size_t size, uint64_t ns) {
    char path[64];
    struct libxenvchan *channel = NULL;
    snprintf(path, sizeof(path), "/local/domain/%d/data/vchan/%zu", domid, size);
    /* The other end comes to this size when it has seen the end of the one before. */
    for (int tries = 0; !channel && tries < 1000; tries++) {
        channel = libxenvchan_client_init(NULL, domid, path);
        if (!channel)
            usleep(10000);
    }
    if (!channel)
        die("connecting to the other domain");
    channel->blocking = 0;
    double rate = throughput(channel, size, ns);
    size_t count = round_trips(channel, size, ns);
    qsort(trips, count, sizeof(trips[0]), by_time);
    printf("{\"record_bytes\":%zu,\"mb_per_s\":%.3f,\"round_trip_us_p50\":%.3f,\"round_trip_us_p99\":%.3f}\n", size,
           rate, (double)trips[count / 2] / 1e3, (double)trips[count * 99 / 100] / 1e3);
    libxenvchan_close(channel);
}

int main(int argc, char **argv) {
    memset(out, 0x5a, sizeof(out));
    if (argc > 2 && strcmp(argv[1], "serve") == 0) {
        for (int i = 2; i < argc; i++)
            serve(size_of(argv[i]));
    } else if (argc > 4 && strcmp(argv[1], "measure") == 0) {
        for (int i = 4; i < argc; i++)
            measure(atoi(argv[2]), size_of(argv[i]), strtoull(argv[3], NULL, 10) * 1000000);
    } else {
        fprintf(stderr, "vchan-peer serve SIZE... | vchan-peer measure DOMID MS SIZE...\n");
        return 1;
    }
    return 0;
}
