"""Help: its groups, its examples, and what it must not have."""

from __future__ import annotations

import re
import subprocess
import sys

import click
import pytest

from gguf_embed.cli.command import example_lines, groups_of
from gguf_embed.cli.main import COMMANDS, SUMMARIES, TITLES, load_command
from tests.cli.one_shot import call


def helped(*words: str) -> str:
    done = call(*words, "--help", terminal=True, environment={"NO_COLOR": "1"})
    assert (done.code, done.err) == (0, "")
    return done.out.decode()


def test_every_command_is_under_one_title_and_serve_is_the_first():
    titled = [name for names in TITLES.values() for name in names]
    assert sorted(titled) == sorted(COMMANDS)
    assert titled[0] == next(iter(COMMANDS)) == "serve"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_summary_is_the_first_sentence_of_the_command_s_own_help(name):
    first, _, _ = (load_command(name).help or "").partition("\n")
    assert SUMMARIES[name] == first.removesuffix(".")


def test_no_summary_is_cut():
    _, _, after_usage = helped().partition("\n")
    assert "..." not in after_usage
    assert "…" not in after_usage


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_that_click_can_parse(name):
    lines = example_lines(load_command(name))
    assert lines
    assert all(line.startswith(f"gguf-embed {name}") for line in lines)
    assert [line for line in lines if line.strip() not in helped(name)] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_every_flag_and_no_range_as_click_writes_it(name):
    text = helped(name)
    flags = [param.opts[-1] for param in load_command(name).params if isinstance(param, click.Option)]
    assert [flag for flag in flags if not re.search(rf"{re.escape(flag)}\b", text)] == []
    assert not re.search(r"x[<>]=|<=x|INTEGER RANGE", text)


def test_the_flags_of_llama_server_alone_are_the_last_group_of_serve():
    groups = groups_of(load_command("serve"))
    assert list(groups)[-1] == "Only for llama-server's command lines"
    assert all(not option.expose_value for option in groups[list(groups)[-1]])
    assert all(option.expose_value for title in list(groups)[:-1] for option in groups[title])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["serv"], "did you mean serve?"),
        (["lst"], "did you mean list?"),
        (["model.gguf"], "gguf-embed serve -m model.gguf"),
        (["frobnicate"], "the commands are serve, "),
        (["serve", "all-minilm"], "gguf-embed serve -m all-minilm"),
        (["list", "--jsn"], "--json"),
        (["ps", "extra"], "'extra' is one argument too many"),
        (["serve", "--port", "x"], "'x' is not a whole number"),
        (["serve", "--port", "70000"], "70000 is out of range: 0 to 65535"),
        (["serve", "--max-inputs", "0"], "0 is out of range: 1 or more"),
        (["serve", "--port", "99999"], "Invalid value for '--port': 99999"),
        (["serve", "-m", ""], "'-m' / '--model': it is empty; give a GGUF file or the name of a model"),
        (["serve", "-hf", " "], "it is empty; give ORG/REPO"),
        (["serve", "--mmproj", ""], "it is empty; give the name of a file"),
        (["embed", "-m", "", "a"], "it is empty; give a GGUF file"),
        (["embed", "-o", "", "a"], "it is empty; give the name of a file"),
        (["embed", "--endpoint", "", "a"], "it is empty; give the URL of a server"),
        (["rerank", "-m", "", "a", "b"], "it is empty; give a GGUF file"),
        (["batch", "-i", "a", "-o", ""], "'-i' / '--input': "),
        (["batch", "-o", "", "-i", __file__], "'-o' / '--output': it is empty"),
        (["convert", ""], "it is empty; give a folder, a file or ORG/REPO"),
        (["convert", "org/repo", "-o", ""], "it is empty; give the name of a file"),
        (["doctor", "", "--fix"], "it is empty; give a GGUF file"),
        (["doctor", "m.gguf", "--fix", "-o", ""], "it is empty; give the name of a file"),
        (["show", ""], "it is empty; give a GGUF file"),
        (["pull", ""], "it is empty; give a GGUF file"),
        (["search", "u", "q", "--top", "5000"], "5000 is out of range: 1 to 1000"),
    ],
)
def test_a_wrong_command_line_is_answered_with_the_way_out(words, message):
    done = call(*words, environment={})
    assert (done.code, done.out) == (2, b"")
    assert message in done.err
    assert len(done.err.splitlines()) == 2


def test_a_switch_in_the_environment_that_is_neither_yes_nor_no_is_refused():
    done = call("serve", environment={"GGUF_EMBED_TRUNCATE": "maybe"})
    assert done.code == 2
    assert "'maybe' is neither yes nor no: use true, yes, on or 1, or false, no, off or 0" in done.err


def test_a_variable_is_named_only_if_the_wrong_value_is_its():
    assert "(env var: 'LLAMA_ARG_PORT'): 99999" in call("serve", environment={"LLAMA_ARG_PORT": "99999"}).err
    typed = call("serve", "--port", "99998", environment={"LLAMA_ARG_PORT": "99999"}).err
    assert "Invalid value for '--port': 99998" in typed


@pytest.mark.process
def test_serving_and_listing_import_nothing_that_lays_out_help_or_draws_bars():
    names = "import sys, gguf_embed.cli.main as m; m.load_command('serve'); m.load_command('list'); print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", names], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in found.stdout.split()}
    assert "click" in loaded
    assert loaded.isdisjoint({"rich", "rich_click", "difflib"})
