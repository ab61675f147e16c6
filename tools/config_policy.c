/*
 * tools/config_policy.c: the sections [policy "PATTERN"] of mount.conf.
 *
 * Owns       the forms of their keys; names, and what they mean, are fs/policy.h's.
 */
#include "tools/config_policy.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "fs/expiry.h"
#include "tools/options.h"

#define EXTENT_MIN 4096u
#define EXTENT_MAX KV_BLOB_MAX

static const char section[] = "[policy";

__attribute__((format(printf, 2, 3))) static int fail(char problem[TOOL_POLICY_PROBLEM],
                                                      const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(problem, TOOL_POLICY_PROBLEM, format, arguments); /* cut, it is still of use */
    va_end(arguments);
    return -EINVAL;
}

bool tool_policy_is_header(const char *line)
{
    const size_t length = sizeof section - 1;
    return strncmp(line, section, length) == 0 && strchr(" \t\"]\r\n", line[length]);
}

/* Where the quote stands that ends the pattern, before the bracket that ends the section. */
static const char *closing_quote(const char *from)
{
    for (const char *quote = strchr(from, '"'); quote; quote = strchr(quote + 1, '"'))
        if (quote[1 + strspn(quote + 1, " \t")] == ']')
            return quote;
    return NULL;
}

int tool_policy_begin(const char *line, struct fs_policies **policies, struct fs_policy **policy,
                      char problem[TOOL_POLICY_PROBLEM])
{
    char pattern[FS_POLICY_PATTERN_MAX + 2];
    const char *fault = NULL;
    const char *open = line + sizeof section - 1;
    open += strspn(open, " \t");
    const char *const close = *open == '"' ? closing_quote(open + 1) : NULL;
    const char *behind = close ? strchr(close, ']') + 1 : "?";
    behind += strspn(behind, " \t\r\n");
    if (!close || close == open + 1 || (*behind && *behind != ';' && *behind != '#'))
        return fail(problem, "\"%.*s\" is not of the form [policy \"PATTERN\"]",
                    (int)kv_min_u64(strcspn(line, "\r\n"), 80), line);
    const size_t length = (size_t)(close - open - 1);
    if (length > FS_POLICY_PATTERN_MAX)
        return fail(problem, "a policy's pattern is longer than %u bytes", FS_POLICY_PATTERN_MAX);
    memcpy(pattern, open + 1, length);
    pattern[length] = '\0';
    if (!*policies && !(*policies = fs_policies_new()))
        return -ENOMEM;
    const int err = fs_policies_add(*policies, pattern, policy, &fault);
    if (err == -EEXIST)
        return fail(problem, "policy \"%s\" is there already; put all its keys into one section",
                    pattern);
    if (err == -E2BIG)
        return fail(problem,
                    "policy \"%s\" is one too many: there may be %u, and %u names in those with "
                    "slashes",
                    pattern, FS_POLICY_MAX, FS_POLICY_STEPS_MAX);
    return err ? fail(problem, "policy \"%s\": %s", pattern, fault) : 0;
}

/* ---- keys ----------------------------------------------------------------------------------- */

static bool take_codec(struct fs_policy *policy, const char *value)
{
    policy->has_codec = strcmp(value, "default") != 0;
    return !policy->has_codec || !tool_parse_codec(value, &policy->codec);
}

static bool take_ttl(struct fs_policy *policy, const char *value)
{
    uint64_t seconds = 0;
    if (strcmp(value, "never") != 0 && fs_ttl_parse(value, strlen(value), &seconds))
        return false;
    policy->ttl_ns = seconds * FS_NS_PER_SECOND;
    return true;
}

static bool take_pin(struct fs_policy *policy, const char *value)
{
    return !tool_parse_bool(value, &policy->pin);
}

static bool take_prefetch(struct fs_policy *policy, const char *value)
{
    return !tool_parse_bool(value, &policy->prefetch);
}

static bool take_extent_size(struct fs_policy *policy, const char *value)
{
    uint64_t bytes = 0;
    if (strcmp(value, "default") != 0 && (tool_parse_size(value, &bytes) || bytes < EXTENT_MIN ||
                                          bytes > EXTENT_MAX || (bytes & (bytes - 1))))
        return false;
    policy->extent_bytes = (uint32_t)bytes;
    return true;
}

static const struct {
    bool (*take)(struct fs_policy *policy, const char *value);
    const char *form;
} keys[FS_POLICY_KEY_COUNT] = {
    [FS_POLICY_CODEC] = {take_codec, "default, none, lz4, zstd, or zstd:1 to zstd:19"},
    [FS_POLICY_TTL] = {take_ttl, "never, or a time such as 90s, 30m, 12h, 7d or 2w"},
    [FS_POLICY_PIN] = {take_pin, "yes or no"},
    [FS_POLICY_PREFETCH] = {take_prefetch, "yes or no"},
    [FS_POLICY_EXTENT_SIZE] = {take_extent_size, "default, or a power of two from 4K to 1M"},
};

int tool_policy_set(struct fs_policy *policy, const char *key, const char *value,
                    char problem[TOOL_POLICY_PROBLEM])
{
    enum fs_policy_key at = 0;
    while (at < FS_POLICY_KEY_COUNT && strcmp(fs_policy_key_name(at), key) != 0)
        at++;
    if (at == FS_POLICY_KEY_COUNT)
        return fail(problem,
                    "unknown key \"%.60s\" of policy \"%s\"; a policy has codec, ttl, pin, "
                    "prefetch and extent_size",
                    key, policy->pattern);
    if (policy->sets & 1u << at)
        return fail(problem, "key \"%s\" of policy \"%s\" is given twice; keep one", key,
                    policy->pattern);
    policy->sets |= 1u << at;
    if (!keys[at].take(policy, value))
        return fail(problem, "key \"%s\" of policy \"%s\": \"%.60s\" is not %s", key,
                    policy->pattern, value, keys[at].form);
    return 0;
}
