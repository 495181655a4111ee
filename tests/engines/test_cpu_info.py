"""What is read of /proc/cpuinfo: the first processor's fields, on x86 and on ARM."""

from __future__ import annotations

import pytest

from gguf_embed.engines import cpu_info
from gguf_embed.engines.cpu_info import cpu_fields, cpu_flags, features_of, first_processor

X86 = """\
processor\t: 0
model name\t: Intel(R) Xeon(R) Processor @ 2.10GHz
flags\t\t: fpu avx2 amx_tile
vmx flags\t: vnmi ept
power management:

processor\t: 1
model name\t: another
flags\t\t: fpu
"""

ARM = """\
processor\t: 0
BogoMIPS\t: 243.75
Features\t: fp asimd sve
CPU part\t: 0xd40

processor\t: 1
Features\t: fp
"""


@pytest.mark.parametrize(
    ("text", "known", "features"),
    [
        (X86, {"model name": "Intel(R) Xeon(R) Processor @ 2.10GHz", "power management": ""}, "fpu avx2 amx_tile"),
        (ARM, {"CPU part": "0xd40"}, "fp asimd sve"),
        ("", {}, ""),
    ],
)
def test_the_first_processor_counts(text, known, features):
    fields = first_processor(text)
    assert fields.items() >= known.items()
    assert features_of(fields) == frozenset(features.split())


def test_a_system_without_the_file_has_no_fields_and_no_flags(monkeypatch):
    monkeypatch.setattr(cpu_info, "read_system_file", lambda path: "")
    assert cpu_flags() == frozenset()
    assert dict(cpu_fields()) == {}
