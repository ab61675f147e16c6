/*
 * tools/kvfs_profiles.c: kvfs profiles: which there are, and what one of them sets and why.
 */
#include "tools/command.h"

#include <stdio.h>
#include <string.h>

#include "tools/config.h"
#include "tools/json.h"
#include "tools/options.h"
#include "tools/profiles.h"

static const char *default_of(const char *key)
{
    for (size_t i = 0; tool_config_setting(i); i++)
        if (strcmp(tool_config_setting(i)->key, key) == 0)
            return tool_config_setting(i)->default_value;
    return "";
}

/* What the value comes to on this machine, as a mount would show it. */
static void effective(const struct tool_profile_setting *setting, char *line, size_t cap)
{
    struct fs_mount_options options;
    struct kv_error error;
    tool_config_defaults(&options);
    line[0] = '\0';
    if (tool_config_set(setting->key, setting->value, &options, &error))
        return;
    for (size_t i = 0; tool_config_setting(i); i++)
        if (strcmp(tool_config_setting(i)->key, setting->key) == 0)
            (void)tool_config_show(i, &options, line, cap);
}

static void print_list(void)
{
    for (size_t i = 0; tool_profile(i); i++)
        printf("%-12s %s\n", tool_profile(i)->name, tool_profile(i)->summary);
}

static void print_profile(const struct tool_profile *profile)
{
    printf("%s: %s\nprice: %s\n", profile->name, profile->summary, profile->price);
    for (size_t i = 0; profile->settings[i].key; i++) {
        const struct tool_profile_setting *setting = &profile->settings[i];
        char line[256];
        effective(setting, line, sizeof line);
        const char *here = strchr(line, '=');
        printf("\n%s = %s", setting->key, setting->value);
        if (strchr(setting->value, '%') && here) /* else it says the same in other words at most */
            printf("  (here %s; default %s)\n", here + 1, default_of(setting->key));
        else
            printf("  (default %s)\n", default_of(setting->key));
        printf("    %s\n", setting->reason);
    }
}

static void write_profile(struct tool_json *json, const struct tool_profile *profile)
{
    tool_json_open(json, NULL, '{');
    tool_json_string(json, "name", profile->name);
    tool_json_string(json, "summary", profile->summary);
    tool_json_string(json, "price", profile->price);
    tool_json_open(json, "settings", '[');
    for (size_t i = 0; profile->settings[i].key; i++) {
        const struct tool_profile_setting *setting = &profile->settings[i];
        char line[256];
        effective(setting, line, sizeof line);
        const char *here = strchr(line, '=');
        tool_json_open(json, NULL, '{');
        tool_json_string(json, "key", setting->key);
        tool_json_string(json, "value", setting->value);
        tool_json_string(json, "here", here ? here + 1 : setting->value);
        tool_json_string(json, "default", default_of(setting->key));
        tool_json_string(json, "reason", setting->reason);
        tool_json_close(json, '}');
    }
    tool_json_close(json, ']');
    tool_json_close(json, '}');
}

static void write_list(struct tool_json *json)
{
    tool_json_open(json, NULL, '[');
    for (size_t i = 0; tool_profile(i); i++)
        write_profile(json, tool_profile(i));
    tool_json_close(json, ']');
}

static int run_profiles(const struct tool_arguments *arguments)
{
    const char *name = arguments->operand_count ? arguments->operands[0] : NULL;
    const struct tool_profile *profile = name ? tool_profile_find(name) : NULL;
    struct tool_json json;
    tool_json_init(&json, stdout);
    if (name && !profile) {
        tool_complain("%.60s: no such profile; there are " TOOL_PROFILE_NAMES, name);
        return TOOL_USAGE;
    }
    if (tool_given(arguments, 'j') && profile)
        write_profile(&json, profile);
    else if (tool_given(arguments, 'j'))
        write_list(&json);
    else if (profile)
        print_profile(profile);
    else
        print_list();
    return tool_finish_output(TOOL_OK);
}

static const struct option profiles_options[] = {
    {"json", no_argument, NULL, 'j'},
    {0},
};

const struct tool_command tool_command_profiles = {
    .name = "profiles",
    .synopsis = "[--json] [NAME]",
    .help =
        "List the profiles: settings for a kind of work or machine, used by `profile = NAME` in\n"
        "mount.conf or by -o profile=NAME. With NAME: every setting of it with its default and\n"
        "the reason, and what the profile takes or gives up. Other keys of mount.conf and other\n"
        "options win over a profile's.\n"
        "\n"
        "  -j, --json  everything, as JSON\n"
        "\n"
        "Example: kvfs profiles oltp; mount.kvfs data.img /mnt -o profile=oltp\n",
    .options = profiles_options,
    .operands_least = 0,
    .operands_most = 1,
    .run = run_profiles,
};
