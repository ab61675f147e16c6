#!/usr/bin/env python3
"""tests/tools/test_help.py: every program and every subcommand of kvfs explains itself alike.

    test_help.py BIN

--help prints a usage line, an example that begins with the command, and the exit statuses, on
standard output and with status 0. A wrong option gets status 2 (of each program: its own for usage)
and one line on standard error. What prints data has --json, and what it prints then is JSON; what
prints none is listed below with the reason.
"""
import json, os, re, shutil, subprocess, sys, tempfile

BIN = os.path.abspath(sys.argv[1])
USAGE_STATUS = {'mkfs.kvfs': 2, 'fsck.kvfs': 16, 'mount.kvfs': 1, 'kvfs': 2}
NO_DATA = {
    'get': 'writes the value and nothing else', 'put': 'prints nothing', 'rm': 'prints nothing',
    'import': 'prints nothing but progress', 'export': 'what it writes has --format json',
    'sync': 'prints nothing', 'umount': 'prints nothing',
    'top': 'draws on a terminal; stat --json --interval has the figures',
    'profile': 'writes a picture',
}
# --json of the commands that need nothing but an image.
ON_AN_IMAGE = {'info': ['image'], 'stat': ['image'], 'ls': ['image'], 'scan': ['image'],
               'scrub': ['image'], 'plan': ['--keys', '1000', '--value-size', '4K'],
               'apply': None, 'profiles': []}
cases = failures = 0
work = tempfile.mkdtemp(prefix='kvfs-help-')
os.chdir(work)


def check(sentence, holds, detail=''):
    global cases, failures
    cases += 1
    if not holds:
        failures += 1
        print(f'FAILED: {sentence}: {detail}', flush=True)


def run(*command):
    # No standard input: a command that waits for it ends at once.
    return subprocess.run([os.path.join(BIN, command[0]), *command[1:]], capture_output=True,
                          text=True, stdin=subprocess.DEVNULL, check=False)


def explains_itself(command, usage_status, needs_operands):
    name = ' '.join(command)
    for option in ('--help', '-h'):
        done = run(*command, option)
        check(f'{name} {option} has status 0', done.returncode == 0, done.returncode)
        check(f'{name} {option} says nothing on standard error', not done.stderr, done.stderr)
    text = done.stdout
    check(f'{name} --help begins with the usage', text.startswith(f'usage: {name} '), text[:60])
    example = re.findall(r'^Example: (.*)$', text, re.M)
    check(f'{name} --help has an example of it', len(example) == 1 and name in example[0], example)
    check(f'{name} --help tells the exit status',
          re.search(r'^Exit status.*: 0 \w', text, re.M | re.S), text[-200:])
    check(f'{name} --help fits a terminal', max(map(len, text.split('\n'))) <= 100,
          max(text.split('\n'), key=len))
    done = run(*command, '--no-such-option')
    check(f'{name} refuses an option that it does not know', done.returncode == usage_status,
          f'{done.returncode}: {done.stderr}')
    check(f'{name} names such an option in one line',
          done.stderr.count('\n') == 1 and 'no-such-option' in done.stderr, done.stderr)
    check(f'{name} prints nothing then', not done.stdout, done.stdout)
    if needs_operands:
        done = run(*command)
        check(f'{name} wants its operands', done.returncode == usage_status and done.stderr,
              f'{done.returncode}: {done.stderr}')
    return text


def check_json(name, text):
    if '--json' not in text:
        check(f'kvfs {name} has --json, or prints no data', name in NO_DATA,
              'add the option, or the reason to NO_DATA')
        return
    check(f'kvfs {name} has --json and is not one that prints no data', name not in NO_DATA)
    arguments = ON_AN_IMAGE.get(name)
    if arguments is None:
        return  # wants a mount or writes: tests/tools/test_keys.py
    done = run('kvfs', name, '--json', *arguments)
    check(f'kvfs {name} --json does it', done.returncode == 0, done.stderr)
    try:
        # One value, or a line for each.
        values = [json.loads(line) for line in done.stdout.split('\n') if line] \
            if name == 'scan' else [json.loads(done.stdout)]
        check(f'kvfs {name} --json prints a value', values)
    except ValueError as error:
        check(f'kvfs {name} --json prints JSON', False, f'{error}: {done.stdout[:200]}')


try:
    subprocess.check_call([os.path.join(BIN, 'mkfs.kvfs'), '-q', '-s', '64M', 'image'])
    subprocess.run([os.path.join(BIN, 'kvfs'), 'put', 'image', 'users/42'], input=b'Ada',
                   check=True)
    for program, status in USAGE_STATUS.items():
        explains_itself([program], status, True)
        version = run(program, '--version')
        check(f'{program} --version tells it',
              version.returncode == 0 and re.fullmatch(program + r' \d+\.\d+\.\d+\n',
                                                       version.stdout), version.stdout)
    commands = re.findall(r'^  kvfs ([a-z]+) +(.*)$', run('kvfs', '--help').stdout, re.M)
    check('kvfs --help lists its subcommands', len(commands) >= 18, commands)
    for name, synopsis in commands:
        required = re.sub(r'\[[^]]*\](\.\.\.)?', '', synopsis).strip()
        check_json(name, explains_itself(['kvfs', name], 2, bool(required)))
    done = run('kvfs', 'no-such-command')
    check('a subcommand that is none is named', done.returncode == 2 and
          'no-such-command: no such command' in done.stderr, done.stderr)
    for line in run('kvfs', '--help').stdout.split('\n'):
        check('kvfs --help fits a terminal', len(line) <= 100, line)
finally:
    os.chdir('/')
    shutil.rmtree(work)
print(f'{cases} cases, {failures} failures')
sys.exit(1 if failures else 0)
