/* Faults under an unchanged program, between it and the kernel: loaded with LD_PRELOAD into the binary under test.
 *
 * Every call that changes a file below one directory (FAULT_HOME) is a step, and has a number. The control file
 * (FAULT_CONTROL), which all processes and the test share, counts the steps and says at which of them the process dies, and
 * which calls fail with which error. Where there is a journal (FAULT_JOURNAL, a directory on the same file system and not
 * below the home), it tells what a loss of power could undo: the bytes under each write, the names under each change of a
 * directory, and what was synced. The test reads it once the process is dead, and undoes some of that.
 *
 * One lock, in the control file, is held during each step: steps have an order, also across threads and processes. It is
 * robust: a process that dies with it leaves it to the next.
 *
 * What calls the kernel without libc goes unseen. The layout of the control file and of the journal is fault/mod.rs's, too.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define CONTROL_BYTES 4096
#define RULES 8
#define FDS 65536

enum operation { OPEN = 1, READ = 2, WRITE = 4, TRUNCATE = 8, SYNC = 16, RENAME = 32, UNLINK = 64, MKDIR = 128, CREATE = 256, LINK = 512 };
enum moment { ALIVE = 0, BEFORE = 1, AFTER = 2, HALF = 3 };
enum record { R_WRITE = 1, R_TRUNCATE, R_SYNC, R_CREATE, R_MKDIR, R_UNLINK, R_RMDIR, R_RENAME, R_LINK };

struct rule {
    /* 0: not in use. Written last. */
    _Atomic uint32_t error;
    uint32_t operations;
    /* How often it still fails; negative: for ever. */
    _Atomic int64_t remaining;
    /* A part of the path. */
    char part[112];
};

struct control {
    uint64_t magic;
    _Atomic uint64_t steps;
    _Atomic uint64_t kill_at;
    _Atomic uint64_t moment;
    uint64_t seed;
    _Atomic uint64_t fired;
    _Atomic uint64_t failed;
    _Atomic uint64_t journal_bytes;
    _Atomic uint32_t lock_state;
    uint32_t unused;
    /* The bytes that the disk says are free, and one more; 0: as it is. */
    _Atomic uint64_t free_and_one;
    char pad[128 - 80];
    pthread_mutex_t mutex;
    char pad_mutex[128 - sizeof(pthread_mutex_t)];
    char last[256];
    struct rule rules[RULES];
};
_Static_assert(sizeof(struct control) <= CONTROL_BYTES, "the control file is one page");
_Static_assert(sizeof(struct rule) == 128, "as fault/mod.rs writes it");

static struct control *control;
static const char *home;
static size_t home_len;
static const char *journal;
static int journal_fd = -1;
/* What each descriptor is: 0 unknown, 1 below the home, 2 elsewhere. */
static _Atomic unsigned char kinds[FDS];

static void give_up(const char *why) {
    fprintf(stderr, "fault shim: %s: %s\n", why, strerror(errno));
    _exit(99);
}

__attribute__((constructor)) static void set_up(void) {
    const char *path = getenv("FAULT_CONTROL");
    home = getenv("FAULT_HOME");
    if (path == NULL || home == NULL) {
        return;
    }
    home_len = strlen(home);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) {
        give_up("cannot open the control file");
    }
    void *page = mmap(NULL, CONTROL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED) {
        give_up("cannot map the control file");
    }
    syscall(SYS_close, fd);
    struct control *mapped = page;
    uint32_t unset = 0;
    if (atomic_compare_exchange_strong(&mapped->lock_state, &unset, 1)) {
        pthread_mutexattr_t attributes;
        pthread_mutexattr_init(&attributes);
        pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
        pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
        pthread_mutex_init(&mapped->mutex, &attributes);
        atomic_store(&mapped->lock_state, 2);
    }
    while (atomic_load(&mapped->lock_state) != 2) {
        usleep(100);
    }
    journal = getenv("FAULT_JOURNAL");
    if (journal != NULL) {
        char log[PATH_MAX];
        snprintf(log, sizeof log, "%s/log", journal);
        fd = (int)syscall(SYS_openat, AT_FDCWD, log, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        /* Out of the way of descriptors that are handed over by number. */
        journal_fd = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 512);
        if (journal_fd < 0) {
            give_up("cannot open the journal");
        }
        syscall(SYS_close, fd);
    }
    control = mapped;
}

/* --- which files --- */

static int below_home(const char *path) {
    return strncmp(path, home, home_len) == 0 && (path[home_len] == '/' || path[home_len] == 0);
}

static int path_of_fd(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) {
        return 0;
    }
    path[length] = 0;
    return 1;
}

/* The path of a descriptor, if it is a file of the home. */
static int tracked_fd(int fd, char *path) {
    if (control == NULL || fd < 0) {
        return 0;
    }
    if (fd < FDS && kinds[fd] == 2) {
        return 0;
    }
    int kept = errno;
    int is_ours = path_of_fd(fd, path) && below_home(path);
    if (fd < FDS) {
        kinds[fd] = is_ours ? 1 : 2;
    }
    errno = kept;
    return is_ours;
}

/* The whole path of a name, if it is in the home. */
static int tracked_path(int directory, const char *name, char *path) {
    if (control == NULL || name == NULL) {
        return 0;
    }
    int kept = errno;
    int known = 1;
    if (name[0] == '/') {
        known = snprintf(path, PATH_MAX, "%s", name) < PATH_MAX;
    } else {
        char base[PATH_MAX];
        known = directory == AT_FDCWD ? getcwd(base, sizeof base) != NULL : path_of_fd(directory, base);
        known = known && snprintf(path, PATH_MAX, "%s/%s", base, name) < PATH_MAX;
    }
    errno = kept;
    return known && below_home(path);
}

/* --- errors --- */

/* Whether this call is to fail; errno says how. */
static int refused(unsigned operation, const char *path) {
    for (int i = 0; i < RULES; i++) {
        struct rule *rule = &control->rules[i];
        uint32_t error = atomic_load(&rule->error);
        if (error == 0 || (rule->operations & operation) == 0 || strstr(path, rule->part) == NULL) {
            continue;
        }
        if (atomic_load(&rule->remaining) >= 0 && atomic_fetch_sub(&rule->remaining, 1) <= 0) {
            atomic_store(&rule->remaining, 0);
            continue;
        }
        atomic_fetch_add(&control->failed, 1);
        errno = (int)error;
        return 1;
    }
    return 0;
}

/* --- steps --- */

static void lock(void) {
    if (pthread_mutex_lock(&control->mutex) == EOWNERDEAD) {
        pthread_mutex_consistent(&control->mutex);
    }
}

static void unlock(void) {
    pthread_mutex_unlock(&control->mutex);
}

static void die(void) {
    for (;;) {
        syscall(SYS_kill, getpid(), SIGKILL);
    }
}

/* Takes the lock, counts, and dies here if that is wanted. Tells how the process dies at this step, else ALIVE. */
static enum moment begin(const char *operation, const char *path) {
    lock();
    uint64_t number = atomic_fetch_add(&control->steps, 1) + 1;
    uint64_t at = atomic_load(&control->kill_at);
    if (at == 0 || number < at) {
        return ALIVE;
    }
    atomic_store(&control->fired, number);
    snprintf(control->last, sizeof control->last, "%s %s", operation, path + home_len);
    enum moment moment = (enum moment)atomic_load(&control->moment);
    if (moment == BEFORE) {
        die();
    }
    return moment;
}

static void end(enum moment moment) {
    if (moment != ALIVE) {
        die();
    }
    int kept = errno;
    unlock();
    errno = kept;
}

/* --- the journal --- */

struct head {
    uint64_t kind, inode, parent, offset, length, size, name_bytes, data_bytes;
};

static void note(struct head head, const char *name, const void *data) {
    uint64_t at = atomic_load(&control->journal_bytes);
    struct iovec parts[3] = {{&head, sizeof head}, {(void *)name, head.name_bytes}, {(void *)data, head.data_bytes}};
    size_t whole = sizeof head + head.name_bytes + head.data_bytes;
    if (syscall(SYS_pwritev, journal_fd, parts, 3, at, 0) != (ssize_t)whole) {
        give_up("cannot write the journal");
    }
    /* What is torn by a kill is not counted, and its call was not made. */
    atomic_store(&control->journal_bytes, at + whole);
}

static uint64_t inode_of_fd(int fd, uint64_t *size) {
    struct stat stat;
    if (fstat(fd, &stat) != 0) {
        give_up("cannot look at a file");
    }
    if (size != NULL) {
        *size = (uint64_t)stat.st_size;
    }
    return stat.st_ino;
}

static uint64_t inode_of(const char *path, mode_t *mode) {
    struct stat stat;
    if (lstat(path, &stat) != 0) {
        return 0;
    }
    if (mode != NULL) {
        *mode = stat.st_mode;
    }
    return stat.st_ino;
}

/* The inode of the directory that a path is in, and the name there. */
static uint64_t parent_of(const char *path, const char **name) {
    char directory[PATH_MAX];
    snprintf(directory, sizeof directory, "%s", path);
    char *slash = strrchr(directory, '/');
    *name = path + (slash - directory) + 1;
    *slash = 0;
    return inode_of(directory, NULL);
}

/* A second name for a file that loses its own, so that it can come back, and its inode is nobody else's. */
static void save(const char *path, uint64_t inode) {
    char saved[PATH_MAX];
    snprintf(saved, sizeof saved, "%s/saved/%llu", journal, (unsigned long long)inode);
    if (syscall(SYS_linkat, AT_FDCWD, path, AT_FDCWD, saved, 0) != 0 && errno != EEXIST) {
        give_up("cannot keep a file");
    }
}

/* The bytes of a file that a call is about to replace. */
static void note_bytes(enum record kind, int fd, uint64_t offset, uint64_t length, uint64_t until) {
    if (journal == NULL) {
        return;
    }
    int kept = errno;
    uint64_t size;
    uint64_t inode = inode_of_fd(fd, &size);
    uint64_t last = until < size ? until : size;
    uint64_t count = last > offset ? last - offset : 0;
    char *old = count > 0 ? malloc(count) : NULL;
    if (count > 0) {
        /* The descriptor may be for writing only. */
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        int reader = (int)syscall(SYS_openat, AT_FDCWD, link, O_RDONLY | O_CLOEXEC, 0);
        if (reader < 0 || syscall(SYS_pread64, reader, old, count, offset) != (ssize_t)count) {
            give_up("cannot read what is overwritten");
        }
        syscall(SYS_close, reader);
    }
    note((struct head){kind, inode, 0, offset, length, size, 0, count}, "", old);
    free(old);
    errno = kept;
}

static void note_name(enum record kind, const char *path, uint64_t inode) {
    const char *name;
    uint64_t parent = parent_of(path, &name);
    note((struct head){kind, inode, parent, 0, 0, 0, strlen(name), 0}, name, "");
}

/* --- the calls --- */

static int open_at(int directory, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    if (!tracked_path(directory, name, path)) {
        int fd = (int)syscall(SYS_openat, directory, name, flags, mode);
        if (control != NULL && fd >= 0 && fd < FDS) {
            kinds[fd] = 0;
        }
        return fd;
    }
    mode_t kind = 0;
    int is_there = inode_of(path, &kind) != 0;
    int creates = (flags & O_CREAT) != 0 && !is_there;
    int truncates = (flags & O_TRUNC) != 0 && is_there && S_ISREG(kind);
    if (refused(OPEN | (creates ? CREATE : 0) | (truncates ? TRUNCATE : 0), path)) {
        return -1;
    }
    enum moment moment = ALIVE;
    if (creates || truncates) {
        moment = begin(creates ? "create" : "truncate", path);
    }
    if (truncates && journal != NULL) {
        int old = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
        if (old >= 0) {
            note_bytes(R_TRUNCATE, old, 0, 0, UINT64_MAX);
            syscall(SYS_close, old);
        }
    }
    int fd = (int)syscall(SYS_openat, directory, name, flags, mode);
    if (creates && fd >= 0 && journal != NULL) {
        note_name(R_CREATE, path, inode_of_fd(fd, NULL));
    }
    if (fd >= 0 && fd < FDS) {
        kinds[fd] = 1;
    }
    if (creates || truncates) {
        end(moment);
    }
    return fd;
}

#define MODE_ARGUMENT(flags)                                            \
    mode_t mode = 0;                                                    \
    if (((flags) & O_CREAT) || ((flags) & O_TMPFILE) == O_TMPFILE) {    \
        va_list arguments;                                              \
        va_start(arguments, flags);                                     \
        mode = va_arg(arguments, mode_t);                               \
        va_end(arguments);                                              \
    }

EXPORT int open(const char *name, int flags, ...) {
    MODE_ARGUMENT(flags)
    return open_at(AT_FDCWD, name, flags, mode);
}

EXPORT int open64(const char *name, int flags, ...) {
    MODE_ARGUMENT(flags)
    return open_at(AT_FDCWD, name, flags, mode);
}

EXPORT int openat(int directory, const char *name, int flags, ...) {
    MODE_ARGUMENT(flags)
    return open_at(directory, name, flags, mode);
}

EXPORT int openat64(int directory, const char *name, int flags, ...) {
    MODE_ARGUMENT(flags)
    return open_at(directory, name, flags, mode);
}

EXPORT int creat(const char *name, mode_t mode) {
    return open_at(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

EXPORT int creat64(const char *name, mode_t mode) {
    return open_at(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

EXPORT DIR *opendir(const char *name) {
    static DIR *(*real)(const char *);
    if (real == NULL) {
        real = (DIR * (*)(const char *)) dlsym(RTLD_NEXT, "opendir");
    }
    char path[PATH_MAX];
    if (tracked_path(AT_FDCWD, name, path) && refused(OPEN, path)) {
        return NULL;
    }
    return real(name);
}

EXPORT int close(int fd) {
    if (fd >= 0 && fd < FDS) {
        kinds[fd] = 0;
    }
    return (int)syscall(SYS_close, fd);
}

EXPORT int dup2(int from, int to) {
    if (to >= 0 && to < FDS) {
        kinds[to] = 0;
    }
    return from == to ? to : (int)syscall(SYS_dup3, from, to, 0);
}

EXPORT int dup3(int from, int to, int flags) {
    if (to >= 0 && to < FDS) {
        kinds[to] = 0;
    }
    return (int)syscall(SYS_dup3, from, to, flags);
}

EXPORT ssize_t read(int fd, void *buffer, size_t count) {
    char path[PATH_MAX];
    if (tracked_fd(fd, path) && refused(READ, path)) {
        return -1;
    }
    return syscall(SYS_read, fd, buffer, count);
}

static ssize_t read_at(int fd, void *buffer, size_t count, off64_t offset) {
    char path[PATH_MAX];
    if (tracked_fd(fd, path) && refused(READ, path)) {
        return -1;
    }
    return syscall(SYS_pread64, fd, buffer, count, offset);
}

EXPORT ssize_t pread(int fd, void *buffer, size_t count, off_t offset) {
    return read_at(fd, buffer, count, offset);
}

EXPORT ssize_t pread64(int fd, void *buffer, size_t count, off64_t offset) {
    return read_at(fd, buffer, count, offset);
}

static uint64_t end_of_half(size_t count) {
    uint64_t number = control->seed ^ (atomic_load(&control->steps) * 0x9e3779b97f4a7c15u);
    number ^= number >> 29;
    number *= 0xbf58476d1ce4e5b9u;
    number ^= number >> 32;
    return count > 0 ? number % count : 0;
}

static ssize_t write_at(int fd, const char *path, const void *buffer, size_t count, off64_t offset, int at_place) {
    if (refused(WRITE, path)) {
        return -1;
    }
    enum moment moment = begin("write", path);
    uint64_t place = (uint64_t)offset;
    if (!at_place) {
        int appends = (fcntl(fd, F_GETFL) & O_APPEND) != 0;
        off64_t now = lseek64(fd, 0, SEEK_CUR);
        place = (uint64_t)now;
        if (appends) {
            inode_of_fd(fd, &place);
        }
    }
    size_t written = moment == HALF ? end_of_half(count) : count;
    note_bytes(R_WRITE, fd, place, written, place + written);
    ssize_t done = at_place ? syscall(SYS_pwrite64, fd, buffer, written, offset) : syscall(SYS_write, fd, buffer, written);
    end(moment);
    return done;
}

EXPORT ssize_t write(int fd, const void *buffer, size_t count) {
    char path[PATH_MAX];
    if (!tracked_fd(fd, path)) {
        return syscall(SYS_write, fd, buffer, count);
    }
    return write_at(fd, path, buffer, count, 0, 0);
}

static ssize_t write_there(int fd, const void *buffer, size_t count, off64_t offset) {
    char path[PATH_MAX];
    if (!tracked_fd(fd, path)) {
        return syscall(SYS_pwrite64, fd, buffer, count, offset);
    }
    return write_at(fd, path, buffer, count, offset, 1);
}

EXPORT ssize_t pwrite(int fd, const void *buffer, size_t count, off_t offset) {
    return write_there(fd, buffer, count, offset);
}

EXPORT ssize_t pwrite64(int fd, const void *buffer, size_t count, off64_t offset) {
    return write_there(fd, buffer, count, offset);
}

/* Of several buffers only the first is written, which callers must bear. */
EXPORT ssize_t writev(int fd, const struct iovec *parts, int count) {
    char path[PATH_MAX];
    if (!tracked_fd(fd, path)) {
        return syscall(SYS_writev, fd, parts, count);
    }
    for (int i = 0; i < count; i++) {
        if (parts[i].iov_len > 0) {
            return write_at(fd, path, parts[i].iov_base, parts[i].iov_len, 0, 0);
        }
    }
    return 0;
}

static int truncate_fd(int fd, off64_t length) {
    char path[PATH_MAX];
    if (!tracked_fd(fd, path)) {
        return (int)syscall(SYS_ftruncate, fd, length);
    }
    if (refused(TRUNCATE, path)) {
        return -1;
    }
    enum moment moment = begin("truncate", path);
    if (moment != HALF) {
        note_bytes(R_TRUNCATE, fd, (uint64_t)length, (uint64_t)length, UINT64_MAX);
    }
    int done = moment == HALF ? 0 : (int)syscall(SYS_ftruncate, fd, length);
    end(moment);
    return done;
}

EXPORT int ftruncate(int fd, off_t length) {
    return truncate_fd(fd, length);
}

EXPORT int ftruncate64(int fd, off64_t length) {
    return truncate_fd(fd, length);
}

static int allocate(int fd, int mode, off64_t offset, off64_t length) {
    char path[PATH_MAX];
    if (!tracked_fd(fd, path)) {
        return (int)syscall(SYS_fallocate, fd, mode, offset, length);
    }
    if (refused(WRITE, path)) {
        return -1;
    }
    enum moment moment = begin("allocate", path);
    note_bytes(R_WRITE, fd, (uint64_t)offset, (uint64_t)length, (uint64_t)(offset + length));
    int done = (int)syscall(SYS_fallocate, fd, mode, offset, length);
    end(moment);
    return done;
}

EXPORT int fallocate(int fd, int mode, off_t offset, off_t length) {
    return allocate(fd, mode, offset, length);
}

EXPORT int fallocate64(int fd, int mode, off64_t offset, off64_t length) {
    return allocate(fd, mode, offset, length);
}

EXPORT int posix_fallocate(int fd, off_t offset, off_t length) {
    return allocate(fd, 0, offset, length) == 0 ? 0 : errno;
}

EXPORT int posix_fallocate64(int fd, off64_t offset, off64_t length) {
    return allocate(fd, 0, offset, length) == 0 ? 0 : errno;
}

static int sync_fd(int fd, long number) {
    char path[PATH_MAX];
    if (!tracked_fd(fd, path)) {
        return (int)syscall(number, fd);
    }
    if (refused(SYNC, path)) {
        return -1;
    }
    enum moment moment = begin("sync", path);
    int done = moment == HALF ? 0 : (int)syscall(number, fd);
    if (done == 0 && moment != HALF && journal != NULL) {
        note((struct head){R_SYNC, inode_of_fd(fd, NULL), 0, 0, 0, 0, 0, 0}, "", "");
    }
    end(moment);
    return done;
}

EXPORT int fsync(int fd) {
    return sync_fd(fd, SYS_fsync);
}

EXPORT int fdatasync(int fd) {
    return sync_fd(fd, SYS_fdatasync);
}

/* Makes nothing durable: neither the length of a file nor what the disk has in its own memory. */
EXPORT int sync_file_range(int fd, off64_t offset, off64_t count, unsigned flags) {
    char path[PATH_MAX];
    if (!tracked_fd(fd, path)) {
        return (int)syscall(SYS_sync_file_range, fd, offset, count, flags);
    }
    if (refused(SYNC, path)) {
        return -1;
    }
    enum moment moment = begin("sync range", path);
    int done = (int)syscall(SYS_sync_file_range, fd, offset, count, flags);
    end(moment);
    return done;
}

static int rename_at(int from_directory, const char *from, int to_directory, const char *to, unsigned flags) {
    char old[PATH_MAX], new[PATH_MAX];
    if (!tracked_path(from_directory, from, old) | !tracked_path(to_directory, to, new)) {
        return (int)syscall(SYS_renameat2, from_directory, from, to_directory, to, flags);
    }
    if (refused(RENAME, old) || refused(RENAME, new)) {
        return -1;
    }
    enum moment moment = begin("rename", old);
    mode_t kind = 0;
    uint64_t inode = inode_of(old, NULL);
    if (inode != 0 && moment != HALF && journal != NULL) {
        uint64_t replaced = inode_of(new, &kind);
        if (replaced != 0 && S_ISDIR(kind)) {
            replaced = 0;
        }
        if (replaced != 0) {
            save(new, replaced);
        }
        const char *old_name, *new_name;
        uint64_t old_parent = parent_of(old, &old_name), new_parent = parent_of(new, &new_name);
        char names[2 * PATH_MAX];
        int bytes = snprintf(names, sizeof names, "%s/%s", old_name, new_name);
        note((struct head){R_RENAME, inode, old_parent, new_parent, replaced, 0, (uint64_t)bytes, 0}, names, "");
    }
    int done = moment == HALF ? 0 : (int)syscall(SYS_renameat2, from_directory, from, to_directory, to, flags);
    end(moment);
    return done;
}

EXPORT int rename(const char *from, const char *to) {
    return rename_at(AT_FDCWD, from, AT_FDCWD, to, 0);
}

EXPORT int renameat(int from_directory, const char *from, int to_directory, const char *to) {
    return rename_at(from_directory, from, to_directory, to, 0);
}

EXPORT int renameat2(int from_directory, const char *from, int to_directory, const char *to, unsigned flags) {
    return rename_at(from_directory, from, to_directory, to, flags);
}

static int link_at(int from_directory, const char *from, int to_directory, const char *to, int flags) {
    char path[PATH_MAX];
    if (!tracked_path(to_directory, to, path)) {
        return (int)syscall(SYS_linkat, from_directory, from, to_directory, to, flags);
    }
    if (refused(LINK, path)) {
        return -1;
    }
    enum moment moment = begin("link", path);
    int done = moment == HALF ? 0 : (int)syscall(SYS_linkat, from_directory, from, to_directory, to, flags);
    if (done == 0 && moment != HALF && journal != NULL) {
        note_name(R_LINK, path, inode_of(path, NULL));
    }
    end(moment);
    return done;
}

EXPORT int link(const char *from, const char *to) {
    return link_at(AT_FDCWD, from, AT_FDCWD, to, 0);
}

EXPORT int linkat(int from_directory, const char *from, int to_directory, const char *to, int flags) {
    return link_at(from_directory, from, to_directory, to, flags);
}

static int unlink_at(int directory, const char *name, int flags) {
    char path[PATH_MAX];
    mode_t kind = 0;
    uint64_t inode = 0;
    if (!tracked_path(directory, name, path) || (inode = inode_of(path, &kind)) == 0) {
        return (int)syscall(SYS_unlinkat, directory, name, flags);
    }
    if (refused(UNLINK, path)) {
        return -1;
    }
    enum moment moment = begin((flags & AT_REMOVEDIR) ? "rmdir" : "unlink", path);
    if (moment != HALF && journal != NULL) {
        if ((flags & AT_REMOVEDIR) == 0 && !S_ISDIR(kind)) {
            save(path, inode);
            note_name(R_UNLINK, path, inode);
        } else if (flags & AT_REMOVEDIR) {
            note_name(R_RMDIR, path, inode);
        }
    }
    int done = moment == HALF ? 0 : (int)syscall(SYS_unlinkat, directory, name, flags);
    end(moment);
    return done;
}

EXPORT int unlink(const char *name) {
    return unlink_at(AT_FDCWD, name, 0);
}

EXPORT int unlinkat(int directory, const char *name, int flags) {
    return unlink_at(directory, name, flags);
}

EXPORT int rmdir(const char *name) {
    return unlink_at(AT_FDCWD, name, AT_REMOVEDIR);
}

static int mkdir_at(int directory, const char *name, mode_t mode) {
    char path[PATH_MAX];
    if (!tracked_path(directory, name, path) || inode_of(path, NULL) != 0) {
        return (int)syscall(SYS_mkdirat, directory, name, mode);
    }
    if (refused(MKDIR, path)) {
        return -1;
    }
    enum moment moment = begin("mkdir", path);
    int done = moment == HALF ? 0 : (int)syscall(SYS_mkdirat, directory, name, mode);
    if (done == 0 && moment != HALF && journal != NULL && strcmp(path, home) != 0) {
        note_name(R_MKDIR, path, inode_of(path, NULL));
    }
    end(moment);
    return done;
}

EXPORT int mkdir(const char *name, mode_t mode) {
    return mkdir_at(AT_FDCWD, name, mode);
}

EXPORT int mkdirat(int directory, const char *name, mode_t mode) {
    return mkdir_at(directory, name, mode);
}

/* What the disk says of itself is not what a write meets: that takes a rule. */
static int say_room(const char *call, const char *name, struct statvfs *room) {
    int (*real)(const char *, struct statvfs *) = (int (*)(const char *, struct statvfs *))dlsym(RTLD_NEXT, call);
    int done = real(name, room);
    char path[PATH_MAX];
    if (done == 0 && tracked_path(AT_FDCWD, name, path)) {
        uint64_t free_and_one = atomic_load(&control->free_and_one);
        if (free_and_one > 0) {
            room->f_bfree = room->f_bavail = (free_and_one - 1) / room->f_frsize;
        }
    }
    return done;
}

EXPORT int statvfs(const char *name, struct statvfs *room) {
    return say_room("statvfs", name, room);
}

EXPORT int statvfs64(const char *name, struct statvfs64 *room) {
    return say_room("statvfs64", name, (struct statvfs *)room);
}
