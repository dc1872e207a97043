"""The target ssh with an ssh that is a script of the test: command lines, errors by their texts, answers that lie."""

import itertools
import json
import math
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from compress.errors import CompressError, RunError, UsageError
from compress.targets import Timing, _device, _ssh, check, find, ssh
from tests.conftest import Project, invoke
from tests.targets.test_local import write

pytestmark = pytest.mark.skipif(not Path("/bin/sh").exists(), reason="a POSIX shell is needed")

HERE = 'for last; do :; done; exec sh -c "$last"'
"""Does here what would be done over there."""


@dataclass(frozen=True)
class Fake:
    """Stands for ssh on PATH."""

    folder: Path

    def does(self, script: str) -> None:
        log = f"for word; do printf '%s\\n' \"$word\"; done >> '{self.folder}/log'; echo == >> '{self.folder}/log'\n"
        program = self.folder / "ssh"
        program.write_text(f"#!/bin/sh\n{log}{script}\n")
        program.chmod(0o755)

    def says(self, code: int, err: str = "", out: str = "") -> None:
        (self.folder / "err").write_text(err)
        (self.folder / "out").write_text(out)
        self.does(f"cat '{self.folder}/out'; cat '{self.folder}/err' >&2; exit {code}")

    @property
    def calls(self) -> list[list[str]]:
        log = self.folder / "log"
        return [call.splitlines() for call in log.read_text().split("==\n")[:-1]] if log.exists() else []


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(ssh, "PAUSES_SECONDS", (0.0, 0.0, 0.0))
    monkeypatch.delenv(_ssh.CONFIG_VARIABLE, raising=False)
    return Fake(folder)


def test_ssh_is_told_nothing_that_weakens_it(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.says(255)
    monkeypatch.setenv(_ssh.CONFIG_VARIABLE, "/some/config")
    with pytest.raises(RunError):
        check("ssh://pi@edge.local:2222?python=/opt/py")
    words = fake.calls[0]
    assert ["-T", "-F", "/some/config"] == words[:3]
    given = dict(word.split("=") for before, word in itertools.pairwise(words) if before == "-o")
    assert _ssh.OPTIONS == given
    assert "yes" == given["BatchMode"]
    assert not {"StrictHostKeyChecking", "UserKnownHostsFile", "CheckHostIP", "VerifyHostKeyDNS"} & set(given)
    assert ["-p", "2222", "--", "pi@edge.local"] == words[-5:-1]  # and one word for the other side


@pytest.mark.parametrize(
    "target",
    [
        "ssh", "ssh:edge", "ssh://", "ssh://-oProxyCommand=touch pwned", "ssh://-edge", "ssh://a@-oProxyCommand=x",
        "ssh://-l@edge", "ssh://edge;true", "ssh://$(true)", "ssh://`true`", "ssh://a b", "ssh://edge\n", "ssh://ed\nge",
        "ssh://edge:0", "ssh://edge:65536", "ssh://edge:x", "ssh://edge:", "ssh://user:secret@edge", "ssh://edge/path",
        "ssh://edge?key=1", "ssh://edge?python=", "ssh://edge?python=-c", "ssh://edge?python=a/b",
        "ssh://edge?python=/a%0Ab", "ssh://edge?python=a;b", "ssh://édge", "ssh://[::1", "ssh://[-x]",
    ],
)  # fmt: skip
def test_what_is_no_address_never_reaches_ssh(fake: Fake, target: str) -> None:
    fake.does(HERE)
    for ask in (ssh.check, lambda target: ssh.measure([], Timing(), target)):
        with pytest.raises(UsageError, match=r"write ssh://user@host:port\?python=/path/python"):
            ask(target)
    assert [] == fake.calls


@pytest.mark.parametrize(
    ("target", "words", "python"),
    [
        ("ssh://edge", ["--", "edge"], "python3"),
        ("ssh://pi@10.0.0.7:22/", ["-p", "22", "--", "pi@10.0.0.7"], "python3"),
        ("ssh://[fe80::1]:2222", ["-p", "2222", "--", "fe80::1"], "python3"),
        ("ssh://edge?python=python3.12", ["--", "edge"], "python3.12"),
        ("ssh://edge?python=~/my%20env/c%2B%2B/python", ["--", "edge"], "~/my env/c++/python"),
    ],
)
def test_addresses(target: str, words: list[str], python: str) -> None:
    found = _ssh.parse(target)
    assert (words, python) == (found.words, found.python)
    assert ssh is find(target)


CHANGED = """@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
Offending ED25519 key in /home/me/.ssh/known_hosts:3
Host key for [edge]:2222 has changed and you have requested strict checking.
Host key verification failed.
"""
TRACE = "Traceback (most recent call last):\n"


@pytest.mark.parametrize(
    ("code", "err", "error", "says"),
    [
        (255, CHANGED, UsageError, r"somebody may stand in between.*ssh-keygen -R '\[edge\]:2222'$"),
        (255, "Host key verification failed.\n", UsageError, r"not in known_hosts; log in once with `ssh pi@edge`"),
        (255, "pi@edge: Permission denied (publickey).\n", UsageError, "none of your keys; install one with ssh-copy"),
        (255, "ssh: Could not resolve hostname edge: Name or service not known", UsageError, "no such host name"),
        (255, "ssh: connect to host edge port 22: Connection refused", RunError, "nothing answers at its ssh port"),
        (255, "ssh: connect to host edge port 22: Connection timed out", RunError, "no answer in time"),
        (255, "ssh: connect to host edge port 22: No route to host", RunError, "cannot be reached"),
        (
            255,
            "client_loop: send disconnect: Broken pipe",
            RunError,
            r"connection was lost \(client_loop.*run the same",
        ),
        (255, "Timeout, server edge not responding.", RunError, "connection was lost"),
        (255, "/x: line 1: Bad configuration option: foo", UsageError, "correct this until `ssh pi@edge` logs in"),
        (72, "", UsageError, r"no program py there; .*\?python="),
        (127, "sh: py: not found", UsageError, "no program py there"),
        (
            1,
            f"{TRACE}ModuleNotFoundError: No module named 'numpy'",
            UsageError,
            "py -m pip install numpy 'onnxruntime>",
        ),
        (1, f"{TRACE}ModuleNotFoundError: No module named 'onnxruntime'", UsageError, "'onnxruntime>=1.14'"),
        (1, f"{TRACE}ImportError: libgomp.so.1: cannot open", UsageError, "cannot be imported there.*libgomp"),
        (1, "SyntaxError: future feature annotations is not defined", UsageError, "py is too old; name one of 3.8"),
        (1, "AttributeError: 'file' object has no attribute 'buffer'", UsageError, "py is too old"),
        (1, f"{TRACE}OSError: [Errno 28] No space left on device", RunError, "no space left in its temporary folder"),
        (71, "mktemp: failed to create: No space left on device", RunError, "no space left in its temporary folder"),
        (
            71,
            "mktemp: Permission denied",
            RunError,
            r"no temporary folder can be made there \(mktemp: Permission denied",
        ),
        (137, "Killed\n", RunError, "killed there, most likely for memory"),
        (1, f"{TRACE}MemoryError", RunError, "its memory is full"),
        (139, "Segmentation fault", RunError, "ended by signal 11"),
        (3, "what is this\x1b[2J", RunError, r"failed there: what is this\?\[2J$"),
        (0, "", RunError, "answered something else than measurements"),
    ],
)
def test_every_failure_says_what_to_do(fake: Fake, code: int, err: str, error: type[CompressError], says: str) -> None:
    fake.says(code, err, out="Welcome!\n")
    with pytest.raises(CompressError, match=f"^edge: .*{says}") as found:
        ssh.check("ssh://pi@edge?python=py")
    assert error is type(found.value)
    assert 1 == len(str(found.value).splitlines())
    # Hours later the same is a lost target, which the same command resumes from.
    with pytest.raises(RunError, match=r"^edge: "):
        ssh.measure([], Timing(), "ssh://pi@edge?python=py")


def test_a_device_cannot_pass_for_ssh(fake: Fake) -> None:
    """Words of ssh in the mouth of the other side are no failure of ssh's, and no advice comes from there."""
    fake.says(1, CHANGED)
    with pytest.raises(RunError, match="the measuring failed there"):
        ssh.check("ssh://edge")
    fake.says(255, "Host key for $(touch;pwned) has changed\n")
    with pytest.raises(UsageError, match=r"ssh-keygen -R edge$"):
        ssh.check("ssh://edge")


def test_a_lost_connection_is_tried_three_times_and_nothing_else_is(fake: Fake) -> None:
    for err, calls in (("Connection closed by 10.0.0.7 port 22", 3), ("Permission denied (publickey).", 1)):
        shutil.rmtree(fake.folder)
        fake.folder.mkdir()
        fake.says(255, err)
        with pytest.raises(RunError):
            ssh.measure([], Timing(), "ssh://edge")
        assert calls == len(fake.calls)
    fake.says(255, "Connection closed by 10.0.0.7 port 22")
    with pytest.raises(RunError, match=r"attempts: 1\)$"):  # at the start nobody waits
        ssh.check("ssh://edge")


def test_the_second_attempt_succeeds(fake: Fake, tmp_path: Path) -> None:
    fake.does(f"[ -e '{tmp_path}/once' ] || {{ touch '{tmp_path}/once'; exit 255; }}; {HERE}")
    model = write(tmp_path / "model.onnx", [1, 4])
    found, _ = ssh.measure([model], Timing(1, 1, 3, 0.01), f"ssh://edge?python={sys.executable}")
    assert ["measured"] == [m.status for m in found]
    assert 2 == len(fake.calls)


def answer(**changed: Any) -> str:
    whole = {"samples_ns": [[1000, 1000], [1000, 1000]], "load_ms": 1.5, "first_ms": 0.5, "peak_memory_bytes": None}
    return _device.ANSWER + json.dumps({"device": {"cpu": "x\x1b"}, "files": [{**whole, **changed}]})


def test_an_answer_is_found_among_other_lines(fake: Fake, tmp_path: Path) -> None:
    fake.says(0, out=f"motd: 100%\n{answer()}\n")
    found, speedup = ssh.measure([write(tmp_path / "m.onnx", [1])], Timing(), "ssh://edge")
    assert found[0].latency_ms is not None
    assert (0.001, 2, 0.0) == (found[0].latency_ms.p50, found[0].latency_ms.repeats, found[0].latency_ms.spread)
    assert ("m.onnx", "ssh://edge", None) == (found[0].artifact, found[0].target, speedup)


@pytest.mark.parametrize(
    "said",
    [
        answer(samples_ns=[]), answer(samples_ns=[[]]), answer(samples_ns=[[0]]), answer(samples_ns=[[-1]]),
        answer(samples_ns=[[1], [1, 2]]), answer(samples_ns=[["1"]]), answer(samples_ns=[[True]]), answer(samples_ns=7),
        answer(samples_ns=[[math.nan]]), answer(samples_ns=[[10**400]]), answer(load_ms="fast"), answer(first_ms=-1),
        answer(peak_memory_bytes=math.inf), "", f"{_device.ANSWER}[", f"{_device.ANSWER}{'[' * 100_000}",
        f"{_device.ANSWER}7", f'{_device.ANSWER}{{"device": {{}}}}', f'{_device.ANSWER}{{"device": 3, "files": []}}',
        f'{_device.ANSWER}{{"device": {{}}, "files": []}}', f'{_device.ANSWER}{{"device": {{}}, "files": [3]}}',
    ],
)  # fmt: skip
def test_an_answer_that_lies_is_refused(fake: Fake, tmp_path: Path, said: str) -> None:
    fake.says(0, out=said)
    with pytest.raises(RunError, match=r"answered something else|measured 0 files in place of 1"):
        ssh.measure([write(tmp_path / "m.onnx", [1])], Timing(), "ssh://edge")


def test_a_device_that_never_answers_is_given_up(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "CHECK_SECONDS", 0.2)
    fake.does("exec sleep 60")
    with pytest.raises(RunError, match="no answer within 0 seconds"):
        ssh.check("ssh://edge")


def test_without_the_program_ssh(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(fake.folder))
    with pytest.raises(UsageError, match="needs the program ssh, which is not here; install"):
        ssh.check("ssh://edge")


def test_a_runtime_too_old_for_a_file_is_no_finding_about_the_file(fake: Fake, tmp_path: Path) -> None:
    said = "ONNX Runtime 1.2.0 refuses the file: Unsupported model IR version: 10, max supported IR version: 6"
    for reason, error in ((said, "too old for m.onnx .*pip install --upgrade onnxruntime"), ("broken", None)):
        fake.says(0, out=_device.ANSWER + json.dumps({"device": {}, "files": [{"reason": reason}]}))
        asked = [write(tmp_path / "m.onnx", [1])]
        if error:
            with pytest.raises(RunError, match=error):
                ssh.measure(asked, Timing(), "ssh://edge")
        else:
            found = ssh.measure(asked, Timing(), "ssh://edge")[0][0]
            assert ("failed", "broken") == (found.status, found.reason)


@pytest.mark.parametrize(("has", "enough"), [("1.9.0", False), ("1.13.1", False), ("1.14.0", True), ("2.0", True)])
def test_a_runtime_too_old_for_the_opset_is_found_at_the_start(
    fake: Fake, user: Project, tmp_path: Path, has: str, enough: bool
) -> None:
    fake.says(0, out=_device.ANSWER + json.dumps({"device": {"onnxruntime": has}, "files": []}))
    spec = ("--method", "magnitude", "--sparsity", 0.5, "--target", "ssh://edge")
    ended = invoke(*user.words(*spec, "--device", "none", "--out", tmp_path / "run"))
    assert 2 == ended.exit_code
    assert ("device 'none'" if enough else f"has onnxruntime {has}, and files of opset 18 need 1.14") in ended.output


def test_the_script_stands_alone_and_runs_on_python_3_8() -> None:
    import ast

    source = Path(_device.__file__).read_text()
    tree = ast.parse(source, feature_version=(3, 8))
    asked = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    asked |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    tops = {name.partition(".")[0] for name in asked}
    assert {"numpy", "onnxruntime"} == tops - set(sys.stdlib_module_names)


def test_every_login_shell_passes_the_command_on(tmp_path: Path) -> None:
    """The word for the other side goes through a shell that is the user's to choose."""
    python = tmp_path / "it's; touch pwned; $(touch pwned)" / "py"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\necho "$1|$2|$(pwd)"')
    python.chmod(0o755)
    remote = _ssh.words(_ssh.Address("edge", python=str(python)))[-1]
    shells = [
        shell for name in ("sh", "bash", "ksh", "zsh", "fish", "tcsh", "busybox") if (shell := shutil.which(name))
    ]
    for shell in shells:
        words = [shell, *(["sh"] if shell.endswith("busybox") else []), "-c", remote]
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
            env={"TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin"},
        )
        assert done.stdout.startswith(f"-B|-c|{tmp_path}/compress-")
    assert [python.parent] == list(tmp_path.iterdir())
