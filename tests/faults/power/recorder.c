/* Records what a program does to the files below a folder, for tests/faults/power/disk.py.
 *
 * Loaded by LD_PRELOAD; the folder and the log are POWER_FOLDER and POWER_LOG, absolute paths
 * without symbolic links. Each record is a struct header and its payload, appended by one write, so
 * that the records of several processes come in the order in which things happened. A call and its
 * record are one step for the other threads.
 *
 * SQLite's -shm files are left out: they are mapped into memory, and made anew after a power cut.
 * What would change a file in a way that is not recorded ends the program, with one exception: what
 * C's stdio writes is not seen. Python and SQLite do without it, and who records compares in the
 * end. For machines whose off_t has 64 bits.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define INODES 65536

struct header {
    uint32_t length; /* of the payload */
    uint32_t kind;
    uint64_t inode;
    int64_t number; /* an offset, or a size */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char folder[PATH_MAX];
static size_t folder_length;
static int log_file = -1;
static dev_t device;
static struct {
    uint64_t inode; /* 0: a free place of the hash table */
    int watched;
} files[INODES];

static void give_up(const char *what)
{
    dprintf(2, "power recorder: %s: %s\n", what, strerror(errno));
    abort();
}

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("POWER_FOLDER"), *log_path = getenv("POWER_LOG");
    struct stat status;
    if (!path || !log_path)
        return;
    if (stat(path, &status) || strlen(path) >= sizeof folder)
        give_up(path);
    log_file = (int)syscall(SYS_openat, AT_FDCWD, log_path,
                            O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_file < 0)
        give_up(log_path);
    strcpy(folder, path);
    folder_length = strlen(folder);
    device = status.st_dev;
}

static void note(char kind, uint64_t inode, int64_t number, const void *data, size_t length)
{
    struct header header = {(uint32_t)length, (uint32_t)kind, inode, number};
    struct iovec parts[] = {{&header, sizeof header}, {(void *)data, length}};
    int error = errno;
    if (syscall(SYS_writev, log_file, parts, 2) != (long)(sizeof header + length))
        give_up("the log cannot be written");
    errno = error;
}

/* Whether a path leads into the folder; then `inside` becomes what follows the folder in it. */
static int within(int at, const char *path, char inside[PATH_MAX])
{
    char whole[2 * PATH_MAX], parent[PATH_MAX], link[64];
    int error = errno;
    size_t length;
    if (log_file < 0 || !path || !*path)
        return 0;
    if (*path == '/') {
        snprintf(whole, sizeof whole, "%s", path);
    } else {
        ssize_t size;
        snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        size = readlink(at == AT_FDCWD ? "/proc/self/cwd" : link, parent, sizeof parent - 1);
        if (size < 0)
            return errno = error, 0;
        parent[size] = 0;
        snprintf(whole, sizeof whole, "%s/%s", parent, path);
    }
    for (length = strlen(whole); length > 1 && whole[length - 1] == '/'; length--)
        whole[length - 1] = 0;
    char *name = strrchr(whole, '/');
    *name++ = 0;
    if (!realpath(*whole ? whole : "/", parent))
        return errno = error, 0;
    errno = error;
    length = strlen(name);
    if (length >= 4 && !strcmp(name + length - 4, "-shm"))
        return 0;
    const char *rest = parent + folder_length;
    if (strncmp(parent, folder, folder_length) || (*rest && *rest != '/'))
        return 0;
    rest += *rest == '/';
    if (snprintf(inside, PATH_MAX, "%s%s%s", rest, *rest ? "/" : "", name) >= PATH_MAX)
        give_up("a long path");
    return 1;
}

static int *watched(uint64_t inode)
{
    uint64_t start = inode * 0x9E3779B97F4A7C15u >> 48;
    for (uint64_t step = 0; step < INODES; step++) {
        uint64_t place = (start + step) % INODES;
        if (!files[place].inode)
            files[place].inode = inode;
        if (files[place].inode == inode)
            return &files[place].watched;
    }
    give_up("too many files");
    return NULL;
}

/* The number of the file, 0 if it is none of those that are recorded. */
static uint64_t inode_of(int file)
{
    struct stat status;
    int error = errno, failed = log_file < 0 || fstat(file, &status);
    errno = error;
    if (failed || !S_ISREG(status.st_mode) || status.st_dev != device)
        return 0;
    pthread_mutex_lock(&lock);
    int ours = *watched(status.st_ino);
    pthread_mutex_unlock(&lock);
    return ours ? status.st_ino : 0;
}

/* The last name of a file goes: another one, such as a -shm, may get its number. */
static void forget(const struct stat *gone)
{
    if (gone->st_nlink == 1 && gone->st_dev == device)
        *watched(gone->st_ino) = 0;
}

/* --- opening ------------------------------------------------------------------------- */

static int open_it(int at, const char *path, int flags, mode_t mode)
{
    char inside[PATH_MAX];
    struct stat before, after;
    if (!within(at, path, inside))
        return (int)syscall(SYS_openat, at, path, flags, mode);
    pthread_mutex_lock(&lock);
    int error = errno, is_new = fstatat(at, path, &before, 0) != 0;
    errno = error;
    int file = (int)syscall(SYS_openat, at, path, flags, mode);
    if (file >= 0 && !fstat(file, &after) && S_ISREG(after.st_mode)) {
        if (flags & O_TMPFILE & ~O_DIRECTORY)
            give_up("O_TMPFILE");
        *watched(after.st_ino) = 1;
        if (is_new)
            note('c', after.st_ino, 0, inside, strlen(inside));
        else if (flags & O_TRUNC && (flags & O_ACCMODE) != O_RDONLY)
            note('t', after.st_ino, 0, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return file;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY))) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

#define OPENS(name) \
    int name(const char *path, int flags, ...) \
    { \
        MODE(flags) \
        return open_it(AT_FDCWD, path, flags, mode); \
    }

#define OPENS_AT(name) \
    int name(int at, const char *path, int flags, ...) \
    { \
        MODE(flags) \
        return open_it(at, path, flags, mode); \
    }

/* Those that begin with underscores are what the others become with _FORTIFY_SOURCE. */
OPENS(open)
OPENS(open64)
OPENS(__open_2)
OPENS(__open64_2)
OPENS_AT(openat)
OPENS_AT(openat64)
OPENS_AT(__openat_2)
OPENS_AT(__openat64_2)

int creat(const char *path, mode_t mode)
{
    return open_it(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

int creat64(const char *path, mode_t mode) { return creat(path, mode); }

/* --- contents ------------------------------------------------------------------------ */

/* Runs a call that writes to a file, and records `size` bytes if it has. */
#define WRITTEN(file, call, at, parts, count) \
    uint64_t inode = inode_of(file); \
    if (!inode) \
        return call; \
    pthread_mutex_lock(&lock); \
    ssize_t size = call; \
    if (size > 0) \
        note_parts(inode, at, parts, count, (size_t)size); \
    pthread_mutex_unlock(&lock); \
    return size

static void note_parts(uint64_t inode, int64_t at, const struct iovec *parts, int count,
                       size_t size)
{
    for (int i = 0; i < count && size; i++) {
        size_t length = parts[i].iov_len < size ? parts[i].iov_len : size;
        note('w', inode, at, parts[i].iov_base, length);
        at += (int64_t)length;
        size -= length;
    }
}

static int64_t before(int file, ssize_t size)
{
    return lseek(file, 0, SEEK_CUR) - size;
}

ssize_t write(int file, const void *data, size_t length)
{
    struct iovec part = {(void *)data, length};
    WRITTEN(file, syscall(SYS_write, file, data, length), before(file, size), &part, 1);
}

ssize_t writev(int file, const struct iovec *parts, int count)
{
    WRITTEN(file, syscall(SYS_writev, file, parts, count), before(file, size), parts, count);
}

ssize_t pwrite64(int file, const void *data, size_t length, off_t offset)
{
    struct iovec part = {(void *)data, length};
    WRITTEN(file, syscall(SYS_pwrite64, file, data, length, offset), offset, &part, 1);
}

ssize_t pwrite(int file, const void *data, size_t length, off_t offset)
{
    return pwrite64(file, data, length, offset);
}

ssize_t pwritev64v2(int file, const struct iovec *parts, int count, off_t offset, int flags)
{
    WRITTEN(file, syscall(SYS_pwritev2, file, parts, count, offset, 0, flags),
            offset == -1 ? before(file, size) : offset, parts, count);
}

ssize_t pwritev2(int file, const struct iovec *parts, int count, off_t offset, int flags)
{
    return pwritev64v2(file, parts, count, offset, flags);
}

ssize_t pwritev64(int file, const struct iovec *parts, int count, off_t offset)
{
    WRITTEN(file, syscall(SYS_pwritev, file, parts, count, offset, 0), offset, parts, count);
}

ssize_t pwritev(int file, const struct iovec *parts, int count, off_t offset)
{
    return pwritev64(file, parts, count, offset);
}

int ftruncate64(int file, off_t size)
{
    uint64_t inode = inode_of(file);
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_ftruncate, file, size);
    if (inode && !result)
        note('t', inode, size, NULL, 0);
    pthread_mutex_unlock(&lock);
    return result;
}

int ftruncate(int file, off_t size) { return ftruncate64(file, size); }

int truncate64(const char *path, off_t size)
{
    int file = open(path, O_WRONLY | O_CLOEXEC), result, error;
    if (file < 0)
        return -1;
    result = ftruncate64(file, size);
    error = errno;
    close(file);
    errno = error;
    return result;
}

int truncate(const char *path, off_t size) { return truncate64(path, size); }

int fallocate64(int file, int mode, off_t offset, off_t length)
{
    uint64_t inode = inode_of(file);
    struct stat status;
    if (inode && mode)
        give_up("fallocate with a mode");
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_fallocate, file, mode, offset, length);
    if (inode && !result && !fstat(file, &status))
        note('t', inode, status.st_size, NULL, 0);
    pthread_mutex_unlock(&lock);
    return result;
}

int fallocate(int file, int mode, off_t offset, off_t length)
{
    return fallocate64(file, mode, offset, length);
}

int posix_fallocate64(int file, off_t offset, off_t length)
{
    return fallocate64(file, 0, offset, length) ? errno : 0;
}

int posix_fallocate(int file, off_t offset, off_t length)
{
    return posix_fallocate64(file, offset, length);
}

ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t length,
                        unsigned flags)
{
    if (!inode_of(out))
        return syscall(SYS_copy_file_range, in, in_at, out, out_at, length, flags);
    errno = ENOSYS; /* then programs read and write */
    return -1;
}

int ioctl(int file, unsigned long request, ...)
{
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    if ((request == FICLONE || request == FICLONERANGE) && inode_of(file)) {
        errno = EOPNOTSUPP; /* the same */
        return -1;
    }
    return (int)syscall(SYS_ioctl, file, request, argument);
}

ssize_t sendfile64(int out, int in, off_t *offset, size_t length)
{
    if (inode_of(out))
        give_up("sendfile to a file");
    return syscall(SYS_sendfile, out, in, offset, length);
}

ssize_t sendfile(int out, int in, off_t *offset, size_t length)
{
    return sendfile64(out, in, offset, length);
}

void *mmap64(void *address, size_t length, int protection, int flags, int file, off_t offset)
{
    if (protection & PROT_WRITE && (flags & MAP_TYPE) != MAP_PRIVATE && inode_of(file))
        give_up("a file that is written by way of memory");
    return (void *)syscall(SYS_mmap, address, length, protection, flags, file, offset);
}

void *mmap(void *address, size_t length, int protection, int flags, int file, off_t offset)
{
    return mmap64(address, length, protection, flags, file, offset);
}

/* --- syncing; what sync_file_range promises is no more than nothing -------------------- */

static int synced(long number, int file)
{
    struct stat status;
    pthread_mutex_lock(&lock);
    int result = (int)syscall(number, file);
    if (!result && log_file >= 0 && !fstat(file, &status) && status.st_dev == device) {
        if (number == SYS_syncfs)
            note('S', 0, 0, NULL, 0);
        else if (S_ISDIR(status.st_mode) || *watched(status.st_ino))
            note('s', status.st_ino, 0, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int fsync(int file) { return synced(SYS_fsync, file); }
int fdatasync(int file) { return synced(SYS_fdatasync, file); }
int syncfs(int file) { return synced(SYS_syncfs, file); }

/* --- names --------------------------------------------------------------------------- */

/* Runs a call that changes names, and records it if it has. */
static int renamed(char kind, long number, int old_at, const char *old_path, int new_at,
                   const char *new_path, int flags)
{
    char names[2 * PATH_MAX], old_name[PATH_MAX], new_name[PATH_MAX];
    int from = within(old_at, old_path, old_name), to = within(new_at, new_path, new_name);
    struct stat replaced;
    pthread_mutex_lock(&lock);
    int error = errno, replaces = to && !fstatat(new_at, new_path, &replaced, AT_SYMLINK_NOFOLLOW);
    errno = error;
    int result = (int)syscall(number, old_at, old_path, new_at, new_path, flags);
    if (!result && from != to)
        give_up("a name that leaves or enters the folder");
    if (!result && from) {
        size_t length = strlen(old_name) + 1;
        if (kind == 'r' && flags & ~1) /* 1: RENAME_NOREPLACE */
            give_up("renameat2 with flags");
        memcpy(names, old_name, length);
        strcpy(names + length, new_name);
        note(kind, 0, 0, names, length + strlen(new_name));
        if (replaces)
            forget(&replaced);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int renameat2(int old_at, const char *from, int new_at, const char *to, unsigned flags)
{
    return renamed('r', SYS_renameat2, old_at, from, new_at, to, (int)flags);
}

int renameat(int old_at, const char *from, int new_at, const char *to)
{
    return renameat2(old_at, from, new_at, to, 0);
}

int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }

int linkat(int old_at, const char *from, int new_at, const char *to, int flags)
{
    return renamed('l', SYS_linkat, old_at, from, new_at, to, flags);
}

int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int unlinkat(int at, const char *path, int flags)
{
    char inside[PATH_MAX];
    struct stat gone;
    int ours = within(at, path, inside);
    pthread_mutex_lock(&lock);
    int error = errno, is_there = ours && !fstatat(at, path, &gone, AT_SYMLINK_NOFOLLOW);
    errno = error;
    int result = (int)syscall(SYS_unlinkat, at, path, flags);
    if (is_there && !result) {
        note('u', 0, 0, inside, strlen(inside));
        forget(&gone);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int at, const char *path, mode_t mode)
{
    char inside[PATH_MAX];
    struct stat status;
    int ours = within(at, path, inside);
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_mkdirat, at, path, mode);
    if (ours && !result && !fstatat(at, path, &status, 0))
        note('m', status.st_ino, 0, inside, strlen(inside));
    pthread_mutex_unlock(&lock);
    return result;
}

int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }
