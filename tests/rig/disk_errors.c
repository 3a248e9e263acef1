// A disk that reports errors: calls on files whose names have a given end fail with EIO.
//
// To be preloaded. DISK_ERRORS names a file with lines such as `fsync -wal`: the call and the end
// of the file's path. It is read anew at each call, so that a test can change it meanwhile. What
// fails has not been done, except that after a failed fsync the kernel forgets that the pages were
// never written: the next fsync succeeds. `stall` lets an fsync wait as long as the line is there.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int fails(const char *call, int descriptor) {
    const char *rules = getenv("DISK_ERRORS");
    FILE *file = rules ? fopen(rules, "re") : NULL;
    if (!file) {
        return 0;
    }
    char link[64], path[4096], name[16], end[256];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    length = strlen(path);
    int found = 0;
    while (!found && fscanf(file, "%15s %255s", name, end) == 2) {
        ssize_t part = strlen(end);
        found = !strcmp(name, call) && length >= part && !strcmp(path + length - part, end);
    }
    fclose(file);
    if (found) {
        errno = EIO;
    }
    return found;
}

#define REAL(name, type) static type real; if (!real) real = (type)dlsym(RTLD_NEXT, name)

static void stall(int descriptor) {
    int before = errno;
    while (fails("stall", descriptor)) {
        usleep(20000);
    }
    errno = before;
}

typedef int (*sync_call)(int);
typedef ssize_t (*read_call)(int, void *, size_t, off64_t);
typedef ssize_t (*write_call)(int, const void *, size_t, off64_t);

int fsync(int descriptor) {
    REAL("fsync", sync_call);
    stall(descriptor);
    return fails("fsync", descriptor) ? -1 : real(descriptor);
}

int fdatasync(int descriptor) {
    REAL("fdatasync", sync_call);
    stall(descriptor);
    return fails("fsync", descriptor) ? -1 : real(descriptor);
}

ssize_t pread64(int descriptor, void *data, size_t size, off64_t place) {
    REAL("pread64", read_call);
    return fails("read", descriptor) ? -1 : real(descriptor, data, size, place);
}

ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t place) {
    REAL("pwrite64", write_call);
    return fails("write", descriptor) ? -1 : real(descriptor, data, size, place);
}
