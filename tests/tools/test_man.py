#!/usr/bin/env python3
"""tests/tools/test_man.py: the manual pages say what the programs and mount.conf say.

    test_man.py BIN                    every option of every --help, and every key of mount.conf, is
                                       in the manual page of its program, and the other way round
    test_man.py BIN --draft COMMAND    print a section for a subcommand of kvfs, made of its --help
    test_man.py BIN --draft KEY        print an item for a key, made of mount.conf

What is missing is printed as such a draft, to be pasted into the page and worded by hand. Where
mandoc and groff are installed, the pages must pass them without a warning.

Pages are written in mdoc(7); what is looked for there:
    .Ss kvfs COMMAND                   begins what belongs to a subcommand, in kvfs.1
    .It Fl s , Fl -size Ar SIZE        an option, with its short form or without
    .Ss Section memory                 a section, in kvfs-mount.conf.5
    .It Cm threads No = Li 10          a key and its default
"""
import os, re, shutil, subprocess, sys, textwrap

BIN = os.path.abspath(sys.argv[1])
TOP = os.path.abspath(os.path.join(os.path.dirname(__file__), '..', '..'))
MAN = os.path.join(TOP, 'docs', 'man')
CONF_PAGE = 'kvfs-mount.conf.5'
# -h and -V are described once for all subcommands.
OPTION = re.compile(r'^ {1,8}(?:(-\w), |    )?(--[a-z][a-z-]*)(?:[ =]([A-Z]\S*|MiB/s))?  +(.*)$')
ONLY_SHORT = re.compile(r'^  (-\w) (\S+) +(.*)$')
# In mount.kvfs(8): -o as a whole is an item; settings are in the page of mount.conf.
SETTING = re.compile(r'^ {10,}([a-z_]+)=(\S+): ')
MOUNT_OPTION = re.compile(r'^ {10,}([a-z_]+): ')
failures = 0


def problem(text):
    global failures
    failures += 1
    print('FAILED: ' + text)


def help_of(*command):
    done = subprocess.run([os.path.join(BIN, command[0]), *command[1:], '--help'],
                          capture_output=True, text=True)
    if done.returncode != 0:
        problem(f'{" ".join(command)} --help: status {done.returncode}')
    return done.stdout


def options_of(text):
    """The options that a --help lists: {long or short: (short, long, argument, words)}."""
    found, last = {}, None
    for line in text.split('\n'):
        match = OPTION.match(line)
        short_only = ONLY_SHORT.match(line)
        if re.match(r'^  (-h, )?--help', line):
            last = None
        elif match:
            short, long, argument, words = match.groups()
            last = [short, long, argument or '', words]
            found[long] = last
        elif short_only:
            last = [short_only[1], '', short_only[2], short_only[3]]
            found[short_only[1]] = last
        elif last and line.startswith(' ' * 10):
            last[3] += ' ' + line.strip()
        elif not line.strip():
            last = None
    return found


def subcommands():
    """{name: synopsis}"""
    return dict(re.findall(r'^  kvfs ([a-z]+) +(.*)$', help_of('kvfs'), re.M))


def read_page(name):
    path = os.path.join(MAN, name)
    if not os.path.exists(path):
        problem(f'docs/man/{name} is not there')
        return ''
    with open(path, encoding='utf-8') as file:
        return file.read().replace('\\-', '-').replace('\\&', '')


def page_options(text):
    """The same of a page: {long or short: short}."""
    found = {}
    for line in re.findall(r'^\.It (Fl .*)$', text, re.M):
        names = ['-' + name for name in re.findall(r'\bFl (-?[\w-]+)', line)]
        long = [name for name in names if name.startswith('--')]
        short = [name for name in names if not name.startswith('--')]
        if long and long[0] in ('--help', '--version'):
            continue
        found[(long or short)[0]] = short[0] if short else None
    return found


def parts_of(text, pattern):
    """{what the pattern's group matches: the text from there to the next .Ss or .Sh}"""
    parts = {}
    for match in re.finditer(pattern, text, re.M):
        rest = text[match.end():]
        end = re.search(r'^\.S[sh] ', rest, re.M)
        parts[match[1]] = rest[:end.start()] if end else rest
    return parts


# ---- drafts -----------------------------------------------------------------------------------

def roff(words):
    """Text as lines of a page: a sentence begins a line, none is longer than 79 bytes."""
    words = words.replace('\\', '\\e').strip()
    lines = re.sub(r'([.?!]) +(?=[A-Z])', r'\1\n', words).split('\n')
    # A line may not begin with a period or an apostrophe: that would be a macro.
    return re.sub(r"^(?=[.'])", r'\\&', '\n'.join(textwrap.fill(line, 79, break_long_words=False,
                                                               break_on_hyphens=False)
                                                 for line in lines), flags=re.M)


def draft_option(option):
    short, long, argument, words = option
    names = ' , '.join(f'Fl {name[1:]}' for name in (short, long) if name)
    return f'.It {names}{" Ar " + argument if argument else ""}\n{roff(words)}\n'


def drop_space(lines):
    """Lists and displays make their own."""
    if lines[-1] == '.Pp':
        lines.pop()


def draft_command(name):
    text = help_of('kvfs', name)
    body = text.split('\n\n')
    lines = [f'.Ss kvfs {name}', '.Nm kvfs', f'.Cm {name}']
    for short, argument, operand in re.findall(r'\[?(-{1,2}[\w-]+)(?: ([^\]\s]+))?\]?|(\S+)',
                                               subcommands()[name]):
        if operand:
            optional = operand.startswith('[')
            words = ' | '.join('Ar ' + word for word in operand.strip('[].').split('|'))
            dots = ' ...' if operand.endswith('...') else ''
            lines.append(f'.{"Op " if optional else ""}{words}{dots}')
        else:
            lines.append(f'.Op Fl {short[1:]}{" Ar " + argument if argument else ""}')
    lines.append('.Pp')
    options = options_of(text)
    for paragraph in body[1:]:
        if options_of(paragraph):
            drop_space(lines)
            lines.append('.Bl -tag -width Ds')
            lines += [draft_option(option).rstrip() for option in options_of(paragraph).values()]
            lines += ['.El', '.Pp']
        elif paragraph.startswith('  '):
            drop_space(lines)
            lines += ['.Bd -literal -offset indent', paragraph.replace('\\', '\\e'), '.Ed', '.Pp']
        elif not paragraph.startswith(('Exit status: 0 done', 'Example: ')):
            lines += [roff(' '.join(paragraph.split())), '.Pp']
    for example in re.findall(r'^Example: (.*)$', text, re.M):
        lines.append('.Dl ' + example.replace('\\', '\\e'))
    return '\n'.join(lines) + '\n'


def conf_keys():
    """{section: {key: (default, comment)}} of mount.conf, also where it is commented out."""
    sections, comment, section = {}, [], None
    with open(os.path.join(TOP, 'mount.conf'), encoding='utf-8') as file:
        for line in file.read().split('\n'):
            header = re.match(r'^(?:# ?)?\[(\w+).*\]$', line)
            setting = re.match(r'^(?:# ?)?([a-z_]+) = (.*)$', line)
            if header:
                section = sections.setdefault(header[1], {})
            elif setting and section is not None:
                section[setting[1]] = (setting[2], ' '.join(comment))
            if line.startswith('# ') and not header and not setting:
                comment.append(line[2:])
            else:
                comment = []
    return sections


def draft_key(key, default, comment):
    return f'.It Cm {key} No = Li {default}\n{roff(comment)}\n'


# ---- the comparison -----------------------------------------------------------------------------

def compare_options(what, wanted, found):
    for name, option in wanted.items():
        if name not in found:
            problem(f'{what}: {name} is missing; a draft:\n{draft_option(option)}')
        elif found[name] != (option[0] if option[1] else name):
            problem(f'{what}: {name} has the short form {option[0]} in --help, '
                    f'{found[name]} in the page')
    for name in sorted(set(found) - set(wanted)):
        problem(f'{what}: {name} is in the page, but not in --help')


def check_programs():
    for program in ('mkfs.kvfs', 'fsck.kvfs', 'mount.kvfs'):
        text, page = help_of(program), read_page(program + '.8')
        options = options_of(text)
        if len(options) < 3:
            problem(f'{program} --help: only {len(options)} options were understood')
        compare_options(program + '.8', options, page_options(page))
        check_form(program + '.8', page)
    page = read_page('mount.kvfs.8')
    for line in help_of('mount.kvfs').split('\n'):
        match = MOUNT_OPTION.match(line)
        if match and not re.search(rf'^\.It Cm {match[1]}\b', page, re.M):
            problem(f'mount.kvfs.8: the option {match[1]} of -o is missing')


def check_form(name, page):
    """What every page has."""
    for header in ('NAME', 'SYNOPSIS', 'DESCRIPTION', 'EXAMPLES', 'SEE ALSO'):
        if not re.search(rf'^\.Sh {header}$', page, re.M):
            problem(f'{name}: no section {header}')
    if not name.endswith('.5') and not re.search(r'^\.Sh EXIT STATUS$', page, re.M):
        problem(f'{name}: no section EXIT STATUS')
    for reference, section in re.findall(r'^\.Xr (\S*kvfs\S*) (\d)', page, re.M):
        if not os.path.exists(os.path.join(MAN, f'{reference}.{section}')):
            problem(f'{name}: {reference}({section}) is referred to, but is no page')


def check_commands():
    page = read_page('kvfs.1')
    parts = parts_of(page, r'^\.Ss kvfs ([a-z]+)$')
    commands = subcommands()
    if len(commands) < 10:
        problem(f'kvfs --help: only {len(commands)} subcommands were understood')
    for name in commands:
        if name not in parts:
            problem(f'kvfs.1: the subcommand {name} is missing; a draft:\n{draft_command(name)}')
            continue
        compare_options(f'kvfs.1, {name}', options_of(help_of('kvfs', name)),
                        page_options(parts[name]))
        if not re.search(rf'^\.Dl .*kvfs {name}\b', parts[name], re.M):
            problem(f'kvfs.1, {name}: no example (.Dl kvfs {name} ...)')
    for name in sorted(set(parts) - set(commands)):
        problem(f'kvfs.1: {name} is no subcommand')
    check_form('kvfs.1', page)


def check_settings():
    page = read_page(CONF_PAGE)
    parts = parts_of(page, r'^\.Ss Section (\w+)$')
    sections = conf_keys()
    for section, keys in sections.items():
        items = dict(re.findall(r'^\.It Cm ([a-z_]+) No = Li (.*)$', parts.get(section, ''), re.M))
        if section not in parts:
            problem(f'{CONF_PAGE}: the section is missing: .Ss Section {section}')
        for key, (default, comment) in keys.items():
            if key not in items:
                problem(f'{CONF_PAGE}, {section}: {key} is missing; a draft:\n'
                        + draft_key(key, default, comment))
            elif items[key] != default:
                problem(f'{CONF_PAGE}: {key} = {items[key]}, mount.conf has {default}')
        for key in sorted(set(items) - set(keys)):
            problem(f'{CONF_PAGE}, {section}: {key} is not in mount.conf')
    for section in sorted(set(parts) - set(sections)):
        problem(f'{CONF_PAGE}: {section} is no section of mount.conf')
    # What --help of mount.kvfs lists as key=default is the table itself.
    keys = {key for section in sections.values() for key in section}
    for line in help_of('mount.kvfs').split('\n'):
        match = SETTING.match(line)
        if match and match[1] not in keys:
            problem(f'mount.conf: {match[1]} is missing')
    check_form(CONF_PAGE, page)


def check_form_of_roff():
    pages = sorted(os.listdir(MAN))
    for program, command in (('mandoc', ['mandoc', '-T', 'lint', '-W', 'style']),
                             ('groff', ['groff', '-mandoc', '-ww', '-z', '-Tutf8'])):
        if not shutil.which(program):
            print(f'{program} is not installed; left out')
            continue
        for page in pages:
            done = subprocess.run(command + [os.path.join(MAN, page)], capture_output=True,
                                  text=True)
            said = [line for line in (done.stdout + done.stderr).split('\n')
                    # Pages of other packages need not be installed, or not be known yet.
                    if line and 'referenced manual not found' not in line
                    and 'outdated mandoc.db' not in line]
            if said:
                problem(f'{program} of {page}:\n' + '\n'.join(said))
    return len(pages)


if len(sys.argv) > 3 and sys.argv[2] == '--draft':
    for name in sys.argv[3:]:
        if name in subcommands():
            print(draft_command(name), end='')
        for section in conf_keys().values():
            if name in section:
                print(draft_key(name, *section[name]), end='')
    sys.exit(0)

check_programs()
check_commands()
check_settings()
count = check_form_of_roff()
print(f'{count} pages, {len(subcommands())} subcommands, {failures} failures')
sys.exit(1 if failures else 0)
