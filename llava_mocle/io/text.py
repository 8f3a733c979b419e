"""Text that UTF-8 can hold, and text that fits into a message.

JSON allows half a surrogate pair, which no file, tokenizer or digest takes.
"""


def not_unicode(text: str) -> str | None:
    """What is wrong with a text that UTF-8 cannot hold, such as "half a surrogate pair (U+D83D) at character 7".

    None if nothing is.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"half a surrogate pair (U+{ord(text[error.start]):04X}) at character {error.start}"
    return None


def one_line(text: object, most: int = 200) -> str:
    """A value's text on one line, for a message: its middle is cut out above `most` characters.

    A text with line breaks, half surrogate pairs or other characters that nobody can see is written with escapes.
    """
    text = str(text)
    if len(text) > most:
        text = f"{text[: most // 2]}...{text[-(most // 4) :]}"
    return text if text.isprintable() else repr(text)
