"""Holds the rules of the design: imports go downwards only, siblings stay apart, each dependency has one home."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gguf_embed"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 400

LAYERS = (
    {"types", "errors", "config", "durations", "metrics"},
    {"vectors", "gguf_file", "tokenization", "images"},
    {"convert"},
    {"model_store"},
    {"doctor", "engines"},
    {"preprocessing", "scheduler"},
    {"model_pool", "output_cache"},
    {"service", "batch"},
    {"server", "embedder"},
    {"ingest"},
    {"cli", "__main__"},
)
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}

SIBLINGS = {(who, whom) for who in ("config", "metrics") for whom in ("types", "errors")} | {
    ("types", "errors"),
    ("__main__", "cli"),
}
"""Imports within a layer that are meant: (who, whom)."""

INGEST_ONLY = (
    *("lancedb", "duckdb", "apsw", "psycopg", "pgvector", "qdrant_client", "qdrant_edge", "pymilvus"),
    *("opensearchpy", "elasticsearch", "pypdf", "trafilatura", "semantic_text_splitter", "markdown_it", "ray"),
)
"""What jobs need: databases, readers of documents, chunkers, clusters."""

HOMES = {
    "llama_cpp": ("engines/llama/bindings.py",),
    "openvino": ("engines/openvino/runtime.py",),
    "huggingface_hub": ("model_store/download.py", "model_store/hub_errors.py"),
    "gguf": ("gguf_file/", "convert/", "doctor/"),
    "aiohttp": ("server/", "embedder/"),
    "click": ("cli/",),
    "prometheus_client": ("metrics.py",),
    "tokenizers": (
        "tokenization/wordpiece.py",
        "tokenization/tokenizer_json.py",
        "tokenization/clip_bpe.py",
        "tokenization/siglip_unigram.py",
        "engines/static/",
    ),
    "PIL": ("images/pixels.py",),
    "py_rust_stemmers": ("engines/bm25/words.py",),
    "opentelemetry": ("server/tracing.py",),
    "orjson": ("server/", "embedder/", "ingest/", "cli/", "batch/"),
    "uvloop": ("server/", "cli/"),
    "numpy": ("",),
    "pyarrow": ("ingest/", "embedder/", "cli/"),
    "rich": ("cli/progress.py", "cli/help_page.py"),
    "rich_click": ("cli/help_page.py",),
    "langchain_core": ("embedder/langchain.py",),
    "haystack": ("embedder/haystack.py",),
    "chromadb": ("embedder/chroma.py", "ingest/"),
    **dict.fromkeys(INGEST_ONLY, ("ingest/",)),
}
"""Where each third-party package may be imported; a package that is not here is not a dependency."""

EXPORTED = {"Embedder", "Muvera", "Client", "RayEmbedder"}
"""What `gguf_embed` itself offers. It imports them when they are used, through its `__getattr__`."""

DIALECTS_JOINED = {
    # a body with `content` on /v1/embeddings gets the native shape, as from llama-server
    ("openai", "llama"): "gguf_embed.server.dialects.llama.embedding",
    # /embeddings is a route of both servers: OpenAI's body gets OpenAI's shape
    ("llama", "openai"): "gguf_embed.server.dialects.openai.embeddings",
    # /tokenize is a route of both servers: TEI's body gets TEI's shape
    ("llama", "tei"): "gguf_embed.server.dialects.tei.tokens",
}
"""The three rules that are the dialects' own: who asks whom, and for which module."""

ENGINES = {path.name for path in (PACKAGE / "engines").iterdir() if (path / "driver.py").exists()}

VAGUE_NAMES = ("util", "helper", "manager", "misc", "common")


@dataclass(frozen=True)
class Import:
    """One import, as the dotted name of the module or of the object imported from it."""

    file: str  # relative to the package
    line: int
    name: str

    @property
    def top(self) -> str:
        return self.name.split(".")[0]

    def __str__(self) -> str:
        return f"gguf_embed/{self.file}:{self.line} imports {self.name}"


def imports_of(path: Path, source: str) -> Iterator[Import]:
    """All imports of a file, those inside functions and of the type checker included."""
    file = path.relative_to(PACKAGE).as_posix()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (Import(file, node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield Import(file, node.lineno, "." * node.level + (node.module or ""))
            elif node.module == "gguf_embed":
                yield from (Import(file, node.lineno, f"gguf_embed.{alias.name}") for alias in node.names)
            else:
                yield Import(file, node.lineno, node.module or "")


IMPORTS = [found for path in FILES for found in imports_of(path, path.read_text())]


def part_of(file: str) -> str:
    """ "scheduler" of "scheduler/queue.py", "types" of "types.py"."""
    return file.split("/")[0].removesuffix(".py")


def wrong_direction(found: Import) -> bool:
    who, whom = part_of(found.file), found.name.partition(".")[2].split(".")[0]
    if found.top != "gguf_embed" or whom in ("", "__version__") or who in (whom, "__init__"):
        return False
    return LEVEL[whom] > LEVEL[who] or (LEVEL[whom] == LEVEL[who] and (who, whom) not in SIBLINGS)


def crosses_dialects(found: Import) -> bool:
    """A dialect imports another one, or shared fields import a dialect."""
    if not found.name.startswith("gguf_embed.server.dialects."):
        return False
    whom = found.name.split(".")[3]
    if found.file.startswith("server/fields/"):
        return True
    who = found.file.removeprefix("server/dialects/").split("/")[0]
    is_dialect = found.file.startswith("server/dialects/") and found.file.count("/") > 2
    return is_dialect and who != whom and DIALECTS_JOINED.get((who, whom)) != found.name


def crosses_engines(found: Import) -> bool:
    """An engine's folder imports another engine's, or anything outside `engines/` imports an engine's folder."""
    name = found.name.split(".")
    if name[:2] != ["gguf_embed", "engines"] or len(name) < 3 or name[2] not in ENGINES:
        return False
    folder = found.file.split("/")
    is_engine = folder[0] == "engines" and len(folder) > 2
    return folder[1] != name[2] if is_engine else found.file != "engines/select.py"


def away_from_home(found: Import) -> bool:
    return found.top in HOMES and not found.file.startswith(HOMES[found.top])


def names(offenders: list[Import]) -> list[str]:
    return [str(offender) for offender in offenders]


def test_every_part_of_the_package_has_a_layer():
    assert {part_of(path.relative_to(PACKAGE).as_posix()) for path in FILES} - {"__init__"} <= set(LEVEL)


def test_imports_go_downwards_and_siblings_stay_apart():
    assert names([found for found in IMPORTS if wrong_direction(found)]) == []


def imported_at_run_time(source: str) -> list[str]:
    """Lines of the package's own `__init__.py` that import a part of it, or more than `EXPORTED` for type checkers."""
    tree = ast.parse(source)
    checked = {
        id(statement)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        if isinstance(statement, ast.ImportFrom) and {alias.name for alias in statement.names} <= EXPORTED
    }
    return [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        and "gguf_embed" in ast.unparse(node)
        and id(node) not in checked
    ]


def test_the_package_itself_imports_nothing_of_its_parts_but_for_type_checkers():
    assert imported_at_run_time((PACKAGE / "__init__.py").read_text()) == []
    lazy = "if TYPE_CHECKING:\n    from gguf_embed.embedder.client import Client as Client\n"
    assert imported_at_run_time(lazy) == []
    assert imported_at_run_time(lazy.replace("Client", "Other")) != []
    assert imported_at_run_time("def f():\n    from gguf_embed.embedder.client import Client") != []
    assert imported_at_run_time("import gguf_embed.errors") != []


def test_imports_are_absolute():
    assert names([found for found in IMPORTS if found.name.startswith(".")]) == []


def test_each_third_party_package_is_imported_in_its_home_only():
    assert names([found for found in IMPORTS if away_from_home(found)]) == []


def test_nothing_but_declared_dependencies_is_imported():
    known = {"gguf_embed", *HOMES, *sys.stdlib_module_names}
    assert names([found for found in IMPORTS if found.top not in known]) == []


def test_dialects_stay_apart_and_shared_fields_know_none():
    assert names([found for found in IMPORTS if crosses_dialects(found)]) == []


def test_engines_stay_apart_and_are_known_to_their_selection_only():
    assert {"llama", "static"} <= ENGINES
    assert names([found for found in IMPORTS if crosses_engines(found)]) == []


def asks_for_engine_type(path: Path, source: str) -> list[str]:
    """`isinstance` with a name from `engines/`: what differs between engines belongs behind their protocols."""
    tree = ast.parse(source)
    names = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gguf_embed.engines")
        for alias in node.names
    }
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance"]
    asked = [
        call for call in calls if names & {word.id for word in ast.walk(call.args[1]) if isinstance(word, ast.Name)}
    ]
    return [f"{path.relative_to(PACKAGE)}:{call.lineno} {ast.unparse(call)}" for call in asked]


def test_nothing_outside_the_engines_asks_which_engine_it_has():
    outside = [path for path in FILES if part_of(path.relative_to(PACKAGE).as_posix()) != "engines"]
    assert [found for path in outside for found in asks_for_engine_type(path, path.read_text())] == []
    source = "from gguf_embed.engines.base import Engine\nisinstance(x, (int, Engine))\nisinstance(x, int)"
    assert asks_for_engine_type(PACKAGE / "cli/main.py", source) == ["cli/main.py:2 isinstance(x, (int, Engine))"]


@pytest.mark.parametrize(
    ("file", "source", "wrong"),
    [
        ("scheduler/queue.py", "import gguf_embed.service", True),
        ("scheduler/queue.py", "from gguf_embed import service", True),
        ("scheduler/queue.py", "def f():\n    from gguf_embed.model_pool import pool", True),
        ("server/app.py", "from gguf_embed.cli.main import main", True),
        ("server/app.py", "from gguf_embed.server import admin", False),
        ("server/app.py", "from gguf_embed import metrics", False),
        ("server/app.py", "from gguf_embed import __version__", False),
        ("types.py", "from gguf_embed.errors import EmbedError", False),
        ("errors.py", "from gguf_embed.types import Input", True),
    ],
)
def test_the_layer_rule_sees_every_form_of_import(file, source, wrong):
    assert [wrong_direction(found) for found in imports_of(PACKAGE / file, source)] == [wrong]


@pytest.mark.parametrize(
    ("file", "source", "crosses"),
    [
        ("server/dialects/tei/embed.py", "from gguf_embed.server.dialects.cohere.embed import embed", True),
        ("server/dialects/tei/embed.py", "from gguf_embed.server.dialects.tei.errors import ERRORS", False),
        ("server/dialects/openai/embeddings.py", "from gguf_embed.server.dialects.llama.embedding import a", False),
        ("server/dialects/openai/embeddings.py", "from gguf_embed.server.dialects.llama.errors import a", True),
        ("server/fields/inputs.py", "from gguf_embed.server.dialects.tei.errors import ERRORS", True),
        ("server/app.py", "from gguf_embed.server.dialects.tei.dialect import TEI", False),
    ],
)
def test_the_dialect_rule_sees_what_crosses(file, source, crosses):
    assert [crosses_dialects(found) for found in imports_of(PACKAGE / file, source)] == [crosses]


@pytest.mark.parametrize(
    ("file", "source", "crosses"),
    [
        ("engines/static/engine.py", "from gguf_embed.engines.llama.api import a", True),
        ("engines/static/engine.py", "from gguf_embed.engines.base import Engine", False),
        ("engines/select.py", "from gguf_embed.engines.llama.driver import LlamaDriver", False),
        ("model_pool/loading.py", "from gguf_embed.engines.llama.engine import LlamaEngine", True),
        ("doctor/check.py", "from gguf_embed.engines.llama import api", True),
    ],
)
def test_the_engine_rule_sees_what_crosses(file, source, crosses):
    assert [crosses_engines(found) for found in imports_of(PACKAGE / file, source)] == [crosses]


@pytest.mark.parametrize(
    ("file", "source", "away"),
    [
        ("engines/llama/bindings.py", "import llama_cpp.llama_cpp as llama", False),
        ("engines/llama/engine.py", "import llama_cpp", True),
        ("convert/bert.py", "import gguf", False),
        ("benchmarks/load.py", "from aiohttp import web", True),
    ],
)
def test_the_home_rule_sees_every_form_of_import(file, source, away):
    assert [away_from_home(found) for found in imports_of(PACKAGE / file, source)] == [away]


def test_no_file_is_too_long():
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in FILES}
    assert {file: n_lines for file, n_lines in lengths.items() if n_lines > MAX_LINES} == {}


def test_no_module_has_a_vague_name():
    found = [path.relative_to(ROOT).as_posix() for path in FILES if any(word in path.stem for word in VAGUE_NAMES)]
    assert found == []


def test_every_module_says_what_it_is():
    with_code = [path for path in FILES if path.read_text().strip()]
    silent = [
        path.relative_to(ROOT).as_posix() for path in with_code if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []
