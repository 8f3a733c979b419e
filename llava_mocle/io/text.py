"""Text that UTF-8 can hold. JSON allows half a surrogate pair, which no file, tokenizer or digest takes."""


def not_unicode(text: str) -> str | None:
    """What is wrong with a text that UTF-8 cannot hold, such as "half a surrogate pair (U+D83D) at character 7".

    None if nothing is.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"half a surrogate pair (U+{ord(text[error.start]):04X}) at character {error.start}"
    return None
