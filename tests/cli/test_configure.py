"""Flags to configuration: values, refused combinations and notices."""

import math
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from gguf_embed.cli.configure import (
    api_keys,
    body_memory,
    gpu_layers,
    is_alone,
    model_config,
    named_models,
    origins,
    pool_config,
    prompts,
    rerank_scores,
    serves_pulled,
    token_ids,
)
from gguf_embed.cli.options import ServeFlags, serve_options
from gguf_embed.cli.serve import serve
from gguf_embed.errors import ConfigError
from gguf_embed.model_store.locate import ModelSource
from gguf_embed.types import Pooling, Priority


def parse(*arguments, outputs=None, **environment):
    seen = []

    @click.command()
    @serve_options
    def command(**typed):
        seen.append(ServeFlags(**typed))

    result = CliRunner().invoke(command, arguments, env=environment)
    assert result.exit_code == 0, result.output
    if outputs is not None:
        outputs.append(result.output)
    return seen[0]


def configure(*arguments, has_gpu=False, **environment):
    notices = []
    return model_config(parse(*arguments, **environment), has_gpu, notices.append), notices


def test_a_llama_server_users_flags_mean_the_same():
    config, _ = configure("--pooling", "mean", "-c", "8192", "-ub", "512", "-t", "4", "-fa", "on")
    assert (config.pooling, config.n_ctx) == (Pooling.MEAN, 8192)
    compute = config.compute
    assert (compute.batch_tokens, compute.n_threads, compute.flash_attention) == (512, 4, "on")


def test_environment_names_are_llama_servers_and_flags_beat_them():
    config, _ = configure("-c", "7", LLAMA_ARG_CTX_SIZE="9", LLAMA_ARG_POOLING="cls", LLAMA_ARG_UBATCH="64")
    assert (config.n_ctx, config.pooling, config.compute.batch_tokens) == (7, Pooling.CLS, 64)


def test_threads_batch_wins_over_threads():
    assert configure("-t", "4", "-tb", "2")[0].compute.n_threads == 2


@pytest.mark.parametrize(
    ("asked", "has_gpu", "layers", "words"),
    [
        ("auto", False, 0, ""),
        ("auto", True, -1, ""),
        ("all", True, -1, ""),
        (7, True, 7, ""),
        (0, False, 0, ""),
        (99, False, 0, "-ngl 99: "),
        ("all", False, 0, "-ngl all: "),
    ],
)
def test_layers_go_to_a_gpu_only_where_there_is_one(asked, has_gpu, layers, words):
    notices = []
    assert gpu_layers(asked, has_gpu, notices.append) == layers
    assert len(notices) == bool(words)
    assert all(line.startswith(words) and "no GPU" in line for line in notices)


def test_llama_servers_other_flags_are_accepted_with_a_notice():
    outputs = []
    parse("--embedding", "-np", "4", "-b", "2048", "--cache-ram", "0", LLAMA_ARG_KV_UNIFIED="1", outputs=outputs)
    lines = outputs[0].splitlines()
    assert len(lines) == 5
    assert all("not needed" in line for line in lines)
    assert {line.split(":")[0] for line in lines} == {
        "--embeddings", "--parallel", "--batch-size", "--cache-ram", "--kv-unified"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "flag", "effect"),
    [
        (["--rerank"], "--reranking", "not needed"),
        (["--reranking"], "--reranking", "not needed"),
        (["--no-jinja"], "--jinja", "not needed"),
        (["--chat-template", "chatml"], "--chat-template", "not needed"),
        (["--threads-http", "4"], "--threads-http", "not needed"),
        (["-ctk", "f16"], "--cache-type-k", "no effect"),
        (["--no-mmap"], "--mmap", "no effect"),
        (["--mlock"], "--mlock", "no effect"),
        (["--numa", "distribute"], "--numa", "no effect"),
        (["--timeout", "600"], "--timeout", "no effect"),
        (["--no-webui"], "--webui", "no effect"),
        (["--log-disable"], "--log-disable", "no effect"),
    ],
)
def test_the_notice_names_the_flag_and_whether_it_is_not_needed_or_has_no_effect(arguments, flag, effect):
    outputs = []
    parse(*arguments, outputs=outputs)
    (line,) = outputs[0].splitlines()
    assert line.startswith(f"{flag}: accepted, ")
    assert effect in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--log-file", "x"], ["--log-file", "> FILE 2>&1"]),
        (["--hf-token", "secret"], ["--hf-token", "HF_TOKEN"]),
        (["-hft", "secret"], ["--hf-token", "HF_TOKEN"]),
        (["-c", "abc"], ["-c", "'abc'", "whole number"]),
        (["-ngl", "many"], ["-ngl", "'many'", "auto", "all"]),
    ],
)
def test_the_error_for_a_wrong_flag_names_flag_value_and_alternative(arguments, words):
    result = CliRunner().invoke(serve, arguments)
    assert result.exit_code == 2
    assert [word for word in words if word not in result.output] == []
    assert "secret" not in result.output


def test_the_help_shows_values_as_they_are_written():
    text = CliRunner().invoke(serve, ["--help"], terminal_width=400).output
    assert "--ctx-size N " in text
    assert "--n-gpu-layers N|auto|all " in text
    assert "INTEGER" not in text
    assert all(name in text for name in ("OpenAI", "llama.cpp", "Ollama", "Cohere", "TEI"))


def test_without_them_there_is_no_notice():
    outputs = []
    parse("-c", "512", outputs=outputs)
    assert outputs == [""]


@pytest.mark.parametrize("value", ["1,x", "1,,2", "-1"])
def test_bad_shares_are_refused(value):
    with pytest.raises(ConfigError, match=f"--tensor-split '{re.escape(value)}'"):
        configure("-ts", value)


def test_keys_come_from_flag_and_file_once_each(tmp_path):
    file = tmp_path / "keys"
    file.write_text("b\n\n c \n")
    assert api_keys("a,b", file) == {"a": None, "b": None, "c": None}
    assert api_keys(None, None) == {}


def test_a_key_of_the_file_may_have_a_class(tmp_path):
    file = tmp_path / "keys"
    file.write_text("a low\nb  batch \nc of mine\nd lowest\na,b high\nlow\n")
    expected = {"a": Priority.LOW, "b": Priority.BATCH, "c of mine": None, "d lowest": None, "a,b": Priority.HIGH}
    assert api_keys(None, file) == {**expected, "low": None}


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_key_file_without_keys_never_opens_the_server(tmp_path, content):
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="--api-key-file"):
        api_keys(None, file)


def test_the_error_for_an_unreadable_key_file_names_it_but_not_its_content(tmp_path):
    with pytest.raises(ConfigError, match=r"--api-key-file .*/missing "):
        api_keys(None, tmp_path / "missing")
    secret = tmp_path / "binary"
    secret.write_bytes(b"top-secret\xff")
    with pytest.raises(ConfigError) as caught:
        api_keys(None, secret)
    assert "top-secret" not in caught.value.message


def test_threads_for_a_batch_alone_can_be_fixed():
    assert configure("--threads-alone", "3")[0].compute.alone_threads == 3
    assert configure()[0].compute.alone_threads is None


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], [((), ModelSource())]),
        (["-a", "x,y"], [(("x", "y"), ModelSource())]),
        (["-m", "a.gguf", "-a", "x,y"], [(("x", "y"), ModelSource(path=Path("a.gguf")))]),
        (["-m", "x=a.gguf"], [(("x",), ModelSource(path=Path("a.gguf")))]),
        (["-m", "a", "-m", "y=b.gguf"], [((), ModelSource(Path("a"))), (("y",), ModelSource(Path("b.gguf")))]),
        (["-hf", "o/r:Q8_0", "-hff", "f.gguf"], [((), ModelSource(hf_repo="o/r:Q8_0", hf_file="f.gguf"))]),
        (["-hf", "z=o/r", "-m", "a.gguf"], [((), ModelSource(Path("a.gguf"))), (("z",), ModelSource(hf_repo="o/r"))]),
        (["--offline", "-hf", "o/r"], [((), ModelSource(hf_repo="o/r", offline=True))]),
    ],
)
def test_models_are_named_one_by_one(arguments, named):
    assert list(named_models(parse(*arguments))) == named


def test_a_file_that_exists_is_taken_as_it_is_equals_sign_and_all(tmp_path):
    file = tmp_path / "x=a.gguf"
    file.touch()
    ((names, source),) = named_models(parse("-m", file))
    assert (names, source.path) == ((), file)


def test_a_folder_alone_names_no_model(tmp_path):
    assert named_models(parse("--models-dir", tmp_path)) == ()


def test_environment_names_one_model_spaces_and_all():
    ((_, source),) = named_models(parse(LLAMA_ARG_MODEL="/my models/a:b.gguf"))
    assert source.path == Path("/my models/a:b.gguf")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "a", "-m", "b", "-a", "x"], "2 .*NAME=FILE"),
        (["-m", "a", "-hf", "o/r", "-a", "x"], "NAME=FILE"),
        (["-hff", "f.gguf"], "-hff"),
        (["-hff", "f.gguf", "-hf", "o/r", "-hf", "o/s"], "-hff"),
    ],
)
def test_names_that_could_mean_either_model_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        named_models(parse(*arguments))


@pytest.mark.parametrize(
    ("arguments", "named_s", "others_s"),
    [
        ([], math.inf, 300.0),
        (["-m", "a.gguf"], math.inf, 300.0),
        (["-m", "a.gguf", "-hf", "org/b"], 300.0, 300.0),
        (["-m", "a.gguf", "--pulled"], 300.0, 300.0),
        (["-m", "a.gguf", "--models-dir", "."], 300.0, 300.0),
        (["--keep-alive", "10m"], 600.0, 600.0),
        (["--keep-alive", "90"], 90.0, 90.0),
        (["--keep-alive", "-1"], math.inf, math.inf),
        (["--keep-alive", "-1m"], math.inf, math.inf),
        (["--keep-alive", "0"], 0.0, 0.0),
    ],
)
def test_how_long_idle_models_stay(arguments, named_s, others_s):
    config = pool_config(parse(*arguments))
    assert config.keep_alive_s == others_s
    assert (config.keep_alive_s if config.named_keep_alive_s is None else config.named_keep_alive_s) == named_s


@pytest.mark.parametrize(
    ("arguments", "pulled", "alone"),
    [
        ([], True, True),
        (["-m", "a.gguf"], False, True),
        (["-hf", "org/a"], False, True),
        (["-m", "a.gguf", "-hf", "org/b"], False, False),
        (["--models-dir", "."], False, False),
        (["-m", "a.gguf", "--models-dir", "."], False, False),
        (["-m", "a.gguf", "--pulled"], True, False),
        (["--pulled"], True, False),
    ],
)
def test_pulled_models_are_served_where_nothing_is_named_or_with_the_flag(arguments, pulled, alone):
    flags = parse(*arguments)
    assert (serves_pulled(flags), is_alone(flags)) == (pulled, alone)


@pytest.mark.parametrize(
    ("size", "size_bytes"), [("4G", 4 * 2**30), ("512M", 2**29), ("1.5GiB", 3 * 2**29), ("1000", 1000), ("2kb", 2048)]
)
def test_memory_is_bytes_with_a_unit(size, size_bytes):
    limits = pool_config(parse("--max-memory", size, "--models-max", "2")).limits
    assert (limits.max_bytes, limits.max_models) == (size_bytes, 2)


@pytest.mark.parametrize(
    "arguments",
    [["--max-memory", "lots"], ["--max-memory", "0"], ["--keep-alive", "soon"], ["--models-dir", "/nonexistent"]],
)
def test_values_that_mean_nothing_are_refused_with_the_value(arguments):
    @click.command()
    @serve_options
    def command(**typed):
        pass

    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert arguments[1] in result.output


def test_prompts_come_by_name():
    assert prompts(parse("--prompt", "query=q: ", "--prompt", "document=")) == {"query": "q: ", "document": ""}


def test_scales_of_scores_are_per_model_or_for_all():
    flags = parse("--rerank-scores", "sigmoid", "--rerank-scores", "Org/Model:latest=raw")
    assert rerank_scores(flags.rerank_scores) == {"": False, "org/model": True}
    assert rerank_scores(parse().rerank_scores) == {}
    for wrong in ("logit", "m=", "m=Raw", ""):
        with pytest.raises(ConfigError, match="must be raw or sigmoid"):
            rerank_scores([wrong])


def test_origins_are_a_list_without_paths():
    assert origins(None) == origins("") == ()
    assert origins("https://a.example, chrome-extension://*") == ("https://a.example", "chrome-extension://*")
    assert parse(OLLAMA_ORIGINS="*").allow_origins == "*"
    for wrong in ("https://a.example/page", "a,,b"):
        with pytest.raises(ConfigError):
            origins(wrong)


def test_ollamas_port_is_known():
    assert parse("--ollama-port").ollama_port == 11434
    assert parse("--ollama-port", "9").ollama_port == 9
    assert parse().ollama_port is None


def test_a_missing_encoding_is_reported_at_the_start_with_the_command_to_download_it(tmp_path):
    notices = []
    rule = token_ids(parse("--openai-token-ids", "o200k_base"), {"TIKTOKEN_CACHE_DIR": str(tmp_path)}, notices.append)
    assert (rule.meaning, rule.encoding) == ("o200k_base", None)
    assert len(notices) == 1
    assert str(tmp_path) in notices[0]
    assert "tiktoken.get_encoding('o200k_base')" in notices[0]


def test_token_ids_that_need_no_encoding_print_no_notice():
    notices = []
    assert token_ids(parse(), {}, notices.append).meaning == "auto"
    assert token_ids(parse(GGUF_EMBED_OPENAI_TOKEN_IDS="model"), {}, notices.append).meaning == "model"
    assert notices == []


@pytest.mark.parametrize(
    ("flags", "available", "expected"),
    [
        ([], 4 * 2**30, 2**29),
        ([], 100 * 2**30, 2**30),
        ([], None, 2**30),
        ([], 2**29, 2**27),  # two copies of one body of 64 MiB
        (["--max-body-size", "1024"], 4 * 2**30, 2**31),
        (["--max-body-memory", "256M"], 2**29, 2**28),
    ],
)
def test_the_memory_for_bodies_is_a_share_of_what_is_available(flags, available, expected):
    assert body_memory(parse(*flags), available) == expected


def test_memory_that_is_too_small_for_one_body_is_refused():
    with pytest.raises(ConfigError, match="--max-body-memory 104,857,600 is less than the 134,217,728 bytes"):
        body_memory(parse("--max-body-memory", "100M"), None)


def test_a_variable_that_is_neither_yes_nor_no_is_refused_in_words():
    result = CliRunner().invoke(serve, [], env={"GGUF_EMBED_TRUNCATE": "maybe"})
    assert result.exit_code == 2
    assert "'maybe' is neither yes nor no: use true, yes, on or 1, or false, no, off or 0" in result.output
