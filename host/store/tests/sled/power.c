/* Keeps, beside a directory, the image of it that a loss of power would leave: only what was written
 * and then synced. Loaded into a process with LD_PRELOAD; IMAGE_OF names the directory, IMAGE where
 * the image goes. sync_file_range makes nothing durable. Names (made, moved, removed) are taken as
 * durable at once, which is kinder than a disk. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct range { char path[512]; off_t from, to; };

static struct range *ranges;
static size_t count, room;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

/* Where in the image the file at this path is; 0 if it is not in the directory. */
static int in_image(const char *path, char *to) {
    const char *of = getenv("IMAGE_OF"), *image = getenv("IMAGE");
    if (!of || !image || strncmp(path, of, strlen(of)) || path[strlen(of)] != '/') return 0;
    snprintf(to, PATH_MAX, "%s%s", image, path + strlen(of));
    return 1;
}

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return 1;
}

static void written(int fd, off_t from, ssize_t bytes) {
    char path[PATH_MAX], image[PATH_MAX];
    if (bytes <= 0 || !path_of(fd, path) || !in_image(path, image)) return;
    pthread_mutex_lock(&lock);
    if (count == room) {
        room = room ? 2 * room : 1024;
        ranges = realloc(ranges, room * sizeof *ranges);
        if (!ranges) abort();
    }
    struct range *range = &ranges[count++];
    snprintf(range->path, sizeof range->path, "%s", path);
    range->from = from;
    range->to = from + bytes;
    pthread_mutex_unlock(&lock);
}

/* Copies what was written before the sync began. */
static void synced(int fd, struct range *done, size_t many) {
    char path[PATH_MAX], image[PATH_MAX], buffer[65536];
    struct stat now;
    if (!path_of(fd, path) || !in_image(path, image)) return;
    if (fstat(fd, &now) || !S_ISREG(now.st_mode)) return;
    int from = open(path, O_RDONLY), to = open(image, O_RDWR | O_CREAT, 0644);
    if (from < 0 || to < 0) abort();
    for (size_t n = 0; n < many; n++) {
        for (off_t at = done[n].from; at < done[n].to;) {
            size_t most = done[n].to - at < (off_t)sizeof buffer ? (size_t)(done[n].to - at) : sizeof buffer;
            ssize_t bytes = pread(from, buffer, most, at);
            if (bytes <= 0) break;
            if (REAL(pwrite64)(to, buffer, bytes, at) != bytes) abort();
            at += bytes;
        }
    }
    if (REAL(ftruncate64)(to, now.st_size)) abort();
    close(from);
    close(to);
}

static int sync_with(int fd, int (*sync)(int)) {
    char path[PATH_MAX];
    struct range *done = NULL;
    size_t many = 0, left = 0;
    if (path_of(fd, path)) {
        pthread_mutex_lock(&lock);
        done = malloc((count + 1) * sizeof *done);
        for (size_t n = 0; n < count; n++) {
            if (strcmp(ranges[n].path, path) == 0) done[many++] = ranges[n];
            else ranges[left++] = ranges[n];
        }
        count = left;
        pthread_mutex_unlock(&lock);
    }
    int answer = sync(fd);
    if (answer == 0 && done) synced(fd, done, many);
    free(done);
    return answer;
}

int fsync(int fd) { return sync_with(fd, REAL(fsync)); }
int fdatasync(int fd) { return sync_with(fd, REAL(fdatasync)); }

ssize_t pwrite64(int fd, const void *from, size_t bytes, off64_t at) {
    ssize_t done = REAL(pwrite64)(fd, from, bytes, at);
    written(fd, at, done);
    return done;
}
ssize_t pwrite(int fd, const void *from, size_t bytes, off_t at) { return pwrite64(fd, from, bytes, at); }

ssize_t write(int fd, const void *from, size_t bytes) {
    off_t at = lseek(fd, 0, SEEK_CUR);
    ssize_t done = REAL(write)(fd, from, bytes);
    if (at >= 0) written(fd, at, done);
    return done;
}

int rename(const char *old, const char *new) {
    int answer = REAL(rename)(old, new);
    char from[PATH_MAX], to[PATH_MAX];
    if (answer == 0 && in_image(old, from) && in_image(new, to)) {
        pthread_mutex_lock(&lock);
        for (size_t n = 0; n < count; n++)
            if (strcmp(ranges[n].path, old) == 0) snprintf(ranges[n].path, sizeof ranges[n].path, "%s", new);
        pthread_mutex_unlock(&lock);
        if (access(from, F_OK)) {
            /* Never synced: the name is there, the content is not. */
            int empty = open(to, O_RDWR | O_CREAT | O_TRUNC, 0644);
            if (empty >= 0) close(empty);
        } else {
            REAL(rename)(from, to);
        }
    }
    return answer;
}

int unlink(const char *path) {
    int answer = REAL(unlink)(path);
    char image[PATH_MAX];
    if (answer == 0 && in_image(path, image)) REAL(unlink)(image);
    return answer;
}
