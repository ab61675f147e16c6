/*
 * fs/policy.c: patterns in order, and what they say of a path.
 *
 * Owns       the policies and their patterns, cut into steps.
 * Invariant  step i + 1 of a pattern follows its step i; a state holds the steps that the next name
 *            may match, and with a `**` also what is behind it.
 * Method     a nondeterministic automaton as a set of bits (Thompson 1968): each name is looked at
 *            once, whatever `**` may stand for.
 */
#include "fs/policy.h"

#include <inttypes.h>
#include <stdio.h>

#include "fs/figures.h"
#include "fs/pattern.h"

/* How a component is compared; most need no fnmatch. */
enum step_kind { STEP_ANY_DEPTH, STEP_ANY, STEP_EQUAL, STEP_ENDS, STEP_BEGINS, STEP_GLOB };

struct step {
    const char *text; /* into the policy's pattern; of ENDS without the star */
    uint8_t length;
    uint8_t kind; /* enum step_kind */
    uint8_t policy;
    bool is_last;
};
static_assert(FS_POLICY_PATTERN_MAX <= UINT8_MAX, "lengths of components are a byte");

struct fs_policies {
    size_t count, step_count, name_count;
    struct fs_policy items[FS_POLICY_MAX];
    struct step steps[FS_POLICY_STEPS_MAX]; /* of patterns with a slash */
    struct step names[FS_POLICY_MAX];       /* patterns without one */
};

struct fs_policies *fs_policies_new(void)
{
    return calloc(1, sizeof(struct fs_policies));
}

void fs_policies_free(struct fs_policies *policies)
{
    free(policies);
}

size_t fs_policies_count(const struct fs_policies *policies)
{
    return policies->count;
}

const struct fs_policy *fs_policies_at(const struct fs_policies *policies, size_t index)
{
    return &policies->items[index];
}

/* ---- compiling ------------------------------------------------------------------------ */

static struct step compile(const char *text, size_t length, size_t policy)
{
    static const char wild[] = "*?[\\";
    struct step step = {.text = text,
                        .length = (uint8_t)length,
                        .kind = STEP_GLOB,
                        .policy = (uint8_t)policy,
                        .is_last = text[length] == '\0'};
    const size_t plain = strcspn(text, wild);
    const size_t behind = length > 1 ? 1 + strcspn(text + 1, wild) : 1;
    if (fs_pattern_is_any_depth(text, length)) {
        step.kind = STEP_ANY_DEPTH;
    } else if (length == 1 && *text == '*') {
        step.kind = STEP_ANY;
    } else if (plain >= length) {
        step.kind = STEP_EQUAL;
    } else if (*text == '*' && behind >= length) {
        step.kind = STEP_ENDS;
        step.text++;
        step.length--;
    } else if (plain == length - 1 && text[plain] == '*') {
        step.kind = STEP_BEGINS;
        step.length--;
    }
    return step;
}

static size_t count_steps(const char *path)
{
    size_t count = 1;
    for (; *path; path++)
        count += *path == '/';
    return count;
}

int fs_policies_add(struct fs_policies *policies, const char *pattern, struct fs_policy **policy,
                    const char **fault)
{
    const size_t length = strlen(pattern), index = policies->count;
    const char *const path = pattern + (*pattern == '/');
    const bool is_path = strchr(pattern, '/');
    *fault = NULL;
    if (length > FS_POLICY_PATTERN_MAX)
        return -ENAMETOOLONG;
    *fault = fs_pattern_fault(path, strlen(path));
    if (*fault)
        return -EINVAL;
    for (size_t i = 0; i < index; i++)
        if (strcmp(policies->items[i].pattern, pattern) == 0)
            return -EEXIST;
    if (index == FS_POLICY_MAX ||
        (is_path && policies->step_count + count_steps(path) > FS_POLICY_STEPS_MAX))
        return -E2BIG;

    struct fs_policy *const added = &policies->items[policies->count++];
    *added = (struct fs_policy){.sets = 0};
    strcpy(added->pattern, pattern);
    const char *at = added->pattern + (path - pattern);
    if (!is_path)
        policies->names[policies->name_count++] = compile(at, strlen(at), index);
    while (is_path) {
        const size_t part = strcspn(at, "/");
        policies->steps[policies->step_count++] = compile(at, part, index);
        if (!at[part])
            break;
        at += part + 1;
    }
    *policy = added;
    return 0;
}

/* ---- matching --------------------------------------------------------------------------- */

static bool step_matches(const struct step *step, const char *name, size_t name_len)
{
    switch ((enum step_kind)step->kind) {
    case STEP_ANY_DEPTH:
    case STEP_ANY:
        return true;
    case STEP_EQUAL:
        return name_len == step->length && memcmp(name, step->text, name_len) == 0;
    case STEP_ENDS:
        return name_len >= step->length &&
               memcmp(name + name_len - step->length, step->text, step->length) == 0;
    case STEP_BEGINS:
        return name_len >= step->length && memcmp(name, step->text, step->length) == 0;
    case STEP_GLOB:
        return fs_pattern_matches(step->text, step->length, name, FS_PATTERN_DOTS_PLAIN);
    }
    return false;
}

/* The next name may match this step, and what a `**` that stands for nothing has behind it. */
static void enter(const struct fs_policies *policies, struct fs_policy_state *state, size_t at)
{
    for (;; at++) {
        const struct step *const step = &policies->steps[at];
        state->steps[at / 64] |= UINT64_C(1) << at % 64;
        if (step->kind != STEP_ANY_DEPTH || step->is_last)
            return;
    }
}

void fs_policies_start(const struct fs_policies *policies, struct fs_policy_state *state)
{
    *state = (struct fs_policy_state){.steps = {0}};
    for (size_t i = 0; i < policies->step_count; i++)
        if (i == 0 || policies->steps[i - 1].is_last)
            enter(policies, state, i);
}

uint64_t fs_policies_step(const struct fs_policies *policies, const struct fs_policy_state *state,
                          const char *name, struct fs_policy_state *below)
{
    const size_t name_len = strlen(name);
    struct fs_policy_state next = {.steps = {0}};
    uint64_t matches = 0;
    for (size_t i = 0; i < policies->name_count; i++)
        if (step_matches(&policies->names[i], name, name_len))
            matches |= UINT64_C(1) << policies->names[i].policy;
    for (size_t word = 0; word < sizeof state->steps / sizeof state->steps[0]; word++) {
        for (uint64_t left = state->steps[word]; left; left &= left - 1) {
            const size_t at = word * 64 + (size_t)__builtin_ctzll(left);
            const struct step *const step = &policies->steps[at];
            if (!step_matches(step, name, name_len))
                continue;
            if (step->is_last)
                matches |= UINT64_C(1) << step->policy;
            if (step->kind == STEP_ANY_DEPTH)
                enter(policies, &next, at);
            else if (!step->is_last)
                enter(policies, &next, at + 1);
        }
    }
    if (below)
        *below = next;
    return matches;
}

bool fs_policies_need_state(const struct fs_policies *policies)
{
    return policies->step_count > 0;
}

struct fs_policy_choice fs_policies_choose(const struct fs_policies *policies, uint64_t matches)
{
    struct fs_policy_choice choice = {.by = {0}};
    for (; matches; matches &= matches - 1) {
        const unsigned at = (unsigned)__builtin_ctzll(matches);
        for (unsigned key = 0; key < FS_POLICY_KEY_COUNT; key++)
            if ((!choice.by[key] || KV_PLANT(policy_last_wins)) &&
                (policies->items[at].sets & 1u << key))
                choice.by[key] = (uint8_t)(at + 1);
    }
    return choice;
}

const struct fs_policy *fs_policy_for(const struct fs_policies *policies,
                                      const struct fs_policy_choice *choice, enum fs_policy_key key)
{
    return choice->by[key] ? &policies->items[choice->by[key] - 1] : NULL;
}

bool fs_policies_have(const struct fs_policies *policies, enum fs_policy_key key)
{
    for (size_t i = 0; i < policies->count; i++)
        if (policies->items[i].sets & 1u << key)
            return true;
    return false;
}

/* ---- words -------------------------------------------------------------------------------- */

const char *fs_policy_key_name(enum fs_policy_key key)
{
    static const char *const names[FS_POLICY_KEY_COUNT] = {[FS_POLICY_CODEC] = "codec",
                                                           [FS_POLICY_TTL] = "ttl",
                                                           [FS_POLICY_PIN] = "pin",
                                                           [FS_POLICY_PREFETCH] = "prefetch",
                                                           [FS_POLICY_EXTENT_SIZE] = "extent_size"};
    return names[key];
}

static void duration_text(uint64_t seconds, char text[FS_POLICY_VALUE_TEXT])
{
    static const struct {
        uint64_t seconds;
        char unit;
    } units[] = {{604800, 'w'}, {86400, 'd'}, {3600, 'h'}, {60, 'm'}, {1, 's'}};
    size_t i = 0;
    while (seconds % units[i].seconds)
        i++;
    (void)snprintf(text, FS_POLICY_VALUE_TEXT, "%" PRIu64 "%c", seconds / units[i].seconds,
                   units[i].unit);
}

void fs_policy_value_text(const struct fs_policy *policy, enum fs_policy_key key,
                          char text[FS_POLICY_VALUE_TEXT])
{
    const char *word = "default";
    switch (key) {
    case FS_POLICY_CODEC:
        if (policy->has_codec && policy->codec.codec == KV_CODEC_ZSTD && policy->codec.level) {
            (void)snprintf(text, FS_POLICY_VALUE_TEXT, "zstd:%d", policy->codec.level);
            return;
        }
        word = policy->has_codec ? kv_codec_name(policy->codec.codec) : word;
        break;
    case FS_POLICY_TTL:
        if (policy->ttl_ns) {
            duration_text(policy->ttl_ns / 1000000000u, text);
            return;
        }
        word = "never";
        break;
    case FS_POLICY_PIN:
        word = policy->pin ? "yes" : "no";
        break;
    case FS_POLICY_PREFETCH:
        word = policy->prefetch ? "yes" : "no";
        break;
    case FS_POLICY_EXTENT_SIZE:
        if (policy->extent_bytes) {
            const bool is_whole = policy->extent_bytes % (1u << 20) == 0;
            (void)snprintf(text, FS_POLICY_VALUE_TEXT, "%u%c",
                           policy->extent_bytes >> (is_whole ? 20 : 10), is_whole ? 'M' : 'K');
            return;
        }
        break;
    case FS_POLICY_KEY_COUNT:
        break;
    }
    (void)snprintf(text, FS_POLICY_VALUE_TEXT, "%s", word);
}

void fs_policy_line(const struct fs_policy *policy, char text[FS_POLICY_LINE])
{
    size_t used = (size_t)snprintf(text, FS_POLICY_LINE, "\"%s\":", policy->pattern);
    for (enum fs_policy_key key = 0; key < FS_POLICY_KEY_COUNT; key++) {
        char value[FS_POLICY_VALUE_TEXT];
        if (!(policy->sets & 1u << key))
            continue;
        fs_policy_value_text(policy, key, value);
        used += (size_t)snprintf(text + used, FS_POLICY_LINE - used, " %s=%s",
                                 fs_policy_key_name(key), value);
        KV_ASSERT(used < FS_POLICY_LINE); /* values are short */
    }
}
