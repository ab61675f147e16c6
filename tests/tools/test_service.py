#!/usr/bin/env python3
"""tests/tools/test_service.py: mount.kvfs -f under a service manager, and what it logs there.

    test_service.py BIN

A socket stands for the service manager, files stand for the journal. With root and /dev/fuse it is
seen that READY=1 comes when a file can be made and not when mounting fails, that STOPPING=1 comes
for a signal and for an unmount, and that lines have a priority only in the journal. The unit must
pass systemd-analyze where that is installed. Everything happens in a temporary directory; mounts in
it are gone at the end.
"""
import os, re, shutil, signal, socket, subprocess, sys, tempfile

BIN = os.path.abspath(sys.argv[1])
TOP = os.path.abspath(os.path.join(os.path.dirname(__file__), '..', '..'))
UNIT = os.path.join(TOP, 'tools', 'package', 'kvfs@.service')
MOUNT = os.path.join(BIN, 'mount.kvfs')
PATIENCE = 120  # seconds until a test that waits has failed
work = tempfile.mkdtemp(prefix='kvfs-service-')
os.chdir(work)
cases = failures = 0
daemons = []


def check(sentence, holds, detail=''):
    global cases, failures
    cases += 1
    if not holds:
        failures += 1
        print(f'FAILED: {sentence}: {detail}', flush=True)


class Manager:
    """The socket that a service manager listens at; `name` is what NOTIFY_SOCKET says."""

    def __init__(self, abstract):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = f'kvfs-test-{os.getpid()}' if abstract else os.path.join(work, 'notify')
        if not abstract and os.path.exists(path):
            os.unlink(path)
        self.socket.bind('\0' + path if abstract else path)
        self.name = '@' + path if abstract else path
        self.socket.settimeout(PATIENCE)

    def next(self):
        """The next message, as a dictionary."""
        lines = self.socket.recv(4096).decode().split('\n')
        return dict(line.split('=', 1) for line in lines if line)

    def has_none(self):
        self.socket.setblocking(False)
        try:
            return not self.socket.recv(4096)
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(PATIENCE)


def start(*args, errors=subprocess.PIPE, **environment):
    clean = {name: value for name, value in os.environ.items()
             if name not in ('NOTIFY_SOCKET', 'JOURNAL_STREAM')}
    daemon = subprocess.Popen([MOUNT, *args], stdin=subprocess.DEVNULL, stderr=errors,
                              env={**clean, **environment}, text=True)
    daemons.append(daemon)
    return daemon


def make_image(name):
    subprocess.check_call([os.path.join(BIN, 'mkfs.kvfs'), '-q', '-f', '-s', '64M', name])


def readiness(abstract):
    what = 'an abstract socket' if abstract else 'a socket with a path'
    manager = Manager(abstract)
    make_image('image')
    daemon = start('-f', 'image', 'dir', NOTIFY_SOCKET=manager.name)
    message = manager.next()
    check(f'ready_is_told_through {what}', message.get('READY') == '1', message)
    try:
        with open('dir/first', 'w', encoding='ascii') as file:
            file.write('written at once')
        made = True
    except OSError as error:
        made = error
    check('a_file_can_be_made_when_ready_is_told', made is True, made)
    check('it_is_the_mount_that_has_the_file', os.path.ismount('dir'))
    check('nothing_else_is_told_while_it_serves', manager.has_none())
    if abstract:
        subprocess.run([os.path.join(BIN, 'kvfs'), 'umount', 'dir'], check=False)
    else:
        daemon.send_signal(signal.SIGTERM)
    message = manager.next()
    check(f'the_end_is_told_through {what}', message.get('STOPPING') == '1', message)
    status = daemon.wait(PATIENCE)
    check('the_daemon_ends_well', status == 0, f'{status}: {daemon.stderr.read()}')
    check('nothing_is_mounted_after_it', not os.path.ismount('dir'))
    got = subprocess.run([os.path.join(BIN, 'kvfs'), 'get', 'image', 'first'],
                         capture_output=True, text=True, check=False)
    check('the_file_is_in_the_image', got.stdout == 'written at once', got)
    manager.socket.close()


def failed_mounts():
    manager = Manager(False)
    with open('damaged', 'wb') as file:
        file.write(b'no image' * 8192)
    daemon = start('-f', 'damaged', 'dir', NOTIFY_SOCKET=manager.name)
    status = daemon.wait(PATIENCE)
    check('a_mount_that_fails_has_its_status', status == 32, status)
    check('a_mount_that_fails_is_never_ready', manager.has_none())
    make_image('image')
    daemon = start('-f', 'image', 'dir', NOTIFY_SOCKET=os.path.join(work, 'nobody'))
    wait_for_mount(daemon)
    daemon.send_signal(signal.SIGTERM)
    status = daemon.wait(PATIENCE)
    errors = daemon.stderr.read()
    check('a_manager_that_is_gone_is_no_reason_to_fail', status == 0, f'{status}: {errors}')
    check('a_manager_that_is_gone_is_told_of', 'warning: NOTIFY_SOCKET: ' in errors, errors)
    manager.socket.close()


def wait_for_mount(daemon):
    """mount.kvfs -f has no other sign without a manager: ask the kernel."""
    for _ in range(PATIENCE * 100):
        if os.path.ismount('dir') or daemon.poll() is not None:
            return
        try:
            daemon.wait(0.01)
        except subprocess.TimeoutExpired:
            pass


def lines_of(stream, level='debug', in_journal=True, damaged=False):
    """Standard error of a mount from start to end, as lines."""
    manager = Manager(False)
    with open('stream', 'w+', encoding='utf-8') as errors:
        status = os.fstat(errors.fileno())
        name = stream or f'{status.st_dev}:{status.st_ino}'
        environment = {'NOTIFY_SOCKET': manager.name}
        if in_journal:
            environment['JOURNAL_STREAM'] = name
        if not damaged:
            make_image('image')
        daemon = start('-f', 'damaged' if damaged else 'image', 'dir', '-o', f'log_level={level}',
                       errors=errors, **environment)
        if not damaged:
            manager.next()
            daemon.send_signal(signal.SIGUSR1)  # the numbers of requests: level info
            daemon.send_signal(signal.SIGTERM)
        daemon.wait(PATIENCE)
        errors.seek(0)
        lines = errors.read().splitlines()
    manager.socket.close()
    return lines


def priorities():
    lines = lines_of(None)
    check('lines_in_the_journal_have_a_priority',
          lines and all(re.match(r'<[3-7]>\S', line) for line in lines), lines)
    check('lines_in_the_journal_name_no_program', not any('mount.kvfs: ' in line for line in lines),
          lines)
    check('that_it_is_mounted_is_information',
          any(re.match(r'<6>.*image is mounted on .*dir;', line) for line in lines), lines)
    check('requests_are_information', any(line.startswith('<6>requests: ') for line in lines),
          lines)
    lines = lines_of(None, damaged=True)
    check('what_failed_is_an_error_in_the_journal',
          len(lines) == 1 and lines[0].startswith('<3>mount.kvfs: '), lines)
    for stream, in_journal in (('1:1', True), ('nonsense', True), (None, False)):
        lines = lines_of(stream, in_journal=in_journal)
        check(f'lines_elsewhere_have_no_priority ({stream})',
              lines and all(line.startswith('mount.kvfs: ') for line in lines), lines)
    lines = lines_of(None, level='error')
    check('log_level_leaves_out_what_matters_less', not lines, lines)


def unit():
    """The unit, with the programs where they are here."""
    with open(UNIT, encoding='utf-8') as file:
        text = file.read()
    settings = re.findall(r'^(\w+)=', text, re.M)
    hides = [name for name in settings if name in (
        'ProtectSystem', 'ProtectHome', 'PrivateTmp', 'PrivateDevices', 'PrivateMounts',
        'ProtectKernelTunables', 'ProtectKernelModules', 'ProtectKernelLogs', 'MountFlags',
        'ProtectControlGroups', 'ProtectProc', 'ReadOnlyPaths', 'ReadWritePaths', 'BindPaths',
        'InaccessiblePaths', 'TemporaryFileSystem', 'RootDirectory', 'DynamicUser', 'PrivateUsers')]
    check('nothing_in_the_unit_hides_the_mount', not hides, hides)
    if not shutil.which('systemd-analyze'):
        print('systemd-analyze is not installed; the unit was not verified')
        return
    copy = os.path.join(work, 'kvfs@test.service')
    with open(copy, 'w', encoding='utf-8') as file:
        file.write(text.replace('ExecStart=mount.kvfs', f'ExecStart={MOUNT}'))
    done = subprocess.run(['systemd-analyze', 'verify', '--man=no', copy], capture_output=True,
                          text=True, check=False)
    said = [line for line in (done.stdout + done.stderr).split('\n') if 'kvfs' in line]
    check('the_unit_is_verified', not said, said)


def cleanup():
    for daemon in daemons:
        if daemon.poll() is None:
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                daemon.kill()
    if os.path.ismount('dir'):
        subprocess.run(['umount', '-l', 'dir'], check=False)
    os.chdir('/')
    shutil.rmtree(work)


try:
    os.mkdir('dir')
    unit()
    if os.geteuid() == 0 and os.path.exists('/dev/fuse'):
        readiness(abstract=False)
        readiness(abstract=True)
        failed_mounts()
        priorities()
    else:
        print('not root, or no /dev/fuse: no mount was tried')
finally:
    cleanup()
print(f'{cases} cases, {failures} failures')
sys.exit(1 if failures else 0)
