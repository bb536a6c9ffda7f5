#!/usr/bin/env python3
"""An external containerizer that runs processes: an example to begin from. What it must do, and why, is in
docs/external-containerizer.md; that it does is what `meseta-containerizer-check THIS_FILE` says.

Each container has a folder below the one of the agent, and a keeper: a process that is there for as long as the container is,
waits for it, and leaves its end in the file `end`. The keeper holds the file `lock` locked: whoever gets that lock
knows that the container is over, however the keeper ended.
"""
import ctypes
import fcntl
import json
import os
import pwd
import resource
import shutil
import signal
import sys
import time

SUPPORTS = ["users", "rlimits", "nested", "signals", "usage"]
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


class Refused(Exception):
    """Why not, in a sentence."""


def prctl(option, argument):
    if ctypes.CDLL(None, use_errno=True).prctl(option, argument, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def folder_of(request):
    container_id = request["container_id"]
    if "/" in container_id or container_id in ("", ".", ".."):
        raise Refused(f"'{container_id}' is no id of a container")
    return os.path.join(request["folder"], container_id)


def write(path, value):
    """Whoever reads it finds all of it or nothing."""
    with open(path + ".draft", "w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + ".draft", path)


def read(path):
    try:
        with open(path) as file:
            return json.load(file)
    except FileNotFoundError:
        return None


# The processes of this machine.


def stat(pid):
    """Parent, session, times on processors, and resident pages; None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] in "ZX":
        return None
    return {"parent": int(fields[1]), "session": int(fields[3]), "user": int(fields[11]), "system": int(fields[12]),
            "start": int(fields[19]), "pages": int(fields[21])}


def below(root):
    """All that descends from a process, without it."""
    all_of_them = {int(name): stat(int(name)) for name in os.listdir("/proc") if name.isdigit()}
    found, pending = {}, [root]
    while pending:
        parent = pending.pop()
        fresh = {pid: one for pid, one in all_of_them.items() if one and one["parent"] == parent}
        found.update(fresh)
        pending.extend(fresh)
    return found


def send(pid, number):
    try:
        os.kill(pid, number)
        return True
    except ProcessLookupError:
        return False


def keeper_of(folder):
    """The keeper of a container, while it lives."""
    kept = read(os.path.join(folder, "keeper"))
    if kept is None:
        return None
    found = stat(kept["keeper"])
    return kept if found and found["start"] == kept["start"] else None


# Launching.


def become(request):
    """In the new process: all that is asked for, and then its program."""
    os.setsid()
    # A keeper that is killed takes its container with it.
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    outputs = [os.open(request[name], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644) for name in ("stdout", "stderr")]
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    os.dup2(outputs[0], 1)
    os.dup2(outputs[1], 2)
    for name, limit in request.get("rlimits", {}).items():
        limit = limit or [resource.RLIM_INFINITY, resource.RLIM_INFINITY]
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), tuple(limit))
    if "user" in request:
        user = pwd.getpwnam(request["user"])
        os.initgroups(user.pw_name, user.pw_gid)
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
    os.chdir(request["sandbox"])
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.execvpe(request["program"], request["arguments"], request["environment"])


def keep(request, folder, lock, answer):
    """The keeper, to the end of its container."""
    os.setsid()
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGCHLD, signal.SIGTERM])
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    fcntl.flock(lock, fcntl.LOCK_EX)
    failed, failure = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            become(request)
        except BaseException as error:
            os.write(failure, str(error).encode())
        finally:
            os._exit(127)
    os.close(failure)
    # Closed by a program that begins.
    sentence = os.read(failed, 4096).decode()
    if sentence:
        os.waitpid(child, 0)
        os.write(answer, json.dumps({"error": f"cannot execute '{request['program']}': {sentence}"}).encode())
        os._exit(1)
    own = os.getpid()
    write(os.path.join(folder, "keeper"), {"keeper": own, "start": stat(own)["start"], "pid": child})
    os.write(answer, json.dumps({"pid": child}).encode())
    os.close(answer)
    end = None
    killing = False
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == child:
                signaled = os.WIFSIGNALED(status)
                end = {"signaled": os.WTERMSIG(status)} if signaled else {"exited": os.WEXITSTATUS(status)}
            if pid != 0:
                continue
        except ChildProcessError:
            break
        # The container is its first process: what that leaves behind ends with it.
        if end is not None or killing:
            for pid in below(own):
                send(pid, signal.SIGKILL)
        caught = signal.sigtimedwait([signal.SIGUSR1, signal.SIGCHLD], 0.05 if end or killing else 3600)
        killing = killing or (caught is not None and caught.si_signo == signal.SIGUSR1)
    write(os.path.join(folder, "end"), end)
    os._exit(0)


def launch(request):
    folder = folder_of(request)
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        raise Refused(f"there is a container {request['container_id']} already")
    lock = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    reading, writing = os.pipe()
    if os.fork() == 0:
        try:
            keep(request, folder, lock, writing)
        finally:
            os._exit(1)
    os.close(writing)
    os.close(lock)
    with os.fdopen(reading) as answers:
        answer = answers.read()
    answer = json.loads(answer) if answer else {"error": "its keeper ended"}
    if "error" in answer:
        shutil.rmtree(folder, ignore_errors=True)
    return answer


# What else there is.


def wait(request):
    folder = folder_of(request)
    try:
        lock = os.open(os.path.join(folder, "lock"), os.O_RDWR)
    except FileNotFoundError:
        raise Refused(f"there is no container {request['container_id']}")
    fcntl.flock(lock, fcntl.LOCK_SH)
    return read(os.path.join(folder, "end")) or {"lost": True}


def is_over(folder):
    """Whether nobody keeps the container any more."""
    try:
        lock = os.open(os.path.join(folder, "lock"), os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(lock)


def destroy(request):
    folder = folder_of(request)
    kept = keeper_of(folder)
    if request["how"] == "gently":
        for pid in below(kept["keeper"]) if kept else {}:
            send(pid, signal.SIGTERM)
        return {}
    while not is_over(folder):
        kept = keeper_of(folder)
        if kept:
            send(kept["keeper"], signal.SIGUSR1)
        time.sleep(0.01)
    kept = read(os.path.join(folder, "keeper"))
    if kept and read(os.path.join(folder, "end")) is None:
        # Somebody killed the keeper, and it could not end what was left.
        for name in os.listdir("/proc"):
            found = stat(int(name)) if name.isdigit() else None
            if found and found["session"] == kept["pid"]:
                send(int(name), signal.SIGKILL)
    return {}


def release(request):
    folder = folder_of(request)
    # By the lock: it is free a moment before the keeper is seen to be gone, and that is when a wait ends.
    if not is_over(folder):
        raise Refused(f"container {request['container_id']} runs")
    shutil.rmtree(folder, ignore_errors=True)
    return {}


def containers(request):
    return {"containers": sorted(one.name for one in os.scandir(request["folder"]) if one.is_dir())}


def send_signal(request):
    kept = keeper_of(folder_of(request))
    return {"sent": kept is not None and send(kept["pid"], request["signal"])}


def usage(request):
    kept = keeper_of(folder_of(request))
    if kept is None:
        raise Refused(f"container {request['container_id']} does not run")
    all_of_them = below(kept["keeper"]).values()
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    return {"cpus_user_secs": sum(one["user"] for one in all_of_them) / ticks,
            "cpus_system_secs": sum(one["system"] for one in all_of_them) / ticks,
            "mem_rss_bytes": sum(one["pages"] for one in all_of_them) * page}


def describe(_):
    return {"protocol": 1, "name": "processes", "supports": SUPPORTS}


COMMANDS = {"describe": describe, "launch": launch, "wait": wait, "destroy": destroy, "release": release,
            "list": containers, "signal": send_signal, "usage": usage}


def main():
    command = COMMANDS.get(sys.argv[1] if len(sys.argv) == 2 else "")
    try:
        if command is None:
            raise Refused(f"there is no command '{' '.join(sys.argv[1:])}'")
        request = json.load(sys.stdin)
        if request.get("protocol") != 1:
            raise Refused(f"version {request.get('protocol')} of the protocol is not spoken here, version 1 is")
        answer = command(request)
    except Refused as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))


main()
