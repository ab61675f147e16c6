/*
 * kv/holder.c: who holds the lock of an image, and is that process still there?
 *
 * Owns       nothing.
 * Invariant  a process is only called alive when it was seen to hold the lock and not to be
 *            dying. What can not be seen is never made up.
 */
#include "kv/holder.h"
#include "kv/error.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* ---- the flock, as /proc tells it ---------------------------------------------- */

/*
 * Read the owner and the inode from a line that describes a flock which is held:
 *
 *    1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF
 *
 * The process is the one that took the lock; it may have ended since and left the lock to a
 * child. Who only waits for a lock has "->" before FLOCK and is not taken for a holder.
 */
static bool parse_flock(const char *line, int *pid, dev_t *device, unsigned long long *inode)
{
    unsigned major_number, minor_number;
    if (sscanf(line, "%*d: FLOCK %*s %*s %d %x:%x:%llu", pid, &major_number, &minor_number,
               inode) != 4)
        return false;
    *device = makedev(major_number, minor_number);
    return true;
}

/* Does /proc/<pid>/fdinfo/<fd>, which lists the locks made through that file, name this one? */
static bool descriptor_holds_flock(int fdinfo_dir, const char *fd_name, ino_t wanted)
{
    const int fd = openat(fdinfo_dir, fd_name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    char text[2048];
    const ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length <= 0)
        return false;
    text[length] = '\0';

    static const char label[] = "lock:";
    for (const char *lock = text; (lock = strstr(lock, label));) {
        int pid;
        dev_t device;
        unsigned long long inode;
        lock += strlen(label);
        if (parse_flock(lock, &pid, &device, &inode) && inode == wanted)
            return true;
    }
    return false;
}

static bool process_holds_flock(const char *pid_name, const struct stat *image)
{
    char path[NAME_MAX + 32];
    snprintf(path, sizeof path, "/proc/%s/fdinfo", pid_name);
    DIR *fdinfos = opendir(path);
    if (!fdinfos)
        return false;

    bool holds = false;
    const struct dirent *dirent;
    while (!holds && (dirent = readdir(fdinfos))) {
        struct stat open_file;
        if (!isdigit((unsigned char)dirent->d_name[0]) ||
            !descriptor_holds_flock(dirfd(fdinfos), dirent->d_name, image->st_ino))
            continue;
        /* Only now, since stat hangs on the files of a mount that hangs. */
        snprintf(path, sizeof path, "/proc/%s/fd/%s", pid_name, dirent->d_name);
        holds = !stat(path, &open_file) && open_file.st_dev == image->st_dev &&
                open_file.st_ino == image->st_ino;
    }
    closedir(fdinfos);
    return holds;
}

/*
 * Look through all processes that we may look into. This also finds one that inherited the
 * lock, and one on a file system whose device number in /proc/locks is not that of stat.
 */
static int find_flock_in_processes(const struct stat *image)
{
    DIR *processes = opendir("/proc");
    if (!processes)
        return 0;

    int holder = 0;
    const struct dirent *dirent;
    while (!holder && (dirent = readdir(processes))) {
        if (isdigit((unsigned char)dirent->d_name[0]) && process_holds_flock(dirent->d_name, image))
            holder = (int)strtol(dirent->d_name, NULL, 10);
    }
    closedir(processes);
    return holder;
}

/*
 * May we look at the files of this process? Then we have done so already, in vain, and it is
 * only called as the one that took the lock was.
 */
static bool was_looked_into(int pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd", pid);
    DIR *files = opendir(path);
    const bool can_list = files && readdir(files) != NULL;
    if (files)
        closedir(files);
    return can_list;
}

/* The list of all locks is open to everyone, but may name a process that has ended. */
static int find_flock_in_locks(const struct stat *image)
{
    FILE *locks = fopen("/proc/locks", "re");
    if (!locks)
        return 0;

    int holder = 0;
    char line[256];
    while (!holder && fgets(line, sizeof line, locks)) {
        int pid;
        dev_t device;
        unsigned long long inode;
        if (parse_flock(line, &pid, &device, &inode) && device == image->st_dev &&
            inode == image->st_ino && pid > 0 && (!kill(pid, 0) || errno == EPERM) &&
            !was_looked_into(pid))
            holder = pid;
    }
    (void)fclose(locks); /* was only read */
    return holder;
}

static int find_flock(const struct stat *image)
{
    const int holder = find_flock_in_processes(image);
    return holder ? holder : find_flock_in_locks(image);
}

/* ---- is it still there? --------------------------------------------------------- */

#define PROCESS_EXITING 4u /* PF_EXITING among the flags of proc(5)'s stat */

/* A thread that waits for the disk notes the signal that will end it. */
static bool is_killed(int pid)
{
    char path[64], line[128];
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *status = fopen(path, "re");
    if (!status)
        return true; /* gone by now */
    unsigned long long pending = 0, set;
    while (fgets(line, sizeof line, status)) {
        if (sscanf(line, "SigPnd: %llx", &set) == 1 || sscanf(line, "ShdPnd: %llx", &set) == 1)
            pending |= set;
    }
    (void)fclose(status); /* was only read */
    return pending & 1ull << (SIGKILL - 1);
}

/* Was the process killed, and is only not gone yet? Its files close when it is. */
static bool is_dying(int pid)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *stat_file = fopen(path, "re");
    if (!stat_file)
        return true; /* gone by now */
    const bool readable = fgets(text, sizeof text, stat_file) != NULL;
    (void)fclose(stat_file); /* was only read */
    /* The name, in parentheses, may hold anything: what counts comes after the last one. */
    const char *fields = readable ? strrchr(text, ')') : NULL;
    char state;
    unsigned flags;
    if (!fields || sscanf(fields, ") %c %*d %*d %*d %*d %*d %u", &state, &flags) != 2)
        return true;
    return state == 'Z' || state == 'X' || (flags & PROCESS_EXITING) || is_killed(pid);
}

/* ---- both locks -------------------------------------------------------------------- */

/* Does somebody hold the lock of the living? pid: 0 if it is nobody that we can see. */
static bool find_life(int fd, int *pid)
{
    struct flock life = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = KV_LIFE_OFFSET, .l_len = 1};
    if (fd < 0 || fcntl(fd, F_GETLK, &life) || life.l_type == F_UNLCK)
        return false;
    *pid = life.l_pid > 0 ? life.l_pid : 0;
    return true;
}

struct kv_holder kv_holder_find(int fd, const struct stat *status)
{
    int pid;
    if (!find_life(fd, &pid))
        pid = find_flock(status);
    else if (!pid)
        return (struct kv_holder){.state = KV_HOLDER_UNSEEN};
    if (!pid)
        return (struct kv_holder){.state = KV_HOLDER_NONE};
    return (struct kv_holder){.state = is_dying(pid) ? KV_HOLDER_DYING : KV_HOLDER_ALIVE,
                              .pid = pid};
}

void kv_holder_say(const char *path, const struct kv_holder *holder, struct kv_error *error)
{
    if (!holder->pid) {
        kv_error_set(error,
                     "%s is in use by %s (or is mounted); unmount it or stop that process first",
                     path,
                     holder->state == KV_HOLDER_UNSEEN ? "a process in another PID namespace"
                                                       : "another process");
        return;
    }

    char name[64] = "?";
    char comm_path[64];
    snprintf(comm_path, sizeof comm_path, "/proc/%d/comm", holder->pid);
    FILE *comm = fopen(comm_path, "re");
    if (comm) {
        if (fgets(name, sizeof name, comm))
            name[strcspn(name, "\n")] = '\0';
        (void)fclose(comm); /* was only read */
    }
    kv_error_set(error, "%s is in use by process %d (%s); unmount it or stop that process first",
                 path, holder->pid, name);
}
