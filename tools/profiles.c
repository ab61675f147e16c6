/*
 * tools/profiles.c: settings for a kind of work or machine: the table.
 *
 * Owns       nothing; the table is constant.
 * Invariant  every row names a setting of tools/config.c with a value that it takes, and another
 *            than its default; TOOL_PROFILE_NAMES lists the table (tests/tools/test_profiles.c).
 *            What a profile is for, bench/profiles shows of it.
 */
#include "tools/profiles.h"

#include <string.h>

/* clang-format off */
static const struct tool_profile profiles[] = {
    {"read-heavy",
     "far more is read than written, at random, and it does not all fit into memory",
     "a quarter of the memory; time for what does not pack (a tenth), a fifth more written if all is "
     "changed again and again",
     {{"memory_budget", "25%", "what is found in memory is not read again"},
      {"cold_ratio", "45", "pages stay packed when there is no room for them as they are"},
      {"frozen_ratio", "40", "what is used among these is packed harder"},
      {0}}},
    {"write-heavy",
     "many small writes into files, few fsyncs",
     "what nobody fsyncs stays in the kernel for up to 30 s before it is here, and is lost in a power "
     "cut; a full image shows at close or fsync",
     {{"writeback", "yes", "the kernel gathers small writes: fewer requests, less in the log"},
      {0}}},
    {"mixed",
     "files are read and written at random places",
     "a quarter of the memory",
     {{"memory_budget", "25%", "what is read or written is found in memory the next time"},
      {"extent_percent", "50", "half for content, half for names and small files"},
      {0}}},
    {"oltp",
     "a database reads pages of its files at random and waits for each commit",
     "a quarter of the memory; a thread's stack and buffer for each",
     {{"memory_budget", "25%", "pages that the database's own cache lost are found here"},
      {"extent_percent", "75", "its files are few and large: it is their content that is read"},
      {"threads", "32", "a commit keeps a thread waiting, and those that wait share a flush"},
      {0}}},
    {"olap",
     "large files are read from start to end",
     "memory of the kernel for what is read ahead",
     {{"read_ahead", "4M", "requests of 1 MiB, several at a time, instead of 128 KiB"},
      {0}}},
    {"time-series",
     "short records are appended to many files",
     "what nobody fsyncs stays in the kernel for up to 30 s before it is here, and is lost in a power "
     "cut",
     {{"writeback", "yes", "many appends to a file become one write"},
      {"checkpoint_interval", "5min", "the end of each file is written once, not ten times"},
      {0}}},
    {"cache",
     "files that can be made again, and often are: the cache of a compiler, of a proxy",
     "a crash takes up to 30 s of what nobody fsynced; an fsync waits for a checkpoint of all that changed; "
     "access lists are not supported",
     {{"sync", "checkpoint", "no log: everything is written once, or never if it goes before"},
      {"acl", "no", "ls -l of many files asks for nothing of each"},
      {0}}},
    {"ssd",
     "few bytes written, for the life of a flash device",
     "a crash takes up to 5 s of what nobody fsynced",
     {{"checkpoint_interval", "5min", "a page that changes often is written once in that time"},
      {"commit_interval", "5s", "fewer flushes, each of whole blocks, however little is in them"},
      {0}}},
    {"hdd",
     "few seeks, for a disk that turns",
     "a crash takes up to 15 s of what nobody fsynced",
     {{"commit_interval", "15s", "each flush is a seek to the log, and one back"},
      {"checkpoint_interval", "5min", "a checkpoint is several: pages, bitmaps, superblocks"},
      {0}}},
    {"low-memory",
     "the daemon takes as little as it can",
     "what does not fit is read again; many changes at once make more checkpoints",
     {{"memory_budget", "16M", "pages and content that are kept in memory"},
      {"log_buffer", "256K", "many changes at once fill it as far as it goes"},
      {"touch_ahead", "0", "memory that nothing has needed yet is not taken"},
      {"threads", "4", "each has a buffer of 1 MiB for its request"},
      {0}}},
    {"high-memory",
     "the machine is there for this mount",
     "half of the memory",
     {{"memory_budget", "50%", "all that is used fits, if it can"},
      {"extent_percent", "50", "half for content, half for names and small files"},
      {0}}},
    {"dev",
     "a developer's trees: checked out, built, searched, removed",
     "a crash takes up to 10 s of what nobody fsynced; an fsync waits for a checkpoint of all that changed",
     {{"sync", "checkpoint", "no log: what is made and removed between checkpoints is not written"},
      {"checkpoint_interval", "10s", "so much work is lost at most, saved or not"},
      {0}}},
    {"prod",
     "a crash takes little, and somebody hears early that space runs short",
     "up to ten flushes a second while there are changes",
     {{"commit_interval", "100ms", "the longest that a change is not durable if nobody asks"},
      {"alert_space_warning", "20", "more space takes time to get"},
      {"alert_space_critical", "10", "likewise"},
      {0}}},
    {"ci",
     "trees that live for one run, and are made again if need be",
     "a crash takes all of up to an hour; an fsync waits for a checkpoint of all that changed",
     {{"sync", "checkpoint", "no log: nothing has to survive"},
      {"checkpoint_interval", "1h", "what is removed before is not written, as long as it fits"},
      {0}}},
};
/* clang-format on */

const struct tool_profile *tool_profile(size_t index)
{
    return index < sizeof profiles / sizeof profiles[0] ? &profiles[index] : NULL;
}

const struct tool_profile *tool_profile_find(const char *name)
{
    for (size_t i = 0; tool_profile(i); i++)
        if (strcmp(profiles[i].name, name) == 0)
            return &profiles[i];
    return NULL;
}
