"""The watch of the processes of one program over each other: when one is lost or ends by itself, all end.

A thread in each gives a sign of life every second and looks whether an end was declared; that of process 0,
whose service keeps both, looks at all signs. A device program that waits for a lost process never returns,
so nothing but this thread can end the others, and it does so at once: what was saved is what the same command
goes on from.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

SIGNS, END, ENDED, SUSPECTED = "jtl/sign", "jtl/end", "jtl/ended", "jtl/suspected"
SIGN_SECONDS = 1.0
# Without a sign for so long a process is lost; sooner where a program of another has failed meanwhile, which
# it does at once where the connection broke.
LOST_SECONDS, SUSPECTED_SECONDS = 20.0, 5.0
# How long process 0, and its service with it, waits until the others have heard of the end.
HEARD_SECONDS = 3.0
# How often in a row the service may not answer.
MAX_UNANSWERED = 3
GONE = "is lost: its service answers no more"
# What is lost goes on by the same command, as what a scheduler stopped does. So does what hung, and may
# hang again.
LOST_CODE, HUNG_CODE = 75, 76


class Sign(NamedTuple):
    """The last sign of a process: its text, and when it was first seen."""

    text: str
    seen_at: float


class Watch:
    """One process's part of the watch; `end` is called with the words and the code to end with.

    `store` keeps texts by key for all processes, as JAX's service does.
    """

    def __init__(
        self,
        store: Any,
        process_id: int,
        num_processes: int,
        end: Callable[[str, int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._process_id, self._num_processes = store, process_id, num_processes
        self._end, self._clock = end, clock
        self._count, self._unanswered = 0, 0
        self._signs: dict[int, Sign] = {}
        self.doing = ""
        self._left_off, self.ended = threading.Event(), threading.Event()

    def suspect(self) -> None:
        """Say that a process may be lost: that of which there is no sign is looked for sooner."""
        with suppress(Exception):
            self._store.key_value_set(SUSPECTED, "1", allow_overwrite=True)

    def leave_off(self) -> None:
        """Look no more: the processes are about to part."""
        self._left_off.set()

    def run(self) -> None:
        """Look once a second until the process ends."""
        while not self._left_off.is_set():
            self.look()
            self._left_off.wait(SIGN_SECONDS)
        self.ended.set()

    def look(self) -> None:
        """Give a sign, and end where an end is declared, or where a process or the service is lost."""
        try:
            self._count += 1
            text = json.dumps([self._count, socket.gethostname(), os.getpid(), self.doing])
            self._store.key_value_set(f"{SIGNS}/{self._process_id}", text, allow_overwrite=True)
            end = read(self._store, END)
            lost = self._lost() if self._process_id == 0 and not end else ""
            self._unanswered = 0
        except Exception as error:  # the service has no type of its own for it
            self._unanswered += 1
            is_gone = self._unanswered >= MAX_UNANSWERED or is_of_connection(error)
            if not is_gone or self._left_off.is_set():
                return
            end, lost = "", self._named(0, GONE)
        if self._left_off.is_set():
            return
        if lost and self._process_id == 0:
            declare(self._store, lost, LOST_CODE)
        if end:
            found = json.loads(end)
            self._end(found["text"], found["code"])
        elif lost:
            self._end(lost, LOST_CODE)

    def _lost(self) -> str:
        """Return what process is lost, "" of none."""
        now = self._clock()
        for key, text in self._store.key_value_dir_get(SIGNS):
            number = int(key.rpartition("/")[2])
            if number not in self._signs or self._signs[number].text != text:
                self._signs[number] = Sign(text, now)
        limit = SUSPECTED_SECONDS if read(self._store, SUSPECTED) else LOST_SECONDS
        for number, sign in self._signs.items():
            if number != self._process_id and now - sign.seen_at > limit:
                _, host, pid, _ = json.loads(sign.text)
                return self._named(
                    number, f"(pid {pid} on {host}) is lost: no sign of life for {now - sign.seen_at:.0f} s"
                )
        return ""

    def _named(self, number: int, words: str) -> str:
        return f"process {number} of {self._num_processes} {words}"


class _Thread(threading.Thread):
    def __init__(self, found: Watch) -> None:
        super().__init__(target=found.run, name="jtl-peers", daemon=True)
        self.watch = found


def watch(store: Any, process_id: int, num_processes: int) -> Watch:
    """Begin to watch, in a thread of its own."""

    def end(text: str, code: int) -> None:
        end_now(store, process_id, num_processes, text, code)

    found = Watch(store, process_id, num_processes, end)
    _Thread(found).start()
    return found


def leave_off() -> None:
    """Let this process's thread look no more, and wait for its last look."""
    for found in _watches():
        found.leave_off()
        # Python ends a thread that is inside of C++ code by an exception, which ends the process.
        found.ended.wait(2 * SIGN_SECONDS)


def end_all(store: Any, process_id: int, num_processes: int, said: str, code: int) -> None:
    """Declare that this process ends by itself, with what it said, which ends the others."""
    host = socket.gethostname()
    for found in _watches():
        found.leave_off()
    with suppress(Exception):
        declare(store, f"process {process_id} of {num_processes} (on {host}) {said}", code)
        _hear(store, process_id, num_processes)


def end_now(store: Any, process_id: int, num_processes: int, text: str, code: int) -> None:
    """End this process with an end that was declared; process 0 as the last."""
    is_kept = code in (LOST_CODE, HUNG_CODE)
    going_on = "; what was saved is kept: repeat the command to go on" if is_kept else ""
    line = f"\njtl: {text}{going_on}\n".encode()
    # As the main thread may be inside of a write, past Python's own buffers.
    with suppress(OSError):
        os.write(2, line)
    with suppress(Exception):
        _hear(store, process_id, num_processes)
    os._exit(code)


def tell_doing(what: str) -> None:
    """Say with this process's signs what it is doing."""
    for found in _watches():
        found.doing = what


def doing_of_others(store: Any, process_id: int) -> dict[int, str]:
    """Return what the other processes said they are doing, by their numbers; {} where nothing answers."""
    found: dict[int, str] = {}
    with suppress(Exception):
        for key, text in store.key_value_dir_get(SIGNS):
            number = int(key.rpartition("/")[2])
            if number != process_id:
                found[number] = json.loads(text)[3]
    return found


def declare(store: Any, text: str, code: int) -> None:
    """Declare an end to all; the first counts."""
    with suppress(Exception):
        store.key_value_set(END, json.dumps({"text": text, "code": code}))


def suspect() -> None:
    """Say that a process may be lost, and wait until that is known; the thread ends this process if so."""
    for found in _watches():
        found.suspect()
        until = time.monotonic() + SUSPECTED_SECONDS + MAX_UNANSWERED * SIGN_SECONDS
        while time.monotonic() < until:
            # Where process 0 is lost, JAX's service ends this one within 2 s, with a stack of C++.
            found.look()
            time.sleep(0.2)


def is_of_connection(error: Exception) -> bool:
    """Return whether an error of the service says that its process is gone."""
    return any(sign in str(error) for sign in ("UNAVAILABLE", "Socket closed", "Connection re"))


def read(store: Any, key: str) -> str:
    """Return what is kept by a key, "" of nothing."""
    try:
        return store.key_value_try_get(key)
    except Exception as error:
        if "NOT_FOUND" not in str(error):
            raise
        return ""


def _watches() -> list[Watch]:
    """Return the watch of this process: it is where its thread is."""
    return [each.watch for each in threading.enumerate() if isinstance(each, _Thread)]


def _hear(store: Any, process_id: int, num_processes: int) -> None:
    """Say that this process has heard of the end; process 0 waits until the others have."""
    store.key_value_set(f"{ENDED}/{process_id}", "1", allow_overwrite=True)
    until = time.monotonic() + HEARD_SECONDS
    while process_id == 0 and time.monotonic() < until:
        if len(store.key_value_dir_get(ENDED)) >= num_processes:
            return
        time.sleep(0.1)
    with suppress(Exception):
        sys.stderr.flush()
