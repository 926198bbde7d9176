"""Output whose reader has gone: lines are lost, and nothing else."""

import errno
import io
import os
import subprocess
import sys

import pytest

from jtl import output


def test_first_fault_sends_the_rest_to_nowhere() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with output.Enduring(writing) as raw, io.TextIOWrapper(io.BufferedWriter(raw)) as text:
        for line in ("one\n", "two\n"):
            text.write(line)
            text.flush()
        assert raw.fault is not None
        assert raw.fault.errno == errno.EPIPE
        assert os.write(writing, b"what C++ writes") == 15
        assert output.lost({"stdout": raw}) is None
    os.close(writing)


def test_full_disk_is_told_and_a_reader_that_left_is_not() -> None:
    raw = output.Enduring(os.open(os.devnull, os.O_WRONLY))
    raw.fault = OSError(errno.ENOSPC, "No space left on device")
    assert output.lost({"stdout": raw}) is raw.fault
    raw.fault = OSError(errno.EPIPE, "Broken pipe")
    assert output.lost({"stdout": raw}) is None
    os.close(raw.fileno())


def test_streams_that_are_no_descriptors_stay(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout
    with output.enduring() as below:
        assert sys.stdout is before
        assert below == {}


@pytest.mark.parametrize(
    ("redirection", "shown"),
    [
        (">&-", "err\n"),
        ("2>&-", "out\n"),
        (">&- 2>&-", ""),
        ("<&- >&- 2>&-", ""),
        ("2>&1 | true", ""),
        (">/dev/full", "err\n"),
    ],
)
def test_program_ends_with_its_own_code_whatever_becomes_of_its_output(redirection: str, shown: str) -> None:
    code = (
        "import sys, time\nfrom jtl import output\n"
        "with output.enduring():\n"
        "    for _ in range(3):\n"
        "        for name in ('out', 'err'):\n"
        "            stream = getattr(sys, 'std' + name)\n"
        "            stream.write(name + '\\n')\n"
        "            stream.flush()\n"
        "    file = open(__import__('os').devnull)\n"
        "    assert file.fileno() > 2\n"
        "sys.exit(7)"
    )
    script = f'set -o pipefail; "$0" -c "$1" {redirection}'
    done = subprocess.run(
        ["bash", "-c", script, sys.executable, code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 7, done.stderr
    assert done.stdout + done.stderr == shown * 3
