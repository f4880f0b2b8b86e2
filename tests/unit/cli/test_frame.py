"""The frame around every verb: endings and their exit statuses, help, lazy loading."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Callable

import click
import pytest
from click.testing import CliRunner, Result

from deliver.cli import outrider
from deliver.cli.frame import VERBS, Application, Frame
from deliver.errors import ConfigurationError, MessageError, StorageError, UsageError
from deliver.settings import Settings

Install = Callable[[Callable[[], object]], None]


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a verb `probe` into the table."""

    def install(body: Callable[[], object]) -> None:
        @click.command()
        def probe() -> object:
            """Probe."""
            return body()

        module = types.ModuleType("deliver.cli.probe")
        module.probe = probe  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "deliver.cli.probe", module)
        monkeypatch.setitem(VERBS, "probe", ("deliver.cli.probe:probe", "Probe."))

    return install


def run(*args: str) -> Result:
    return CliRunner().invoke(outrider, list(args))


def raising(error: BaseException) -> Callable[[], object]:
    def body() -> object:
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigurationError("reading x", "it is bad", "mend it"), 78),
        (UsageError("reading x", "it is bad", "mend it"), 64),
        (MessageError("reading x", "it is bad", "mend it"), 65),
        (StorageError("reading x", "it is bad", "mend it"), 75),
    ],
)
def test_an_error_of_the_tree_is_one_line_and_its_status(
    verb: Install, error: Exception, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OUTRIDER_DEBUG", raising=False)
    verb(raising(error))
    result = run("probe")
    assert (result.exit_code, result.stderr) == (status, "outrider: reading x: it is bad (mend it)\n")


def test_debug_adds_the_traceback(verb: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTRIDER_DEBUG", "1")
    verb(raising(StorageError("reading x", "it is bad")))
    assert "Traceback" in run("probe").stderr


def test_errors_grouped_by_a_nursery_are_told_one_by_one(verb: Install) -> None:
    inner = ExceptionGroup("inner", [ConfigurationError("b", "worse")])
    verb(raising(ExceptionGroup("outer", [StorageError("a", "bad"), inner])))
    result = run("probe")
    assert (result.exit_code, result.stderr) == (75, "outrider: a: bad\noutrider: b: worse\n")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BaseExceptionGroup("", [KeyboardInterrupt()])])
def test_an_interrupt_is_130(verb: Install, error: BaseException) -> None:
    verb(raising(error))
    result = run("probe")
    assert result.exit_code == 130
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "error", [KeyError("x"), ExceptionGroup("", [KeyError("x"), StorageError("a", "b")])]
)
def test_anything_else_is_a_bug_with_a_traceback(verb: Install, error: Exception) -> None:
    verb(raising(error))
    result = run("probe")
    assert result.exit_code == 70
    assert "KeyError" in result.stderr


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (75, 75), ("text", 0)])
def test_a_verb_returns_its_status(verb: Install, returned: object, status: int) -> None:
    verb(lambda: returned)
    assert run("probe").exit_code == status


@pytest.mark.parametrize(
    "args", [("--nonsense",), ("config", "nonsense"), ("config", "show", "--nonsense"), ("-o",), ("hnits",)]
)
def test_usage_errors_are_64(args: tuple[str, ...]) -> None:
    assert run(*args).exit_code == 64


def test_a_near_verb_is_suggested() -> None:
    assert "did you mean 'hints'?" in run("hnits").stderr


def test_an_override_without_a_value_is_a_usage_error() -> None:
    result = run("-o", "dns.timeout", "config", "check")
    assert (result.exit_code, result.stderr) == (
        64,
        "outrider: reading -o dns.timeout: it has no '=' (write -o KEY=VALUE)\n",
    )


def test_help_lists_every_verb_and_an_example() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert all(verb in result.stdout for verb in VERBS)
    assert "Examples:" in result.stdout


def test_version() -> None:
    assert run("--version").stdout.startswith("outrider ")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_prints_a_script(shell: str) -> None:
    assert "_OUTRIDER_COMPLETE" in run("completion", shell).stdout


def test_verbs_complete_from_the_table() -> None:
    assert isinstance(outrider, Frame)
    found = outrider.shell_complete(click.Context(outrider), "co")
    assert [item.value for item in found] == ["config", "completion"]


def test_settings_can_be_given_to_a_verb_directly() -> None:
    settings = Settings(state_dir="/srv/x")
    assert Application(settings=settings).settings is settings


def python(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, timeout=50, check=False)


def test_help_imports_neither_trio_nor_sqlalchemy_nor_dns() -> None:
    code = (
        "import sys\nsys.argv = ['outrider', '--help']\nfrom deliver.cli import main\n"
        "try:\n    main()\nfinally:\n"
        "    print(sorted({'trio', 'sqlalchemy', 'dns', 'OpenSSL', 'cryptography', 'rich', 'msgspec'} & set(sys.modules)))"
    )
    result = python("-c", code)
    assert result.returncode == 0
    assert "Verbs:" in result.stdout
    assert result.stdout.endswith("[]\n")


def test_the_module_runs_and_a_closed_pipe_is_quiet() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(
        [sys.executable, "-m", "deliver", "config", "show"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=50,
        check=False,
        env={**os.environ, "OUTRIDER_CONFIG": os.devnull},
    )
    os.close(writing)
    assert process.stderr == ""
    assert process.returncode == 141


def test_output_that_cannot_be_written_is_74() -> None:
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            [sys.executable, "-m", "deliver", "completion", "fish"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=50,
            check=False,
        )
    assert process.stderr == "outrider: writing the output: No space left on device\n"
    assert process.returncode == 74
