"""Where llama.cpp's log lines go: our logger, quiet by default, and the reasons of a failed call."""

from __future__ import annotations

import logging
import threading

_logger = logging.getLogger("gguf_embed.llama")

_DEBUG, _INFO, _WARNING, _ERROR = 1, 2, 3, 4  # ggml.h, enum ggml_log_level; 5 continues the line before
_LEVELS = {_DEBUG: logging.DEBUG, _INFO: logging.DEBUG, _WARNING: logging.INFO, _ERROR: logging.WARNING}


class LlamaLog:
    """Receives log lines on any thread. One level lower than llama.cpp's: what matters is raised as our own error."""

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
        _logger.log(self._level, "%s", line)

    def forget_errors(self) -> None:
        """Before a call whose failure is to be explained."""
        with self._lock:
            self._errors = []

    def first_error(self) -> str:
        """The first reason given since `forget_errors`: the later ones only follow from it."""
        with self._lock:
            return self._errors[0] if self._errors else "llama.cpp gave no reason"
