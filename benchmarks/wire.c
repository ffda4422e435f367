/* A mock engine and a load generator that cost next to nothing, so that a proxy of any speed can be
 * measured between them. Both run on one core each; bytes to say come from files that Python writes.
 *
 *   wire mock PORT DELAY_MICROSECONDS WHOLE HEAD CHUNKS
 *   wire load PORT CONNECTIONS SECONDS STREAM REQUEST     (prints one JSON object)
 *
 * CHUNKS: each preceded by its length, 4 bytes, little-endian. What is measured is as load.py says.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MOST 16384
#define ROOM (1 << 16)

typedef struct {
    int fd, used, chunk, has_head, is_first;
    long body_left, due_next; /* due_next: the connection due after this one, -1 for none */
    double began, due;
    char tail[5];
    char *buffer;
} Peer;

static Peer *peers[MOST];
static int poller;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static char *slurp(const char *path, long *size) {
    FILE *file = fopen(path, "rb");
    if (!file) die(path);
    fseek(file, 0, SEEK_END);
    *size = ftell(file);
    rewind(file);
    char *text = malloc(*size + 1);
    if (fread(text, 1, *size, file) != (size_t)*size) die(path);
    text[*size] = 0;
    fclose(file);
    return text;
}

static Peer *add(int fd) {
    int one = 1;
    if (fd >= MOST) die("too many connections");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    Peer *peer = peers[fd] ? peers[fd] : calloc(1, sizeof(Peer));
    char *buffer = peer->buffer ? peer->buffer : malloc(ROOM + 1);
    memset(peer, 0, sizeof *peer);
    peer->buffer = buffer;
    peer->fd = fd;
    peers[fd] = peer;
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
    return peer;
}

static void end(Peer *peer) {
    if (peer->fd >= 0) close(peer->fd);
    peer->fd = -1;
}

/* The kernel's buffers are larger than anything said here: a short write is a failure. */
static void say(Peer *peer, const char *text, long size) {
    if (peer->fd >= 0 && send(peer->fd, text, size, MSG_NOSIGNAL) != size) end(peer);
}

static long content_length(char *head) {
    char *at = strcasestr(head, "content-length:");
    return at ? atol(at + 15) : 0;
}

/* the mock engine */

static char *whole, *head, *chunks, *chunk_at[1024], *stream; /* stream: head, chunks and end */
static long whole_size, head_size, chunks_size, stream_size;
static uint32_t chunk_size[1024];
static int chunk_count;
static double delay;
static long first_due = -1, last_due = -1;

static void wait_for_turn(Peer *peer) { /* all wait equally long: those in line are in order */
    int index = peer->fd;
    peer->due = now() + delay;
    peer->due_next = -1;
    if (last_due >= 0) peers[last_due]->due_next = index;
    else first_due = index;
    last_due = index;
}

static void answer(Peer *peer, int is_stream) {
    if (!is_stream) {
        say(peer, whole, whole_size);
        return;
    }
    if (delay <= 0) {
        say(peer, stream, stream_size);
        return;
    }
    say(peer, head, head_size);
    peer->chunk = 0;
    if (peer->fd >= 0) wait_for_turn(peer);
}

static void take_turns(void) {
    double at = now();
    while (first_due >= 0 && peers[first_due]->due <= at) {
        Peer *peer = peers[first_due];
        long index = first_due;
        first_due = peer->due_next;
        if (first_due < 0) last_due = -1;
        if (peer->fd != index) { /* it has left; its place is given back now */
            close(index);
            continue;
        }
        say(peer, chunk_at[peer->chunk], chunk_size[peer->chunk]);
        if (peer->fd < 0) continue;
        if (++peer->chunk < chunk_count) wait_for_turn(peer);
        else {
            say(peer, "0\r\n\r\n", 5);
            peer->chunk = 0;
            peer->due = 0;
        }
    }
}

static void hear(Peer *peer) {
    long got = recv(peer->fd, peer->buffer + peer->used, ROOM - peer->used, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        if (peer->due > 0) { /* in line: the number must not be given to another yet */
            epoll_ctl(poller, EPOLL_CTL_DEL, peer->fd, NULL);
            shutdown(peer->fd, SHUT_RDWR);
            peer->fd = -1;
        } else end(peer);
        return;
    }
    peer->used += got;
    peer->buffer[peer->used] = 0;
    char *stop = strstr(peer->buffer, "\r\n\r\n");
    if (!stop || peer->used < stop + 4 - peer->buffer + content_length(peer->buffer)) return;
    peer->used = 0;
    answer(peer, strstr(stop, "\"stream\":true") != NULL);
}

static void mock(char **arguments) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[0]))};
    delay = atof(arguments[1]) * 1e-6;
    whole = slurp(arguments[2], &whole_size);
    head = slurp(arguments[3], &head_size);
    chunks = slurp(arguments[4], &chunks_size);
    for (long at = 0; at < chunks_size; at += chunk_size[chunk_count++] + 4) {
        memcpy(&chunk_size[chunk_count], chunks + at, 4);
        chunk_at[chunk_count] = chunks + at + 4;
    }
    stream = malloc(head_size + chunks_size + 5);
    memcpy(stream, head, head_size);
    stream_size = head_size;
    for (int i = 0; i < chunk_count; stream_size += chunk_size[i++])
        memcpy(stream + stream_size, chunk_at[i], chunk_size[i]);
    memcpy(stream + stream_size, "0\r\n\r\n", 5);
    stream_size += 5;
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 4096)) die("listen");
    struct epoll_event events[512], event = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int wait = -1;
        if (first_due >= 0) {
            double left = peers[first_due]->due - now();
            wait = left > 0 ? (int)(left * 1000) + 1 : 0;
        }
        int ready = epoll_wait(poller, events, 512, wait);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                int given = accept(listener, NULL, NULL);
                if (given >= 0) add(given);
            } else if (peers[fd]->fd == fd) hear(peers[fd]);
        }
        take_turns();
    }
}

/* the load generator */

static char *request;
static long request_size, requests, failures, events_seen;
static double *latencies, *firsts, deadline;
static long latency_count, first_count, open_count, kept;
static int is_stream;

static void ask(Peer *peer) {
    peer->used = peer->has_head = 0;
    peer->is_first = 1;
    memset(peer->tail, 0, 5);
    peer->began = now();
    say(peer, request, request_size);
}

static void answered(Peer *peer) {
    double at = now();
    if (latency_count < kept) latencies[latency_count++] = at - peer->began;
    requests++;
    if (at > deadline) {
        end(peer);
        open_count--;
    } else ask(peer);
}

static void lost(Peer *peer) {
    failures++;
    open_count--;
    end(peer);
}

static void take_stream(Peer *peer, char *data, long size) {
    if (size <= 0) return;
    if (peer->is_first && first_count < kept) firsts[first_count++] = now() - peer->began;
    peer->is_first = 0;
    for (char *at = data; (at = memmem(at, data + size - at, "data: ", 6)); at += 6) events_seen++;
    for (long i = size > 5 ? size - 5 : 0; i < size; i++) {
        memmove(peer->tail, peer->tail + 1, 4);
        peer->tail[4] = data[i];
    }
    if (!memcmp(peer->tail, "0\r\n\r\n", 5)) answered(peer);
}

static void listen_to(Peer *peer) {
    long got = recv(peer->fd, peer->buffer + peer->used, ROOM - peer->used, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        lost(peer);
        return;
    }
    if (peer->has_head && is_stream) {
        take_stream(peer, peer->buffer + peer->used, got);
        return;
    }
    peer->used += got;
    peer->buffer[peer->used] = 0;
    if (!peer->has_head) {
        char *stop = strstr(peer->buffer, "\r\n\r\n");
        if (!stop) return;
        if (strncmp(peer->buffer, "HTTP/1.1 200", 12)) {
            lost(peer);
            return;
        }
        long size = stop + 4 - peer->buffer;
        peer->has_head = 1;
        if (is_stream) {
            long rest = peer->used - size;
            peer->used = 0;
            take_stream(peer, stop + 4, rest);
            return;
        }
        peer->body_left = size + content_length(peer->buffer);
    }
    if (peer->used >= peer->body_left) answered(peer);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double part(double *values, long count, double share) {
    long at = count * share;
    return count ? values[at < count ? at : count - 1] * 1000 : 0;
}

static void load(char **arguments) {
    int connections = atoi(arguments[1]);
    double seconds = atof(arguments[2]);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[0]))};
    is_stream = atoi(arguments[3]);
    request = slurp(arguments[4], &request_size);
    kept = 1 << 22;
    latencies = malloc(kept * sizeof(double));
    firsts = malloc(kept * sizeof(double));
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    double began = now();
    deadline = began + seconds;
    for (int i = 0; i < connections; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, (void *)&address, sizeof address)) die("connect");
        ask(add(fd));
        open_count++;
    }
    struct epoll_event events[512];
    while (open_count > 0 && now() < deadline + 30) {
        int ready = epoll_wait(poller, events, 512, 1000);
        for (int i = 0; i < ready; i++) {
            Peer *peer = peers[events[i].data.fd];
            if (peer->fd == events[i].data.fd) listen_to(peer);
        }
    }
    double spent = now() - began;
    qsort(latencies, latency_count, sizeof(double), ascending);
    qsort(firsts, first_count, sizeof(double), ascending);
    printf("{\"requests\": %ld, \"failures\": %ld, \"seconds\": %.6f, \"events\": %ld", requests,
           failures + open_count, spent, events_seen);
    printf(", \"p50_ms\": %.4f, \"p99_ms\": %.4f", part(latencies, latency_count, 0.5),
           part(latencies, latency_count, 0.99));
    printf(", \"first_chunk_p50_ms\": %.4f, \"first_chunk_p99_ms\": %.4f}\n",
           part(firsts, first_count, 0.5), part(firsts, first_count, 0.99));
}

int main(int count, char **arguments) {
    signal(SIGPIPE, SIG_IGN);
    poller = epoll_create1(0);
    if (count == 7 && !strcmp(arguments[1], "mock")) mock(arguments + 2);
    else if (count == 7 && !strcmp(arguments[1], "load")) load(arguments + 2);
    else {
        fprintf(stderr, "usage: see the head of wire.c\n");
        return 2;
    }
    return 0;
}
