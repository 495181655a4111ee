"""MurmurHash3 for 32 bits, with which fastembed and Qdrant make ids of words. Pure."""

from __future__ import annotations

_MASK = 0xFFFFFFFF


def murmur3(data: bytes) -> int:
    """The hash with seed 0, 0 to 2**32 - 1 (MurmurHash3_x86_32)."""
    state, n_whole = 0, len(data) // 4 * 4
    for begin in range(0, n_whole, 4):
        state ^= _mixed(int.from_bytes(data[begin : begin + 4], "little"))
        state = (_rotated(state, 13) * 5 + 0xE6546B64) & _MASK
    state ^= _mixed(int.from_bytes(data[n_whole:], "little")) ^ len(data)
    state = (state ^ state >> 16) * 0x85EBCA6B & _MASK
    state = (state ^ state >> 13) * 0xC2B2AE35 & _MASK
    return state ^ state >> 16


def _mixed(block: int) -> int:
    return _rotated(block * 0xCC9E2D51 & _MASK, 15) * 0x1B873593 & _MASK


def _rotated(number: int, n_bits: int) -> int:
    return (number << n_bits | number >> 32 - n_bits) & _MASK
