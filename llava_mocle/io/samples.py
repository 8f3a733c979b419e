"""Where to look into something too large to be read whole."""


def sample_places(size: int, chunk: int, count: int) -> list[tuple[int, int]]:
    """(offset, length) of at most `count` chunks, spread evenly from the head to the tail; all of it if they cover it.

    Args:
        size: of the whole, in bytes.
        chunk: of one sample, in bytes.
        count: at least 2.

    Example:
        `sample_places(100, 10, 3) == [(0, 10), (45, 10), (90, 10)]`.
    """
    if size <= chunk * count:
        return [(offset, min(chunk, size - offset)) for offset in range(0, size, chunk)]
    step = (size - chunk) / (count - 1)
    return [(round(index * step), chunk) for index in range(count)]
