"""Receives llama.cpp's log: passes it to our logger, and keeps the errors of a failed call."""

from __future__ import annotations

import logging
import threading

_logger = logging.getLogger("gguf_embed.llama")

_DEBUG, _INFO, _WARNING, _ERROR = 1, 2, 3, 4  # ggml.h, enum ggml_log_level; 5 continues the previous line
_LEVELS = {_DEBUG: logging.DEBUG, _INFO: logging.DEBUG, _WARNING: logging.INFO, _ERROR: logging.WARNING}
_HARMLESS = ("special_eos_id is not in special_eog_ids",)
"""Warnings about generating text, which nothing here does."""


class LlamaLog:
    """Receives log lines on any thread. Logs them one level lower, because important errors are raised as our own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._errors: list[str] = []
        self._level = logging.DEBUG

    def receive(self, level: int, text: bytes | None, _user_data: object) -> None:
        """llama.cpp's callback."""
        self._level = _LEVELS.get(level, self._level)
        line = (text or b"").decode("utf-8", "replace").strip()
        if not line:
            return
        if level == _ERROR:
            with self._lock:
                self._errors = [*self._errors[:7], line]
        is_harmless = any(part in line for part in _HARMLESS)
        _logger.log(logging.DEBUG if is_harmless else self._level, "%s", line)

    def forget_errors(self) -> None:
        """Call this before a call whose failure should be explained."""
        with self._lock:
            self._errors = []

    def first_error(self) -> str:
        """The first error since `forget_errors`; later ones usually follow from it."""
        with self._lock:
            return self._errors[0] if self._errors else "llama.cpp gave no reason"
