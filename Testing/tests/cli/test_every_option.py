"""Every option of every command is given a value of the wrong type.

Also: every command of the documents runs in an empty folder, and Ctrl-C comes while a command
starts. All is generated from the parsers and the documents.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import NetInversionLib
from NetInversionLib import cli
from NetInversionLib.cli import fields

ROOT = Path(NetInversionLib.__file__).parents[1]
SOURCE = Path(__file__).resolve().parents[3]
WRONG_NUMBERS = ("x", "1.5.2", "nan", "")


def leaves(parser, words=()):
    """Each command's words and its parser."""
    inner = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not inner:
        yield words, parser
    for action in inner:
        for name, one in action.choices.items():
            yield from leaves(one, (*words, name))


COMMANDS = dict(leaves(cli.parser()))
OPTIONS = [
    (words, action)
    for words, parser in COMMANDS.items()
    for action in parser._actions
    if action.option_strings and action.dest not in ("help", "version", "quiet", "json")
]
TYPED = [(words, a) for words, a in OPTIONS if a.type is not None or a.choices]


def named(value):
    if isinstance(value, tuple):
        return "-".join(value)
    return value.option_strings[-1] if isinstance(value, argparse.Action) else None


def called(words, *more):
    """(exit status, what was said) of a command line; nothing else may come out of it."""
    try:
        return cli.main([*words, *map(str, more)])
    except SystemExit as stop:
        return stop.code


def needed(parser, without=None):
    """Words for all that a parser cannot do without: files that are not there."""
    for action in parser._actions:
        if not action.required or action is without:
            continue
        if action.option_strings:
            yield action.option_strings[0]
        yield "absent"


def count(action):
    return action.nargs if isinstance(action.nargs, int) else 1


@pytest.fixture
def empty(tmp_path, monkeypatch):
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def check(status, capsys, folder):
    said = capsys.readouterr()
    assert status in (1, 2), said
    assert "Traceback" not in said.err and 'File "' not in said.err
    last = said.err.strip().splitlines()[-1]
    assert last.startswith("netinversion"), said.err
    assert "unexpected error" not in said.err, said.err
    assert not list(folder.rglob("*")), "nothing is left behind"
    return said.err


WRITES_NOTHING = {
    ("completion",),
    *(("models", name) for name in ("list", "info", "verify", "delete", "trust")),
}


COMPUTE = ("compute", "harmonize", "bids-app", "rerun", "evaluate")


def test_all_commands_have_the_same_names_for_the_same_things():
    for words, parser in COMMANDS.items():
        options = set(parser._option_string_actions)
        assert {"--config", "--quiet", "--json", "--version", "--help"} <= options, words
        if words == ("bids-app",):
            assert "--overwrite" in options, "the standard has the output folder as second word"
        elif words not in WRITES_NOTHING:
            assert {"--output", "--overwrite"} <= options, words
        if (
            words[0] in ("compute", "harmonize", "bids-app", "rerun", "evaluate")
            or words[-1] == "verify"
        ):
            assert {"--device", "--threads"} <= options, words


@pytest.mark.parametrize(("words", "action"), OPTIONS, ids=named)
def test_every_option_is_explained(words, action):
    assert action.help and len(action.help.removesuffix(")").split("(default:")[0]) > 4


@pytest.mark.parametrize(("words", "action"), TYPED, ids=named)
def test_a_value_of_the_wrong_type_is_a_sentence(words, action, empty, capsys):
    line = [*words, *needed(COMMANDS[words], action)]
    for wrong in WRONG_NUMBERS if action.type is not fields.json_fields else ("[1]", "x"):
        text = action.type is not fields.json_fields and action.type and action.type("5") == "5"
        if text and not action.choices:
            continue  # text: whatever it is, it is of the right type
        status = called(line, action.option_strings[-1], *[wrong] * count(action))
        said = check(status, capsys, empty)
        assert status == 1 or action.option_strings[-1] in said


@pytest.mark.parametrize(("words", "action"), OPTIONS, ids=named)
def test_files_of_options_are_checked_as_command_lines_are(words, action, empty, capsys):
    if action.dest == "config":
        return
    line = [*words, *needed(COMMANDS[words], action)]
    for wrong in ({"a": []}, [[1]], 7 if action.nargs == 0 else [{"x": 1}]):
        if action.type is fields.json_fields and wrong != [[1]]:
            continue  # names and values are what it takes
        config = empty.parent / "config.json"
        config.write_text(json.dumps({action.dest: wrong}))
        status = called(line, "--config", config)
        said = check(status, capsys, empty)
        assert status == 2 and str(config) in said


@pytest.mark.parametrize("words", COMMANDS, ids=named)
def test_files_that_are_not_there_are_a_sentence(words, empty, capsys):
    files = list(needed(COMMANDS[words]))
    status = called(words, *files)
    if words != ("models", "list") and (files or status):  # else it lists what there is
        check(status, capsys, empty)


@pytest.mark.parametrize("text", ["", "[1]", "{", "\x00", '{"nonsense": 1}', "a = 1 = 2"])
@pytest.mark.parametrize("name", ["c.json", "c.toml", "absent.json", "."])
def test_a_config_that_is_none_is_a_sentence(text, name, empty, capsys):
    path = empty.parent / name
    if name.startswith("c."):
        path.write_text(text)
    status = called(["compute", "invariances", "ct", "--output", "x"], "--config", path)
    if not (name == "c.toml" and text == ""):
        assert status == 2
    assert "Traceback" not in capsys.readouterr().err


# The documents


def documented():
    """(document, command line) of every block of code that calls the command."""
    found = []
    for path in (SOURCE / "README.md", *sorted((SOURCE / "Resources").rglob("*.md"))):
        lines = iter(path.read_text(encoding="utf-8").splitlines())
        for line in lines:
            if not re.match(" {4,}netinversion ", line):
                continue
            while (line := line.strip()).endswith("\\") or line.count("'") % 2:
                line = line.removesuffix("\\") + next(lines)
            found.append((path.name, line))
    return found


DOCUMENTED = documented()


def test_the_documents_have_commands():
    names = [name for name, _ in DOCUMENTED]
    assert names.count("README.md") >= 10
    assert {"Cohorts.md", "Invariances.md", "OwnNetwork.md", "PublishedNetworks.md"} <= set(names)


@pytest.mark.parametrize("line", dict.fromkeys(line for _, line in DOCUMENTED))
def test_commands_of_the_documents_in_an_empty_folder(line, empty, capsys, monkeypatch):
    """Written as the command takes them; what they need is not there, and a sentence says so."""

    def no_network(*of, **more):
        raise OSError("there is no network here")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    monkeypatch.setenv("NETINVERSION_SETTINGS", str(empty.parent / "settings"))
    words = shlex.split(line, comments=True)[1:]
    status = called(words)
    if words == ["models", "list"]:
        assert status == 0
        return
    check(status, capsys, empty)
    assert status == 1, "the words themselves are right"


@pytest.mark.parametrize("made", ["a file", "a folder that is read only"])
def test_a_model_that_cannot_be_written_is_told_before_the_training(made, empty, capsys):
    if made == "a file":
        (empty.parent / "place").write_bytes(b"")
    else:
        (empty.parent / "place").mkdir(mode=0o500)
        if os.access(empty.parent / "place", os.W_OK):
            pytest.skip("this user may write everywhere")
    status = called(["train", "flow", "absent"], "--output", "../place/new/model.safetensors")
    said = check(status, capsys, empty)
    assert status == 1 and "cannot be written" in said and "place" in said


# Ctrl-C while the command starts, and nobody reading

INTERRUPTED = """
import signal
import sys


class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            signal.raise_signal(signal.SIGINT)


sys.meta_path.insert(0, Interrupt())
from NetInversionLib.cli.entry import main

sys.argv = ["netinversion", *{words!r}]
sys.exit(main())
"""


def started(code, **more):
    paths = [str(ROOT), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, **more
    )


@pytest.mark.parametrize("name", ["NetInversionLib.core.devices", "NetInversionLib.models.library"])
def test_stopped_while_it_starts(name, tmp_path):
    ended = started(INTERRUPTED.format(name=name, words=["models", "list"]), cwd=tmp_path)
    assert ended.returncode == 130 and ended.stderr == "netinversion: stopped\n"


@pytest.mark.skipif(os.name != "posix", reason="closes a file descriptor")
def test_nobody_reads_what_is_said(tmp_path):
    code = "import os; r, w = os.pipe(); os.dup2(w, 1); os.close(r); os.close(w)\n"
    code += INTERRUPTED.format(name="none", words=["models", "list"])
    ended = started(code, cwd=tmp_path)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert "has closed it" in ended.stderr and "BrokenPipe" not in ended.stderr
