"""Changes of bytes, as damage and malice make them, each a function of its random numbers."""

import numpy as np

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutate(data: bytes, random: np.random.Generator) -> bytes:
    """Make one to four changes: bytes, mostly of the header; extreme lengths; blocks cut, doubled or moved; an end."""
    for _ in range((1, 1, 1, 2, 2, 3, 4)[random.integers(7)]):
        if not data:
            break
        data = CHANGES[random.integers(len(CHANGES))](data, random)
    return data


def change_bytes(data: bytes, random: np.random.Generator) -> bytes:
    changed = bytearray(data)
    reach = len(data) if random.random() < 0.5 else min(len(data), 512)
    for at in random.integers(0, reach, random.integers(1, 17)):
        changed[at] = random.integers(256)
    return bytes(changed)


def flip_bit(data: bytes, random: np.random.Generator) -> bytes:
    at = random.integers(len(data))
    return data[:at] + bytes([data[at] ^ 1 << random.integers(8)]) + data[at + 1 :]


def set_extreme(data: bytes, random: np.random.Generator) -> bytes:
    """Change 1, 2 or 4 bytes, big or little-endian, anywhere: lengths, counts, sizes and times are among them."""
    size = (1, 2, 4)[random.integers(3)]
    value = EXTREMES[random.integers(len(EXTREMES))] & ((1 << 8 * size) - 1)
    reach = len(data) if random.random() < 0.5 else min(len(data), 512)
    at = random.integers(reach)
    return data[:at] + value.to_bytes(size, ("big", "little")[random.integers(2)]) + data[at + size :]


def truncate(data: bytes, random: np.random.Generator) -> bytes:
    return data[: random.integers(len(data))]


def delete_block(data: bytes, random: np.random.Generator) -> bytes:
    start, end = sorted(random.integers(0, len(data) + 1, 2))
    end = min(end, start + len(data) // 4)
    return data[:start] + data[end:]


def double_block(data: bytes, random: np.random.Generator) -> bytes:
    start, end = sorted(random.integers(0, len(data) + 1, 2))
    at = random.integers(len(data) + 1)
    return data[:at] + data[start : min(end, start + 4096)] + data[at:]


def move_block(data: bytes, random: np.random.Generator) -> bytes:
    start, end = sorted(random.integers(0, len(data) + 1, 2))
    rest = data[:start] + data[end:]
    at = random.integers(len(rest) + 1)
    return rest[:at] + data[start:end] + rest[at:]


CHANGES = (change_bytes, flip_bit, set_extreme, truncate, delete_block, double_block, move_block)
